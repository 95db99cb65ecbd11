"""Backups and restores by official programs, and what they leave behind when the program fails."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aerospike
import pytest
from backup_world import INCREMENTAL, World, connect, digest_of, tally, world
from dbops.aerospike import asb, official, restore
from dbops.aerospike.backup import backup_slice
from dbops.aerospike.cluster import Access
from dbops.aerospike.official import ProgramFailed, ProgramUnusable
from dbops.backups import catalog
from dbops.backups.lease import current
from dbops.backups.restores import Policy, RestorePlan
from dbops.backups.store import LocalStore
from dbops.backups.verify import verify
from dbops_lab.aerospike.process import StandIn
from fake_program import Fake
from restore_world import access_to, held, planned, run, scratch

SPACE = "bidder"
RECORDS = 200


def text(numbers: range) -> bytes:
    bins = (asb.Bin("n", "I", 7),)
    records = (asb.Record(SPACE, digest_of(number), "s", None, 1, 0, bins) for number in numbers)
    return asb.header(SPACE, first_file=True) + b"".join(record.text() for record in records)


def wrote(numbers: range) -> dict[str, Any]:
    data = text(numbers)
    counters = f"{len(numbers)} record(s), 0 secondary index(es), 0 UDF file(s), {len(data)} byte(s) in total"
    return {"stdout": data, "stderr": f"[INF] Backed up {counters} (~1 B/rec)\n", "code": 0, "signal": 0}


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=[SPACE]) as stand_in:
        yield stand_in


@pytest.fixture
def asbackup(tmp_path: Path) -> Fake:
    (tmp_path / "bin").mkdir()
    return Fake(tmp_path / "bin", "asbackup", **wrote(range(RECORDS)))


@pytest.fixture
def lab(server: StandIn, asbackup: Fake, tmp_path: Path) -> World:
    return world(server, LocalStore(tmp_path / "store"), engine="asbackup", engine_path=str(asbackup.path))


def lease(lab: World) -> Any:
    return current(lab.store, catalog.lease_key(lab.cluster_name, SPACE))


def test_what_a_program_wrote_is_a_restore_point_like_every_other(lab: World, asbackup: Fake) -> None:
    full = lab.backup(slices=1)
    assert (full.engine, full.engine_version, full.records) == ("asbackup", "4.5.8", RECORDS)
    asbackup.play(**wrote(range(10)))
    incremental = lab.backup(INCREMENTAL, slices=1)
    assert incremental.parent == full.id
    assert f"--modified-after={full.snapshot_at:%Y-%m-%d_%H:%M:%S}" in asbackup.seen["argv"]
    assert lab.listed == [full.id, incremental.id]
    assert lab.digests(full) == {digest_of(number) for number in range(RECORDS)}
    assert [entry.name for entry in full.objects] == ["slice_0000_4095.asb"]
    for point in lab.points:
        report = verify(lab.store, point)
        assert (report.ok, report.problems, report.warnings) == (True, [], [])
    assert catalog.why_not_restorable(lab.points, incremental.id) is None
    assert (full.partition_counts, full.fingerprints) == tally([digest_of(number) for number in range(RECORDS)])


@pytest.mark.parametrize(
    "play",
    [
        {"code": 1},
        {"stdout": text(range(RECORDS))[:-1]},
        {"stdout": text(range(RECORDS - 1))},
        {"stderr": ""},
        {"signal": signal.SIGKILL},
    ],
    ids=["non-zero exit", "no newline at the end", "a record is missing", "no counters", "out of memory"],
)
def test_a_slice_whose_program_failed_leaves_nothing_and_the_next_run_is_whole(
    lab: World, asbackup: Fake, play: dict[str, Any]
) -> None:
    asbackup.play(**play)
    with pytest.raises(ProgramFailed):
        lab.backup(slices=1)
    assert lab.objects() == ["_lease.json"]
    assert lease(lab) is None
    asbackup.play(**wrote(range(RECORDS)))
    assert lab.backup(slices=1).records == RECORDS


@pytest.mark.parametrize("version", ["Aerospike Backup\nVersion 3.11.0\n", "command not found"])
def test_a_wrong_version_is_found_before_anything_is_leased(lab: World, asbackup: Fake, version: str) -> None:
    asbackup.play(version=version)
    with pytest.raises(ProgramUnusable):
        lab.plan()
    assert lease(lab) is None


def test_a_missing_program_is_found_before_anything_is_leased(lab: World) -> None:
    lab.engine_path = "/nowhere/asbackup"
    with pytest.raises(ProgramUnusable, match="/nowhere/asbackup cannot be used"):
        lab.plan()
    assert lease(lab) is None


def test_a_slice_on_a_worker_without_the_program_says_so(lab: World, asbackup: Fake) -> None:
    plan = lab.plan(slices=1)
    asbackup.path.unlink()
    with pytest.raises(ProgramUnusable, match="install it on every worker"):
        backup_slice(lab.access, lab.store, plan, 0, 4095)


def test_a_worker_with_another_version_says_so_and_goes_on(
    lab: World, asbackup: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    plan = lab.plan(slices=1)
    asbackup.play(version="Aerospike Backup\nVersion 4.6.0\n")
    official._version.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert lab.run(plan).engine_version == "4.5.8"
    assert "this worker has asbackup 4.6.0, the plan was made with 4.5.8" in caplog.text


def test_an_index_that_the_program_left_out_fails_the_slice(
    lab: World, server: StandIn, asbackup: Fake, request: pytest.FixtureRequest
) -> None:
    client = connect(server.ports[0])
    client.index_single_value_create(SPACE, "s", "n", aerospike.INDEX_NUMERIC, "by_n")
    request.addfinalizer(lambda: (client.index_remove(SPACE, "by_n"), client.close()))
    with pytest.raises(ProgramFailed, match="left out index by_n of eu/bidder"):
        lab.backup(slices=1)


def test_an_interrupted_slice_ends_its_program_and_stores_nothing(lab: World, asbackup: Fake) -> None:
    asbackup.play(stdout=text(range(100)), stderr="", hangs=True)
    plan = lab.plan(slices=1)
    calls = 0

    def interrupt(progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup_slice(lab.access, lab.store, plan, 0, 4095, on_progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(asbackup.seen["pid"], 0)
    assert lab.objects() == ["_lease.json"]


def test_a_task_that_airflow_ends_ends_its_program(lab: World, asbackup: Fake) -> None:
    """Airflow calls `on_kill` in its handler of SIGTERM, in the thread that waits for the program."""
    from dbops.aerospike.operators import AerospikeBackupSlice

    operator = AerospikeBackupSlice(task_id="backup", cluster="eu", slice={"namespace": SPACE})
    asbackup.play(stdout=text(range(100)), stderr="", hangs=True)
    plan = lab.plan(slices=1)
    before = signal.signal(signal.SIGALRM, lambda *_: operator.on_kill())
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(ProgramFailed, match="was killed, since its task was told to end"):
            backup_slice(lab.access, lab.store, plan, 0, 4095)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(asbackup.seen["pid"], 0)


# ---------------------------------------------------------------- restores by asrestore


COUNTERS = (
    "[INF] 0 UDF file(s), 0 secondary index(es), {records} record(s) (1 rec/s, 1 KiB/s, 157 B/rec, retries: 0)\n"
    "[INF] Expired {expired} : skipped {skipped} : err_ignored {ignored} : inserted {inserted}: "
    "failed {failed} (existed {existed} , fresher {fresher})\n"
)


def did(**counts: int) -> dict[str, Any]:
    zeros = dict.fromkeys(("records", "expired", "skipped", "ignored", "inserted", "failed", "existed", "fresher"), 0)
    return {"stderr": COUNTERS.format(**zeros | counts)}


@pytest.fixture
def asrestore(asbackup: Fake) -> Fake:
    """It lies beside asbackup, and writes nothing whatever it says."""
    return Fake(asbackup.path.parent, "asrestore", **did(records=RECORDS, inserted=RECORDS))


@pytest.fixture
def target() -> Iterator[StandIn]:
    with StandIn(namespaces=["drill"], name="scratch") as stand_in:
        yield stand_in


def by_asrestore(lab: World, target: StandIn, asrestore: Fake, **options: Any) -> RestorePlan:
    return planned(lab, target, "drill", engine="asrestore", engine_path=str(asrestore.path), **options)


def test_the_path_of_asrestore_is_that_of_asbackup(lab: World, asbackup: Fake, asrestore: Fake) -> None:
    cluster, _ = lab.configured(track_deletes=False, records_per_second=0)
    assert cluster.asrestore_path == str(asrestore.path)
    for changes in ({"engine_path": None}, {"engine": "native", "engine_path": None}, {"engine": "absctl"}):
        assert cluster.model_copy(update=changes).asrestore_path is None


def test_asrestore_is_given_the_records_without_indexes_and_its_word_is_checked_at_the_target(
    lab: World, target: StandIn, asrestore: Fake
) -> None:
    lab.backup(slices=1)
    plan = by_asrestore(lab, target, asrestore, policy=Policy.UPDATE)
    assert (plan.engine, plan.engine_version) == ("asrestore", "4.5.8")
    assert "asrestore 4.5.8 writes the records" in plan.describe()
    report = run(lab, target, plan)
    seen = asrestore.seen
    assert seen["argv"][:5] == [
        f"--namespace={SPACE},drill", "--input-file=-", "--no-generation", "--no-indexes", "--no-udfs"
    ]  # fmt: skip
    assert seen["stdin"].encode("latin-1") == text(range(RECORDS))
    assert report.outcomes.inserted == report.outcomes.read == RECORDS
    assert not report.ok
    assert report.problems[0].startswith(f"the target lacks {RECORDS} records in ")
    with pytest.raises(restore.RestoreFailed, match=f"the target lacks {RECORDS} records"):
        restore.require_ok(report)


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (did(records=RECORDS, inserted=RECORDS - 3), rf"read {RECORDS} records and accounts for {RECORDS - 3} of them"),
        (did(records=RECORDS, inserted=RECORDS - 3, failed=3, ignored=3), "3 were refused"),
        (did(records=RECORDS - 1, inserted=RECORDS - 1), rf"read {RECORDS - 1} records, the text holds {RECORDS}"),
        (did(records=RECORDS, inserted=RECORDS - 2, existed=2), r"as the policy replace asks for: \{'existed': 2\}"),
        (did(records=RECORDS, inserted=RECORDS - 2, skipped=2), "left out 2 records; 0 are of other sets"),
        ({"stderr": "[INF] all is well\n"}, "exited with 0, but did not say what it restored"),
        ({"stderr": "[ERR] Error while storing record - code 13\n", "code": 1}, r"status 1; it said: .*code 13"),
        ({"signal": signal.SIGKILL}, "was killed"),
    ],
    ids=["unaccounted", "refused", "not all read", "left out", "skipped", "silent", "gave up", "killed"],
)
def test_records_that_asrestore_did_not_write_fail_the_restore_with_their_number(
    lab: World, target: StandIn, asrestore: Fake, play: dict[str, Any], reason: str
) -> None:
    lab.backup(slices=1)
    plan = by_asrestore(lab, target, asrestore)
    asrestore.play(**play)
    with pytest.raises(ProgramFailed, match=reason):
        run(lab, target, plan)
    with pytest.raises(restore.IncompleteRestore, match="1 of 1 slices have not ended"):
        restore.check_restore(access_to(target), lab.store, plan)
    assert planned(lab, target, "drill", holder="another")  # the lease was given back


def test_a_chain_is_refused_to_asrestore_and_its_full_is_not(
    lab: World, target: StandIn, asbackup: Fake, asrestore: Fake
) -> None:
    full = lab.backup(slices=1)
    asbackup.play(**wrote(range(10)))
    lab.backup(INCREMENTAL, slices=1)
    with pytest.raises(restore.NotRestorable, match=r"only a full point can be restored, this one is a chain of 2: .*"):
        by_asrestore(lab, target, asrestore)
    assert by_asrestore(lab, target, asrestore, id=full.id).points == [full.id]


def test_asrestore_that_is_missing_or_too_old_is_found_before_anything_is_leased(
    lab: World, target: StandIn, asrestore: Fake
) -> None:
    lab.backup(slices=1)
    asrestore.play(version="Aerospike Restore\nVersion 3.11.0\n")
    with pytest.raises(ProgramUnusable, match="too old"):
        by_asrestore(lab, target, asrestore)
    asrestore.path.unlink()
    with pytest.raises(ProgramUnusable, match="cannot be used"):
        by_asrestore(lab, target, asrestore)
    assert current(lab.store, catalog.lease_key("scratch", "drill")) is None


def test_a_dry_run_for_asrestore_starts_no_program_and_counts(lab: World, target: StandIn, asrestore: Fake) -> None:
    lab.backup(slices=1)
    report = run(lab, target, by_asrestore(lab, target, asrestore, dry_run=True))
    assert (report.ok, report.outcomes.planned) == (True, RECORDS)
    assert not Path(f"{asrestore.path}.seen").exists()


def test_damage_ends_asrestore_and_is_told_as_damage(
    lab: World, target: StandIn, asrestore: Fake, tmp_path: Path
) -> None:
    lab.backup(slices=1)
    plan = by_asrestore(lab, target, asrestore)
    (file,) = (tmp_path / "store").rglob("*.asb")
    file.write_bytes(file.read_bytes()[:-40])
    asrestore.play(hangs=True)
    with pytest.raises(restore.BackupDamaged, match=r"cannot be read: .*restore from another point"):
        restore.restore_slice(access_to(target), lab.store, plan, 0, 4095)
    assert held(target, "drill") == {}


def test_the_password_for_asrestore_is_in_no_argument(lab: World, asrestore: Fake) -> None:
    lab.backup(slices=1)
    secret = "pass-Word-of-robot"
    with StandIn(namespaces=["drill"], users={"robot": secret}) as guarded:
        access = Access("scratch", (("127.0.0.1", guarded.ports[0]),), "robot", secret)
        verify(lab.store, lab.points[0])
        plan = restore.plan_restore(
            lab.store, lab.cluster_name, SPACE, access, scratch("drill"),
            holder="restore-1", engine="asrestore", engine_path=str(asrestore.path),
        )  # fmt: skip
        restore.restore_slice(access, lab.store, plan, 0, 4095)
    seen = asrestore.seen
    assert secret in seen["config"]
    assert secret not in str((seen["argv"], seen["env"], plan))


def test_a_restore_that_airflow_ends_ends_its_program(lab: World, target: StandIn, asrestore: Fake) -> None:
    from dbops.aerospike.restore_operators import RestoreSlice

    lab.backup(slices=1)
    plan = by_asrestore(lab, target, asrestore)
    asrestore.play(hangs=True)
    operator = RestoreSlice(task_id="restore", slice={"first": 0, "last": 4095})
    before = signal.signal(signal.SIGALRM, lambda *_: operator.on_kill())
    signal.setitimer(signal.ITIMER_REAL, 0.8)
    try:
        with pytest.raises(ProgramFailed, match="was killed, since its task was told to end"):
            restore.restore_slice(access_to(target), lab.store, plan, 0, 4095)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(asrestore.seen["pid"], 0)
