"""Daily report on PostgreSQL, sent to the summary channel.

**What happens**: sizes and growth, the statements that took the most time in the last day, cache, bloat (an estimate
that says when it is not to be trusted), unused, duplicate and invalid indexes, hints at missing ones, dead rows, old
statistics, transaction ids, sequences, replication, and settings that wait for a restart, of the instance and of each
configured database. Nothing is changed. Sizes are kept in the ledger, which is what growth is told by.

**When it fails**: part of the report could not be made; it was sent all the same and says which. Clear `report` to look
again; it is not sent twice. `include/runbooks/postgres_report.md` explains the lines.

**By hand**: *Trigger*. Without Airflow: `dbops postgres report`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.postgres.operators import ReportInstance
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None:
    with DAG(
        dag_id="postgres_report",
        schedule=CronTriggerTimetable(postgres.schedules.report, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.HEALTH, Tag.WARNING],
        description="Growth, slow statements, bloat, indexes and statistics of PostgreSQL",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "postgres_report"),
        on_success_callback=resolve_on_success,
    ):
        ReportInstance(task_id="report", execution_timeout=timedelta(minutes=30))
