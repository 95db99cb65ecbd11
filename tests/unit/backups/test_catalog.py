"""Which backups count, which can be restored, and that a commit is all or nothing and happens once."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from typing import Any

import pytest
from backup_samples import HOUR, START, make_plan, store_slice, take_backup
from dbops.backups import catalog
from dbops.backups.catalog import (
    BrokenChain,
    CommitConflict,
    IncompleteBackup,
    RestorePoint,
    chain,
    commit,
    covering,
    find,
    latest,
    restore_points,
    uncommitted,
    why_not_restorable,
)
from dbops.backups.manifest import BackupPlan, Kind, Manifest, ManifestError, SliceResult, Verified
from dbops.backups.store import LocalStore, NotFound, Store

DONE = START + timedelta(minutes=3)


def ids(points: list[RestorePoint]) -> list[str]:
    return [point.id for point in points]


def points_of(store: Store) -> list[RestorePoint]:
    return restore_points(store, "eu", "bidder")


def take_chain(store: Store) -> list[Manifest]:
    """full, incremental, incremental, an hour apart."""
    taken = [take_backup(store, make_plan())]
    for hours in (1, 2):
        taken.append(take_backup(store, make_plan(START + hours * HOUR, taken[-1])))
    return taken


def mark(store: Store, manifest: Manifest, *, ok: bool) -> None:
    verified = Verified(
        at=DONE,
        manifest_sha256=catalog.manifest_sha256(manifest),
        ok=ok,
        problems=[] if ok else ["slice_0000_1023.asb is missing"],
    )
    store.put(catalog.verified_key("eu", "bidder", manifest.id), verified.to_json())


class TestListing:
    def test_nothing_yet(self, store: Store) -> None:
        assert points_of(store) == []
        assert uncommitted(store, "eu", "bidder") == []
        assert latest([]) is None
        assert covering([], START) is None

    def test_points_come_in_the_order_of_their_snapshots_not_names(self, local: LocalStore) -> None:
        """Within one second the names sort the other way round."""
        full = take_backup(local, make_plan(START))
        second = START + HOUR
        incremental = take_backup(local, make_plan(second + timedelta(milliseconds=900), full))
        other = take_backup(local, make_plan(second + timedelta(milliseconds=100)))
        assert sorted([incremental.id, other.id]) == [other.id, incremental.id]
        third = START + 2 * HOUR
        late_full = take_backup(local, make_plan(third + timedelta(milliseconds=900)))
        early = take_backup(local, make_plan(third + timedelta(milliseconds=100), full))
        assert sorted([late_full.id, early.id]) == [late_full.id, early.id]
        found = points_of(local)
        assert ids(found) == [full.id, other.id, incremental.id, early.id, late_full.id]
        newest = latest(found)
        assert newest is not None
        assert newest.id == late_full.id

    def test_without_a_manifest_there_is_no_backup(self, store: Store) -> None:
        full = take_backup(store, make_plan())
        died = make_plan(START + HOUR)
        store_slice(store, died, 0, 1023)
        assert ids(points_of(store)) == [full.id]
        (attempt,) = uncommitted(store, "eu", "bidder")
        assert (attempt.id, attempt.objects) == (died.id, 2)
        assert attempt.stored_bytes == sum(item.size for item in store.list(died.prefix))
        assert attempt.last_write_at > START - 365 * 24 * HOUR
        with pytest.raises(NotFound, match="no such restore point"):
            find(store, "eu", "bidder", died.id)

    def test_namespaces_and_clusters_do_not_mix(self, store: Store) -> None:
        take_backup(store, make_plan())
        take_backup(store, make_plan(namespace="bidder2"))
        take_backup(store, make_plan(START + HOUR, cluster="apac"))
        assert len(points_of(store)) == 1
        assert len(restore_points(store, "apac", "bidder")) == 1

    def test_what_else_lies_there_is_ignored(self, store: Store) -> None:
        full = take_backup(store, make_plan())
        store.put("aerospike/eu/bidder/_lease.json", b"{}")
        store.put("aerospike/eu/bidder/notes/manifest.json", b"{}")
        store.put("aerospike/eu/bidder/readme.txt", b"hello")
        assert ids(points_of(store)) == [full.id]
        with pytest.raises(NotFound):
            find(store, "eu", "bidder", "notes")
        with pytest.raises(NotFound):
            find(store, "eu", "bidder", "../../x")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "Invalid JSON"),
            (b'{"schema_version": 7}', "schema_version is 7"),
            (b'{"schema_version": 1}', "Field required"),
        ],
    )
    def test_a_damaged_manifest_is_a_damaged_point(self, store: Store, data: bytes, reason: str) -> None:
        full = take_backup(store, make_plan())
        key = catalog.manifest_key("eu", "bidder", "20261123T050000Z-incremental")
        store.put(key, data)
        found = points_of(store)
        assert ids(found) == [full.id, "20261123T050000Z-incremental"]
        damaged = found[1]
        assert damaged.kind is Kind.INCREMENTAL
        assert damaged.snapshot_at == START + 3 * HOUR
        assert damaged.damage is not None
        assert reason in damaged.damage
        assert key in damaged.damage
        with pytest.raises(ManifestError, match=reason):
            _ = damaged.manifest
        newest = latest(found)
        assert newest is not None
        assert newest.id == full.id

    def test_a_copied_manifest_is_not_believed(self, store: Store) -> None:
        full = take_backup(store, make_plan())
        store.put("aerospike/eu/dmp/20261123T020000Z-full/manifest.json", full.to_json())
        (copied,) = restore_points(store, "eu", "dmp")
        assert copied.damage is not None
        assert "is the manifest of aerospike/eu/bidder/20261123T020000Z-full/" in copied.damage

    def test_verified_counts_for_the_manifest_that_was_verified(self, store: Store) -> None:
        full = take_backup(store, make_plan())
        assert points_of(store)[0].verified is None
        mark(store, full, ok=True)
        verified = points_of(store)[0].verified
        assert verified is not None
        assert verified.ok
        changed = full.model_copy(update={"cluster_key_after": "OTHER"})
        store.put(catalog.manifest_key("eu", "bidder", full.id), changed.to_json())
        assert points_of(store)[0].verified is None

    def test_a_damaged_verified_document_counts_as_none(self, store: Store) -> None:
        full = take_backup(store, make_plan())
        store.put(catalog.verified_key("eu", "bidder", full.id), b"{")
        (point,) = points_of(store)
        assert point.verified is None
        assert point.problem is None


class TestChains:
    def test_a_chain_is_its_full_and_then_each_incremental(self, store: Store) -> None:
        full, first, second = take_chain(store)
        points = points_of(store)
        assert ids(chain(points, second.id)) == [full.id, first.id, second.id]
        assert ids(chain(points, first.id)) == [full.id, first.id]
        assert ids(chain(points, full.id)) == [full.id]
        newest = latest(points)
        assert newest is not None
        assert newest.id == second.id
        newest_full = latest(points, Kind.FULL)
        assert newest_full is not None
        assert newest_full.id == full.id

    @pytest.mark.parametrize("lost", [0, 1])
    def test_a_missing_link_is_named(self, local: LocalStore, lost: int) -> None:
        taken = take_chain(local)
        local.delete([catalog.manifest_key("eu", "bidder", taken[lost].id)])
        points = points_of(local)
        reason = why_not_restorable(points, taken[2].id)
        assert reason is not None
        assert f"{taken[lost].id} is missing, {taken[lost + 1].id} builds on it" in reason
        newest = latest(points)
        assert (newest.id if newest else None) == (None if lost == 0 else taken[0].id)

    def test_a_damaged_link_is_named(self, local: LocalStore) -> None:
        _, first, second = take_chain(local)
        local.put(catalog.manifest_key("eu", "bidder", first.id), b"{")
        with pytest.raises(BrokenChain, match=f"{second.id} cannot be restored: .*{first.id}/manifest.json"):
            chain(points_of(local), second.id)

    def test_what_verify_found_breaks_the_chain(self, local: LocalStore) -> None:
        full, first, second = take_chain(local)
        mark(local, full, ok=True)
        mark(local, first, ok=False)
        points = points_of(local)
        with pytest.raises(BrokenChain, match=r"was found damaged at .*: slice_0000_1023.asb is missing"):
            chain(points, second.id)
        newest = latest(points)
        assert newest is not None
        assert newest.id == full.id

    def test_a_hole_between_parent_and_child_is_seen(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan())
        late = make_plan(START + HOUR, full, modified_after=START + timedelta(minutes=10))
        taken = take_backup(local, late)
        reason = why_not_restorable(points_of(local), taken.id)
        assert reason is not None
        assert "what changed in between is in neither" in reason

    def test_a_parent_must_be_older(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan(START + HOUR))
        child = take_backup(local, make_plan(START, full))
        reason = why_not_restorable(points_of(local), child.id)
        assert reason is not None
        assert "is not younger than its parent" in reason

    def test_base_and_parents_must_lead_to_the_same_full(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan())
        other = take_backup(local, make_plan(START + HOUR))
        odd = take_backup(local, make_plan(START + 2 * HOUR, other, base=full.id))
        reason = why_not_restorable(points_of(local), odd.id)
        assert reason is not None
        assert f"its base is {full.id}, its parents lead to {other.id}" in reason

    def test_an_unknown_point(self, local: LocalStore) -> None:
        reason = why_not_restorable(points_of(local), "20261123T020000Z-full")
        assert reason is not None
        assert "was never committed" in reason


class TestCovering:
    def test_the_first_point_at_or_after_the_end_of_the_window(self, local: LocalStore) -> None:
        full, first, second = take_chain(local)
        points = points_of(local)

        def at(hours: float, kind: Kind | None = None) -> str | None:
            point = covering(points, START + hours * HOUR, kind)
            return point.id if point else None

        assert at(-1) == at(0) == full.id
        assert at(0.5) == at(1) == first.id
        assert at(1.5) == at(2) == second.id
        assert at(2.1) is None
        assert at(0, Kind.INCREMENTAL) == full.id
        assert at(0, Kind.FULL) == full.id
        assert at(0.5, Kind.FULL) is None

    def test_a_point_that_cannot_be_restored_covers_nothing(self, local: LocalStore) -> None:
        _, first, second = take_chain(local)
        mark(local, second, ok=False)
        assert covering(points_of(local), START + 2 * HOUR) is None
        found = covering(points_of(local), START + HOUR)
        assert found is not None
        assert found.id == first.id


class TestCommit:
    @pytest.fixture
    def plan(self) -> BackupPlan:
        return make_plan(track_deletes=True)

    @pytest.fixture
    def results(self, store: Store, plan: BackupPlan) -> list[SliceResult]:
        return [store_slice(store, plan, first, last) for first, last in plan.slices]

    def test_the_manifest_says_what_the_slices_said(
        self, store: Store, plan: BackupPlan, results: list[SliceResult]
    ) -> None:
        manifest = commit(store, plan, results[::-1], DONE, "KEY2")
        assert manifest.records == sum(sum(result.counts) for result in results) > 3000
        assert manifest.partition_counts == [count for result in results for count in result.counts]
        assert [f"{value:016x}" for value in manifest.fingerprints] == [
            value for result in results for value in result.fingerprints
        ]
        assert manifest.inventory_counts == manifest.partition_counts
        assert manifest.deleted_counts is None
        assert (manifest.cluster_key_before, manifest.cluster_key_after) == ("KEY1", "KEY2")
        assert (manifest.indexes, manifest.udfs) == (["by_i"], ["add.lua"])
        assert manifest.finished_at == DONE
        assert find(store, "eu", "bidder", plan.id).manifest == manifest
        assert find(store, "eu", "bidder", plan.id).manifest_sha256 == catalog.manifest_sha256(manifest)

    def test_facts_of_slices_are_kept_until_forgotten(
        self, store: Store, plan: BackupPlan, results: list[SliceResult]
    ) -> None:
        assert catalog.slice_results(store, plan) == results
        commit(store, plan, results, DONE, "KEY1")
        catalog.delete_slice_results(store, plan)
        assert catalog.slice_results(store, plan) == []

    def test_a_missing_slice_is_named(self, store: Store, plan: BackupPlan, results: list[SliceResult]) -> None:
        with pytest.raises(IncompleteBackup, match=r"1 of 3 slices are missing: 1024-3000; run these slices"):
            commit(store, plan, [results[0], results[2]], DONE, "KEY1")
        with pytest.raises(IncompleteBackup, match=r"3 of 3 slices are missing"):
            commit(store, plan, [], DONE, "KEY1")
        assert points_of(store) == []

    def test_results_of_another_plan_are_refused(
        self, store: Store, plan: BackupPlan, results: list[SliceResult]
    ) -> None:
        other = results[0].model_copy(update={"plan_id": "20261123T030000Z-full"})
        for given in ([other, *results[1:]], [*results, results[0]]):
            with pytest.raises(IncompleteBackup, match="not those of the plan's slices"):
                commit(store, plan, given, DONE, "KEY1")

    def test_a_slice_without_inventory_is_refused(
        self, store: Store, plan: BackupPlan, results: list[SliceResult]
    ) -> None:
        bare = results[1].model_copy(update={"inventory": None, "objects": results[1].objects[:1]})
        with pytest.raises(IncompleteBackup, match="1 slices have no inventory;"):
            commit(store, plan, [results[0], bare, results[2]], DONE, "KEY1")

    @pytest.mark.parametrize("name", ["slice_1024_3000.asb", "digests_0000_1023.bin"])
    def test_an_object_that_is_not_there_or_short_is_named(
        self, store: Store, plan: BackupPlan, results: list[SliceResult], name: str
    ) -> None:
        key = plan.prefix + name
        whole = store.get(key)
        store.put(key, whole[:-1])
        with pytest.raises(IncompleteBackup, match=f"{name} has {len(whole) - 1} bytes, its slice stored"):
            commit(store, plan, results, DONE, "KEY1")
        store.delete([key])
        with pytest.raises(IncompleteBackup, match=f"{name} is not there"):
            commit(store, plan, results, DONE, "KEY1")
        assert points_of(store) == []

    def test_committing_again_adopts(self, store: Store, plan: BackupPlan, results: list[SliceResult]) -> None:
        first = commit(store, plan, results, DONE, "KEY1")
        assert commit(store, plan, results, DONE + HOUR, "KEY9") == first
        assert commit(store, plan, [], DONE + HOUR, "") == first

    def test_another_backup_under_the_same_id_is_a_conflict(
        self, store: Store, plan: BackupPlan, results: list[SliceResult]
    ) -> None:
        commit(store, plan, results, DONE, "KEY1")
        other = plan.model_copy(update={"started_at": plan.started_at + timedelta(seconds=1)})
        with pytest.raises(CommitConflict, match=r"another backup was committed under this id \(started_at is"):
            commit(store, other, results, DONE, "KEY1")
        different = store_slice(store, plan, 0, 1023, per_partition=2)
        with pytest.raises(CommitConflict, match=r"was committed with another slice_0000_1023.asb; verify it"):
            commit(store, plan, [different, *results[1:]], DONE, "KEY1")

    def test_a_damaged_manifest_in_the_way_is_a_conflict(
        self, store: Store, plan: BackupPlan, results: list[SliceResult]
    ) -> None:
        store.put(catalog.manifest_key("eu", "bidder", plan.id), b"{")
        with pytest.raises(CommitConflict, match="Invalid JSON"):
            commit(store, plan, results, DONE, "KEY1")

    def test_of_many_commits_of_different_runs_one_stands(
        self, store: Store, plan: BackupPlan, results: list[SliceResult]
    ) -> None:
        outcomes: list[Any] = []
        barrier = threading.Barrier(4)

        def run(number: int) -> None:
            mine = plan.model_copy(update={"started_at": plan.started_at + timedelta(milliseconds=number)})
            barrier.wait()
            try:
                outcomes.append(commit(store, mine, results, DONE, "KEY1"))
            except CommitConflict as conflict:
                outcomes.append(conflict)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (manifest,) = [outcome for outcome in outcomes if isinstance(outcome, Manifest)]
        assert len(outcomes) == 4
        assert find(store, "eu", "bidder", plan.id).manifest == manifest

    def test_an_empty_incremental_is_a_restore_point(self, store: Store) -> None:
        full = take_backup(store, make_plan())
        empty = take_backup(store, make_plan(START + HOUR, full), per_partition=0)
        assert empty.records == 0
        assert ids(chain(points_of(store), empty.id)) == [full.id, empty.id]

    def test_the_manifest_is_plain_json(self, store: Store, plan: BackupPlan, results: list[SliceResult]) -> None:
        commit(store, plan, results, DONE, "KEY1")
        document = json.loads(store.get(catalog.manifest_key("eu", "bidder", plan.id)))
        assert document["schema_version"] == 1
        assert document["snapshot_at"] == "2026-11-23T02:00:00Z"
        assert len(document["partition_counts"]) == 4096
