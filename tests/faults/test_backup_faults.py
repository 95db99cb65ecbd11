"""What a backup survives, and what it leaves behind when it does not: one test per promise."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backup_world import (
    FULL,
    INCREMENTAL,
    World,
    connect,
    digest_of,
    rows,
    run_in_child,
    s3_store,
    settle,
    tally,
    world,
)
from dbops.aerospike import backup
from dbops.aerospike.drain import Drain, PartitionsIncomplete
from dbops.backups import catalog
from dbops.backups.catalog import IncompleteBackup
from dbops.backups.lease import LeaseHeld
from dbops.backups.manifest import BackupPlan, Kind
from dbops.backups.store import LocalStore, S3Store, StoreRefused, StoreUnavailable
from dbops.errors import FinalError
from dbops_lab.aerospike.process import StandIn
from dbops_lab.testing import LabS3

SPACE = "bidder"
RECORDS = 12_000
ALL = {digest_of(number) for number in range(RECORDS)}
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["backup_world"])


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=[SPACE]) as stand_in:
        stand_in.load(SPACE, "s", rows(range(RECORDS)), datetime.now(UTC) - timedelta(hours=2))
        yield stand_in


@pytest.fixture
def three() -> Iterator[StandIn]:
    """Three nodes that need a while to form again."""
    with StandIn(namespaces=[SPACE], nodes=3) as stand_in:
        stand_in.load(SPACE, "s", rows(range(RECORDS)))
        stand_in.inject(reform_seconds=0.3, migrate_seconds=0.4)
        yield stand_in


@pytest.fixture
def lab(server: StandIn, lab_s3: LabS3) -> Iterator[World]:
    yield world(server, s3_store(lab_s3), SPACE)
    lab_s3.faults()


def start_child(world: World, kind: Kind, mode: str = "", **options: Any) -> tuple[Any, Any]:
    ours, theirs = forkserver.Pipe()
    process = forkserver.Process(target=run_in_child, args=(theirs, world, kind, "run-1", mode), kwargs=options)
    process.start()
    theirs.close()
    assert ours.recv() == "started"
    return process, ours


def change(server: StandIn, numbers: range) -> set[bytes]:
    server.load(SPACE, "s", rows(numbers, 40))
    return {digest_of(number) for number in numbers}


def unfinished(lab_s3: LabS3, store: S3Store) -> list[Any]:
    found: list[Any] = lab_s3.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads", [])
    return found


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize("place", ["s3", "local"])
def test_killed_backup_is_not_listed_and_the_next_one_starts_at_the_same_watermark(
    server: StandIn, lab: World, tmp_path: Path, place: str
) -> None:
    if place == "local":
        lab.store = LocalStore(tmp_path)
    settle()
    full = lab.backup()
    changed = change(server, range(4000))
    server.inject(delay=0.03)  # of each of its 8 slices
    started = time.monotonic()
    whole, pipe = start_child(lab, INCREMENTAL)
    told = pipe.poll(60)
    seconds = time.monotonic() - started
    first = pipe.recv() if told else None
    whole.join()
    assert whole.exitcode == 0
    assert lab.listed == [full.id, first]
    for _ in range(3):
        settle()
        newest = change(server, range(100))
        process, pipe = start_child(lab, INCREMENTAL)
        moment = random.uniform(0, seconds * 0.8)
        time.sleep(moment)
        process.kill()
        process.join()
        *listed, newcomer = [*lab.points, None] if len(lab.listed) == 2 else lab.points
        assert [point.id for point in listed] == [full.id, first], f"killed after {moment:.3f} s"
        if newcomer:  # it was quicker than the killer: then it is whole
            assert lab.digests(newcomer.manifest) == newest
            lab.store.delete([catalog.manifest_key("eu", SPACE, newcomer.id)])
    settle()
    second = lab.backup(INCREMENTAL)
    assert (second.parent, second.modified_after) == (first, lab.points[1].snapshot_at)
    assert lab.digests(second) == newest
    assert lab.digests(lab.points[1].manifest) == changed


def test_kill_between_the_last_slice_and_the_manifest_leaves_no_backup(server: StandIn, lab: World) -> None:
    settle()
    full = lab.backup()
    changed = change(server, range(500))
    settle()
    process, _ = start_child(lab, INCREMENTAL, "dies before the manifest")
    process.join(30)
    assert process.exitcode == -9
    assert lab.listed == [full.id]
    (attempt,) = catalog.uncommitted(lab.store, "eu", SPACE)
    assert attempt.objects == 16  # 8 slices and their facts: all was there
    settle()
    manifest = lab.backup(INCREMENTAL)
    assert manifest.parent == full.id
    assert lab.digests(manifest) == changed
    assert lab.listed == [full.id, manifest.id]


def test_kill_after_the_manifest_is_a_backup_and_a_retry_adopts_it(lab: World) -> None:
    process, _ = start_child(lab, FULL, "dies after the manifest")
    process.join(30)
    assert process.exitcode == -9
    (point,) = lab.points
    assert lab.digests(point.manifest) == ALL
    plan = lab.plan(slices=8)  # as a retry of the commit has it
    planned = BackupPlan(
        **plan.model_dump(exclude=set(there := {name: getattr(point.manifest, name) for name in
            ("id", "kind", "snapshot_at", "started_at", "cluster_name")})), **there,
    ).model_copy(update={"cluster_key": point.manifest.cluster_key_before})  # fmt: skip
    again = backup.commit_backup(lab.access, lab.store, planned)
    assert again == point.manifest
    assert not [name for name in lab.objects() if name.endswith(".json") and "/slice_" in name]


def test_lease_of_a_killed_backup_runs_out(lab: World) -> None:
    process, _ = start_child(lab, FULL, "dies before the manifest", lease=3)
    process.join(30)
    with pytest.raises(LeaseHeld, match="held by run-1 since"):
        lab.plan(holder="run-2")
    time.sleep(3)
    manifest = lab.backup(holder="run-2")
    assert lab.listed == [manifest.id]
    assert lab.digests(manifest) == ALL


# ---------------------------------------------------------------- two at once


def test_of_several_runs_of_one_namespace_one_gets_the_lease(lab: World) -> None:
    def attempt(number: int) -> BackupPlan | LeaseHeld:
        together.wait()
        try:
            return lab.plan(holder=f"run-{number}")
        except LeaseHeld as held:
            return held

    together = threading.Barrier(5)
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(attempt, range(5)))
    (plan,) = [item for item in found if isinstance(item, BackupPlan)]
    others = [str(item) for item in found if isinstance(item, LeaseHeld)]
    assert len(others) == 4
    assert all(f"held by {plan.holder} since" in text for text in others)
    manifest = lab.run(plan)
    assert lab.listed == [manifest.id]
    assert lab.plan(holder="another").holder == "another"  # free again


# ---------------------------------------------------------------- nodes and connections


@pytest.mark.parametrize(("comes_back", "track_deletes"), [(False, False), (True, False), (False, True)])
def test_node_stopped_in_mid_scan_leaves_nothing_out(
    three: StandIn, lab_s3: LabS3, comes_back: bool, track_deletes: bool
) -> None:
    lab = world(three, s3_store(lab_s3), SPACE)
    with StandIn(namespaces=[SPACE], nodes=3) as untouched:
        untouched.load(SPACE, "s", rows(range(RECORDS)))
        twin = world(untouched, s3_store(lab_s3), SPACE).backup(slices=1)
    plan = lab.plan(slices=1, track_deletes=track_deletes, records_per_second=RECORDS * 2 // 3)
    orders: list[tuple[int, Callable[[], None]]] = [(RECORDS // 4, lambda: three.stop_node(1))]
    if comes_back:
        orders.append((RECORDS // 2, lambda: three.start_node(1)))
    at = []

    def show(progress: backup.Progress) -> None:
        if orders and progress.records >= orders[0][0]:
            at.append(progress.records)
            orders.pop(0)[1]()

    result = backup.backup_slice(lab.access, lab.store, plan, 0, 4095, on_progress=show)
    assert not orders
    assert max(at) < RECORDS * 0.9, "the node went when all was read already"
    assert result.resumed > 0
    manifest = backup.commit_backup(lab.access, lab.store, plan)
    assert (manifest.partition_counts, manifest.fingerprints) == (twin.partition_counts, twin.fingerprints)
    assert lab.digests(manifest) == ALL
    assert manifest.cluster_key_before != manifest.cluster_key_after


def test_cluster_that_stays_away_is_an_error_and_nothing_is_listed(
    server: StandIn, lab: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Drain.__init__.__kwdefaults__, "patience", 1.0)
    plan = lab.plan(slices=1, records_per_second=RECORDS)

    def show(progress: backup.Progress) -> None:
        if 0 < progress.records < RECORDS // 2 and lab.access.seeds[0][1] in (
            node["port"] for node in server.state()["nodes"] if node["is_up"]
        ):
            server.stop_node(0)

    with pytest.raises(PartitionsIncomplete, match=r"partitions \(\d+\.\.\.4095\) gave nothing for 1 s.*refused"):
        backup.backup_slice(lab.access, lab.store, plan, 0, 4095, on_progress=show)
    assert lab.listed == []
    assert lab.objects() == ["_lease.json"]
    with pytest.raises(IncompleteBackup, match="0-4095"):
        backup.commit_backup(lab.access, lab.store, plan)


@pytest.mark.parametrize("cut", [{"records": 700, "times": 12}, {"bytes": 150_001, "times": 6}])
@pytest.mark.parametrize("track_deletes", [False, True])
def test_connection_lost_again_and_again_leaves_nothing_out_and_repeats_nothing(
    server: StandIn, lab: World, cut: dict[str, int], track_deletes: bool
) -> None:
    if track_deletes:  # each partition is a query of its own there
        cut = {**cut, next(iter(cut)): 2 if "records" in cut else 300}
    plan = lab.plan(slices=1, track_deletes=track_deletes)
    server.inject(drop_query=cut)
    result = backup.backup_slice(lab.access, lab.store, plan, 0, 4095)
    # A partition may have fewer records than a cut takes: then that one did not happen.
    assert result.resumed >= (cut["times"] // 3 if track_deletes else cut["times"])
    manifest = backup.commit_backup(lab.access, lab.store, plan)
    assert lab.digests(manifest) == ALL
    if track_deletes:
        assert lab.digests(manifest, "digests") == ALL


def test_partitions_that_are_away_for_a_while_are_waited_for(server: StandIn, lab: World) -> None:
    plan = lab.plan(slices=1)
    server.inject(unavailable=list(range(100, 2000)))
    timer = threading.Timer(1.0, server.inject, kwargs={"unavailable": []})
    timer.start()
    result = backup.backup_slice(lab.access, lab.store, plan, 0, 4095)
    timer.join()
    assert result.resumed > 0
    assert lab.digests(backup.commit_backup(lab.access, lab.store, plan)) == ALL


def test_server_that_is_busy_is_asked_again(server: StandIn, lab: World) -> None:
    server.inject(refuse_query={"code": 18, "times": 3})
    assert lab.digests(lab.backup(slices=1)) == ALL


def test_server_that_starts_is_waited_for(lab_s3: LabS3) -> None:
    with StandIn(namespaces=[SPACE], options=["--start-delay", "2"]) as server:
        started = time.monotonic()
        server.load(SPACE, "s", rows(range(100)))
        lab = world(server, s3_store(lab_s3), SPACE)
        manifest = lab.backup()
        assert lab.digests(manifest) == {digest_of(number) for number in range(100)}
        assert 1.5 < time.monotonic() - started < 20


# ---------------------------------------------------------------- failed runs and clocks


def test_incremental_after_a_failed_one_covers_its_window(
    server: StandIn, lab: World, lab_s3: LabS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Drain.__init__.__kwdefaults__, "patience", 0.3)
    settle()
    full = lab.backup()
    before = change(server, range(100))
    server.inject(refuse_query={"code": 18, "times": 1000})
    with pytest.raises(PartitionsIncomplete, match="device overload"):
        lab.backup(INCREMENTAL)
    assert lab.listed == [full.id]
    assert lab.objects() == sorted(lab.objects())
    assert not catalog.uncommitted(lab.store, "eu", SPACE)
    server.inject(refuse_query={"code": 0, "times": 0})
    settle()
    after = change(server, range(200, 250))
    manifest = lab.backup(INCREMENTAL, holder="the next run")
    assert manifest.parent == full.id
    assert lab.digests(manifest) == before | after


@pytest.mark.parametrize("seconds", [-300, 300])
def test_clock_of_the_worker_may_be_five_minutes_off(server: StandIn, lab: World, seconds: int) -> None:
    server.inject(clock_offset=seconds)
    settle()
    full = lab.backup()
    off = (full.snapshot_at - full.started_at).total_seconds()
    assert abs(off - seconds) < 5  # the cluster's time, not ours
    with_client = connect(server.ports[0])
    for number in range(50):
        with_client.put((SPACE, "t", number), {"n": number})
    with_client.close()
    changed = change(server, range(300))
    settle()
    manifest = lab.backup(INCREMENTAL)
    found = lab.digests(manifest)
    assert len(found) == 350
    assert found > changed
    assert lab.backup(INCREMENTAL).records == 0


def test_clock_of_the_cluster_that_goes_back_is_an_error(server: StandIn, lab: World) -> None:
    full = lab.backup()
    server.inject(clock_offset=-60)
    with pytest.raises(backup.ClockWentBack, match="check the clocks"):
        lab.backup(INCREMENTAL)
    server.inject(clock_offset=0)
    settle()
    assert lab.backup(INCREMENTAL, holder="another").parent == full.id


# ---------------------------------------------------------------- storage


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 500}, {"reset_after": 100_000}], ids=["503", "500", "reset"]
)
def test_s3_that_always_fails_leaves_nothing_listed_and_no_parts(
    server: StandIn, lab: World, lab_s3: LabS3, fault: dict[str, int]
) -> None:
    server.load(SPACE, "s", rows(range(12_000), 1800, random=True))  # more than two parts of 8 MiB
    quick = {**lab_s3.connection.extra, "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 2}}}
    store = S3Store(lab_s3.bucket, lab_s3.new_prefix(), replace(lab_s3.connection, extra=quick), lab_s3.region)
    lab.store = store
    lab_s3.faults({"method": "PUT", "key": "slice_.*partNumber=2", "times": 100_000, **fault})
    with pytest.raises(StoreUnavailable, match="slice_0000_4095"):
        lab.backup(slices=1)
    assert lab.listed == []
    assert unfinished(lab_s3, store) == []
    assert lab.objects() == ["_lease.json"]
    lab_s3.faults({"method": "PUT", "key": "slice_.*partNumber=2", "times": 1, **fault})
    assert lab.digests(lab.backup(slices=1)) == ALL
    assert unfinished(lab_s3, store) == []


def test_full_disk_is_an_error_and_leaves_nothing(server: StandIn, lab: World, tmp_path: Path) -> None:
    server.load(SPACE, "s", rows(range(12_000), 600, random=True))
    lab.store = LocalStore(tmp_path)
    process, pipe = start_child(lab, FULL, "disk is full")
    told = pipe.recv()
    process.join()
    assert told.startswith("StoreRefused: write ")
    assert "make room or choose another target" in told
    assert lab.listed == []
    assert lab.objects() == ["_lease.json"]
    assert not list(tmp_path.rglob("*.part"))
    assert lab.digests(lab.backup(holder="another")) == ALL


def test_missing_bucket_is_said(lab: World, lab_s3: LabS3) -> None:
    lab.store = S3Store("no-such-bucket", "", lab_s3.connection, lab_s3.region)
    started = time.monotonic()
    with pytest.raises(StoreRefused, match="no-such-bucket"):
        lab.plan()
    assert time.monotonic() - started < 5


# ---------------------------------------------------------------- plans that cannot be


def test_commit_names_the_slices_that_are_missing(lab: World) -> None:
    plan = lab.plan(slices=4)
    for first, last in (plan.slices[0], plan.slices[2]):
        backup.backup_slice(lab.access, lab.store, plan, first, last)
    with pytest.raises(IncompleteBackup, match=r"1024-2047.*3072-4095"):
        backup.commit_backup(lab.access, lab.store, plan)
    assert lab.listed == []
    for first, last in (plan.slices[1], plan.slices[3], plan.slices[0]):  # one of them again: it may be repeated
        backup.backup_slice(lab.access, lab.store, plan, first, last)
    manifest = backup.commit_backup(lab.access, lab.store, plan)
    assert lab.digests(manifest) == ALL
    assert backup.commit_backup(lab.access, lab.store, plan) == manifest


def test_incremental_with_deletes_over_a_parent_without_digests_is_refused(lab: World) -> None:
    lab.backup()
    settle()
    plan = lab.plan(INCREMENTAL, slices=1).model_copy(update={"track_deletes": True})
    with pytest.raises(backup.DeletesUnknown, match="kept no digests"):
        backup.backup_slice(lab.access, lab.store, plan, 0, 4095)
    with pytest.raises(FinalError):
        lab.run(plan)
    assert len(lab.listed) == 1


def test_counts_of_the_lab_are_those_of_the_tests(server: StandIn, lab: World) -> None:
    manifest = lab.backup()
    assert (manifest.partition_counts, manifest.fingerprints) == tally(sorted(ALL))
