"""Old days of the warehouse's tables go to S3 as Parquet, and are deleted when what lies there has been compared.

**What happens**: `plan` asks each table once which days are older than it keeps (`redshift.archive` of the platform
file); a plan with more days of a table than `max_days` waits in `approve` for a person. `archive` does one day of one
table: UNLOAD, every file read back, the copy into the dataset, and, in one transaction, the comparison of the day with
its files column by column and its deletion. Then, once for each table, `vacuum` gives the space back, and `report`
tells the summary channel. Beside it, the bucket's lifecycle rules are checked. Days under a legal hold stay.

**When it fails**: no row is lost, and none is in the table and the archive when the day is done. Clear the failed tasks
and what follows; a day may be repeated at any time. `include/runbooks/redshift_archive_failed.md` has the causes.

**By hand**: *Trigger*; the form narrows the run to tables and days, or only shows what would go. **Backfill**: each run
archives the day of its data interval, of every table that no longer keeps it, and no other day:
`airflow backfill create --dag-id redshift_archive --from-date 2026-01-01 --to-date 2026-01-30` is these 30 days.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.platform import Severity, load_platform
from dbops.redshift.archive_operators import (
    ArchiveDay,
    EnsureArchiveLifecycle,
    PlanArchive,
    ReclaimArchived,
    ReportArchive,
)
from dbops.tags import Tag

redshift = load_platform().redshift
tables = [table.dataset for table in redshift.archive.tables] if redshift else []

if redshift and tables:
    with DAG(
        dag_id="redshift_archive",
        schedule=CronDataIntervalTimetable(redshift.schedules.archive, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.ARCHIVE, Tag.WARNING],
        description="Archives old days of the warehouse to S3",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "redshift_archive_failed"),
        on_success_callback=resolve_on_success,
        params={
            "tables": Param(
                tables,
                type="array",
                items={"type": "string", "enum": tables},
                minItems=1,
                uniqueItems=True,
                title="Tables",
                description="Whose days are archived.",
                examples=tables,
            ),
            "first_day": Param(
                None,
                type=["null", "string"],
                format="date",
                title="First day",
                description="Only days from here on. Empty: from the oldest.",
            ),
            "last_day": Param(
                None,
                type=["null", "string"],
                format="date",
                title="Last day",
                description="Only days up to here. Empty: all that the tables no longer keep.",
            ),
            "dry_run": Param(
                False,
                type="boolean",
                title="Dry run",
                description="Show in the log of `plan` what would go, and why; archive and delete nothing.",
            ),
        },
    ):
        plan = PlanArchive(task_id="plan")
        approve = ApprovePlan(
            task_id="approve",
            plan_task="plan",
            subject="Archival would delete many days of the warehouse at once",
            runbook="redshift_archive_approval",
            response_timeout=timedelta(hours=20),  # before the next day's run
        )
        archive = ArchiveDay.partial(
            task_id="archive",
            trigger_rule=TriggerRule.NONE_FAILED,
            max_active_tis_per_dagrun=redshift.archive.at_once,
            execution_timeout=timedelta(hours=6),
            map_index_template="{{ slice_name }}",
        ).expand(slice=plan.output)
        vacuum = ReclaimArchived(task_id="vacuum", trigger_rule=TriggerRule.ALL_DONE)
        report = ReportArchive(
            task_id="report", runbook="redshift_archive_failed", trigger_rule=TriggerRule.NONE_FAILED
        )
        lifecycle = EnsureArchiveLifecycle(task_id="lifecycle")
        plan >> approve >> archive >> vacuum >> report
        archive >> report  # a day that failed fails the run, though the vacuum after it succeeds
        plan >> lifecycle
