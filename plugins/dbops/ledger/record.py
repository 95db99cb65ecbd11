"""Writing down what was done and seen. Every function may be repeated: a retry changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Engine, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from dbops.ledger.models import Action, ArchivedPartition, CheckResult, RestorePoint
from dbops.ledger.session import transaction
from dbops.redact import redact

if TYPE_CHECKING:
    from dbops.backups.manifest import Manifest
    from dbops.redshift.archive_parts import ArchivedPart

Outcome = Literal["running", "done", "failed", "skipped"]


def record_restore_point(engine: Engine, manifest: Manifest, location: str, manifest_sha256: str) -> bool:
    """Remember a committed backup; True when it was not known before.

    :param location: URL of the folder that holds `manifest.json`.
    :param manifest_sha256: of the bytes of `manifest.json`, hex.
    """
    with transaction(engine) as session:
        statement = (
            insert(RestorePoint)
            .values(**restore_point_values(manifest, location, manifest_sha256))
            .on_conflict_do_nothing()
            .returning(RestorePoint.id)
        )
        return session.scalar(statement) is not None


def restore_point_values(manifest: Manifest, location: str, manifest_sha256: str) -> dict[str, Any]:
    """The columns of a restore point that its manifest decides."""
    return {
        "cluster": manifest.cluster,
        "namespace": manifest.namespace,
        "id": manifest.id,
        "kind": str(manifest.kind),
        "snapshot_at": manifest.snapshot_at,
        "committed_at": manifest.finished_at,
        "records": manifest.records,
        "deleted": manifest.deleted,
        "stored_bytes": manifest.stored_bytes,
        "base": manifest.base,
        "parent": manifest.parent,
        "location": location,
        "manifest_sha256": manifest_sha256,
    }


def record_verification(
    engine: Engine,
    cluster: str,
    namespace: str,
    id: str,
    *,
    at: datetime,
    ok: bool,
    problems: Sequence[str] = (),
) -> bool:
    """Remember what verify found; False when the restore point is unknown (`dbops ledger rebuild` finds it).

    An older verification never replaces a newer one.
    """
    with transaction(engine) as session:
        statement = (
            update(RestorePoint)
            .where(RestorePoint.cluster == cluster, RestorePoint.namespace == namespace, RestorePoint.id == id)
            .values(verified_at=at, verified_ok=ok, problems=[redact(problem) for problem in problems])
            .returning(RestorePoint.id)
        )
        newest = or_(RestorePoint.verified_at.is_(None), RestorePoint.verified_at <= at)
        if session.scalar(statement.where(newest)) is not None:
            return True
        return session.get(RestorePoint, (cluster, namespace, id)) is not None


def record_expired(engine: Engine, cluster: str, namespace: str, id: str, at: datetime) -> None:
    """Remember that a restore point is gone; one that is unknown, or known to be gone, stays as it is."""
    with transaction(engine) as session:
        session.execute(
            update(RestorePoint)
            .where(RestorePoint.cluster == cluster, RestorePoint.namespace == namespace, RestorePoint.id == id)
            .where(RestorePoint.gone_at.is_(None))
            .values(gone_at=at)
        )


def record_archived_part(engine: Engine, part: ArchivedPart, url: str) -> None:
    """Remember rows that are archived and deleted from the warehouse; the same part again updates its row.

    :param url: of the archive: where `part` lies below.
    """
    from dbops.redshift.archive_parts import day_prefix, part_key

    first = datetime.combine(part.day, time(), UTC)
    key = {"dataset": part.dataset, "day": part.day, "attempt": part.attempt}
    values = {
        "part": part.part,
        "table_name": part.table,
        "column_name": part.column,
        "range_first": first,
        "range_end": first + timedelta(days=1),
        "rows": part.rows,
        "bytes": part.bytes,
        "files": len(part.files),
        "location": f"{url}/{day_prefix(part.dataset, part.day)}",
        "document": f"{url}/{part_key(part.dataset, part.day, part.attempt)}",
        "manifest_sha256": part.manifest_sha256,
        "checks": part.checks.model_dump(mode="json"),
        "archived_at": part.archived_at,
        "deleted_at": part.deleted_at,
        "attached_at": part.attached_at,
    }
    with transaction(engine) as session:
        statement = insert(ArchivedPartition).values(**key, **values)
        session.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))


def archived_days(engine: Engine, dataset: str) -> list[tuple[date, int, int]]:
    """What the ledger remembers of a dataset: day, parts, rows; the oldest day first."""
    counted = select(ArchivedPartition.day, func.count(), func.sum(ArchivedPartition.rows))
    query = counted.where(ArchivedPartition.dataset == dataset)
    with transaction(engine) as session:
        found = session.execute(query.group_by(ArchivedPartition.day).order_by(ArchivedPartition.day))
        return [(day, parts, int(rows)) for day, parts, rows in found]


def record_check(
    engine: Engine,
    *,
    name: str,
    target: str,
    run: str,
    at: datetime,
    ok: bool,
    message: str,
    value: float | None = None,
    limit: float | None = None,
    unit: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Remember what a check saw. The same check, target and run again replaces the row.

    :param run: what makes a retry the same: the DAG run's id, with the map index where there is one.
    """
    key = {"name": name, "target": target, "run": run}
    seen = {"at": at, "ok": ok, "value": value, "limit": limit, "unit": unit, "message": redact(message)}
    values = seen | {"details": redacted(details or {})}
    with transaction(engine) as session:
        statement = insert(CheckResult).values(**key, **values)
        session.execute(statement.on_conflict_do_update(constraint="check_result_once", set_=values))


def known_since(engine: Engine, check: str, cluster: str, namespace: str) -> datetime | None:
    """When the ledger first knew of a namespace: by its first row of a check, or its first backup. None: not at all.

    :param check: name of the check, whose target is `<cluster>/<namespace>`.
    """
    seen = select(func.min(CheckResult.at)).where(
        CheckResult.name == check, CheckResult.target == f"{cluster}/{namespace}"
    )
    backed_up = select(func.min(RestorePoint.committed_at)).where(
        RestorePoint.cluster == cluster, RestorePoint.namespace == namespace
    )
    with transaction(engine) as session:
        return min(filter(None, (session.scalar(seen), session.scalar(backed_up))), default=None)


def never_drilled(engine: Engine, drill: str) -> list[tuple[str, str]]:
    """(cluster, namespace) of those whose newest verified full is younger than the newest point that was drilled.

    :param drill: name of the action whose target is `<cluster>/<namespace>` and whose details hold `point`,
        `<cluster>/<namespace> <id>`.
    """
    fulls = (
        select(RestorePoint.cluster, RestorePoint.namespace, func.max(RestorePoint.id))
        .where(RestorePoint.kind == "full", RestorePoint.verified_ok.is_(True), RestorePoint.gone_at.is_(None))
        .group_by(RestorePoint.cluster, RestorePoint.namespace)
    )
    drills = (
        select(Action.target, func.max(Action.details["point"].astext))
        .where(Action.name == drill)
        .group_by(Action.target)
    )
    with transaction(engine) as session:
        last = {target: point or "" for target, point in session.execute(drills)}
        return sorted(
            (cluster, namespace)
            for cluster, namespace, id in session.execute(fulls)
            if last.get(f"{cluster}/{namespace}", "") < f"{cluster}/{namespace} {id}"
        )


def newest_check(engine: Engine, name: str, target: str) -> tuple[datetime, dict[str, Any]] | None:
    """When a check last wrote its row, and the row's details; None: it never has."""
    found = select(CheckResult.at, CheckResult.details).where(CheckResult.name == name, CheckResult.target == target)
    with transaction(engine) as session:
        row = session.execute(found.order_by(CheckResult.at.desc(), CheckResult.id.desc()).limit(1)).first()
        return None if row is None else (row.at, row.details)


def record_action(
    engine: Engine,
    *,
    name: str,
    target: str,
    run: str,
    started_at: datetime,
    outcome: Outcome,
    finished_at: datetime | None = None,
    message: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Remember what was done to a system. The same action, target and run again updates the row; its
    `started_at` stays that of the first call.

    :param outcome: `running` while it lasts, then `done`, `failed` or `skipped`.
    """
    values = {
        "finished_at": finished_at,
        "outcome": outcome,
        "message": redact(message),
        "details": redacted(details or {}),
    }
    with transaction(engine) as session:
        statement = insert(Action).values(name=name, target=target, run=run, started_at=started_at, **values)
        session.execute(statement.on_conflict_do_update(constraint="action_once", set_=values))


def record_expiry(
    engine: Engine,
    cluster: str,
    namespace: str,
    id: str,
    *,
    run: str,
    at: datetime,
    outcome: Outcome,
    message: str,
    details: Mapping[str, Any],
) -> None:
    """Remember what became of a restore point that a plan let go, and if it is gone, that it is."""
    record_action(
        engine,
        name="expire",
        target=f"{cluster}/{namespace}/{id}",
        run=run,
        started_at=at,
        finished_at=at,
        outcome=outcome,
        message=message,
        details=details,
    )
    if outcome == "done":
        record_expired(engine, cluster, namespace, id, at)


def failures_of(engine: Engine, run: str, most: int = 5) -> list[tuple[str, str]]:
    """Target and message of what failed in a run; the first failure first, since it caused the others."""
    failed = select(Action.target, Action.message).where(Action.run == run, Action.outcome == "failed")
    first = failed.order_by(Action.finished_at.nulls_last(), Action.id).limit(most)
    with transaction(engine) as session:
        return [(target, message) for target, message in session.execute(first)]


def redacted(value: Any) -> Any:
    """The same JSON value with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(name): redacted(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value
