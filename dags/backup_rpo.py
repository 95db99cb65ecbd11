"""Every quarter of an hour: how old is the newest restorable point of each namespace, and is that within its RPO?

**What happens**: the newest restore point that was read back whole, together with all that it builds on, is looked for
in the bucket; its age is compared with the `objectives` of the platform file and written to the ledger. A namespace
over its objective has one incident, which ends by itself with the next verified backup. So backups that never ran, were
never committed or never verified are noticed too. A namespace without any restorable point has one RPO of time since
the ledger first knew of it.

**When it fails**: it could not look, which says nothing about the backups. Clear `check` once the bucket and the ledger
answer. `include/runbooks/backup_rpo_exceeded.md` says what to do then, and what when an RPO is exceeded.

**By hand**: *Trigger* looks now. Without Airflow: `dbops backup rpo`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.backups.operators import CheckRpo
from dbops.platform import Severity
from dbops.tags import Tag

with DAG(
    dag_id="backup_rpo",
    schedule=CronTriggerTimetable("*/15 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
    tags=[Tag.AEROSPIKE, Tag.BACKUP, Tag.CRITICAL],
    description="Compares the age of the newest restorable points with their objectives",
    doc_md=__doc__,
    on_failure_callback=alert_on_failure(Severity.CRITICAL, "backup_rpo_exceeded"),
    on_success_callback=resolve_on_success,
):
    CheckRpo(task_id="check", execution_timeout=timedelta(minutes=10))
