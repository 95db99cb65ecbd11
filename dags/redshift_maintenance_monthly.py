"""Monthly review of the Redshift warehouse: tables, their use, cold data, and who may what.

**What happens**: `tables` compares how tables are made with how they are used, and gives advice with the exact ALTER
TABLE statement; Redshift's own Advisor is asked too. A table is called unused when the daily checks saw nobody read
it for `review.unused_after`. `cold_data` finds old rows that the archive does not cover. `access` compares users and
grants with the platform file; what goes beyond it raises a warning. `report` mails all of it. Nothing is changed: an
ALTER of a large table takes long and needs space, so a person decides.

**When it fails**: a part could not look; the others are in the report. Clear the failed task and `report`.
`include/runbooks/redshift_review.md` says what to do with the advice, and goes through the causes.

**By hand**: *Trigger*, at any time. `dbops redshift review` shows the same without Airflow.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.redshift.access_operators import ReviewAccess
from dbops.redshift.maintenance_operators import FindColdData, ReportReview, ReviewTables
from dbops.tags import Tag

redshift = load_platform().redshift

if redshift is not None:
    with DAG(
        dag_id="redshift_maintenance_monthly",
        schedule=CronTriggerTimetable(redshift.schedules.monthly, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.MAINTENANCE, Tag.WARNING],
        description="Reviews how tables are made and used, and what could be archived",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "redshift_review"),
        on_success_callback=resolve_on_success,
    ):
        reviews = [ReviewTables(task_id="tables"), FindColdData(task_id="cold_data"), ReviewAccess(task_id="access")]
        report = ReportReview(
            task_id="report",
            trigger_rule=TriggerRule.ALL_DONE,
            parts={
                "redshift_table_advice": "Distribution, sort keys, statistics",
                "redshift_unused_tables": "Unused tables",
                "redshift_cold_data": "Cold data",
                "redshift_access": "Users, roles and grants",
            },
        )
        reviews >> report
