"""Which backups of PostgreSQL may go, of every kind at once: snapshots of ours, their copies, exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dbops.backups.manifest import Utc
from dbops.backups.store import Store
from dbops.platform import Platform, Postgres
from dbops.postgres.exports import expire_export, plan_export_expiry, sweep_exports
from dbops.postgres.rds import InstanceSnapshots, expire_snapshot, plan_snapshot_expiry


class Item(BaseModel):
    """A backup that a plan lets go. `place`: the region of a snapshot, the name of an export."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["snapshot", "export"]
    place: str
    id: str
    created_at: Utc
    manifest_sha256: str = ""
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.place}/{self.id}"


@dataclass
class Plan:
    """What goes, why a person must look at it first (None: nobody must), and a line for each backup that there is."""

    gone: list[Item] = field(default_factory=list)
    approval: str | None = None
    lines: list[str] = field(default_factory=list)


def plan_expiry(
    platform: Platform,
    postgres: Postgres,
    places: Mapping[str, InstanceSnapshots],
    store: Store | None,
    now: datetime,
) -> Plan:
    """By the rules of `backups.retention`; automated snapshots and those of others stay. Changes nothing.

    :param places: of snapshots, by region; empty: not on RDS.
    :param store: of exports; None: there are none.
    """
    plan, wanted = Plan(), []
    for region, snapshots in places.items():
        assert postgres.rds is not None
        found = plan_snapshot_expiry(snapshots.list(), platform.name, postgres.rds.keep, platform.retention, now)
        for decision in found.decisions:
            verb = "stays" if decision.keep else "goes"
            plan.lines.append(f"snapshot {region}/{decision.point.id} {verb}: it {decision.reason}")
        plan.gone += [
            Item(
                kind="snapshot",
                place=region,
                id=item.point.id,
                created_at=item.point.snapshot_at,
                reason=item.reason,
            )
            for item in found.expire
        ]
        if found.approval and found.expire:
            wanted.append(f"snapshots in {region}: {found.approval}")
    for one in postgres.exports.sets if store is not None and postgres.exports is not None else ():
        assert store is not None
        assert postgres.exports is not None
        found, there = plan_export_expiry(
            store, postgres.name, one.name, postgres.exports.keep, platform.retention, now
        )
        for decision in found.decisions:
            verb = "stays" if decision.keep else "goes"
            plan.lines.append(f"export {one.name}/{decision.point.id} {verb}: it {decision.reason}")
        plan.gone += [
            Item(
                kind="export",
                place=one.name,
                id=item.point.id,
                created_at=item.point.snapshot_at,
                manifest_sha256=there[item.point.id].manifest_sha256,
                reason=item.reason,
            )
            for item in found.expire
        ]
        if found.approval and found.expire:
            wanted.append(f"exports {one.name}: {found.approval}")
    if wanted:
        lines = (f"- {item}: it {item.reason}" for item in plan.gone)
        plan.approval = "\n".join([f"{postgres.name}: {'; '.join(wanted)}", *lines])
    return plan


def expire_item(
    platform: Platform,
    postgres: Postgres,
    places: Mapping[str, InstanceSnapshots],
    store: Store | None,
    item: Item,
    holder: str,
) -> str | None:
    """Delete what a plan names; why it was left, or None when it is gone. Safe to repeat."""
    if item.kind == "snapshot":
        snapshots = places.get(item.place)
        if snapshots is None:
            return "its region is in the platform file no more"
        return expire_snapshot(snapshots, item.id, item.created_at, platform.name)
    if store is None:
        return "exports are in the platform file no more"
    return expire_export(store, postgres.name, item.place, item.id, item.manifest_sha256, holder)


def sweep(store: Store, postgres: Postgres, platform: Platform, holder: str) -> Sequence[str]:
    """Remove what killed exports and interrupted deletions have left; names of what is gone."""
    found: list[str] = []
    for one in postgres.exports.sets if postgres.exports is not None else ():
        gone = sweep_exports(store, postgres.name, one.name, platform.retention.grace, holder, datetime.now(UTC))
        found += [f"{one.name}/{id}" for id in gone]
    return found
