"""How much of PostgreSQL would be lost if its instance were gone now, every 15 minutes.

**What happens**: LatestRestorableTime of RDS is compared with the RPO, the newest automated snapshot with its age, and
window and retention of the automated backups with the platform file. What cannot be asked is a failure too.

**When it fails**: the promise is broken, or nobody knows. `include/runbooks/postgres_rpo_exceeded.md` goes through the
causes.

**By hand**: *Trigger*; `dbops postgres backup rpo` tells the same while Airflow is down.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.postgres.snapshot_operators import CheckRecovery
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None and postgres.rds is not None:
    with DAG(
        dag_id="postgres_rpo",
        schedule=CronTriggerTimetable("*/15 * * * *", timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.BACKUP, Tag.CRITICAL],
        description="Compares how far PostgreSQL can be brought back with its RPO",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "postgres_rpo_exceeded"),
        on_success_callback=resolve_on_success,
    ):
        CheckRecovery(task_id="check")
