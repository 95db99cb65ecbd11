"""Weekly VACUUM and ANALYZE of the Redshift warehouse, by rule and within a window.

**What happens**: `plan` looks at every table and decides by the `vacuum` section of the platform file; the plan is
stored and stands in the log with a reason for each table. `snapshot` takes a manual snapshot when the plan sorts a
table (`snapshots.before_maintenance`); `redshift_snapshots` lets it go after `snapshots.keep`. `maintain` carries the
plan out, one statement at a time, what gains most first. None starts later than `window.last_start` after the
scheduled time, and what still runs at `window.hard_end` is cancelled. What is done is proven by Redshift's history and
by the table's figures; what Redshift skipped is told as skipped. `report` mails the outcome with the growth of the
warehouse. Each statement has a row in the ledger's table `action`.

**When it fails**: no data is at risk. Clear the failed task and what follows: what is done is not done again.
`include/runbooks/redshift_maintenance.md` goes through the causes.

**By hand**: *Trigger*; the form narrows the run to some tables, or only shows the plan. The window then counts from
the start of the run. `dbops redshift maintain` does the same without Airflow.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.redshift.maintenance_operators import PlanMaintenance, ReportMaintenance, RunMaintenance
from dbops.redshift.snapshot_operators import SnapshotBeforeMaintenance
from dbops.tags import Tag

redshift = load_platform().redshift

if redshift is not None:
    with DAG(
        dag_id="redshift_maintenance_weekly",
        schedule=CronTriggerTimetable(redshift.schedules.weekly, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.MAINTENANCE, Tag.WARNING],
        description="VACUUM and ANALYZE of the tables that need it",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "redshift_maintenance"),
        on_success_callback=resolve_on_success,
        params={
            "tables": Param(
                [],
                type="array",
                items={"type": "string", "pattern": r"^[^.]+\.[^.]+$"},
                title="Tables",
                description="Only these, as schema.table. Empty: all.",
            ),
            "dry_run": Param(
                False,
                type="boolean",
                title="Dry run",
                description="Show in the log of `plan` what would run, and why; change nothing.",
            ),
        },
    ):
        plan = PlanMaintenance(task_id="plan")
        snapshot = SnapshotBeforeMaintenance(
            task_id="snapshot",
            limit=redshift.window.last_start,  # after that nothing would be maintained
            poke_interval=timedelta(seconds=10),
        )
        maintain = RunMaintenance(
            task_id="maintain",
            execution_timeout=redshift.window.hard_end + timedelta(minutes=15),  # it ends by itself before that
        )
        report = ReportMaintenance(task_id="report", trigger_rule=TriggerRule.ALL_DONE)
        plan >> snapshot >> maintain >> report
