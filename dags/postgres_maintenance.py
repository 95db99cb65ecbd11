"""Daily maintenance of PostgreSQL: what autovacuum has not got to, in a window with little traffic.

**What happens**: for each database it is decided which tables need VACUUM (with FREEZE when their oldest transaction
ids come near the age that forces an autovacuum at any hour) or ANALYZE, which indexes REINDEX CONCURRENTLY (bloated
ones of the configured tables, and invalid ones), and what an interrupted CONCURRENTLY left. The plan is stored and
stands in the log of `plan` with a reason for each step; `maintain` carries it out, one step at a time, one database
at a time. No step waits long for a lock or outlasts the window, and a table that somebody else works on (autovacuum
too) is left for the next day. Figures before and after stand in the ledger.

**When it fails**: nothing is broken by a failed step: it can be repeated. Clear the failed task: it does what is not
done yet, if the window still lasts. `include/runbooks/postgres_maintenance_failed.md` goes through the causes.

**By hand**: *Trigger*, at an hour with little traffic: the window begins then. The form narrows the run to some
databases, or only shows the plan. Without Airflow: `dbops postgres plan`, `dbops postgres maintain`.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronTriggerTimetable, Param
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.postgres.operators import PlanMaintenance, RunMaintenance
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None:
    databases = list(postgres.databases)
    with DAG(
        dag_id="postgres_maintenance",
        schedule=CronTriggerTimetable(postgres.schedules.maintenance, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.MAINTENANCE, Tag.WARNING],
        description="VACUUM, ANALYZE and REINDEX CONCURRENTLY where they are needed",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "postgres_maintenance_failed"),
        on_success_callback=resolve_on_success,
        params={
            "databases": Param(
                databases,
                type="array",
                items={"type": "string", "enum": databases},
                minItems=1,
                uniqueItems=True,
                title="Databases",
                description="Which are maintained.",
                examples=databases,
            ),
            "dry_run": Param(
                False,
                type="boolean",
                title="Dry run",
                description="Show in the log of `plan` what would be done, and why; change nothing.",
            ),
        },
    ):
        plan = PlanMaintenance.partial(task_id="plan").expand(database=databases)
        maintain = RunMaintenance.partial(
            task_id="maintain",
            max_active_tis_per_dagrun=1,
            trigger_rule="all_done",  # the plan of one database may fail or be left out; each looks for its own
            execution_timeout=postgres.maintenance.window.hard_end,
        ).expand(database=databases)
        plan >> maintain
