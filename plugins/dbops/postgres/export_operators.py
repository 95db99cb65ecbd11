"""Operators of exports, of drills with them, and of the expiry of PostgreSQL's backups of every kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import PROGRESS_SECONDS, connection, open_keys, open_ledger, open_platform_store
from dbops.approval_operators import APPROVAL, is_approved
from dbops.errors import ConfigurationError, DbopsError, FinalError, RetryableError
from dbops.platform import Platform, Postgres, PostgresExports, load_platform
from dbops.postgres.snapshot_operators import run_of, snapshot_places

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

EXPORT, VERIFY, DRILL = "postgres_export", "postgres_export_verify", "postgres_export_drill"
"""Names of the actions, in the ledger."""
RTO = "postgres_export_rto"


class NotExpired(FinalError):
    """Backups that a plan lets go are still there."""


def exports_of(platform: Platform) -> tuple[Postgres, PostgresExports]:
    """:raises ConfigurationError: the platform exports nothing."""
    if platform.postgres is None or platform.postgres.exports is None:
        raise ConfigurationError(f"platform {platform.name} has no section `postgres.exports`: add it to its file")
    return platform.postgres, platform.postgres.exports


def _skip_unasked(context: Context, name: str) -> None:
    if name not in context["params"].get("exports", [name]):
        raise AirflowSkipException(f"export {name} was not asked for")


def _progress(what: str) -> Callable[[int], None]:
    """Logs how much has gone by, every few seconds."""
    started = last = monotonic()
    total = 0

    def count(size: int) -> None:
        nonlocal last, total
        total += size
        if (now := monotonic()) - last >= PROGRESS_SECONDS:
            last = now
            log.info("%s: %.1f MB, %.1f MB/s", what, total / 1e6, total / 1e6 / (now - started))

    return count


class ExportDatabase(BaseOperator):
    """Export what the platform file names so, by pg_dump to the store, with counts of the same snapshot.

    Guarantees: it exists whole or not at all; a retry of a run that has committed it makes no second one. Writes the
    action `postgres_export`. Reads the trigger form: `exports`.

    :param export: its name in `postgres.exports.sets`.
    """

    template_fields: Sequence[str] = ("export",)

    def __init__(self, *, export: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.export = export

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_action
        from dbops.postgres.export import export

        _skip_unasked(context, self.export)
        platform, run = load_platform(), run_of(context)
        postgres, settings = exports_of(platform)
        started, ledger = datetime.now(UTC), open_ledger(platform)
        note = partial(record_action, ledger, name=EXPORT, target=f"{postgres.name}/{self.export}", run=run)
        note(started_at=started, outcome="running")
        try:
            made = export(
                open_platform_store(platform),
                postgres,
                self.export,
                connection(settings.connection),
                run=run,
                platform_sha256=platform.sha256,
                keys=open_keys(platform),
                on_stored=_progress(f"export {self.export}"),
            )
        except DbopsError as problem:
            note(started_at=started, finished_at=datetime.now(UTC), outcome="failed", message=str(problem))
            raise
        done = {
            "id": made.id,
            "database": made.database,
            "snapshot_at": made.snapshot_at.isoformat(),
            "tables": len(made.tables),
            "rows": made.rows,
            "stored_bytes": made.stored_bytes,
            "pg_dump": made.program_version,
            "server": made.server_version,
        }
        note(started_at=made.started_at, finished_at=made.finished_at, outcome="done", details=done)
        self.log.info("%s", done)
        return done


class VerifyExports(BaseOperator):
    """Read back what was never read back of one export: SHA-256 of every byte, and `pg_restore --list`.

    Guarantees: what one finds is kept beside its manifest; the others are looked at too. Writes the action
    `postgres_export_verify` for each. Reads the trigger form: `exports`.

    :raises DamagedExport: one is not what its manifest says.
    """

    template_fields: Sequence[str] = ("export",)

    def __init__(self, *, export: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.export = export

    def execute(self, context: Context) -> list[str]:
        from dbops.ledger import record_action
        from dbops.postgres.export_verify import DamagedExport, verify_export
        from dbops.postgres.exports import exports

        _skip_unasked(context, self.export)
        platform, run = load_platform(), run_of(context)
        postgres, settings = exports_of(platform)
        store, keys, ledger = open_platform_store(platform), open_keys(platform), open_ledger(platform)
        damaged, done = [], []
        for item in exports(store, postgres.name, self.export):
            if item.verified is not None:
                continue
            name, started = f"{postgres.name}/{self.export}/{item.id}", datetime.now(UTC)
            report = verify_export(store, item, settings, keys=keys, on_read=_progress(f"verify {name}"))
            record_action(
                ledger,
                name=VERIFY,
                target=name,
                run=run,
                started_at=started,
                finished_at=report.at,
                outcome="done" if report.ok else "failed",
                message="; ".join(report.problems),
                details={"objects": report.objects, "bytes": report.bytes},
            )
            if report.ok:
                done.append(item.id)
            else:
                damaged.append(f"{name}: {'; '.join(report.problems)}")
        if damaged:
            raise DamagedExport("; ".join(damaged))
        if not done:
            raise AirflowSkipException("every export was read back before")
        return done


class DrillExport(BaseOperator):
    """Restore the newest verified export into a database of its own on the scratch server, compare it, drop it.

    Guarantees: nothing that was there is touched; what a killed drill left is dropped by the next. Writes the action
    `postgres_export_drill` and the check `postgres_export_rto`. Reads the trigger form: `exports`.

    :raises DrillFailed: a table differs from the manifest, or it took longer than the RTO.
    """

    template_fields: Sequence[str] = ("export",)

    def __init__(self, *, export: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.export = export

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.ledger import record_action, record_check
        from dbops.postgres.export_drill import DrillFailed, run_export_drill, scratch_of
        from dbops.postgres.exports import newest_verified

        _skip_unasked(context, self.export)
        platform = load_platform()
        postgres, settings = exports_of(platform)
        store, ledger, started = open_platform_store(platform), open_ledger(platform), datetime.now(UTC)
        run, target = run_of(context), f"{postgres.name}/{self.export}"
        note = partial(record_action, ledger, name=DRILL, target=target, run=run)
        try:
            newest = newest_verified(store, postgres.name, self.export)
            drill = run_export_drill(
                store,
                newest.manifest,
                settings,
                connection(scratch_of(settings).connection),
                rto=platform.objectives.postgres.rto,
                holder=f"{run}/{self.export}",
                keys=open_keys(platform),
                on_read=_progress(f"drill of {target}"),
            )
        except FinalError as problem:
            note(started_at=started, finished_at=datetime.now(UTC), outcome="failed", message=str(problem))
            raise
        done = {
            "id": newest.id,
            "ok": drill.ok,
            "rows": newest.manifest.rows,
            "tables": len(newest.manifest.tables),
            "restore_seconds": round(drill.restore_seconds, 3),
            "compare_seconds": round(drill.compare_seconds, 3),
            "problems": list(drill.problems),
            "notes": list(drill.notes),
        }
        note(
            started_at=drill.started_at,
            finished_at=drill.finished_at,
            outcome="done" if drill.ok else "failed",
            message="; ".join(drill.problems),
            details=done,
        )
        record_check(
            ledger,
            name=RTO,
            target=target,
            run=run,
            at=drill.finished_at,
            ok=drill.in_time,
            value=round(drill.seconds, 3),
            limit=drill.rto.total_seconds(),
            unit="s",
            message=f"restore drill of {newest.id}",
        )
        self.log.info("%s", done)
        if not drill.ok:
            raise DrillFailed(f"drill of {target} {newest.id}: {'; '.join(drill.problems)}")
        return done


class PlanBackupExpiry(BaseOperator):
    """Decide which snapshots of ours, copies and exports may go; a reason for each in the log. Deletes no backup.

    What killed exports have left is swept first, and the bucket is told its own rules. Reads the trigger form:
    `dry_run`.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> list[dict[str, Any]]:
        from dbops.backups.bucket import ensure_lifecycle
        from dbops.backups.store import S3Store
        from dbops.postgres.expiry import plan_expiry, sweep
        from dbops.postgres.exports import ROOT, lifecycle_rules

        platform = load_platform()
        postgres, places, store = _backups(platform)
        dry_run = bool(context["params"].get("dry_run"))
        if store is not None and not dry_run:
            for name in sweep(store, postgres, platform, f"{run_of(context)}/sweep"):
                self.log.info("export %s was never committed, or its deletion was interrupted: swept", name)
            if isinstance(store, S3Store):
                for warning in ensure_lifecycle(store, lifecycle_rules(store.prefix), root=ROOT).warnings:
                    self.log.warning("%s", warning)
        plan = plan_expiry(platform, postgres, places, store, datetime.now(UTC))
        for line in plan.lines:
            self.log.info("%s", line)
        context["ti"].xcom_push(APPROVAL, None if dry_run else plan.approval)
        if dry_run:
            raise AirflowSkipException(f"dry run: {len(plan.gone)} backups would go, nothing does")
        return [item.model_dump(mode="json") for item in plan.gone]


class ExpireBackups(BaseOperator):
    """Delete exactly what the plan names; a ledger row each.

    What is not as the plan saw it any more stays and fails the task; what is gone already is done.

    :param approval_task: the task that asks; only then an approved plan is carried out, and only there.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, plan_task: str = "plan", approval_task: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task, self.approval_task = plan_task, approval_task

    def execute(self, context: Context) -> list[str]:
        from dbops.ledger import record_action
        from dbops.postgres.expiry import Item, expire_item

        ti, run = context["ti"], run_of(context)
        wants_approval = bool(ti.xcom_pull(task_ids=self.plan_task, key=APPROVAL))
        if wants_approval != bool(self.approval_task):
            raise AirflowSkipException(
                "the plan waits for a person" if wants_approval else "the plan needs no approval"
            )
        if self.approval_task and not is_approved(context, self.approval_task):
            raise AirflowSkipException("nobody has approved the plan")
        plan = [Item.model_validate(item) for item in ti.xcom_pull(task_ids=self.plan_task) or ()]
        if not plan:
            raise AirflowSkipException("no backup may go")
        platform = load_platform()
        postgres, places, store = _backups(platform)
        ledger, problems, retryable = open_ledger(platform), [], False
        for item in plan:
            at = datetime.now(UTC)
            try:
                why = expire_item(platform, postgres, places, store, item, f"{run}/expire")
            except DbopsError as problem:
                why, retryable = str(problem), retryable or isinstance(problem, RetryableError)
            if why:
                problems.append(f"{item}: {why}")
            record_action(
                ledger,
                name="expire",
                target=f"postgres/{postgres.name}/{item.kind}/{item.place}/{item.id}",
                run=run,
                started_at=at,
                finished_at=datetime.now(UTC),
                outcome="failed" if why else "done",
                message=why or item.reason,
                details=item.model_dump(mode="json"),
            )
        if problems:
            raise (RetryableError if retryable else NotExpired)("; ".join(problems))
        return [str(item) for item in plan]


def _backups(platform: Platform) -> tuple[Postgres, dict[str, Any], Any]:
    """The instance, its places of snapshots, and the store of its exports."""
    postgres = platform.postgres
    if postgres is None:
        raise ConfigurationError(f"platform {platform.name} has no section `postgres`: add it to its file")
    places = snapshot_places(postgres, postgres.rds) if postgres.rds is not None else {}
    return postgres, places, open_platform_store(platform) if postgres.exports is not None else None
