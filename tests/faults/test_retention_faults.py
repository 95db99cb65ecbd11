"""What retention survives: kills, locks, pins, versions, odd keys, wrong policies. Numbers 21 to 29 of the list."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops.backups import catalog, expire, in_use
from dbops.backups.expire import ExpiryPlan, MassExpiry, Outcome, plan_namespace, store_plan, sweep
from dbops.backups.lease import Lease, LeaseHeld
from dbops.backups.manifest import backup_prefix
from dbops.backups.store import LocalStore, NotFound, S3Store, Store, StoredObject, StoreUnavailable
from dbops.backups.verify import verify
from dbops.platform import Retention
from dbops_lab.fault_proxy import ALWAYS, Fault, FaultProxy
from dbops_lab.testing import LabS3
from points_world import DAY, HOUR, NOW, ids, listed, mark, names_below, plan_of, store_slices, take, take_chain

POLICY = Retention(full=30 * DAY, incremental=30 * DAY, max_share=1)
SHORT = Retention(full=30 * DAY, incremental=7 * DAY, max_share=1)
PLACE = ("eu", "bidder")
HOME = backup_prefix(*PLACE)


@pytest.fixture(params=["s3", "local"])
def store(request: pytest.FixtureRequest, lab_s3: LabS3, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return S3Store(lab_s3.bucket, lab_s3.new_prefix(), lab_s3.connection)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def bucket(lab_s3: LabS3, *, versioned: bool = False, locks: bool = False) -> S3Store:
    """A bucket of its own."""
    name = f"retention-{secrets.token_hex(6)}"
    place = {"LocationConstraint": lab_s3.region}
    lab_s3.client.create_bucket(Bucket=name, CreateBucketConfiguration=place, ObjectLockEnabledForBucket=locks)
    if versioned:
        lab_s3.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return S3Store(name, "", lab_s3.connection)


def plan(store: Store, policy: Retention = POLICY) -> ExpiryPlan:
    return plan_namespace(store, *PLACE, policy, by="test", now=NOW)


def reasons(found: ExpiryPlan) -> dict[str, str]:
    return {item.id: item.reason for item in found.items}


def run(store: Store, policy: Retention = POLICY, *, approved: bool = False, holder: str = "test") -> Outcome:
    """Plan, store, carry out."""
    found = plan(store, policy)
    return expire.expire(store, found, store_plan(store, found), holder=holder, approved=approved, now=NOW)


def expired(found: ExpiryPlan) -> list[str]:
    return [item.id for item in found.expire]


# --- what stays ---------------------------------------------------------------------------------------------


def test_21_the_only_full_is_kept_at_400_days(store: Store) -> None:
    (only,) = take_chain(store, 400)
    assert run(store) == Outcome()
    assert listed(store) == [only.id]


def test_22_the_base_of_a_live_chain_stays_beyond_the_window(local: LocalStore) -> None:
    live = take_chain(local, 35, 24)  # its last incremental is 29 days old
    later = [take_chain(local, age)[0] for age in (31, 3, 2)]
    assert run(local).expired == []
    assert sorted(listed(local)) == sorted(ids([*live, *later]))


def test_23_the_last_good_full_survives_ten_corrupt_ones(local: LocalStore) -> None:
    old, good = (take_chain(local, age)[0] for age in (80, 60))
    corrupt = [take_chain(local, age, ok=False)[0] for age in range(55, 45, -1)]
    never = [take_chain(local, age, ok=None)[0] for age in (44, 43)]
    one = Retention(full=30 * DAY, incremental=30 * DAY, floor=1, max_share=1)
    outcome = run(local, one)
    assert set(outcome.expired) == {old.id, *ids(corrupt), never[0].id}
    assert listed(local) == [good.id, never[1].id]
    assert run(local) == Outcome(), "the floor of 2 counts verified ones only, so nothing more goes"


def test_24_time_decides_and_not_the_name(local: LocalStore) -> None:
    """Within one second the names sort the other way round, and a copied file's date says nothing."""
    at = NOW - 40 * DAY
    full = take(local, at + timedelta(milliseconds=900))
    other = take_chain(local, 50)[0]
    base = take_chain(local, 41)[0]
    late = take(local, at + timedelta(milliseconds=100), base)
    for age in (3, 2):
        take_chain(local, age)
    assert full.id < late.id
    assert sorted([full.id, late.id]) == [full.id, late.id]
    found = plan(local)
    assert expired(found) == [late.id, base.id, other.id]
    assert "where the window begins" in reasons(found)[full.id]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_25_fewer_than_the_floor_is_no_error(store: Store, count: int) -> None:
    taken = [take_chain(store, 90 + age)[0] for age in range(count)]
    assert run(store) == Outcome()
    assert sorted(listed(store)) == sorted(ids(taken))
    assert sweep(store, *PLACE, DAY, holder="test", now=NOW) == expire.Swept()


def test_nothing_goes_before_a_new_full_is_verified(local: LocalStore) -> None:
    for age in (60, 50, 40, 3, 2):
        take_chain(local, age)
    assert len(run(local).expired) == 2
    more = take_chain(local, 55)[0]
    found = plan(local)
    assert expired(found) == []
    assert "it waits for one" in reasons(found)[more.id]
    take_chain(local, 1)
    assert expired(plan(local)) == [more.id]


# --- pins, locks, versions ----------------------------------------------------------------------------------


class TestHeld:
    """Number 26."""

    def test_a_pin_in_the_middle_keeps_what_it_builds_on_and_stops_nothing_else(self, store: Store) -> None:
        first, pinned, last = take_chain(store, 60), take_chain(store, 50, 3), take_chain(store, 40)
        for age in (3, 2):
            take_chain(store, age)
        in_use.pin(store, *PLACE, pinned[1].id, by="ann", reason="audit")
        found = plan(store, SHORT)
        assert expired(found) == [pinned[3].id, pinned[2].id, first[0].id]
        assert reasons(found)[pinned[1].id].startswith("is pinned by ann since ")
        assert reasons(found)[pinned[1].id].endswith(": audit")
        assert reasons(found)[pinned[0].id] == f"{pinned[1].id} builds on it"
        assert set(run(store, SHORT).expired) == {pinned[3].id, pinned[2].id, first[0].id}
        assert last[0].id in listed(store)
        assert in_use.unpin(store, *PLACE, pinned[1].id)
        assert not in_use.unpin(store, *PLACE, pinned[1].id)
        take_chain(store, 1)
        assert run(store, SHORT).expired == [pinned[1].id, pinned[0].id]

    def test_an_unreadable_pin_counts_as_one(self, local: LocalStore) -> None:
        old = take_chain(local, 60)[0]
        for age in (50, 40, 3, 2):
            take_chain(local, age)
        local.put(in_use.pin_key(*PLACE, old.id), b"?")
        assert old.id not in expired(plan(local))
        assert in_use.unpin(local, *PLACE, old.id)
        assert old.id in expired(plan(local))

    def test_a_pin_needs_a_restore_point(self, store: Store) -> None:
        for call in (
            lambda: in_use.pin(store, *PLACE, "20260101T000000Z-full", by="ann", reason="?"),
            lambda: in_use.unpin(store, *PLACE, "20260101T000000Z-full"),
        ):
            with pytest.raises(NotFound, match="no such restore point"):
                call()
        assert names_below(store, "") == set()

    def test_locked_objects_are_reported_and_the_rest_goes(self, lab_s3: LabS3) -> None:
        store = bucket(lab_s3, locks=True)
        until = datetime(2030, 1, 2, tzinfo=UTC)
        locked, held, past, free = (take_chain(store, age)[0] for age in (80, 70, 60, 50))
        for age in (40, 3, 2):
            take_chain(store, age)
        for manifest, day in ((locked, until), (past, NOW + timedelta(seconds=2))):
            store.client.put_object_retention(
                **store.where(catalog.object_key(manifest, "slice_0000_4095.asb")),
                Retention={"Mode": "GOVERNANCE", "RetainUntilDate": day},
            )
        store.client.put_object_legal_hold(
            **store.where(catalog.manifest_key(*PLACE, held.id)), LegalHold={"Status": "ON"}
        )
        later = NOW + timedelta(minutes=1)
        found = plan_namespace(store, *PLACE, POLICY, by="test", now=later)
        assert expired(found) == [free.id, past.id]
        assert reasons(found)[locked.id] == "is locked until 2030-01-02T00:00:00Z"
        assert reasons(found)[held.id].startswith("is under a legal hold")
        outcome = expire.expire(store, found, store_plan(store, found), holder="test", now=later)
        assert set(outcome.expired) == {free.id, past.id}
        assert {locked.id, held.id} <= set(listed(store))

    def test_locks_that_cannot_be_looked_at_keep_a_point_and_break_nothing(self, lab_s3: LabS3) -> None:
        direct = bucket(lab_s3, locks=True)
        old = [take_chain(direct, age)[0] for age in (70, 60)]
        for age in (40, 3, 2):
            take_chain(direct, age)
        with FaultProxy(int(lab_s3.endpoint.rpartition(":")[2])) as proxy:
            store = S3Store(direct.bucket, "", through(lab_s3, proxy))
            proxy.order(Fault("HEAD", f"{old[0].id}/slice", times=ALWAYS, status=403))
            found = plan(store)
            assert expired(found) == [old[1].id]
            assert "may be locked, which could not be looked at" in reasons(found)[old[0].id]
            proxy.clear()
            proxy.order(Fault("GET", "object-lock", times=ALWAYS, status=403))
            found = plan(store)
            assert expired(found) == []
            for manifest in old:
                assert "may be locked, which could not be looked at" in reasons(found)[manifest.id]

    def test_delete_markers_are_no_restore_points_and_versions_bring_them_back(self, lab_s3: LabS3) -> None:
        store = bucket(lab_s3, versioned=True)
        old, *_ = [take_chain(store, age)[0] for age in (60, 50, 40, 3, 2)]
        before = {item.key: store.get(item.key) for item in store.list(old.prefix)}
        assert old.id in run(store).expired
        assert list(store.list(old.prefix)) == []
        assert old.id not in listed(store)
        assert catalog.uncommitted(store, *PLACE) == []
        answer = store.client.list_object_versions(Bucket=store.bucket, Prefix=old.prefix)
        markers = {marker["Key"]: marker["VersionId"] for marker in answer["DeleteMarkers"] if marker["IsLatest"]}
        assert {version["Key"] for version in answer["Versions"]} == set(markers)
        for key in before:
            store.client.delete_object(Bucket=store.bucket, Key=key, VersionId=markers[key])
        assert {item.key: store.get(item.key) for item in store.list(old.prefix)} == before
        assert old.id in listed(store), "as include/runbooks says"


def through(lab_s3: LabS3, proxy: FaultProxy) -> Any:
    retries = {"mode": "standard", "total_max_attempts": 2}
    return replace(
        lab_s3.connection,
        extra={**lab_s3.connection.extra, "endpoint_url": proxy.url, "config_kwargs": {"retries": retries}},
    )


class TestInUse:
    def test_what_a_restore_reads_stays_until_it_is_released_or_its_time_is_over(self, store: Store) -> None:
        old = take_chain(store, 60, 2)
        for age in (40, 3, 2):
            take_chain(store, age)
        in_use.mark_in_use(store, *PLACE, ids(old[:2]), "restore/1", NOW + HOUR)
        in_use.mark_in_use(store, *PLACE, [old[0].id], "restore/2", NOW + HOUR)
        assert set(in_use.in_use(store, *PLACE, NOW)) == set(ids(old[:2]))
        assert expired(plan(store, SHORT)) == [old[2].id]
        assert reasons(plan(store))[old[1].id] == f"is being restored by restore/1, until {NOW + HOUR:%FT%TZ}"
        in_use.release_in_use(store, *PLACE, "restore/1")
        assert expired(plan(store, SHORT)) == ids(old[:0:-1])
        in_use.release_in_use(store, *PLACE, "restore/2")
        assert expired(plan(store)) == ids(old[::-1])
        in_use.mark_in_use(store, *PLACE, ids(old), "restore/3", NOW - timedelta(seconds=1))
        assert in_use.in_use(store, *PLACE, NOW) == {}
        assert expired(plan(store)) == ids(old[::-1])
        assert sweep(store, *PLACE, timedelta(0), holder="test", now=NOW).marks == 1
        assert names_below(store, in_use.restoring_prefix(*PLACE)) == set()

    def test_a_mark_that_cannot_be_read_keeps_all(self, local: LocalStore) -> None:
        for age in (60, 50, 40, 3, 2):
            take_chain(local, age)
        local.put(f"{in_use.restoring_prefix(*PLACE)}x.json", b"?")
        found = plan(local)
        assert expired(found) == []
        assert "delete it when no restore of this namespace runs" in found.items[0].reason

    def test_what_is_gone_cannot_be_taken(self, store: Store) -> None:
        here = take_chain(store, 1)[0]
        with pytest.raises(NotFound):
            in_use.mark_in_use(store, *PLACE, [here.id, "20260101T000000Z-full"], "restore/1", NOW + HOUR)
        assert in_use.in_use(store, *PLACE, NOW) == {}

    @pytest.mark.parametrize("how", ["pin", "restore"])
    def test_who_comes_while_it_is_deleted_either_gets_it_whole_or_is_told(
        self, local: LocalStore, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        """Each of them at each step of the deletion."""
        real = LocalStore.delete
        for step in range(1, 6):
            old = take_chain(local, 60 + step)[0]
            for age in (50, 40, 3, 2, 1 - step / 10):
                if f"{NOW - age * DAY:%Y%m%dT%H%M%SZ}-full" not in listed(local):
                    take_chain(local, age)
            local.delete([f"{expire.retention_prefix(*PLACE)}last.json"])
            whole = {item.key for item in local.list(old.prefix)}
            told: list[str] = []
            steps = 0

            def take_it(id: str = old.id, told: list[str] = told) -> None:
                try:
                    if how == "pin":
                        in_use.pin(local, *PLACE, id, by="ann", reason="now")
                    else:
                        in_use.mark_in_use(local, *PLACE, [id], "restore/1", NOW + HOUR)
                    told.append("taken")
                except NotFound:
                    told.append("gone")

            def deleting(store: LocalStore, keys: Any, wanted: int = step) -> None:
                nonlocal steps
                steps += 1
                found = list(keys)
                if steps == wanted:
                    monkeypatch.setattr(LocalStore, "delete", real)
                    take_it()
                    monkeypatch.setattr(LocalStore, "delete", deleting)
                real(store, found)

            found = plan(local)
            assert expired(found)[-1] == old.id
            key = store_plan(local, found)
            monkeypatch.setattr(LocalStore, "delete", deleting)
            outcome = expire.expire(local, found, key, holder="test", now=NOW)
            monkeypatch.setattr(LocalStore, "delete", real)
            if told == ["taken"]:
                assert old.id in outcome.skipped
                assert old.id in listed(local)
                assert whole <= {item.key for item in local.list(old.prefix)}
                if how == "pin":
                    in_use.unpin(local, *PLACE, old.id)
            else:
                assert old.id in outcome.expired
                assert list(local.list(old.prefix)) == []
            in_use.release_in_use(local, *PLACE, "restore/1")


# --- interruptions ------------------------------------------------------------------------------------------

FORK = multiprocessing.get_context("fork")


def expire_until(store: Store, key: str, step: int) -> None:
    """Carry a stored plan out, and SIGKILL this process before its n-th write; a list of keys is two writes."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)

    put, delete = store.put, store.delete

    def counted_put(key: str, data: bytes, **condition: Any) -> StoredObject:
        if not key.endswith("_lease.json"):
            count()
        return put(key, data, **condition)

    def counted_delete(keys: Iterable[str]) -> None:
        found = list(keys)
        for half in (found[: len(found) // 2], found[len(found) // 2 :]):
            count()
            delete(half)

    store.put, store.delete = counted_put, counted_delete  # type: ignore[method-assign]
    expire.expire(store, expire.read_plan(store, key), key, holder="test", now=NOW)


def kill_at(store: Store, key: str, step: int) -> bool:
    """False when the plan needs fewer writes."""
    process = FORK.Process(target=expire_until, args=(store, key, step))
    process.start()
    process.join(60)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


class TestKilled:
    """Number 27."""

    @pytest.mark.parametrize("again", ["the same plan", "a new plan", "the sweep"])
    def test_at_any_write_what_is_offered_is_whole_and_the_next_run_finishes(
        self, lab_s3: LabS3, tmp_path: Path, again: str
    ) -> None:
        template = LocalStore(tmp_path / "template")
        old = take_chain(template, 60, 1, slices=3)
        kept = [take_chain(template, age)[0] for age in (40, 3, 2)]
        steps = 0
        while True:
            steps += 1
            store: Store = LocalStore(tmp_path / str(steps))
            if steps % 6 == 0:
                store = S3Store(lab_s3.bucket, lab_s3.new_prefix(), lab_s3.connection)
            for item in template.list(""):
                store.put(item.key, template.get(item.key))
            found = plan(store)
            assert expired(found) == ids(old[::-1])
            key = store_plan(store, found)
            killed = kill_at(store, key, steps)

            offered = catalog.restore_points(store, *PLACE)
            for point in offered:  # has all its objects, and what it builds on
                there = names_below(store, point.prefix)
                assert {entry.name for entry in point.manifest.objects} <= there
                assert catalog.why_not_restorable(offered, point.id) is None
            assert catalog.uncommitted(store, *PLACE) == []

            if again == "the same plan":
                outcome = expire.expire(store, found, key, holder="test", now=NOW)
                assert outcome.failed == outcome.skipped == {}
            elif again == "a new plan":
                run(store, holder="test")
            else:
                sweep(store, *PLACE, DAY, holder="test", now=NOW)
            assert catalog.half_deleted(store, *PLACE) == []
            left = listed(store)
            if again != "the sweep":
                assert set(ids(old)).isdisjoint(left)
            for manifest in old:
                if manifest.id not in left:
                    assert names_below(store, manifest.prefix) == set()
            assert set(ids(kept)) <= set(left)
            if not killed:
                break
        assert steps > 12

    def test_pinned_after_the_kill_is_told_that_it_is_gone(self, local: LocalStore) -> None:
        old = [take_chain(local, age)[0] for age in (60, 40, 39, 3, 2)][1]
        assert kill_at(local, store_plan(local, plan(local)), 4)
        assert catalog.half_deleted(local, *PLACE) == [old.id]
        with pytest.raises(NotFound):
            in_use.pin(local, *PLACE, old.id, by="ann", reason="late")
        run(local, holder="test")
        assert names_below(local, old.prefix) == set()

    def test_pinned_just_before_its_manifest_went_comes_back_whole(self, local: LocalStore) -> None:
        """Killed between the manifest and the second look."""
        old = take_chain(local, 60)[0]
        for age in (40, 3, 2):
            take_chain(local, age)
        in_use.pin(local, *PLACE, old.id, by="ann", reason="just in time")
        manifest, marker = catalog.manifest_key(*PLACE, old.id), catalog.expired_key(*PLACE, old.id)
        local.put(marker, local.get(manifest))
        local.delete([manifest])
        assert catalog.half_deleted(local, *PLACE) == [old.id]
        assert expire.finish(local, *PLACE, NOW) == ([], {})
        assert old.id in listed(local)
        assert local.head(marker) is None
        # But never one that has lost an object already.
        local.put(marker, local.get(manifest))
        local.delete([manifest, catalog.object_key(old, "slice_0000_4095.asb")])
        assert expire.finish(local, *PLACE, NOW) == ([old.id], {})
        assert names_below(local, old.prefix) == set()


def test_a_store_that_refuses_one_object_keeps_its_base_and_lets_the_rest_go(lab_s3: LabS3) -> None:
    direct = S3Store(lab_s3.bucket, lab_s3.new_prefix(), lab_s3.connection)
    stuck, free = take_chain(direct, 60, 1), take_chain(direct, 50, 1)
    for age in (40, 3, 2):
        take_chain(direct, age)
    with FaultProxy(int(lab_s3.endpoint.rpartition(":")[2])) as proxy:
        store = S3Store(direct.bucket, direct.prefix, through(lab_s3, proxy))
        found = plan(store)
        key = store_plan(store, found)
        order = [item.id for item in found.expire]
        assert order == [free[1].id, free[0].id, stuck[1].id, stuck[0].id]
        seen: list[tuple[str, str]] = []

        def watch(item: Any, outcome: str, message: str) -> None:
            seen.append((item.id, outcome))
            if item.id == free[0].id:
                proxy.order(Fault("POST", "delete", times=ALWAYS, status=403))

        outcome = expire.expire(store, found, key, holder="test", now=NOW, on_point=watch)
        assert seen == list(zip(order, ["done", "done", "failed", "skipped"], strict=True))
        assert "refused it" in outcome.failed[stuck[1].id]
        assert outcome.skipped == {stuck[0].id: f"{stuck[1].id}, which builds on it, was not deleted"}
        proxy.clear()
        again = expire.expire(store, found, key, holder="test", now=NOW)
        assert set(again.expired) | set(again.finished) == set(ids(stuck))
    assert set(ids([*stuck, *free])).isdisjoint(listed(direct))


def test_an_unreachable_store_stops_the_run_and_the_retry_goes_on(lab_s3: LabS3) -> None:
    direct = S3Store(lab_s3.bucket, lab_s3.new_prefix(), lab_s3.connection)
    old = take_chain(direct, 60, 2)
    for age in (40, 3, 2):
        take_chain(direct, age)
    with FaultProxy(int(lab_s3.endpoint.rpartition(":")[2])) as proxy:
        store = S3Store(direct.bucket, direct.prefix, through(lab_s3, proxy))
        found = plan(store)
        key = store_plan(store, found)
        proxy.order(Fault("POST", "delete", times=1, status=200), Fault("POST", "delete", times=ALWAYS, status=503))
        with pytest.raises(StoreUnavailable):
            expire.expire(store, found, key, holder="test", now=NOW)
        proxy.clear()
        expire.expire(store, found, key, holder="test", now=NOW)
    assert set(ids(old)).isdisjoint(listed(direct))
    assert all(names_below(direct, manifest.prefix) == set() for manifest in old)


def test_a_running_backup_is_waited_for_and_its_lease_is_left_alone(store: Store) -> None:
    for age in (60, 50, 40, 3, 2):
        take_chain(store, age)
    before = listed(store)
    lease = Lease.acquire(store, catalog.lease_key(*PLACE), "a backup", timedelta(minutes=15))
    with pytest.raises(LeaseHeld, match="a backup"):
        run(store)
    swept = sweep(store, *PLACE, timedelta(0), holder="test", now=NOW + 10 * DAY)
    assert "a backup" in str(swept.skipped)
    assert listed(store) == before
    lease.release()
    assert len(run(store).expired) == 2
    Lease.acquire(store, catalog.lease_key(*PLACE), "another", timedelta(minutes=15)).release()


# --- odd keys, many keys ------------------------------------------------------------------------------------


def test_28_thousands_of_keys_with_spaces_and_unicode_all_go_and_no_other(lab_s3: LabS3) -> None:
    store = S3Store(lab_s3.bucket, f"{lab_s3.new_prefix()}/a b/ü", lab_s3.connection)
    old = take_chain(store, 60)[0]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"{old.prefix}left over {number} ü+&%20.tmp", b"x"), range(1005)))
    neighbours = [f"aerospike/eu/{name}" for name in ("bidder2/x/manifest.json", "bidder/notes ü.txt", "bidder/a b/c")]
    for key in neighbours:
        store.put(key, b"theirs")
    kept = [take_chain(store, age)[0] for age in (40, 3, 2)]
    assert len(names_below(store, old.prefix)) == 1008
    outcome = run(store)
    assert outcome.expired == [old.id]
    assert outcome.objects == 1007, "all but the manifest"
    assert names_below(store, old.prefix) == set()
    assert listed(store) == ids(kept)
    assert all(store.get(key) == b"theirs" for key in neighbours)


# --- a wrong policy, a wrong clock --------------------------------------------------------------------------


def test_29_a_typo_in_the_policy_stops_at_the_guard_and_nothing_is_lost(local: LocalStore) -> None:
    for age in range(35, 0, -1):
        take_chain(local, age)
    right = Retention(full=30 * DAY, incremental=30 * DAY)
    assert plan(local, right).approval is None
    typo = Retention(full=3 * DAY, incremental=3 * DAY)
    before = listed(local)
    with pytest.raises(MassExpiry, match=r"32 of 35 restore points would go, 91%; .* correct the policy or approve"):
        run(local, typo)
    assert listed(local) == before
    stored = [name for name in names_below(local, expire.retention_prefix(*PLACE)) if name != "last.json"]
    assert len(stored) == 1, "the plan is there to be looked at"
    kept = expire.read_plan(local, f"{expire.retention_prefix(*PLACE)}{stored[0]}")
    assert len(kept.expire) == 32
    assert all(item.reason for item in kept.items)
    assert len(run(local, typo, approved=True).expired) == 32
    assert len(listed(local)) == 3


def test_what_changed_since_the_plan_is_not_deleted(local: LocalStore) -> None:
    """Between plan and approval hours may pass."""
    first, second, third = (take_chain(local, age)[0] for age in (80, 70, 60))
    take_chain(local, 40)
    newer = [take_chain(local, age)[0] for age in (3, 2)]
    found = plan(local)
    assert expired(found) == ids([third, second, first])
    key = store_plan(local, found)
    in_use.pin(local, *PLACE, second.id, by="ann", reason="audit")
    local.put(catalog.manifest_key(*PLACE, first.id), first.model_copy(update={"server_build": "other"}).to_json())
    outcome = expire.expire(local, found, key, holder="test", now=NOW)
    assert outcome.expired == [third.id]
    assert outcome.skipped[second.id].startswith("is pinned by ann")
    assert "manifest has changed" in outcome.skipped[first.id]
    local.delete([f"{expire.retention_prefix(*PLACE)}last.json"])
    in_use.unpin(local, *PLACE, second.id)
    found = plan(local)
    assert expired(found) == ids([second, first])
    for manifest in newer:  # both are found damaged: the floor now needs an older one
        mark(local, manifest, ok=False)
    outcome = expire.expire(local, found, store_plan(local, found), holder="test", now=NOW)
    assert outcome.expired == [first.id], "which is not verified any more"
    assert outcome.skipped[second.id] == "is one of the 2 newest verified fulls, which always stay"


def test_nothing_goes_by_a_clock_that_is_not_the_stores(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for age in (60, 50, 40, 3, 2):
        take_chain(local, age)
    real = LocalStore.head

    def of_another_day(store: LocalStore, key: str) -> Any:
        found = real(store, key)
        return found and replace(found, modified_at=found.modified_at - DAY)  # type: ignore[operator]

    found = plan(local)
    monkeypatch.setattr(LocalStore, "head", of_another_day)
    with pytest.raises(expire.ClockOff, match="set this machine's clock"):
        store_plan(local, found)


# --- sweep --------------------------------------------------------------------------------------------------


class TestSweep:
    def test_uncommitted_attempts_go_after_the_grace_period_and_committed_points_stay(self, store: Store) -> None:
        kept = take_chain(store, 2, 1)
        died = plan_of(NOW - DAY)
        store_slices(store, died)
        store.put(f"{died.prefix}pin.json", b"{}")
        assert sweep(store, *PLACE, DAY, holder="test", now=NOW).attempts == []
        assert names_below(store, died.prefix)
        later = datetime.now(UTC) + DAY + HOUR
        assert sweep(store, *PLACE, DAY, holder="test", now=later).attempts == [died.id]
        assert names_below(store, died.prefix) == set()
        assert listed(store) == ids(kept)

    def test_unfinished_uploads_older_than_the_grace_period_go(self, lab_s3: LabS3, tmp_path: Path) -> None:
        for store in (S3Store(lab_s3.bucket, lab_s3.new_prefix(), lab_s3.connection), LocalStore(tmp_path)):
            writers = [store.open_writer(f"{HOME}{name}/big") for name in ("x", "y")]
            foreign = store.open_writer("other/big")
            for writer in (*writers, foreign):
                writer.write(b"x" * (9 << 20))
            ancient = datetime(2000, 1, 1, tzinfo=UTC)  # moto began every upload in 2010
            assert store.abort_uploads(HOME, before=ancient) == 0
            assert sweep(store, *PLACE, DAY, holder="test", now=datetime.now(UTC) + 2 * DAY).uploads == 2
            assert store.abort_uploads("") == 1
            for writer in (*writers, foreign):
                writer.abort()

    def test_plans_of_last_year_go(self, local: LocalStore) -> None:
        prefix = expire.retention_prefix(*PLACE)
        for at in (NOW, NOW - 364 * DAY, NOW - 366 * DAY):
            local.put(f"{prefix}{at:%Y%m%dT%H%M%SZ}.json", b"{}")
        local.put(f"{prefix}last.json", b"{}")
        assert sweep(local, *PLACE, DAY, holder="test", now=NOW).plans == 1
        assert len(names_below(local, prefix)) == 3


def test_verify_of_a_point_that_expires_meanwhile_calls_nothing_damaged(local: LocalStore) -> None:
    old = take_chain(local, 60)[0]
    point = catalog.find(local, *PLACE, old.id)
    local.delete([item.key for item in local.list(old.prefix)])
    with pytest.raises(NotFound):
        verify(local, point)
    assert names_below(local, old.prefix) == set()


def test_two_runs_at_once_delete_everything_once(lab_s3: LabS3) -> None:
    store = S3Store(lab_s3.bucket, lab_s3.new_prefix(), lab_s3.connection)
    old = [take_chain(store, age)[0] for age in (70, 65, 60)]
    for age in (40, 3, 2):
        take_chain(store, age)
    found = plan(store)
    key = store_plan(store, found)
    outcomes: list[Outcome | Exception] = []

    def one(holder: str) -> None:
        try:
            outcomes.append(expire.expire(store, found, key, holder=holder, now=NOW))
        except LeaseHeld as error:
            outcomes.append(error)

    threads = [threading.Thread(target=one, args=(f"run {number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = [id for outcome in outcomes if isinstance(outcome, Outcome) for id in outcome.expired]
    assert sorted(done) == sorted(ids(old))
    assert set(ids(old)).isdisjoint(listed(store))


@pytest.fixture(autouse=True)
def _no_faults(lab_s3: LabS3) -> Iterator[None]:
    yield
    lab_s3.faults()
