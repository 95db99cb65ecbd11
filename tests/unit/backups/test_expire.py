"""How the restore points of the catalog are handed to retention, and the documents that are kept."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from dbops.backups import catalog, expire
from dbops.backups.catalog import RestorePoint
from dbops.backups.expire import as_points, in_words, plan_namespace, read_plan, store_plan
from dbops.backups.in_use import EVERY
from dbops.backups.retention import plan_retention
from dbops.backups.store import LocalStore
from dbops.errors import FinalError
from dbops.platform import Retention
from points_world import DAY, HOUR, NOW, Manifest, ids, mark, take, take_chain

PLACE = ("eu", "bidder")
POLICY = Retention(full=30 * DAY, incremental=30 * DAY)


def points(store: LocalStore) -> list[RestorePoint]:
    return catalog.restore_points(store, *PLACE)


def rewrite(store: LocalStore, manifest: Manifest, **changes: object) -> None:
    changed = manifest.model_copy(update=changes)
    store.put(catalog.manifest_key(*PLACE, manifest.id), changed.to_json())
    mark(store, changed, ok=True)


def agree(store: LocalStore) -> set[str]:
    """Ids of what can be restored, when retention and catalog say the same of every point.

    When a window begins right after a point, retention keeps it for the window's first moment if it can be restored.
    """
    found = points(store)
    policy = Retention(full=timedelta(seconds=1), incremental=timedelta(seconds=1), floor=1, max_share=1)
    seen = set()
    for number, point in enumerate(found, 1):
        plan = plan_retention(as_points(found, {}, {})[:number], policy, point.snapshot_at + timedelta(seconds=2))
        if "where the window begins" in plan.decisions[-1].reason:
            seen.add(point.id)
    assert seen == {point.id for point in found if catalog.why_not_restorable(found, point.id) is None}
    return seen


def test_retention_thinks_restorable_what_the_catalog_can_restore(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    whole = take_chain(store, 50, 3)
    assert agree(store) == set(ids(whole))
    gap = take_chain(store, 40, 3)
    rewrite(store, gap[2], modified_after=gap[2].snapshot_at)
    assert agree(store) == set(ids([*whole, *gap[:2]]))
    base = take_chain(store, 30, 2)
    rewrite(store, base[2], base=whole[0].id)
    assert agree(store) == set(ids([*whole, *gap[:2], *base[:2]]))
    missing = take_chain(store, 20, 3)
    store.delete([catalog.manifest_key(*PLACE, missing[1].id)])
    damaged = take_chain(store, 10, 2)
    mark(store, damaged[1], ok=False)
    assert agree(store) == set(ids([*whole, *gap[:2], *base[:2], missing[0], damaged[0]]))


def test_what_is_known_of_a_point_is_handed_on(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = take_chain(store, 50, 1)
    never, bad = take(store, NOW - 9 * DAY, ok=None), take(store, NOW - 8 * DAY, ok=False)
    lost = take(store, NOW - 7 * DAY, first[1])
    store.put(catalog.manifest_key(*PLACE, lost.id), b"{")
    found = points(store)
    full, incremental, unverified, damaged, unreadable = as_points(
        found, {first[0].id: "by ann"}, {first[1].id: "used"}
    )
    assert (full.full, full.verified, full.problem, full.pinned, full.held) == (True, True, None, "by ann", None)
    assert (incremental.full, incremental.parent, incremental.held) == (False, first[0].id, "used")
    assert (unverified.id, unverified.verified, unverified.problem) == (never.id, False, None)
    assert unverified.changed_at == never.finished_at
    assert damaged.problem
    assert damaged.changed_at == bad.finished_at + timedelta(minutes=5)
    assert unreadable.problem
    assert (unreadable.full, unreadable.parent) == (False, None)
    assert all(point.held == "any" for point in as_points(found, {}, {EVERY: "any"}))


def test_a_stored_plan_is_read_back_and_never_replaced(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for age in (60, 50, 40, 3, 2):
        take_chain(store, age)
    plan = plan_namespace(store, *PLACE, POLICY, by="test", now=NOW)
    keys = [store_plan(store, plan) for _ in range(3)]
    assert len(set(keys)) == 3
    assert keys[0] == f"aerospike/eu/bidder/_retention/{NOW:%Y%m%dT%H%M%SZ}.json"
    assert all(read_plan(store, key) == plan for key in keys)
    assert json.loads(store.get(keys[0]))["policy"]["full"] == "30d"
    assert catalog.uncommitted(store, *PLACE) == []
    assert len(points(store)) == 5
    store.put(keys[0], b"{}")
    with pytest.raises(FinalError, match=r"is no retention plan .*; make a new one"):
        read_plan(store, keys[0])
    store.put(f"{expire.retention_prefix(*PLACE)}last.json", b"{}")
    with pytest.raises(FinalError, match="is no note of the last expiry; delete it"):
        plan_namespace(store, *PLACE, POLICY, by="test", now=NOW)


def test_words_name_what_goes_and_why_and_how_many_are_left_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    old = take_chain(store, 60, 4)
    for age in (40, 3):
        take_chain(store, age)
    plan = plan_namespace(store, *PLACE, POLICY, by="test", now=NOW + HOUR)
    text = in_words(plan)
    assert text.startswith("**eu/bidder**: 5 of 7 restore points expire (0.0 MB). 5 of 7 restore points would go, 71%")
    assert all(f"- `{item.id}` {item.reason}" in text for item in plan.expire)
    assert {item.id for item in plan.expire} == set(ids(old))
    assert in_words(plan, most=2).splitlines()[-1] == "- and 3 more"
