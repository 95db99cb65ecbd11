"""What a restore survives, and what it says when it does not: one test per promise."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import aerospike
import pytest
from backup_world import INCREMENTAL, World, connect, digest_of, rows, settle, world
from cipher_samples import OTHER_PEM, PEM
from dbops.aerospike import batches, restore
from dbops.aerospike.backup import Progress
from dbops.aerospike.cluster import UnknownNamespace
from dbops.backups.catalog import lease_key
from dbops.backups.cipher import NO_KEYS, KeyMissing, Keys, WrongKey
from dbops.backups.lease import Lease, LeaseHeld, current
from dbops.backups.restores import RestorePlan, RestoreTarget, When
from dbops.backups.store import LocalStore
from dbops.errors import FinalError
from dbops_lab.aerospike.process import Row, StandIn, bins
from restore_world import access_to, held, planned, restore_in_child, restored, run

SPACE, DRILL = "bidder", "drill"
RECORDS = 6000
forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(["restore_world"])


@pytest.fixture(scope="module")
def source() -> Iterator[StandIn]:
    with StandIn(namespaces=[SPACE, "small", "odd", "indexed"]) as stand_in:
        stand_in.load(SPACE, "s", rows(range(RECORDS)))
        yield stand_in


@pytest.fixture(scope="module")
def backed_up(source: StandIn, tmp_path_factory: pytest.TempPathFactory) -> World:
    lab = world(source, LocalStore(tmp_path_factory.mktemp("store")), SPACE)
    lab.backup(slices=4)
    return lab


@pytest.fixture
def lab(backed_up: World) -> Iterator[World]:
    """A namespace with one full backup; nobody holds a lease."""
    yield backed_up
    backed_up.store.delete([item.key for item in backed_up.store.list("") if item.key.endswith("/_lease.json")])


@pytest.fixture
def target() -> Iterator[StandIn]:
    with StandIn(namespaces=[DRILL], nodes=3, name="scratch") as stand_in:
        stand_in.inject(reform_seconds=0.3, migrate_seconds=0.4)
        yield stand_in


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_ROWS", 100)


def objects(server: StandIn) -> int:
    return sum(server.state()["objects"][DRILL].values())


def same(source: StandIn, target: StandIn, space: str = SPACE) -> bool:
    return held(target, DRILL) == held(source, space)


# ---------------------------------------------------------------- killed


def test_restore_killed_in_the_middle_is_whole_when_it_runs_again(source: StandIn, target: StandIn, lab: World) -> None:
    plan = planned(lab, target, DRILL)
    target.inject(delay=0.2)  # of each batch
    ours, theirs = forkserver.Pipe()
    child = forkserver.Process(target=restore_in_child, args=(theirs, lab, access_to(target), plan))
    child.start()
    theirs.close()
    assert ours.recv() == "started"
    deadline = time.monotonic() + 30
    while not objects(target) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.join()
    assert child.exitcode == -9
    target.inject(delay=0)
    assert 0 < objects(target) < RECORDS, "it was not killed in the middle"
    with pytest.raises(restore.IncompleteRestore, match="slices have not ended"):
        restore.check_restore(access_to(target), lab.store, plan)
    with pytest.raises(LeaseHeld, match="held by restore-1"):
        planned(lab, target, DRILL, holder="restore-2")
    assert restore.require_ok(run(lab, target, plan)).target_records == RECORDS
    assert same(source, target)
    assert planned(lab, target, DRILL, holder="restore-2")  # the lease is free again


# ---------------------------------------------------------------- nodes and connections


@pytest.mark.parametrize("comes_back", [False, True])
def test_node_of_the_target_stopped_in_the_middle_loses_nothing(
    source: StandIn, target: StandIn, lab: World, small_batches: None, comes_back: bool
) -> None:
    plan = planned(lab, target, DRILL)
    target.inject(delay=0.005)
    orders: list[tuple[int, Any]] = [(RECORDS // 3, target.stop_node)]  # not between two slices
    if comes_back:
        orders.append((RECORDS * 3 // 5, target.start_node))

    def show(progress: Progress) -> None:
        if orders and objects(target) >= orders[0][0]:
            orders.pop(0)[1](1)

    again = 0
    for first, last in plan.slices:
        result = restore.restore_slice(access_to(target), lab.store, plan, first, last, on_progress=show, connections=2)
        again += result.again
    assert not orders
    assert again > 0
    assert restore.require_ok(restore.check_restore(access_to(target), lab.store, plan)).outcomes.accounted()
    assert same(source, target)


def test_partitions_that_are_away_for_a_while_are_waited_for(source: StandIn, target: StandIn, lab: World) -> None:
    plan = planned(lab, target, DRILL)
    target.inject(unavailable=list(range(100, 300)))
    seen = []

    def show(progress: Progress) -> None:
        seen.append(progress)

    timer = threading.Timer(0.7, target.inject, kwargs={"unavailable": []})
    timer.start()
    results = [
        restore.restore_slice(access_to(target), lab.store, plan, first, last, on_progress=show)
        for first, last in plan.slices
    ]
    timer.join()
    assert results[0].again > 0
    assert seen
    restore.require_ok(restore.check_restore(access_to(target), lab.store, plan))
    assert same(source, target)


def test_target_that_stays_away_is_an_error_that_may_be_repeated(
    lab: World, monkeypatch: pytest.MonkeyPatch, small_batches: None, source: StandIn
) -> None:
    monkeypatch.setattr(batches, "PATIENCE_SECONDS", 0.5)
    with StandIn(namespaces=[DRILL], name="scratch") as target:
        plan = planned(lab, target, DRILL)
        target.inject(unavailable=list(range(2000, 2100)))
        with pytest.raises(batches.WritesIncomplete, match=r"no answer that stands for 0\.5 s.*run the restore"):
            run(lab, target, plan)
        target.inject(unavailable=[])
        target.inject(delay=0.01)
        orders = ["stop"]

        def show(progress: Progress) -> None:
            if orders and objects(target):
                orders.clear()
                target.stop_node(0)

        with pytest.raises(batches.WritesIncomplete, match="refused"):
            restore.restore_slice(access_to(target), lab.store, plan, *plan.slices[0], on_progress=show)
        target.start_node(0)
        target.inject(delay=0)
        time.sleep(0.3)
        restore.require_ok(run(lab, target, planned(lab, target, DRILL)))
        assert same(source, target)


# ---------------------------------------------------------------- records that the target refuses


def test_records_that_the_target_refuses_are_named_and_the_rest_is_written(
    source: StandIn, target: StandIn, tmp_path: Path
) -> None:
    big, odd, elsewhere = digest_of(100_001), digest_of(100_002), digest_of(7)
    special: list[Row] = [
        (big, 1, 0, None, bins({"v": (4, bytes(2 << 20))})),
        (odd, 1, 0, None, bins({"v": (23, b"\x00\x00\x00{no GeoJSON")})),
    ]
    source.load("odd", "s", [*rows(range(500)), *special])
    target.load(DRILL, "other set", rows([7]))
    lab = world(source, LocalStore(tmp_path), "odd")
    lab.backup(slices=2)
    plan = planned(lab, target, DRILL)
    report = run(lab, target, plan)
    assert not report.ok
    named = {bytes.fromhex(failure.digest): failure for failure in report.failures}
    assert set(named) == {big, odd, elsewhere}
    assert named[big].reason == "code 13: the record is too big for the target"
    assert "another set" in named[elsewhere].reason
    assert "GeoJSON" in named[odd].reason
    assert {failure.set for failure in report.failures} == {"s"}
    assert (report.outcomes.failed, report.outcomes.inserted) == (3, 499)
    with pytest.raises(restore.RestoreFailed, match=r"3 records were refused, the first: .*code 13"):
        restore.require_ok(report)
    found = held(target, DRILL)
    assert set(found) == {digest_of(number) for number in range(500)}
    assert found[elsewhere].set == "other set"


def test_a_record_of_a_mebibyte_comes_back(source: StandIn, target: StandIn, tmp_path: Path) -> None:
    size = (1 << 20) - 200
    source.load("small", "large", rows(range(3), size, random=True))
    try:
        lab = world(source, LocalStore(tmp_path), "small")
        lab.backup(slices=1)
        restored(lab, target, DRILL)
        assert same(source, target, "small")
        assert {len(record.bins["v"]) for record in held(target, DRILL).values()} == {size}
    finally:
        with closing(connect(source.ports[0])) as client:
            for number in range(3):
                client.remove(("small", "large", None, bytearray(digest_of(number))))


def test_a_target_that_becomes_full_fails_the_restore_and_says_how_many_records(
    source: StandIn, target: StandIn, lab: World, small_batches: None
) -> None:
    plan = planned(lab, target, DRILL)
    orders = [True]

    def show(progress: Progress) -> None:
        if orders and objects(target):
            target.inject(stop_writes=orders.pop())

    for first, last in plan.slices:
        restore.restore_slice(access_to(target), lab.store, plan, first, last, on_progress=show)
    report = restore.check_restore(access_to(target), lab.store, plan)
    written = objects(target)
    assert 0 < written < RECORDS
    assert (report.ok, report.outcomes.failed, report.outcomes.inserted) == (False, RECORDS - written, written)
    assert "the server has no room" in report.problems[0]
    target.inject(stop_writes=False)
    restored(lab, target, DRILL)
    assert same(source, target)


# ---------------------------------------------------------------- indexes


def make_index(client: aerospike.Client, space: str, name: str, bin_name: str, kind: str) -> None:
    """The client's own call waits for two seconds."""
    command = f"sindex-create:namespace={space};set=s;indexname={name};bin={bin_name};type={kind}"
    assert all("ok" in str(answer) for answer in client.info_all(command).values())


@pytest.mark.parametrize("definitions", ["before", "after"])
def test_an_index_that_the_target_has_otherwise_is_named_and_with_indexes_first_nothing_is_written(
    source: StandIn, target: StandIn, tmp_path: Path, definitions: When
) -> None:
    source.load("indexed", "s", rows(range(100)))
    lab = world(source, LocalStore(tmp_path), "indexed")
    with closing(connect(source.ports[0])) as client, closing(connect(target.ports[0])) as there:
        make_index(client, "indexed", "by_n", "n", "numeric")
        make_index(client, "indexed", "by_v", "v", "string")
        lab.backup(slices=1)
        client.index_remove("indexed", "by_n")
        client.index_remove("indexed", "by_v")
        make_index(there, DRILL, "by_n", "n", "string")
        make_index(there, DRILL, "by_v", "v", "string")  # the very same one
        plan = planned(lab, target, DRILL, definitions=definitions)
        with pytest.raises(
            restore.RestoreFailed, match=r"index by_n: the server answered .*already exists with different definition"
        ) as raised:
            run(lab, target, plan)
        assert "by_v" not in str(raised.value)
        assert objects(target) == (0 if definitions == "before" else source.state()["objects"]["indexed"]["s"])
        there.index_remove(DRILL, "by_n")
        report = run(lab, target, planned(lab, target, DRILL, definitions=definitions))  # the lease was given back
        assert (report.ok, report.indexes) == (True, ["by_n", "by_v"])


# ---------------------------------------------------------------- damaged backups


def write_small(source: StandIn, store: Path) -> World:
    source.load("small", "s", rows(range(4)))
    lab = world(source, LocalStore(store), "small")
    lab.backup(slices=1)
    return lab


def attempt(lab: World, target: StandIn, plan: RestorePlan) -> Exception | None:
    try:
        restore.restore_slice(access_to(target), lab.store, plan, 0, 4095)
    except Exception as error:
        return error
    return None


def test_damage_at_any_byte_of_an_object_is_never_silent(source: StandIn, target: StandIn, tmp_path: Path) -> None:
    lab = write_small(source, tmp_path)
    plan = planned(lab, target, DRILL, dry_run=True)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file() and ".asb" in path.name]
    whole = file.read_bytes()
    assert attempt(lab, target, plan) is None
    dice = random.Random(4)
    for at in range(len(whole)):
        flipped = whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :]
        for damaged in (flipped, *([whole[:at], whole[:at] + whole[at + 1 :]] if at % 5 == 0 else [])):
            file.write_bytes(damaged)
            error = attempt(lab, target, plan)
            assert isinstance(error, FinalError), f"byte {at}: {error!r}"
            assert plan.points[0] in str(error), f"byte {at}: {error}"
    file.write_bytes(whole)
    assert attempt(lab, target, plan) is None


def test_damage_found_while_it_is_written_names_the_object_and_what_to_do(
    target: StandIn, source: StandIn, tmp_path: Path
) -> None:
    own = world(source, LocalStore(tmp_path), SPACE)
    own.backup(slices=2)
    plan = planned(own, target, DRILL)
    file = max(tmp_path.rglob("*.asb*"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(restore.BackupDamaged, match=rf"{plan.points[0]} .*{file.name}.*restore from another point"):
        run(own, target, plan)
    file.unlink()
    with pytest.raises(FinalError, match=file.name):
        run(own, target, plan)


# ---------------------------------------------------------------- two at once


def test_a_backup_of_the_target_and_a_second_restore_exclude_each_other(target: StandIn, lab: World) -> None:
    plan = planned(lab, target, DRILL)
    with pytest.raises(LeaseHeld, match="held by restore-1"):
        planned(lab, target, DRILL, holder="restore-2")
    assert planned(lab, target, DRILL).holder == "restore-1"  # a retry takes it over
    restore.release_target(lab.store, plan)

    home = RestoreTarget(cluster=lab.cluster_name, namespace=SPACE)
    arguments = (lab.store, lab.cluster_name, SPACE, lab.access, home)
    settle()
    backup = lab.plan(holder="backup-1")
    with pytest.raises(LeaseHeld, match="held by backup-1"):
        restore.plan_restore(*arguments, holder="restore-1")
    lab.run(backup)
    again = restore.plan_restore(*arguments, holder="restore-1", allow_unverified=True)
    assert again.needs_approval
    with pytest.raises(LeaseHeld, match="held by restore-1"):
        lab.plan(INCREMENTAL, holder="backup-2")
    restore.release_target(lab.store, again)


def test_a_long_slice_keeps_the_lease_of_its_target(
    target: StandIn, lab: World, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "LEASE", timedelta(seconds=0.8))
    monkeypatch.setattr(restore, "_RENEW_SECONDS", 0.1)
    plan = planned(lab, target, DRILL)
    key = lease_key("scratch", DRILL)
    target.inject(delay=0.1)
    refused: list[float] = []
    started = time.monotonic()

    def show(progress: Progress) -> None:
        with pytest.raises(LeaseHeld, match="held by restore-1"):
            Lease.acquire(lab.store, key, "a backup", timedelta(minutes=1))
        refused.append(time.monotonic() - started)

    restore.restore_slice(access_to(target), lab.store, plan, *plan.slices[0], on_progress=show, connections=1)
    assert max(refused) > 1.2
    assert current(lab.store, key).holder == "restore-1"  # type: ignore[union-attr]


# ---------------------------------------------------------------- refused at plan time


def test_target_without_room_or_that_stops_writes_is_refused_before_anything_is_touched(
    target: StandIn, lab: World
) -> None:
    text = lab.points[0].manifest.text_bytes
    target.inject(room_bytes=text // 6)  # of each of three nodes; there are two replicas of each record
    with pytest.raises(restore.TargetNotUsable, match=r"has room for 0 MB.* times 2 replicas do not fit"):
        planned(lab, target, DRILL)
    assert planned(lab, target, DRILL, dry_run=True)
    target.inject(room_bytes=text // 2, stop_writes=True)
    with pytest.raises(restore.TargetNotUsable, match=r"takes no writes now \(stop_writes\); make room"):
        planned(lab, target, DRILL)
    assert current(lab.store, lease_key("scratch", DRILL)) is None
    target.inject(stop_writes=False)
    assert planned(lab, target, DRILL)


def test_wrong_or_missing_key_is_refused_before_anything_is_touched(
    source: StandIn, target: StandIn, tmp_path: Path
) -> None:
    lab = world(source, LocalStore(tmp_path), "small", keys=Keys.of("aes256", PEM))
    source.load("small", "s", rows(range(4)))
    lab.backup(slices=1)
    restored(lab, target, DRILL)
    assert same(source, target, "small")
    arguments = (lab.store, lab.cluster_name, "small", access_to(target), RestoreTarget(cluster="x", namespace=DRILL))
    for keys, error in ((Keys.of("aes256", OTHER_PEM), (WrongKey, KeyMissing)), (NO_KEYS, KeyMissing)):
        with pytest.raises(error):
            restore.plan_restore(*arguments, holder="h", keys=keys)
    assert not [item.key for item in lab.store.list("aerospike/x/")]


def test_namespace_that_the_target_does_not_have_is_named(target: StandIn, lab: World) -> None:
    with pytest.raises(UnknownNamespace, match="nowhere"):
        planned(lab, target, "nowhere")


def test_target_that_removes_nothing_is_refused_when_records_expire(
    source: StandIn, target: StandIn, tmp_path: Path, lab: World
) -> None:
    target.inject(nsup_period=0)
    own = world(source, LocalStore(tmp_path), "small")
    with closing(connect(target.ports[0])) as client, pytest.raises(aerospike.exception.ForbiddenError):
        client.put((DRILL, "s", "expires"), {"n": 1}, policy={"ttl": 3000})
    with closing(connect(source.ports[0])) as client:
        client.put(("small", "s", "expires"), {"n": 1}, policy={"ttl": 3000})
        own.backup(slices=1)
        client.remove(("small", "s", "expires"))
    with pytest.raises(restore.TargetNotUsable, match="nsup-period"):
        planned(own, target, DRILL)
    assert planned(lab, target, DRILL)  # nothing expires there
