"""Every morning: do PostgreSQL, Aerospike and Redshift say the same, and how have the checks of the data been lately?

**What happens**: `spend` compares what each line item spent on each of the newest days: in PostgreSQL, in the set that
follows it in each cluster, and in Redshift, within a tolerance; where one says something else than all others, it is
named. `campaigns` looks for events of Redshift that name a campaign which does not exist. There is a row per system in
the ledger, and one incident per system for as long as it differs: a day that differed is compared until it is the same.
`summary` then mails how all checks of the data have been (synchronisation, ETL, consistency), with a chart of each.

**When it fails**: it could not look, which says nothing about the data. Clear the failed tasks once all three answer.
`include/runbooks/consistency.md` says what to do about a difference.

**By hand**: *Trigger*; the form chooses other days, 31 at most. Without Airflow: `dbops consistency check`, and
`dbops ledger checks` for the history.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.consistency.operators import CheckCampaigns, CheckSpend, SendSummary
from dbops.platform import Severity, load_platform
from dbops.tags import Tag

consistency = load_platform().consistency

if consistency is not None:
    with DAG(
        dag_id="data_quality",
        schedule=CronTriggerTimetable(consistency.schedule, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.AEROSPIKE, Tag.REDSHIFT, Tag.SYNC, Tag.WARNING],
        description="Compares PostgreSQL, Aerospike and Redshift with each other, and mails how the data's checks were",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "consistency"),
        on_success_callback=resolve_on_success,
        params={
            "first_day": Param(
                None,
                type=["null", "string"],
                format="date",
                title="First day",
                description="Empty: as many days as the platform file says.",
            ),
            "last_day": Param(
                None,
                type=["null", "string"],
                format="date",
                title="Last day",
                description="Empty: the newest day that has arrived everywhere.",
            ),
        },
    ):
        checks = [
            CheckSpend(task_id="spend", execution_timeout=timedelta(hours=1)),
            CheckCampaigns(task_id="campaigns", execution_timeout=timedelta(hours=1)),
        ]
        summary = SendSummary(
            task_id="summary", checks=["sync_", "etl_", "consistency_"], trigger_rule=TriggerRule.ALL_DONE
        )
        checks >> summary
        [*checks, summary] >> EmptyOperator(
            task_id="done"
        )  # so that the run fails when a check did, though it was mailed
