"""Daily look at the snapshots of Redshift: is the newest one young enough, and which of ours may go.

**What happens**: `check` compares the age of the newest usable snapshot, automated or manual, with the platform file;
none, or an API that does not answer, is a failure. `figures` counts the last days of the archived tables for a restore
that cannot ask the source. `plan` decides which manual snapshots of this package (by their tag) are kept long enough;
the plan stands in its log with a reason for every snapshot, and `expire` carries it out exactly. When more than
`max_share` would go at once, it waits in `approve` for a person. Automated snapshots and those of others are never
touched.

**When it fails**: take `check` as seriously as a failed backup: what is lost since the newest snapshot cannot be
brought back. `include/runbooks/redshift_snapshot_missing.md` goes through the causes.

**By hand**: *Trigger*; a dry run only shows what would go. `dbops redshift snapshots take` takes one.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.platform import Severity, load_platform
from dbops.redshift.snapshot_operators import CheckSnapshots, ExpireSnapshots, PlanSnapshotExpiry, RecordFigures
from dbops.tags import Tag

redshift = load_platform().redshift

if redshift is not None:
    with DAG(
        dag_id="redshift_snapshots",
        schedule=CronTriggerTimetable(redshift.schedules.snapshots, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.BACKUP, Tag.RETENTION, Tag.CRITICAL],
        description="Checks the age of Redshift's snapshots and expires old ones of ours",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "redshift_snapshot_missing"),
        on_success_callback=resolve_on_success,
        params={
            "dry_run": Param(
                False,
                type="boolean",
                title="Dry run",
                description="Show in the log of `plan` what would go, and why; delete nothing.",
            ),
        },
    ):
        check = CheckSnapshots(task_id="check")
        figures = RecordFigures(task_id="figures")
        plan = PlanSnapshotExpiry(task_id="plan")
        approve = ApprovePlan(
            task_id="approve",
            plan_task="plan",
            subject="Many Redshift snapshots would go at once",
            runbook="redshift_snapshot_approval",
            response_timeout=timedelta(hours=20),  # before the next day's run
        )
        expire = ExpireSnapshots(task_id="expire")
        expire_approved = ExpireSnapshots(task_id="expire_approved", approval_task="approve")
        check >> [figures, plan]
        plan >> expire
        plan >> approve >> expire_approved
