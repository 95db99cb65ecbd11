"""Daily expiry of Aerospike restore points that are kept long enough, and upkeep of the bucket; a DAG per cluster.

**What happens**: for each namespace it is decided which restore points may go, by the `retention` of the platform
file; the plan is stored and stands in the log of `plan` with a reason for each point. `apply` carries it out exactly,
what builds on a point before that point. When more than `max_share` of a namespace's points would go at once, the plan
of that namespace waits in `approve` for a person. Then `sweep` removes what nobody will finish, and what was written
down about old restores. Beside it, the bucket's lifecycle rules are checked, and whether each restore point has arrived
in the replica region.

**When it fails**: nothing is lost; restore points stay longer than they should. Clear the failed tasks and what
follows: interrupted deletions are finished. `include/runbooks/backup_retention_failed.md` goes through the causes.

**By hand**: *Trigger*; the form narrows the run to some namespaces, or only shows what would go. It always goes by the
real time, whatever logical date a run has. Pin what must stay: `dbops backup pin`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, Param
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.backups.operators import ApplyRetention, CheckReplication, EnsureLifecycle, PlanRetention, SweepOrphans
from dbops.platform import Severity, load_platform
from dbops.tags import Tag

for cluster in load_platform().aerospike.clusters:
    namespaces = [namespace.name for namespace in cluster.namespaces]
    with DAG(
        dag_id=f"backup_retention_{cluster.name}",
        # The full of 02:00 is committed by 04:00 at the latest and verified right after; incrementals begin at 06:00.
        schedule=CronTriggerTimetable("0 5 * * *", timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error},
        tags=[Tag.AEROSPIKE, Tag.BACKUP, Tag.RETENTION, Tag.WARNING],
        description=f"Expires old restore points of cluster {cluster.name}",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.WARNING, "backup_retention_failed"),
        on_success_callback=resolve_on_success,
        params={
            "namespaces": Param(
                namespaces,
                type="array",
                items={"type": "string", "enum": namespaces},
                minItems=1,
                uniqueItems=True,
                title="Namespaces",
                description="Whose restore points are looked at.",
                examples=namespaces,
            ),
            "dry_run": Param(
                False,
                type="boolean",
                title="Dry run",
                description="Show in the log of `plan` what would go, and why; delete nothing.",
            ),
        },
    ):
        plan = PlanRetention(task_id="plan", cluster=cluster.name)
        approve = ApprovePlan(
            task_id="approve",
            plan_task="plan",
            subject=f"Retention would expire many restore points of cluster {cluster.name} at once",
            runbook="backup_retention_approval",
            response_timeout=timedelta(hours=20),  # before the next day's run
        )
        apply = ApplyRetention(task_id="apply", cluster=cluster.name)
        apply_approved = ApplyRetention(task_id="apply_approved", cluster=cluster.name, approval_task="approve")
        sweep = SweepOrphans(task_id="sweep", cluster=cluster.name)
        lifecycle = EnsureLifecycle(task_id="lifecycle")
        replication = CheckReplication(task_id="replication", cluster=cluster.name)
        plan >> apply >> sweep
        plan >> approve >> apply_approved
        plan >> [lifecycle, replication]
