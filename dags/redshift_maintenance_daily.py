"""Daily look at the Redshift warehouse: statements, queues, CPU, disk, loads, open transactions, growth, use.

**What happens**: each check compares a value with its limit in the platform file and writes it to the ledger. A limit
that is passed is one incident, a warning or critical by that limit, until a day on which it is kept. The size and the
use of tables are written down for the weekly trend and the monthly review.

**When it fails**: a check could not look, which is never taken for well; the others were done. Clear the task.
`include/runbooks/redshift_health_failed.md` goes through the causes; each incident names the page that is about it.

**By hand**: *Trigger*, at any time. `dbops redshift health` shows the same without Airflow.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.redshift.maintenance_operators import CheckWarehouse
from dbops.tags import Tag

redshift = load_platform().redshift

if redshift is not None:
    with DAG(
        dag_id="redshift_maintenance_daily",
        schedule=CronTriggerTimetable(redshift.schedules.daily, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.MAINTENANCE, Tag.WARNING],
        description="Compares the warehouse's statements, queues, CPU, disk and loads with their limits",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "redshift_health_failed"),
        on_success_callback=resolve_on_success,
    ):
        CheckWarehouse(task_id="check")
