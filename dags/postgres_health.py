"""Every quarter of an hour: does PostgreSQL answer, and is anything running out, stuck, slow or behind?

**What happens**: connections, idle and long transactions, sessions that wait for locks (and whom they wait for), what
statements took since the last look, standbys, replication slots, transaction ids, damaged pages, the disk, and
sequences are compared with `limits` and `postgres.health` of the platform file, and written to the ledger. A limit that
is passed is one incident, a warning or critical by that limit, until a look at which it is kept.

**When it fails**: a check could not look, which is never taken for well; the others were done, and their incidents are
right. Clear `check` once PostgreSQL answers. `include/runbooks/postgres_health_failed.md` goes through the causes; each
incident names the page that is about it.

**By hand**: *Trigger* looks now. Without Airflow: `dbops postgres health`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.postgres.operators import CheckHealth
from dbops.tags import Tag

if load_platform().postgres is not None:
    with DAG(
        dag_id="postgres_health",
        schedule=CronTriggerTimetable("*/15 * * * *", timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.HEALTH, Tag.CRITICAL],
        description="Compares what runs out, is stuck, slow or behind in PostgreSQL with its limits",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "postgres_health_failed"),
        on_success_callback=resolve_on_success,
    ):
        CheckHealth(task_id="check", execution_timeout=timedelta(minutes=10))
