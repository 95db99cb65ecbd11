"""Restores a snapshot of Redshift to a new cluster, by hand, and checks what it holds.

**What happens**: `plan` chooses the snapshot and takes subnet group, security groups, parameter group, roles and
encryption from the source (when it is gone, from the ledger); the plan stands in its log. `restore` makes the new
cluster and waits for it without holding a worker. `check` counts the last closed days of the archived tables in it,
compares them with the source or the ledger, and puts the time beside the RTO. Nothing is deleted or switched over: the
name of the warehouse itself is refused.

**When it fails**: the error says what exists and how it is removed; clearing the failed task goes on with what is
there. `include/runbooks/redshift_restore.md` is the how-to, and what each refusal means.

**By hand**: *Trigger* with a reason; or `dbops redshift restore run` when Airflow is down.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.redshift.snapshot_operators import CheckRestoredCluster, PlanRestoreCluster, RestoreCluster
from dbops.tags import Tag

if load_platform().redshift is not None:
    with DAG(
        dag_id="redshift_restore",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.REDSHIFT, Tag.BACKUP, Tag.RESTORE, Tag.CRITICAL],
        description="Restores a Redshift snapshot to a new cluster and checks it",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "redshift_restore"),
        on_success_callback=resolve_on_success,
        params={
            "snapshot": Param(
                None,
                type=["null", "string"],
                title="Snapshot",
                description="Its name, from `dbops redshift snapshots list`. Empty: the newest usable one.",
            ),
            "cluster": Param(
                None,
                type=["null", "string"],
                pattern=r"^[a-z](-?[a-z0-9])*$",
                title="New cluster",
                description="Its name; with Serverless, of the new workgroup and namespace. Empty: one is made up.",
            ),
            "reason": Param(
                "a drill",
                type="string",
                minLength=1,
                title="Reason",
                description="Why it is restored; stands in the ledger and on the new cluster.",
            ),
        },
    ):
        plan = PlanRestoreCluster(task_id="plan")
        restore = RestoreCluster(task_id="restore")
        check = CheckRestoredCluster(task_id="check")
        plan >> restore >> check
