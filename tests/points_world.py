"""What the tests of retention share: committed restore points that cost nothing, as old as a test wants them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from dbops.backups import catalog
from dbops.backups.manifest import BackupPlan, Kind, Manifest, ObjectEntry, SliceResult, Verified, backup_id
from dbops.backups.store import Store

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def plan_of(
    at: datetime, parent: Manifest | None = None, *, cluster: str = "eu", namespace: str = "bidder", slices: int = 1
) -> BackupPlan:
    kind = Kind.INCREMENTAL if parent else Kind.FULL
    edges = [4096 * number // slices for number in range(slices + 1)]
    return BackupPlan(
        id=backup_id(at, kind),
        cluster=cluster,
        namespace=namespace,
        kind=kind,
        snapshot_at=at,
        started_at=at,
        modified_after=parent.snapshot_at - timedelta(seconds=60) if parent else None,
        base=(parent.base or parent.id) if parent else None,
        parent=parent.id if parent else None,
        slices=[(first, last - 1) for first, last in pairwise(edges)],
        holder="test",
        cluster_name=cluster,
        cluster_key="KEY",
        server_build="8.1.2.0",
        zstd_level=1,
        platform_sha256="ab" * 32,
    )


def store_slices(store: Store, plan: BackupPlan) -> list[SliceResult]:
    """Objects that hold no record, only their name."""
    results = []
    for first, last in plan.slices:
        name = f"slice_{first:04d}_{last:04d}.asb"
        stored = store.put(catalog.object_key(plan, name), f"{plan.id} {name}".encode())
        assert stored.sha256
        entry = ObjectEntry(
            name=name, role="records", first=first, last=last, size=stored.size, sha256=stored.sha256, records=0
        )
        zeros = [0] * (last - first + 1)
        results.append(
            SliceResult(
                plan_id=plan.id,
                first=first,
                last=last,
                objects=[entry],
                counts=zeros,
                fingerprints=["0" * 16] * len(zeros),
            )
        )
    return results


def take(
    store: Store,
    at: datetime,
    parent: Manifest | None = None,
    *,
    cluster: str = "eu",
    namespace: str = "bidder",
    slices: int = 1,
    ok: bool | None = True,
) -> Manifest:
    """A committed restore point.

    :param ok: found whole, found damaged, or None: never read back.
    """
    plan = plan_of(at, parent, cluster=cluster, namespace=namespace, slices=slices)
    manifest = catalog.commit(store, plan, store_slices(store, plan), at + timedelta(minutes=3), "KEY")
    if ok is not None:
        mark(store, manifest, ok=ok)
    return manifest


def mark(store: Store, manifest: Manifest, *, ok: bool) -> None:
    found = Verified(
        at=manifest.finished_at + timedelta(minutes=5),
        manifest_sha256=catalog.manifest_sha256(manifest),
        ok=ok,
        problems=[] if ok else ["slice_0000_4095.asb: is missing"],
    )
    store.put(catalog.verified_key(manifest.cluster, manifest.namespace, manifest.id), found.to_json())


def take_chain(store: Store, age: float, incrementals: int = 0, **more: object) -> list[Manifest]:
    """A full so many days old and incrementals every 6 hours after it."""
    found = [take(store, NOW - age * DAY, **more)]  # type: ignore[arg-type]
    for _ in range(incrementals):
        found.append(take(store, found[-1].snapshot_at + 6 * HOUR, found[-1], **more))  # type: ignore[arg-type]
    return found


def listed(store: Store, cluster: str = "eu", namespace: str = "bidder") -> list[str]:
    return [point.id for point in catalog.restore_points(store, cluster, namespace)]


def ids(manifests: Iterable[Manifest]) -> list[str]:
    return [manifest.id for manifest in manifests]


def names_below(store: Store, prefix: str) -> set[str]:
    return {item.key.removeprefix(prefix) for item in store.list(prefix)}
