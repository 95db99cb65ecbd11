"""The restore points and archived days of the ledger, made again from what lies in the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, select, update
from sqlalchemy.dialects.postgresql import insert

from dbops.backups import catalog
from dbops.backups.store import Store
from dbops.ledger.models import RestorePoint
from dbops.ledger.record import record_archived_part, restore_point_values
from dbops.ledger.session import transaction
from dbops.platform import Platform
from dbops.redact import redact
from dbops.redshift.archive_parts import ArchivePlace, datasets, parts_of

KEY = ("cluster", "namespace", "id")


@dataclass
class RebuildReport:
    """What the ledger did not know, knew wrongly, or knew although it is gone. Points are `cluster/namespace/id`."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """Their manifests were there once; the rows stay, marked with the time."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Points whose manifest is damaged, and how; what the ledger knows of them stays."""
    unchanged: int = 0
    archived: int = 0
    """Parts of archived days that were written down, known ones too."""


def rebuild(engine: Engine, store: Store, platform: Platform) -> RebuildReport:
    """Make the ledger say what the store holds, namespace by namespace. Repeating it changes nothing.

    Rows of clusters and namespaces that the platform no longer names are left alone.
    """
    report = RebuildReport()
    for cluster in platform.aerospike.clusters:
        for namespace in cluster.namespaces:
            _rebuild(engine, store, cluster.name, namespace.name, report)
    return report


def rebuild_archive(engine: Engine, place: ArchivePlace) -> int:
    """Make the ledger know every part of the archive whose rows were deleted; how many there are."""
    count = 0
    for dataset in datasets(place.store):
        for part in parts_of(place.store, dataset):
            if part.deleted_at is not None:
                record_archived_part(engine, part, place.url)
                count += 1
    return count


def _rebuild(engine: Engine, store: Store, cluster: str, namespace: str, report: RebuildReport) -> None:
    # Read before the store is listed: what is committed meanwhile is then no row of ours that is gone.
    with transaction(engine) as session:
        rows = select(RestorePoint).where(RestorePoint.cluster == cluster, RestorePoint.namespace == namespace)
        known = {row.id: _columns(row) for row in session.scalars(rows)}
    points = {point.id: point for point in catalog.restore_points(store, cluster, namespace)}
    with transaction(engine) as session:
        for id, point in points.items():
            name = f"{cluster}/{namespace}/{id}"
            if point.damage:
                report.unreadable[name] = redact(point.damage)
                continue
            values = _values(point, store)
            if known.get(id) == values:
                report.unchanged += 1
                continue
            session.execute(insert(RestorePoint).values(values).on_conflict_do_update(index_elements=KEY, set_=values))
            (report.changed if id in known else report.added).append(name)
        gone = sorted(id for id in known.keys() - points.keys() if known[id]["gone_at"] is None)
        report.gone += [f"{cluster}/{namespace}/{id}" for id in gone]
        place = (RestorePoint.cluster == cluster, RestorePoint.namespace == namespace, RestorePoint.id.in_(gone))
        session.execute(update(RestorePoint).where(*place).values(gone_at=datetime.now(UTC)))


def _values(point: catalog.RestorePoint, store: Store) -> dict[str, Any]:
    verified = point.verified
    return restore_point_values(point.manifest, f"{store.url}/{point.prefix}", point.manifest_sha256) | {
        "verified_at": verified.at if verified else None,
        "verified_ok": verified.ok if verified else None,
        "problems": [redact(problem) for problem in verified.problems] if verified else [],
        "gone_at": None,
    }


def _columns(row: RestorePoint) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in RestorePoint.__table__.columns}
