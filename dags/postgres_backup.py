"""Daily backups of PostgreSQL beside those that RDS takes by itself: exports, a snapshot of ours and its copy.

**What happens**: `export` reads what the platform file names by pg_dump, from one snapshot with a count and checksum
of each table, to the bucket; `verify` reads it back. On RDS `snapshot` takes a manual snapshot, which outlives its
instance, and `copy` brings it to another region. Only when all of that has succeeded, `plan` decides which backups of
ours are kept long enough, with a reason for each in its log, and `expire` deletes exactly these. When more than
`max_share` would go at once, it waits in `approve` for a person. The newest verified ones, and those of others, stay.

**When it fails**: the backups of the day before are untouched, and nothing expires. A retry makes nothing twice.
`include/runbooks/postgres_backup_failed.md` goes through the causes.

**By hand**: *Trigger*, with the exports that are wanted; `dbops postgres backup export` does it while Airflow is down.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.platform import Severity, load_platform
from dbops.postgres.export_operators import ExpireBackups, ExportDatabase, PlanBackupExpiry, VerifyExports
from dbops.postgres.snapshot_operators import CopyRdsSnapshot, TakeRdsSnapshot
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None and (postgres.exports is not None or postgres.rds is not None):
    names = [one.name for one in postgres.exports.sets] if postgres.exports is not None else []
    params = {
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Show in the log of `plan` which backups would go, and why; delete none.",
        ),
    }
    if names:
        params["exports"] = Param(
            names,
            type="array",
            items={"type": "string", "enum": names},
            uniqueItems=True,
            title="Exports",
            description="Which are made and read back.",
            examples=names,
        )
    with DAG(
        dag_id="postgres_backup",
        schedule=CronTriggerTimetable(postgres.schedules.backup, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.BACKUP, Tag.RETENTION, Tag.CRITICAL],
        description="Exports PostgreSQL, takes and copies a snapshot, expires old ones of ours",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "postgres_backup_failed"),
        on_success_callback=resolve_on_success,
        params=params,
    ):
        plan = PlanBackupExpiry(task_id="plan", trigger_rule="none_failed")
        if postgres.exports is not None:
            export = ExportDatabase.partial(
                task_id="export",
                max_active_tis_per_dagrun=1,  # one at a time is load enough for the instance
                execution_timeout=postgres.exports.timeout + timedelta(minutes=30),
            ).expand(export=names)
            verify = VerifyExports.partial(
                task_id="verify",
                max_active_tis_per_dagrun=1,
                trigger_rule="all_done",  # one export may fail or be left out; what was missed is caught up with
            ).expand(export=names)
            export >> verify
            [export, verify] >> plan
        if postgres.rds is not None and postgres.rds.daily_snapshot:
            snapshot = TakeRdsSnapshot(task_id="snapshot", reason="daily", limit=postgres.rds.snapshot_timeout)
            snapshot >> plan
            if postgres.rds.copy_region:
                snapshot >> CopyRdsSnapshot(task_id="copy", snapshot_task="snapshot") >> plan
        approve = ApprovePlan(
            task_id="approve",
            plan_task="plan",
            subject="Many backups of PostgreSQL would go at once",
            runbook="postgres_backup_approval",
            response_timeout=timedelta(hours=20),  # before the next day's run
        )
        expire = ExpireBackups(task_id="expire")
        expire_approved = ExpireBackups(task_id="expire_approved", approval_task="approve")
        plan >> expire
        plan >> approve >> expire_approved
