"""A backup whose engine is an official program, and what it leaves behind when that program fails."""

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
from dbops.aerospike import asb, official
from dbops.aerospike.backup import backup_slice
from dbops.aerospike.official import ProgramFailed, ProgramUnusable
from dbops.backups import catalog
from dbops.backups.lease import current
from dbops.backups.store import LocalStore
from dbops.backups.verify import verify
from dbops_lab.aerospike.process import StandIn
from fake_program import Fake

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
