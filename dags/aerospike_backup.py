"""Daily full and six-hourly incremental backups of every Aerospike namespace, a pair of DAGs per cluster.

**What happens**: the cluster and the bucket are checked; each namespace is planned and leased; slices of partitions are
read, as many at once as the cluster's pool allows; each namespace whose slices are all stored is committed by its
manifest. Without a manifest there is no backup.

**When it fails**: nothing was listed and nothing is lost. Clear the failed tasks and what follows; the next run covers
what this one missed in any case. `include/runbooks/aerospike_backup_failed.md` goes through the causes.

**By hand**: *Trigger*; the form narrows the run to some namespaces, makes it full, or only shows what it would do.
**Backfill** makes sure that a restore point covers each window: a covered one is skipped, the first that is not takes
one backup for all of them. A point is never labelled with a time that it does not hold.
"""

from __future__ import annotations

from airflow.sdk import (
    DAG,
    CronDataIntervalTimetable,
    DeadlineAlert,
    DeadlineReference,
    Param,
    SyncCallback,
    TriggerRule,
)
from dbops.adapter import DEFAULT_ARGS
from dbops.aerospike.operators import AerospikeBackupSlice, CheckCluster, CommitBackup, PlanSlices
from dbops.alerts.airflow import alert_on_failure, deadline_missed, remember_error, resolve_on_success
from dbops.platform import Severity, load_platform
from dbops.tags import Tag

for cluster in load_platform().aerospike.clusters:
    namespaces = [namespace.name for namespace in cluster.namespaces]
    for kind in cluster.backup_kinds:
        with DAG(
            dag_id=f"aerospike_backup_{kind.name}_{cluster.name}",
            schedule=CronDataIntervalTimetable(kind.schedule, timezone="UTC"),
            catchup=False,
            max_active_runs=1,
            default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
            tags=[Tag.AEROSPIKE, Tag.BACKUP, Tag.CRITICAL],
            description=f"{kind.name.capitalize()} backup of cluster {cluster.name} to S3",
            doc_md=__doc__,
            on_failure_callback=alert_on_failure(Severity.CRITICAL, "aerospike_backup_failed"),
            on_success_callback=resolve_on_success,
            deadline=DeadlineAlert(
                reference=DeadlineReference.DAGRUN_QUEUED_AT,
                interval=kind.max_duration,
                callback=SyncCallback(deadline_missed, kwargs={"runbook": "aerospike_backup_late"}),
            ),
            params={
                "namespaces": Param(
                    namespaces,
                    type="array",
                    items={"type": "string", "enum": namespaces},
                    minItems=1,
                    uniqueItems=True,
                    title="Namespaces",
                    description="Which of the cluster to back up.",
                    examples=namespaces,
                ),
                "kind": Param(
                    kind.name,
                    type="string",
                    enum=["full", "incremental"],
                    title="Kind",
                    description="An incremental holds what changed since the newest restore point of its chain.",
                ),
                "slices": Param(
                    cluster.slices,
                    type="integer",
                    minimum=1,
                    maximum=256,
                    title="Slices per namespace",
                    description="More slices are smaller tasks, spread over more workers.",
                ),
                "dry_run": Param(
                    False,
                    type="boolean",
                    title="Dry run",
                    description="Plan, show the plan in the log, read nothing.",
                ),
            },
        ):
            check = CheckCluster(task_id="check_cluster", cluster=cluster.name)
            plan = PlanSlices(task_id="plan", cluster=cluster.name, kind=kind.name)
            slices = AerospikeBackupSlice.partial(
                task_id="backup",
                cluster=cluster.name,
                pool=cluster.pool,
                execution_timeout=kind.max_duration,
                map_index_template="{{ slice_name }}",
            ).expand(slice=plan.output)
            commits = [
                CommitBackup(
                    task_id=f"commit_{namespace}",
                    cluster=cluster.name,
                    namespace=namespace,
                    trigger_rule=TriggerRule.ALL_DONE,
                )
                for namespace in namespaces
            ]
            check >> plan >> slices >> commits
