"""What is written down about restores that never ran, as old as a test wants it."""

from __future__ import annotations

from datetime import datetime

from dbops.backups.restores import RestorePlan, RestoreTarget, put_plan, restore_id
from dbops.backups.store import Store


def put_restore(store: Store, at: datetime, *, dry_run: bool = False, holder: str = "a test") -> str:
    """A plan of eu/bidder and what a slice would have left; the id."""
    plan = RestorePlan(
        id=restore_id(at, dry_run=dry_run),
        cluster="eu",
        namespace="bidder",
        points=["20261124T020000Z-full"],
        snapshot_at=at,
        target=RestoreTarget(cluster="eu", namespace="bidder"),
        dry_run=dry_run,
        slices=[(0, 4095)],
        holder=holder,
        started_at=at,
        records=1,
        text_bytes=1,
        target_records=0,
    )
    put_plan(store, plan)
    store.put(f"restores/{plan.id}/slice_0000_4095.json", b"{}")
    return plan.id


def restores_left(store: Store) -> set[str]:
    return {item.key.split("/")[1] for item in store.list("restores/")}
