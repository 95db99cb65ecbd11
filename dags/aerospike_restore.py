"""Restores a namespace to a moment, by hand: from a chain of restore points to any cluster of the platform.

**What happens**: the chain is chosen and checked, and whether the target can take it; the plan stands in the log of
`plan`. Where the target is in use or holds data, a person must approve exactly that plan. Slices of partitions are
written, each record once and in its newest form; secondary indexes and UDFs are made after them, or before them if so
chosen; then the target is counted, fingerprinted and sampled. Backups of the target wait meanwhile, and its next one is
full. Rejected, or not answered in four hours, the run fails and `release` gives the target free at once; nothing was
written.

**When it fails**: clear the failed task and what follows, a slice may be repeated at any time.
`include/runbooks/aerospike_restore.md` is the how-to, and what each refusal means.

**By hand**: *Trigger*; a dry run shows the plan and counts what would be written.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.aerospike.restore_operators import (
    SAME,
    CheckRestore,
    PlanRestore,
    ReleaseTarget,
    RestoreDefinitions,
    RestoreSlice,
)
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.platform import SCRATCH, Severity, load_platform
from dbops.tags import Tag

aerospike = load_platform().aerospike
clusters = [cluster.name for cluster in aerospike.clusters]
namespaces = sorted({namespace.name for cluster in aerospike.clusters for namespace in cluster.namespaces})

with DAG(
    dag_id="aerospike_restore",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
    tags=[Tag.AEROSPIKE, Tag.BACKUP, Tag.RESTORE, Tag.CRITICAL],
    description="Restores a namespace to a point in time",
    doc_md=__doc__,
    on_failure_callback=alert_on_failure(Severity.CRITICAL, "aerospike_restore"),
    on_success_callback=resolve_on_success,
    params={
        "cluster": Param(
            clusters[0], type="string", enum=clusters, title="Cluster", description="Whose backup is restored."
        ),
        "namespace": Param(
            namespaces[0], type="string", enum=namespaces, title="Namespace", description="Of that cluster."
        ),
        "point_in_time": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Point in time",
            description="The newest restore point at or before it, with time zone. Empty: the newest.",
        ),
        "restore_point": Param(
            None,
            type=["null", "string"],
            pattern=r"^\d{8}T\d{6}Z-(full|incremental)$",
            title="Restore point",
            description="An id of `dbops backup list`, in place of a point in time.",
        ),
        "target_cluster": Param(
            SAME,
            type="string",
            enum=[SAME, *clusters, *([SCRATCH] if aerospike.scratch else [])],
            title="Target cluster",
            description="Where to write to.",
        ),
        "target_namespace": Param(
            None,
            type=["null", "string"],
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,30}$",
            title="Target namespace",
            description="Empty: the same name; on the scratch cluster its namespace.",
        ),
        "sets": Param([], type="array", items={"type": "string"}, title="Sets", description="Only these. Empty: all."),
        "bins": Param([], type="array", items={"type": "string"}, title="Bins", description="Only these. Empty: all."),
        "policy": Param(
            "replace",
            type="string",
            enum=["replace", "update", "missing", "newer"],
            title="Policy",
            description="replace: as in the backup, deletes included. update: bins are written over those there. "
            "missing: only records that are not there. newer: only over a lower generation.",
        ),
        "extra_ttl_seconds": Param(
            0,
            type="integer",
            minimum=0,
            maximum=315_360_000,
            title="Extra lifetime, seconds",
            description="How much longer records that expire live; those whose time is over come back with it.",
        ),
        "indexes": Param(
            "after",
            type="string",
            enum=["after", "before"],
            title="Indexes",
            description="Make secondary indexes and UDFs after the records are written, or before: then queries find "
            "what is written already.",
        ),
        "engine": Param(
            "native",
            type="string",
            enum=["native", "asrestore"],
            title="Engine",
            description="What writes the records. asrestore: Aerospike's own program on the workers; full points only.",
        ),
        "allow_unverified": Param(
            False,
            type="boolean",
            title="Allow unverified points",
            description="Restore points that were never read back.",
        ),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Read everything, count, write nothing."),
    },
):
    plan = PlanRestore(task_id="plan")
    approve = ApprovePlan(
        task_id="approve",
        plan_task="plan",
        subject="A restore writes to a namespace that is in use or holds data",
        runbook="aerospike_restore",
        response_timeout=timedelta(hours=4),
    )
    indexes_before = RestoreDefinitions(task_id="indexes_before", when="before", trigger_rule=TriggerRule.NONE_FAILED)
    slices = RestoreSlice.partial(task_id="restore", trigger_rule=TriggerRule.NONE_FAILED).expand(slice=plan.output)
    indexes = RestoreDefinitions(task_id="indexes", when="after", trigger_rule=TriggerRule.NONE_FAILED)
    check = CheckRestore(
        task_id="check", definitions_tasks=["indexes_before", "indexes"], trigger_rule=TriggerRule.NONE_FAILED
    )
    release = ReleaseTarget(task_id="release", trigger_rule=TriggerRule.ALL_FAILED)
    plan >> approve >> indexes_before >> slices >> indexes >> check
    approve >> release
