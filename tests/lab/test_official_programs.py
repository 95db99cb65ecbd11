"""The real asbackup and asrestore against what this package writes and reads, and the other way round.

ASBACKUP and ASRESTORE name the programs; without them nothing runs. With AEROSPIKE_HOST (and AEROSPIKE_PORT,
AEROSPIKE_NAMESPACE) they run against that server, whose namespace must be empty and is emptied after each test;
else against the lab's stand-in.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import aerospike
import pytest
from aerospike_helpers.operations import map_operations, operations
from backup_world import INCREMENTAL, LOOPBACK, World, connect, digest_of, rows, s3_store, settle, world
from cipher_samples import GOLDEN as KEYS
from cipher_samples import PEM
from dbops.aerospike import asb, official
from dbops.aerospike.adopt import adopt, find_files
from dbops.aerospike.cluster import Access
from dbops.aerospike.official import OfficialRestoreResult, ProgramFailed
from dbops.aerospike.restore import plan_restore, run_restore
from dbops.aerospike.wire import Tls
from dbops.backups import catalog, restores
from dbops.backups.cipher import NO_KEYS, Keys
from dbops.backups.manifest import Manifest
from dbops.backups.restores import Policy, RestoreReport, RestoreTarget
from dbops.backups.store import LocalStore
from dbops.backups.verify import verify
from dbops_lab.aerospike.process import StandIn
from dbops_lab.certificates import certificate
from dbops_lab.testing import LabS3

ASBACKUP, ASRESTORE = os.environ.get("ASBACKUP"), os.environ.get("ASRESTORE")
HOST = os.environ.get("AEROSPIKE_HOST")
PORT = int(os.environ.get("AEROSPIKE_PORT", "3000"))
NAMESPACE = os.environ.get("AEROSPIKE_NAMESPACE", "bidder")
SPACES = [f"space{number}" for number in range(25)]
_next = count()

pytestmark = pytest.mark.skipif(
    not (ASBACKUP and ASRESTORE), reason="ASBACKUP and ASRESTORE do not name the official programs"
)


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=SPACES) as stand_in:
        yield stand_in


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_s3: LabS3) -> Iterator[World]:
    """A namespace that nobody has used, of the real server if there is one, else of the stand-in."""
    store, engine = s3_store(lab_s3), {"engine": "asbackup", "engine_path": ASBACKUP}
    if HOST is None:
        yield world(request.getfixturevalue("server"), store, SPACES[next(_next)], **engine)
        return
    with closing(connect(PORT, HOST)) as client:
        if client.query(NAMESPACE).results():
            pytest.fail(f"namespace {NAMESPACE} of {HOST}:{PORT} holds records: name one that tests may empty")
        yield World(Access("eu", ((HOST, PORT),)), store, NAMESPACE, **engine)  # type: ignore[arg-type]
        empty(client, NAMESPACE)


@pytest.fixture
def client(lab: World) -> Iterator[aerospike.Client]:
    ((host, port), *_) = lab.access.seeds
    with closing(connect(port, host)) as connected:
        yield connected


def empty(client: aerospike.Client, namespace: str) -> None:
    time.sleep(0.01)  # a truncate leaves what was written in its very millisecond
    client.truncate(namespace, None, 0)
    while client.query(namespace).results():
        time.sleep(0.1)


def fill(client: aerospike.Client, namespace: str, numbers: range) -> None:
    """Records of every type of value that the client can write, some with their key, some that expire."""
    values: list[Any] = [-7, 2**63 - 1, 0.1, float("inf"), "line\nend, ü", "", b"\x00\n\xff", True, [1, "a", [None]]]
    values += [{"k": 7, "z": b"\x00"}, aerospike.GeoJSON({"type": "Point", "coordinates": [1.5, 2]}), "+ n no\n" * 3]
    for number in numbers:
        key = (namespace, ("lineitems", "odd set", "creatives")[number % 3], f"key {number}" if number % 2 else number)
        found = {"number": number, "odd na\\me": values[number % len(values)]}
        policy = {"key": aerospike.POLICY_KEY_SEND} if number % 5 == 0 else {}
        for _ in range(1 + number % 2):
            client.put(key, found, policy=policy | ({"ttl": 5000} if number % 7 == 0 else {}))
    ordered = aerospike.MAP_KEY_ORDERED
    client.operate(
        (namespace, "lineitems", "ordered"),
        [map_operations.map_put("m", key, 1, {"map_order": ordered}) for key in ("z", "a")]
        + [operations.write("number", -1)],
    )


def held(client: aerospike.Client, namespace: str) -> dict[bytes, tuple[Any, ...]]:
    """What the official client finds: set, key, bins and, within what a restore may change, the time to live."""
    return {  # bins as text: two equal GeoJSON objects are not equal
        bytes(key[3]): (
            key[1],
            key[2],
            {name: str(value) for name, value in bins.items()},
            round(meta["ttl"], -2) if meta["ttl"] < 2**32 - 1 else None,
        )
        for key, meta, bins in client.query(namespace).results()
    }


def verified(lab: World, manifest: Manifest) -> None:
    (point,) = [point for point in lab.points if point.id == manifest.id]
    report = verify(lab.store, point)
    assert (report.ok, report.problems, report.warnings) == (True, [], [])


def restore(lab: World, manifest: Manifest, policy: official.Policy = "replace", **options: Any) -> list[Any]:
    program = official.find_program("asrestore", ASRESTORE)
    return [
        official.restore_text(
            program, lab.access, lab.namespace, [text], policy=policy, source=manifest.namespace, **options
        )
        for _, text in lab.texts(manifest)
    ]


def test_the_programs_are_found_with_a_version_that_can_be_used() -> None:
    for name, path in (("asbackup", ASBACKUP), ("asrestore", ASRESTORE)):
        program = official.find_program(name, path)  # type: ignore[arg-type]
        assert tuple(map(int, program.version.split("."))) >= (3, 12)


def test_full_and_incremental_by_asbackup_are_restore_points_like_ours(lab: World, client: aerospike.Client) -> None:
    fill(client, lab.namespace, range(600))
    client.index_single_value_create(lab.namespace, "lineitems", "number", aerospike.INDEX_NUMERIC, "n_idx")
    try:
        settle()
        full = lab.backup(slices=3)
        lab.engine, lab.engine_path = "native", None
        settle()
        ours = lab.backup(slices=5)
    finally:
        client.index_remove(lab.namespace, "n_idx")
    assert (full.engine, full.records, full.indexes) == ("asbackup", 601, ["n_idx"])
    assert (full.partition_counts, full.fingerprints) == (ours.partition_counts, ours.fingerprints)
    theirs, native = lab.read(full)[0], lab.read(ours)[0]
    assert {record.digest: record for record in theirs} == {record.digest: record for record in native}
    verified(lab, full)

    lab.engine, lab.engine_path = "asbackup", ASBACKUP
    for number in range(1000, 1030):
        client.put((lab.namespace, "s", number), {"n": number})
    settle()
    incremental = lab.backup(INCREMENTAL, slices=3)
    assert (incremental.engine, incremental.parent, incremental.records) == ("asbackup", ours.id, 30)
    verified(lab, incremental)
    nothing = lab.backup(INCREMENTAL, slices=3)
    assert (nothing.records, nothing.kind) == (0, INCREMENTAL)
    verified(lab, nothing)
    assert catalog.why_not_restorable(lab.points, nothing.id) is None


@pytest.mark.skipif(HOST is not None, reason="only the stand-in takes records with a time of update")
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "UTC"])
def test_incremental_by_asbackup_reaches_back_to_the_second_in_every_zone(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    lab = world(server, LocalStore(tmp_path), SPACES[next(_next)], engine="asbackup", engine_path=ASBACKUP)
    full = lab.backup(slices=1)
    for second, numbers in ((-1, range(50)), (0, range(50, 60)), (1, range(60, 70))):
        server.load(lab.namespace, "s", rows(numbers), full.snapshot_at + timedelta(seconds=second))
    manifest = lab.backup(INCREMENTAL, slices=1)
    assert lab.digests(manifest) == {digest_of(number) for number in range(50, 70)}


def test_our_files_restored_by_asrestore_give_equal_records(lab: World, client: aerospike.Client) -> None:
    fill(client, lab.namespace, range(600))
    before = held(client, lab.namespace)
    lab.engine, lab.engine_path = "native", None
    manifest = lab.backup(slices=2)
    empty(client, lab.namespace)
    found = restore(lab, manifest)
    assert sum(result.inserted for result in found) == sum(result.records for result in found) == 601
    assert held(client, lab.namespace) == before


def test_policies_of_asrestore_are_those_that_are_promised(lab: World, client: aerospike.Client) -> None:
    keys = [(lab.namespace, "s", number) for number in range(4)]
    for key in keys:
        client.put(key, {"n": 1, "old": 1})
    client.put(keys[1], {"n": 1})  # generation 2
    lab.engine, lab.engine_path = "native", None
    manifest = lab.backup(slices=1)
    client.remove(keys[0])
    for key in keys[1:]:
        client.remove(key)
        client.put(key, {"n": 2, "new": 2})

    def now() -> list[dict[str, int]]:
        return [client.get(key)[2] for key in keys]

    changed, original, merged = {"n": 2, "new": 2}, {"n": 1, "old": 1}, {"n": 1, "old": 1, "new": 2}
    assert restore(lab, manifest, "missing") == [OfficialRestoreResult(4, 1, 3, 0, 0, 0, 0, 0)]
    assert now() == [original, changed, changed, changed]
    assert restore(lab, manifest, "newer") == [OfficialRestoreResult(4, 1, 0, 3, 0, 0, 0, 0)]
    assert now() == [original, merged, changed, changed]
    assert restore(lab, manifest, "update") == [OfficialRestoreResult(4, 4, 0, 0, 0, 0, 0, 0)]
    assert now() == [original, merged, merged, merged]
    assert restore(lab, manifest, "replace", records=4) == [OfficialRestoreResult(4, 4, 0, 0, 0, 0, 0, 0)]
    assert now() == [original] * 4


def back(lab: World, engine: restores.RestoreEngine = "native", **options: Any) -> RestoreReport:
    """The newest point, read back and restored to its own namespace."""
    for point in lab.points:
        assert verify(lab.store, point, keys=lab.keys).problems == []
    plan = plan_restore(
        lab.store,
        lab.cluster_name,
        lab.namespace,
        lab.access,
        RestoreTarget(cluster=lab.cluster_name, namespace=lab.namespace),
        holder="a test",
        engine=engine,
        engine_path=ASRESTORE,
        keys=lab.keys,
        **options,
    )
    return run_restore(lab.access, lab.store, plan, workers=2, keys=lab.keys)


@pytest.mark.parametrize(
    "options",
    [
        ["--parallel=4", "--file-limit=1"],
        ["--parallel=3", "--compact"],
        ["--parallel=2", "--file-limit=1", "--compress=zstd"],
        ["--encrypt=aes128"],
        ["--parallel=3", "--compress=zstd", "--encrypt=aes256"],
        ["--output-file"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("engine", ["native", "asrestore"])
def test_a_folder_of_asbackup_is_adopted_and_restored_to_equal_records(
    lab: World, client: aerospike.Client, tmp_path: Path, options: list[str], engine: restores.RestoreEngine
) -> None:
    fill(client, lab.namespace, range(2000))
    command = f"sindex-create:namespace={lab.namespace};set=lineitems;indexname=a_idx;bin=number;type=numeric"
    client.info_all(command)
    before = held(client, lab.namespace)
    folder = tmp_path / "theirs"
    source = folder / "all" if "--output-file" in options else folder
    where = [f"--output-file={source}"] if "--output-file" in options else [f"--directory={source}"]
    key = ["--encryption-key-file", str(KEYS / "test_key.pem")] if "--encrypt" in " ".join(options) else []
    folder.mkdir()
    ((host, port),) = lab.access.seeds
    started = datetime.now(UTC)
    subprocess.run(
        [str(ASBACKUP), f"--host={host}", f"--port={port}", f"--namespace={lab.namespace}", *where, *key]
        + [option for option in options if option != "--output-file"],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    lab.keys = Keys.of("aes256", PEM) if key else NO_KEYS
    manifest = adopt(
        lab.store, lab.cluster_name, lab.namespace, find_files(str(source)), snapshot_at=started, holder="a person",
        platform_sha256=lab.platform.sha256, workers=2, keys=lab.keys,
    )  # fmt: skip
    assert (manifest.records, manifest.indexes) == (len(before), ["a_idx"])
    client.index_remove(lab.namespace, "a_idx")
    empty(client, lab.namespace)
    try:
        report = back(lab, engine)
        assert (report.problems, report.indexes) == ([], ["a_idx"])
    finally:
        client.index_remove(lab.namespace, "a_idx")
    assert report.outcomes.inserted == report.outcomes.read == len(before)
    assert held(client, lab.namespace) == before


def test_asrestore_as_the_engine_of_a_restore_counts_as_ours_does(lab: World, client: aerospike.Client) -> None:
    fill(client, lab.namespace, range(600))
    before = held(client, lab.namespace)
    client.put((lab.namespace, "lineitems", "soon"), {"number": 1}, policy={"ttl": 2})
    lab.engine, lab.engine_path = "native", None
    lab.backup(slices=3)
    time.sleep(2.1)
    for options in ({"sets": ["odd set"]}, {"bins": ["number"]}, {"sets": ["lineitems"], "bins": ["m", "number"]}, {}):
        found = []
        for engine in ("native", "asrestore"):
            empty(client, lab.namespace)
            report = back(lab, engine, **options)  # type: ignore[arg-type]
            assert report.problems == []
            found.append((report.outcomes.model_dump(exclude={"compared"}), held(client, lab.namespace)))
        assert found[0] == found[1], options
    assert found[0][1] == before
    assert report.outcomes.expired == 1

    key = (lab.namespace, "creatives", 2)
    client.put(key, {"mine": 1})
    report = back(lab, "asrestore", policy=Policy.MISSING)
    assert (report.problems, report.outcomes.existing, report.outcomes.inserted) == ([], 601, 0)
    report = back(lab, "asrestore", policy=Policy.UPDATE)
    assert (report.problems, report.outcomes.inserted) == ([], 601)
    assert client.get(key)[2]["mine"] == 1
    back(lab, "asrestore")
    assert "mine" not in client.get(key)[2]


def test_expired_and_filtered_records_are_counted(lab: World) -> None:
    past = int(datetime.now(UTC).timestamp()) - 1_262_304_000 - 60
    records = [
        asb.Record(lab.namespace, digest_of(number), ("a", "b")[number % 2], None, 1, past if number < 10 else 0, bins)
        for number in range(30)
        for bins in [(asb.Bin("n", "I", number),)]
    ]
    text = [asb.header(lab.namespace, first_file=True), *(record.text() for record in records)]
    program = official.find_program("asrestore", ASRESTORE)
    result = official.restore_text(program, lab.access, lab.namespace, text, policy="replace", sets=["a"], records=30)
    assert result == OfficialRestoreResult(30, 10, 0, 0, 10, 10, 0, 0)


def test_a_cut_text_fails_and_says_where(lab: World) -> None:
    record = asb.Record(lab.namespace, digest_of(1), "s", None, 1, 0, (asb.Bin("n", "S", b"x" * 100),))
    text = asb.header(lab.namespace) + record.text()
    program = official.find_program("asrestore", ASRESTORE)
    with pytest.raises(ProgramFailed, match=r"exited with status 1; it said: .*Unexpected end of file"):
        official.restore_text(program, lab.access, lab.namespace, [text[:-20]], policy="replace")


@pytest.mark.skipif(HOST is not None, reason="only the stand-in has users and TLS here")
def test_users_and_tls_work_and_a_wrong_password_is_told(tmp_path: Path) -> None:
    password = 'pass "word" \\ ü'
    files = certificate(tmp_path)
    program, restorer = official.find_program("asbackup", ASBACKUP), official.find_program("asrestore", ASRESTORE)
    with StandIn(namespaces=["bidder"], users={"robot": password}, tls=files, tls_name="localhost") as server:
        server.load("bidder", "s", rows(range(50)))
        seeds = ((LOOPBACK, server.ports[0]),)
        access = Access("eu", seeds, "robot", password, Tls("localhost", ca_file=str(files[0])))
        blocks: list[bytes] = []
        tally = official.Tally()
        official.backup_partitions(program, access, "bidder", 0, 4095, lambda block: blocks.append(bytes(block)), tally)
        assert tally.records == 50
        result = official.restore_text(restorer, access, "bidder", blocks, policy="replace", records=50)
        assert result.inserted == 50
        wrong = Access("eu", seeds, "robot", "wrong-Words", access.tls)
        with pytest.raises(ProgramFailed, match=r"exited with status 1; it said: .*CREDENTIAL"):
            official.backup_partitions(program, wrong, "bidder", 0, 4095, blocks.append, official.Tally())
