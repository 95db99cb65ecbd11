"""Daily comparison of PostgreSQL with what was agreed: migrations, rights, and who changed the schema.

**What happens**: `migrations` compares goose's version in each database with `postgres.migrations` of the platform
file; `changes` compares the settings of the audit (pgAudit, log_statement) and looks through what the server's log has
got since the last run for changes of schema and rights by roles that should make none; `rights` compares roles and
grants with `postgres.access`: what goes beyond it, and what is missing. A difference is one warning until a run that
finds none; the statement that ends it stands beside it. Nothing is changed.

**When it fails**: something could not be looked at, which is never taken for well; the rest was.
`include/runbooks/postgres_audit.md` goes through the causes. Clear the failed task: it goes on in the log where the
last run ended.

**By hand**: *Trigger*. Without Airflow: `dbops postgres migrations`, `dbops postgres audit`, `dbops postgres access`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.postgres.audit_operators import AuditChanges, CheckMigrations, ReviewRights
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None:
    with DAG(
        dag_id="postgres_audit",
        schedule=CronTriggerTimetable(postgres.schedules.audit, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.CHANGE, Tag.WARNING],
        description="Migrations, rights and changes of the schema against what was agreed",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "postgres_audit"),
        on_success_callback=resolve_on_success,
    ):
        CheckMigrations(task_id="migrations", execution_timeout=timedelta(minutes=10))
        AuditChanges(task_id="changes", execution_timeout=timedelta(hours=1))
        ReviewRights(task_id="rights", execution_timeout=timedelta(minutes=10))
