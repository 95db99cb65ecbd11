"""Every hour: is in the Aerospike sets what PostgreSQL says, value by value, and is the syncer in step?

**What happens**: each pair of `sync` in the platform file is compared with its set in each cluster: both sides are read
once, added up by hash in buckets, and only what differs is read again. What differs is looked at a second time after
the synchronisation lag, so that a change on its way is no drift. `report` writes a row per set to the ledger, and one
incident per set lasts until it is the same again. Beside it, `status` compares what the syncer says of itself with the
limits.

**When it fails**: it could not look, which says nothing about the data. Clear the failed tasks once both sides answer.
`include/runbooks/sync_drift.md` says what to do about drift, `include/runbooks/sync_stalled.md` about a syncer that is
out of step.

**By hand**: *Trigger*; the form chooses pairs and clusters, or only the changes of some hours, and can plan a repair or
have it approved and carried out. Without Airflow: `dbops sync validate`, `dbops sync repair`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.platform import Severity, load_platform
from dbops.sync.operators import (
    DRY_RUN,
    NO_REPAIR,
    REPAIR,
    CheckSyncStatus,
    PlanSyncRepair,
    PlanValidation,
    RepairSync,
    ReportValidation,
    ValidatePair,
)
from dbops.tags import Tag

sync = load_platform().sync

if sync is not None:
    pairs = [pair.name for pair in sync.pairs]
    clusters = sorted({cluster for pair in sync.pairs for cluster in pair.clusters})
    with DAG(
        dag_id="sync_validation",
        schedule=CronTriggerTimetable(sync.schedule, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.POSTGRES, Tag.AEROSPIKE, Tag.SYNC, Tag.WARNING],
        description="Compares the Aerospike sets with the tables of PostgreSQL that they follow",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "sync_drift"),
        on_success_callback=resolve_on_success,
        params={
            "pairs": Param(
                pairs,
                type="array",
                items={"type": "string", "enum": pairs},
                minItems=1,
                uniqueItems=True,
                title="Pairs",
                description="Which tables and sets are compared.",
                examples=pairs,
            ),
            "clusters": Param(
                clusters,
                type="array",
                items={"type": "string", "enum": clusters},
                minItems=1,
                uniqueItems=True,
                title="Clusters",
                description="Where.",
                examples=clusters,
            ),
            "window_hours": Param(
                0,
                type="number",
                minimum=0,
                title="Window of changes, hours",
                description="Only rows that changed in the last so many hours; no record too many is looked for. "
                "0: everything.",
            ),
            "repair": Param(
                NO_REPAIR,
                type="string",
                enum=[NO_REPAIR, DRY_RUN, REPAIR],
                title="Repair",
                description="dry run: the log of `plan_repair` says which records would be put right. repair: that "
                "plan waits for an approval, is carried out, and the sets are compared again.",
            ),
        },
    ):
        plan = PlanValidation(task_id="plan")
        validate = ValidatePair.partial(
            task_id="validate", map_index_template="{{ unit_name }}", execution_timeout=timedelta(hours=1)
        ).expand(unit=plan.output)
        report = ReportValidation(task_id="report", trigger_rule=TriggerRule.ALL_DONE)
        plan_repair = PlanSyncRepair(task_id="plan_repair")
        approve = ApprovePlan(
            task_id="approve",
            plan_task="plan_repair",
            subject="A repair writes records of Aerospike that differ from PostgreSQL",
            runbook="sync_drift",
            response_timeout=timedelta(hours=4),
        )
        repair = RepairSync(task_id="repair")
        CheckSyncStatus(task_id="status")
        validate >> report >> plan_repair >> approve >> repair
