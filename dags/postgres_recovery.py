"""Brings PostgreSQL back to a moment, by hand: a new instance, checked, and after an approval everybody is led to it.

**What happens**: `plan` checks the moment against what RDS can restore, the CNAME and the deployments. `restore` makes
a new instance with the settings of the source and waits for it; `terraform` writes the code that goes with it.
`validate` runs the validation queries and compares tables with the damaged instance. A person must approve the
findings. Then `switch` lets the CNAME lead to the new instance, `dns` waits for Route 53 and the TTL, deployments are
restarted and rolled out, and their sessions must arrive. When one of these fails, the CNAME is led back and the
deployments are restarted again. No instance is deleted or changed: both are kept.

**When it fails**: the CNAME leads to the source again, or never led elsewhere; the log of `roll_back_deployments` or
`keep` says what exists. Clearing the failed task and what follows goes on with what is there.
`include/runbooks/postgres_recovery.md` is the how-to, and what each refusal means.

**By hand**: *Trigger* with a point in time (with time zone, or `latest`) and a reason; or
`dbops postgres recovery run` when Airflow is down.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param, TriggerRule
from dbops.adapter import DEFAULT_ARGS
from dbops.alerts.airflow import alert_on_failure, remember_error, resolve_on_success
from dbops.approval_operators import ApprovePlan
from dbops.platform import Severity, load_platform
from dbops.postgres.recovery_operators import (
    CheckSessions,
    EmitTerraform,
    FollowRecord,
    FollowRollout,
    KeepInstance,
    PlanRecovery,
    ReportRecovery,
    RestartDeployments,
    RestoreInstance,
    RollBackDeployments,
    RollBackRecord,
    SwitchRecord,
    ValidateRecovery,
)
from dbops.tags import Tag

postgres = load_platform().postgres

if postgres is not None and postgres.recovery is not None:
    poll = postgres.recovery.poll
    with DAG(
        dag_id="postgres_recovery",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        # Somebody waits for it: its tasks go before those of backups and maintenance.
        default_args=DEFAULT_ARGS | {"on_failure_callback": remember_error, "priority_weight": 1000},
        tags=[Tag.POSTGRES, Tag.BACKUP, Tag.RESTORE, Tag.CRITICAL],
        description="Brings PostgreSQL back to a point in time, on a new instance",
        doc_md=__doc__,
        on_failure_callback=alert_on_failure(Severity.CRITICAL, "postgres_recovery"),
        on_success_callback=resolve_on_success,
        params={
            "source": Param(
                postgres.name,
                type="string",
                pattern=r"^[a-z](-?[a-z0-9])*$",
                title="Source",
                description="The instance that is brought back. The CNAME of the applications must lead to it.",
            ),
            "point_in_time": Param(
                "latest",
                type="string",
                pattern=r"^(latest|\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?([Zz]|[+-]\d{2}:?\d{2}))$",
                title="Point in time",
                description="With time zone: 2026-11-24T05:59:59Z, the second before the damage. `latest` replays the "
                "damage too: it is for an instance that is lost, not for data that is wrong.",
            ),
            "reason": Param(
                "a drill",
                type="string",
                minLength=1,
                title="Reason",
                description="Why; stands in the ledger and on the new instance.",
            ),
        },
    ):
        plan = PlanRecovery(task_id="plan")
        restore = RestoreInstance(task_id="restore", poke_interval=poll)
        terraform = EmitTerraform(task_id="terraform")
        validate = ValidateRecovery(task_id="validate")
        approve = ApprovePlan(
            task_id="approve",
            plan_task="validate",
            subject="The applications are about to be led to a recovered PostgreSQL instance",
            runbook="postgres_recovery",
            response_timeout=postgres.recovery.approval_timeout,
        )
        switch = SwitchRecord(task_id="switch")
        dns = FollowRecord(task_id="dns", poke_interval=poll)
        restart = RestartDeployments(task_id="restart")
        rollout = FollowRollout(task_id="rollout", poke_interval=poll)
        sessions = CheckSessions(task_id="sessions", poke_interval=poll)
        report = ReportRecovery(task_id="report")
        keep = KeepInstance(task_id="keep", trigger_rule=TriggerRule.ALL_FAILED)
        roll_back_dns = RollBackRecord(task_id="roll_back_dns", poke_interval=poll, trigger_rule=TriggerRule.ONE_FAILED)
        roll_back = RollBackDeployments(task_id="roll_back_deployments", poke_interval=poll)

        plan >> restore >> [terraform, validate]
        validate >> approve >> switch >> dns >> restart >> rollout >> sessions >> report
        terraform >> report
        approve >> keep
        [switch, dns, restart, rollout, sessions] >> roll_back_dns >> roll_back
