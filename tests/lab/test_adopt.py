"""Files that asbackup or absctl wrote, adopted as restore points: verified, restored, drilled, kept like any other."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from asb_files import INDEX, SPACE, UDF, as_absctl, as_asbackup, records, write_file
from backup_world import FULL, INCREMENTAL, LOOPBACK, World, rows, tally, world
from cipher_samples import GOLDEN as ENCRYPTED
from cipher_samples import OTHER_PEM, PEM
from dbops import ledger
from dbops.aerospike import asb, restore
from dbops.aerospike.adopt import Files, NotAdoptable, adopt, find_files
from dbops.aerospike.cluster import Access
from dbops.aerospike.drill import run_drill
from dbops.backups import catalog, in_use
from dbops.backups.cipher import KeyMissing, Keys, WrongKey, key_from_pem
from dbops.backups.expire import plan_namespace
from dbops.backups.lease import current
from dbops.backups.manifest import Manifest, ManifestError
from dbops.backups.store import LocalStore, S3Store
from dbops.backups.verify import verify
from dbops.cli import app
from dbops.platform import Retention
from dbops.platform.load import DIRECTORY
from dbops_lab import connections
from dbops_lab.aerospike.process import StandIn
from dbops_lab.testing import LabPostgres, LabS3
from restore_world import held, planned, restored, run, verify_all
from typer.testing import CliRunner, Result

RECORDS = 1000
AT = datetime(2026, 11, 20, 3, 15, tzinfo=UTC)
ID = "20261120T031500Z-full"
DRILLS = [f"drill{number}" for number in range(20)]
GOLDEN = ENCRYPTED.parent
_next = count()


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=[SPACE]) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def target() -> Iterator[StandIn]:
    with StandIn(namespaces=DRILLS, nodes=2, name="scratch") as stand_in:
        yield stand_in


@pytest.fixture
def lab(server: StandIn, tmp_path: Path) -> World:
    return world(server, LocalStore(tmp_path / "store"), SPACE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


@pytest.fixture
def drill() -> str:
    return DRILLS[next(_next)]


def take(lab: World, source: Path | Files, at: datetime = AT, **options: Any) -> Manifest:
    return adopt(
        lab.store,
        lab.cluster_name,
        SPACE,
        source if isinstance(source, Files) else find_files(str(source)),
        snapshot_at=at,
        holder=options.pop("holder", "a person"),
        platform_sha256=lab.platform.sha256,
        workers=options.pop("workers", 2),
        keys=lab.keys,
        **options,
    )


def written(found: list[asb.Record]) -> dict[bytes, dict[str, Any]]:
    return {
        record.digest: {
            item.name: item.value.decode() if isinstance(item.value, bytes) else item.value for item in record.bins
        }
        for record in found
    }


def there(target: StandIn, drill: str) -> dict[bytes, dict[str, Any]]:
    return {digest: dict(record.bins) for digest, record in held(target, drill).items()}


def left(lab: World) -> list[str]:
    """What lies below the namespace, but for the lease that was given back."""
    assert current(lab.store, catalog.lease_key(lab.cluster_name, SPACE)) is None
    return [name for name in lab.objects() if name != "_lease.json"]


# ---------------------------------------------------------------- a restore point like any other


@pytest.mark.parametrize(
    "layout",
    [
        lambda folder, found: as_asbackup(folder, found),
        lambda folder, found: as_asbackup(folder, found, workers=4, per_file=40, zstd=True),
        lambda folder, found: as_asbackup(folder, found, workers=1, per_file=RECORDS),
        as_absctl,
    ],
    ids=["asbackup", "asbackup, compressed", "one file", "absctl"],
)
def test_a_folder_becomes_a_point_that_verifies_and_restores_to_equal_records(
    lab: World, target: StandIn, folder: Path, drill: str, layout: Callable[..., list[Path]]
) -> None:
    found = records(range(RECORDS))
    paths = layout(folder, found)
    manifest = take(lab, folder)

    assert (manifest.id, manifest.kind, manifest.engine, manifest.source) == (ID, FULL, "adopted", str(folder))
    assert (manifest.records, manifest.snapshot_at) == (RECORDS, AT)
    assert (manifest.partition_counts, manifest.fingerprints) == tally([record.digest for record in found])
    assert (manifest.indexes, manifest.udfs) == ([INDEX.name], [UDF.name])
    assert {entry.source: entry.sha256 for entry in manifest.objects} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    }
    assert Manifest.from_json(manifest.to_json(), "m") == manifest
    (point,) = lab.points
    assert point.manifest == manifest
    report = verify(lab.store, point)
    assert (report.problems, report.warnings, report.records) == ([], [], RECORDS)

    report_of = restore.require_ok(run(lab, target, planned(lab, target, drill)))
    assert there(target, drill) == written(found)
    assert (report_of.indexes, report_of.udfs) == ([INDEX.name], [UDF.name])
    assert report_of.outcomes.inserted == report_of.outcomes.read == RECORDS
    assert report_of.compared > 0
    names = [*(entry.name for entry in manifest.objects), "manifest.json", "verified.json"]
    assert left(lab) == [f"{ID}/{name}" for name in names]


def test_files_that_share_partitions_are_restored_in_slices_that_do_not(
    lab: World, target: StandIn, folder: Path, drill: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = records(range(RECORDS))
    as_asbackup(folder, found, workers=4, per_file=30)
    manifest = take(lab, folder)
    ranges = sorted((entry.first, entry.last) for entry in manifest.objects)
    assert any(left[1] >= right[0] for left, right in pairwise(ranges)), "they share none"
    assert restore.restore_slices(manifest) == [(0, 4095)], "it is small"
    monkeypatch.setattr(restore, "_SLICE_BYTES", 5_000)
    plan = planned(lab, target, drill)
    assert len(plan.slices) == 16
    covers(plan.slices)
    outcomes = restore.require_ok(run(lab, target, plan)).outcomes
    assert (outcomes.read, outcomes.inserted) == (RECORDS, RECORDS)
    assert there(target, drill) == written(found)


def covers(slices: list[tuple[int, int]]) -> None:
    assert [first for first, _ in slices] == [0, *(last + 1 for _, last in slices[:-1])]
    assert slices[-1][1] == 4095


def test_more_slices_are_not_made_at_the_price_of_reading_everything_again_and_again(
    lab: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "_SLICE_BYTES", 100)
    as_absctl(folder, records(range(RECORDS)))  # each file has records of all partitions
    manifest = take(lab, folder)
    assert len(restore.restore_slices(manifest)) == 4
    covers(restore.restore_slices(manifest))
    assert restore.restore_slices(manifest, whole_files=True) == [(0, 4095)]


def test_slices_for_a_program_cut_no_file_in_two(lab: World, folder: Path) -> None:
    as_asbackup(folder, records(range(RECORDS)), workers=4, per_file=10_000)
    write_apart(folder, records(range(RECORDS)), 7)
    manifest = take(lab, folder)
    slices = restore.restore_slices(manifest, whole_files=True)
    covers(slices)
    assert len(slices) == 7
    for entry in manifest.objects:
        assert sum(first <= entry.first and entry.last <= last for first, last in slices) == 1, entry


def write_apart(folder: Path, found: list[asb.Record], workers: int) -> None:
    """As asbackup does when no file becomes full: one for each range of partitions."""
    for path in folder.iterdir():
        path.unlink()
    size = -(-4096 // workers)
    for worker in range(workers):
        mine = [r for r in found if (int.from_bytes(r.digest[:2], "little") & 4095) // size == worker]
        text = asb.header(SPACE, first_file=not worker) + b"".join(record.text() for record in mine)
        write_file(folder / f"{SPACE}_{worker:05d}.asb", text)


def test_an_adopted_point_is_drilled_pinned_and_kept_by_retention_as_others_are(
    lab: World, target: StandIn, folder: Path, drill: str
) -> None:
    as_asbackup(folder, records(range(RECORDS)))
    id = take(lab, folder).id
    verify_all(lab)
    access = Access("scratch", ((LOOPBACK, target.ports[0]),))
    found = run_drill(
        lab.store, lab.cluster_name, SPACE, id, access, drill,
        production=[lab.access], rto=timedelta(hours=1), holder="a test", workers=2,
    )  # fmt: skip
    assert (found.ok, found.problems, found.report.target_records) == (True, (), RECORDS)
    as_asbackup(folder, records(range(RECORDS, 2 * RECORDS)))
    newer = take(lab, folder, AT + timedelta(days=1)).id
    verify_all(lab)

    day = timedelta(days=1)
    policy = Retention.model_validate({"full": "1h", "incremental": "1h", "floor": 1, "max_share": 1, "grace": "1h"})
    later = datetime.now(UTC) + 2 * day
    plan = plan_namespace(lab.store, lab.cluster_name, SPACE, policy, by="a test", now=later)
    assert {item.id: item.keep for item in plan.items} == {id: False, newer: True}
    in_use.pin(lab.store, lab.cluster_name, SPACE, id, by="a test", reason="before the migration")
    plan = plan_namespace(lab.store, lab.cluster_name, SPACE, policy, by="a test", now=later)
    assert all(item.keep for item in plan.items)


def test_an_incremental_does_not_build_on_a_time_that_a_person_said(
    lab: World, server: StandIn, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_asbackup(folder, records(range(10)))
    id = take(lab, folder).id
    server.load(SPACE, "s", rows(range(10)))
    manifest = lab.backup(INCREMENTAL, slices=1)
    assert manifest.kind is FULL
    assert f"{id} of {lab.cluster_name}/{SPACE} was adopted: this backup is full" in caplog.messages
    assert lab.backup(INCREMENTAL, slices=1).parent == manifest.id


def test_an_incremental_of_ours_does_not_stop_an_older_backup_from_being_adopted(
    lab: World, target: StandIn, server: StandIn, folder: Path, drill: str
) -> None:
    server.load(SPACE, "s", rows(range(10)))
    ours = lab.backup(slices=1)
    found = records(range(20))
    as_asbackup(folder, found)
    theirs = take(lab, folder)
    assert lab.listed == [theirs.id, ours.id]
    restored(lab, target, drill, at=AT + timedelta(minutes=1))
    assert there(target, drill) == written(found)


@pytest.mark.parametrize("name", ["facts.asb", "facts_compact.asb", "setsp.asb"])
def test_files_that_the_real_asbackup_wrote_are_adopted_by_name(lab: World, name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    preamble = asb.read_header(io.BytesIO(data))
    manifest = take(lab, GOLDEN / name)
    assert (len(manifest.objects), manifest.stored_bytes, manifest.text_bytes) == (1, len(data), len(data))
    assert manifest.indexes == [index.name for index in preamble.indexes]
    assert manifest.udfs == [udf.name for udf in preamble.udfs]
    report = verify(lab.store, lab.points[0])
    assert (report.problems, report.records) == ([], manifest.records)


def test_a_backup_of_an_empty_namespace_is_one(lab: World, target: StandIn, folder: Path, drill: str) -> None:
    as_asbackup(folder, [])
    assert take(lab, folder).records == 0
    assert restored(lab, target, drill).read == 0
    assert held(target, drill) == {}


# ---------------------------------------------------------------- encryption


@pytest.mark.parametrize("name", ["aes128.asb", "aes128_zstd.asb", "aes256.asb"])
def test_what_asbackup_encrypted_is_adopted_as_it_is(lab: World, target: StandIn, drill: str, name: str) -> None:
    lab.keys = Keys.of("aes256", OTHER_PEM, [PEM])  # neither the key in use nor, for some, its mode
    key = key_from_pem(PEM, "aes128" if "128" in name else "aes256")
    manifest = take(lab, ENCRYPTED / name)
    assert manifest.encryption == key.encryption
    (entry,) = manifest.objects
    assert lab.store.get(manifest.prefix + entry.name) == (ENCRYPTED / name).read_bytes()
    _, entries = asb.read(io.BytesIO((ENCRYPTED / "plain.asb").read_bytes()), SPACE)
    assert manifest.records == sum(isinstance(entry, asb.Record) for entry in entries) == 40
    report = verify(lab.store, lab.points[0], keys=lab.keys)
    assert (report.problems, report.unread) == ([], None)
    assert restored(lab, target, drill).read == 40


def test_plain_files_are_encrypted_on_the_way_when_backups_are(
    lab: World, target: StandIn, folder: Path, drill: str
) -> None:
    lab.keys = Keys.of("aes256", PEM)
    found = records(range(200))
    as_asbackup(folder, found, zstd=True)
    manifest = take(lab, folder)
    assert manifest.encryption == lab.keys.encryption
    for entry in manifest.objects:
        assert not lab.store.get(manifest.prefix + entry.name).startswith((b"Version", b"\x28\xb5\x2f\xfd"))
    verify_all(lab)
    restored(lab, target, drill)
    assert there(target, drill) == written(found)


def test_a_wrong_or_missing_key_is_told_before_anything_is_written(lab: World, folder: Path) -> None:
    key = key_from_pem(PEM, "aes128")
    (path, *_) = as_asbackup(folder, records(range(50)), workers=1, zstd=True, key=key)
    with pytest.raises(KeyMissing, match=rf"{path.name}: begins neither .* no key is known here .*storage\.encryption"):
        take(lab, folder)
    lab.keys = Keys.of("aes256", OTHER_PEM)
    with pytest.raises(WrongKey, match=rf"{path.name}: begins neither .*each key known here .*older_keys"):
        take(lab, folder)
    assert lab.objects() == []


# ---------------------------------------------------------------- what is no backup


def _no_files(folder: Path) -> str:
    (folder / "bidder.asb.state").write_bytes(b"x")
    (folder / "data").mkdir()
    as_asbackup(folder / "data", records(range(10)))
    return r"there is no \.asb file in it; there are some in data; name the folder"


def _other_namespace(folder: Path) -> str:
    as_asbackup(folder, records(range(10), "spend"), space="spend", definitions=())
    return r"spend_00000\.asb: .*line 2, byte \d+: found 'spend', expected a backup of namespace bidder"


def _damaged_line(folder: Path) -> str:
    path = as_asbackup(folder, records(range(300)))[1]
    text = path.read_bytes()
    at = text.index(b"+ g 1", 5000)
    path.write_bytes(text[:at] + b"+ x 1" + text[at + 5 :])
    return rf"{path.name}: is no whole backup file: record \d+, text byte {at}: found no generation"


def _cut_short(folder: Path) -> str:
    path = as_asbackup(folder, records(range(300)))[-1]
    path.write_bytes(path.read_bytes()[:-7])
    return rf"{path.name}: is no whole backup file: record \d+, text byte \d+: found the end of the text"


def _cut_header(folder: Path) -> str:
    path = as_asbackup(folder, records(range(300)))[1]
    path.write_bytes(path.read_bytes()[:20])
    return rf"{path.name}: is no whole backup file: line 2, byte 12: found '# namesp', expected"


def _cut_frame(folder: Path) -> str:
    path = as_asbackup(folder, records(range(300)), zstd=True)[1]
    path.write_bytes(path.read_bytes()[:-7])
    return rf"{path.name}: is no whole backup file: compressed data ends at byte \d+, inside a zstd frame"


def _empty_file(folder: Path) -> str:
    path = as_asbackup(folder, records(range(300)))[2]
    path.write_bytes(b"")
    return rf"{path.name}: has 0 bytes, which is no backup file: it was cut off"


def _gzip(folder: Path) -> str:
    path = as_asbackup(folder, records(range(300)))[2]
    path.write_bytes(b"\x1f\x8b\x08" + bytes(100))
    return rf"{path.name}: begins neither as \.asb text nor as zstd: .*compressed in a way that asbackup does not know"


def _two_backups(folder: Path) -> str:
    as_asbackup(folder, records(range(300)), definitions=())
    for path in folder.iterdir():
        path.rename(folder / f"older_{path.name}")
    as_asbackup(folder, records(range(250, 500)), definitions=())
    return r"50 of 550 records that were looked at stand in the files twice: the folder holds more than one backup"


def _two_definitions(folder: Path) -> str:
    as_asbackup(folder, records(range(10)))
    for path in folder.iterdir():
        path.rename(folder / f"older_{path.name}")
    other = replace(INDEX, bin="v", data="S")
    as_asbackup(folder, records(range(10, 20)), definitions=(other, UDF))
    return r"bidder_00000\.asb and older_bidder_00000\.asb hold different indexes or UDFs: they are of two backups"


def _half_encrypted(folder: Path) -> str:
    paths = as_asbackup(folder, records(range(300)), key=key_from_pem(PEM, "aes128"))
    write_file(paths[-1], asb.header(SPACE))
    return rf"{paths[0].name} is encrypted with the aes128 key \w+ and {paths[-1].name} is not encrypted"


def _no_first_file(folder: Path) -> str:
    as_asbackup(folder, records(range(300)))[0].unlink()
    return r"none of 2 files is marked as the first one of its backup .*: files are missing"


def _incremental_of_the_service(folder: Path) -> str:
    as_asbackup(folder, records(range(10)))
    note = {"created": AT, "from": AT - timedelta(hours=6), "namespace": SPACE, "record-count": 10}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(note))
    return r"metadata\.yaml: this is an incremental backup, of what changed since 2026-11-19 21:15"


def _lacking_of_the_service(folder: Path) -> str:
    as_asbackup(folder, records(range(300)), definitions=())[-1].unlink()
    (folder / "metadata.yaml").write_text(f"created: {AT.isoformat()}\nnamespace: {SPACE}\nrecord-count: 300\n")
    return r"metadata\.yaml says 300 records, the files hold 200: files are missing"


def _other_of_the_service(folder: Path) -> str:
    as_asbackup(folder, records(range(10)))
    (folder / "metadata.yaml").write_text("namespace: spend\n")
    return r"metadata\.yaml: this is a backup of namespace spend"


def _too_early_of_the_service(folder: Path) -> str:
    as_asbackup(folder, records(range(10)))
    (folder / "metadata.yaml").write_text(f"created: {(AT - timedelta(hours=1)).isoformat()}\nnamespace: {SPACE}\n")
    return r"metadata\.yaml: the backup is of 2026-11-20 02:15:00\+00:00; name that time"


def _no_note(folder: Path) -> str:
    as_asbackup(folder, records(range(10)))
    (folder / "metadata.yaml").write_text("- [unbalanced")
    return r"metadata\.yaml: is not the note of an Aerospike Backup Service"


@pytest.mark.parametrize(
    "make",
    [
        _no_files,
        _other_namespace,
        _damaged_line,
        _cut_short,
        _cut_header,
        _cut_frame,
        _empty_file,
        _gzip,
        _two_backups,
        _two_definitions,
        _half_encrypted,
        _no_first_file,
        _incremental_of_the_service,
        _lacking_of_the_service,
        _other_of_the_service,
        _too_early_of_the_service,
        _no_note,
    ],
)
def test_what_is_no_whole_full_backup_is_named_and_nothing_of_it_stays(
    lab: World, folder: Path, make: Callable[[Path], str]
) -> None:
    if make is _half_encrypted:
        lab.keys = Keys.of("aes128", PEM)
    reason = make(folder)
    with pytest.raises((NotAdoptable, KeyMissing), match=reason) as raised:
        take(lab, folder)
    assert str(folder) in str(raised.value)
    assert lab.listed == []
    assert left(lab) == []


def test_the_note_of_the_service_is_held_against_what_the_files_hold(lab: World, folder: Path) -> None:
    as_absctl(folder, records(range(90)))
    note = f"created: {(AT + timedelta(minutes=2)).isoformat()}\nnamespace: {SPACE}\nrecord-count: 90\n"
    (folder / "metadata.yaml").write_text(note)
    assert take(lab, folder).records == 90


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (timedelta(hours=1), "cannot have begun in the future"),
        (timedelta(minutes=-2), r"a file was written for the last time at .*so the backup began before that"),
    ],
)
def test_a_time_at_which_the_backup_cannot_have_begun_is_refused(
    lab: World, folder: Path, at: timedelta, reason: str
) -> None:
    for path in as_asbackup(folder, records(range(10))):
        os.utime(path, ((datetime.now(UTC) - timedelta(hours=1)).timestamp(),) * 2)
    with pytest.raises(NotAdoptable, match=reason):
        take(lab, folder, datetime.now(UTC) + at)
    assert lab.objects() == []


def test_a_point_of_the_same_time_is_not_touched(lab: World, folder: Path) -> None:
    as_asbackup(folder, records(range(10)))
    manifest = take(lab, folder)
    before = {name: lab.store.get(f"aerospike/eu/{SPACE}/{name}") for name in lab.objects() if name != "_lease.json"}
    as_asbackup(folder, records(range(20)))
    with pytest.raises(NotAdoptable, match=f"{ID}: there is a restore point of this time already; `dbops backup show"):
        take(lab, folder)
    assert lab.points[0].manifest == manifest
    assert {name: lab.store.get(f"aerospike/eu/{SPACE}/{name}") for name in before} == before


def test_what_asbackup_left_when_it_was_interrupted_is_ignored_and_told(lab: World, folder: Path) -> None:
    as_asbackup(folder, records(range(10)))
    (folder / f"{SPACE}.asb.state").write_bytes(b"state")
    files = find_files(str(folder))
    assert len(files.warnings) == 1
    assert f"{SPACE}.asb.state lies beside the files: asbackup was interrupted" in files.warnings[0]
    assert take(lab, files).records == 10


def test_a_file_that_is_missing_is_noticed_by_the_number_of_records(lab: World, folder: Path) -> None:
    as_asbackup(folder, records(range(300)))[1].unlink()
    with pytest.raises(NotAdoptable, match="its log says 300 records, the files hold 200: files are missing"):
        take(lab, folder, records=300)
    assert left(lab) == []
    assert take(lab, folder, records=200).records == 200


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAdoptable, match="nowhere: there is no such folder or file on this machine"):
        find_files(str(tmp_path / "nowhere"))


def test_a_manifest_that_claims_what_the_files_do_not_hold_is_damaged(lab: World, folder: Path) -> None:
    as_absctl(folder, records(range(100)))
    manifest = take(lab, folder)
    document = json.loads(manifest.to_json())

    def claims(**changes: Any) -> list[str]:
        key = catalog.manifest_key(lab.cluster_name, SPACE, manifest.id)
        lab.store.put(key, json.dumps(document | changes).encode())
        return verify(lab.store, lab.points[0]).problems

    counts = [*manifest.partition_counts]
    held_at, empty = counts.index(1), counts.index(0)
    counts[held_at], counts[empty] = 0, 1
    (problem,) = claims(partition_counts=counts)
    assert "the objects hold other records in 2 partitions than the manifest says" in problem
    objects = [dict(entry) for entry in document["objects"]]
    objects[1]["last"] -= 1
    assert any("holds records of other partitions than" in problem for problem in claims(objects=objects))
    objects = [dict(entry) for entry in document["objects"]]
    objects[1]["records"] += 1
    objects[2]["records"] -= 1
    assert sum("records, the manifest says" in problem for problem in claims(objects=objects)) == 2
    with pytest.raises(ManifestError, match="no object holds the indexes and UDFs"):
        Manifest.from_json(
            json.dumps(document | {"objects": [{**entry, "definitions": False} for entry in document["objects"]]}), "m"
        )
    assert claims() == []


# ---------------------------------------------------------------- the command


@pytest.fixture
def dbops(
    server: StandIn, target: StandIn, lab_s3: LabS3, lab_postgres: LabPostgres, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:  # fmt: skip
    document = yaml.safe_load((DIRECTORY / "lab.yaml").read_text())
    document["storage"]["prefix"] = lab_s3.new_prefix()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    info = lab_postgres.new_database()
    ledger.migrate(ledger.connect(info))
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),  # type: ignore[arg-type]
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
        "aerospike_eu": connections.aerospike(server.ports),
        "aerospike_scratch": connections.aerospike(target.ports),
    }
    environment = {**connections.variables(made), "DBOPS_PLATFORM": str(tmp_path / "mine.yaml"), "COLUMNS": "200"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(app, [*arguments])


@pytest.mark.parametrize("place", ["folder", "bucket", "file in the bucket"])
def test_the_command_adopts_lists_verifies_and_restores(
    dbops: Callable[..., Result], lab_s3: LabS3, target: StandIn, folder: Path, drill: str, place: str
) -> None:
    found = records(range(100))
    paths = as_asbackup(folder, found, workers=1, per_file=1000 if place == "file in the bucket" else 30)
    source = str(folder)
    if place != "folder":
        old = S3Store(lab_s3.bucket, f"{lab_s3.new_prefix()}/nightly", lab_s3.connection)
        for path in paths:
            old.put(path.name, path.read_bytes())
        old.put("deeper/other.asb", b"nothing for us")
        source = f"{old.url}/{paths[0].name}" if place == "file in the bucket" else old.url
    for wrong, reason in (("yesterday", "write it as"), ("2026-11-20T03:15:00", "has no time zone")):
        refused = dbops("backup", "adopt", "eu", SPACE, source, "--snapshot-at", wrong)
        assert refused.exit_code == 2
        assert reason in refused.output
    at = (datetime.now(UTC) - timedelta(days=400)).replace(microsecond=0)
    arguments = ("backup", "adopt", "eu", SPACE, source, "--snapshot-at", at.isoformat())
    assert "its log says 7 records" in dbops(*arguments, "--records", "7").stderr
    done = dbops(*arguments, "--records", str(len(found)), "--json")
    assert done.exit_code == 0, done.output
    assert "older than full backups are kept" in done.stderr
    shown = json.loads(done.stdout)
    assert (shown["files"], shown["records"], shown["indexes"]) == (len(paths), len(found), [INDEX.name])
    again = dbops(*arguments)
    assert again.exit_code == 1
    assert "a restore point of this time already" in again.stderr
    assert dbops("backup", "pin", "eu", SPACE, shown["id"], "--reason", "before dbops").exit_code == 0
    assert dbops("backup", "verify", "eu", "-n", SPACE).exit_code == 0
    (row,) = json.loads(dbops("backup", "list", "eu", "-n", SPACE, "--json").stdout)
    assert (row["id"], row["verified"], row["restorable"]) == (shown["id"], True, True)
    document = json.loads(dbops("backup", "show", "eu", SPACE, row["id"], "--json").stdout)
    assert (document["source"], document["objects"][0]["source"]) == (source, paths[0].name)
    back = dbops("restore", "run", "eu", SPACE, "--to", "scratch", "--to-namespace", drill, "--json")
    assert back.exit_code == 0, back.output
    assert there(target, drill) == written(found)
    assert "unchanged" in dbops("ledger", "rebuild").output
