"""Operators of `postgres_recovery`: one step of `dbops.postgres.recovery` each. What a retry finds is gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from dbops.adapter import connection, open_ledger, open_platform_store
from dbops.approval_operators import APPROVAL, is_approved
from dbops.platform import Severity, duration_text, load_platform

if TYPE_CHECKING:
    from airflow.sdk import Context

    from dbops.postgres.recovery import Report, World
    from dbops.postgres.recovery_plan import RecoveryPlan

TARGET = "recovery_target"  # XCom key


def _world() -> World:
    from dbops.postgres.recovery import open_world

    platform = load_platform()
    return open_world(platform, connection, open_platform_store(platform), open_ledger(platform))


def _plan(world: World, context: Context, plan_task: str) -> RecoveryPlan:
    from dbops.postgres.recovery_state import Recovery

    target = context["ti"].xcom_pull(task_ids=plan_task, key=TARGET)
    if target is None:
        raise AirflowException(f"task {plan_task} left no plan: it failed; clear it and what follows")
    return Recovery(world.store, target, world.ledger).plan()


class PlanRecovery(BaseOperator):
    """Check the moment against what RDS can restore, the CNAME and the deployments, and write the plan down.

    Guarantees: no instance is made and nothing is switched. A retry of the run takes the plan that it has made. Reads
    the trigger form: `source`, `point_in_time`, `reason`.

    :raises RecoveryRefused: the moment has no time zone, lies in the future or outside of what RDS can restore.
    """

    template_fields: Sequence[str] = ()

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.postgres.recovery import begin

        params, run = context["params"], context["dag_run"]
        plan = begin(
            _world(),
            run=f"{run.dag_id}/{run.run_id}",
            reason=params.get("reason") or "",
            at=params.get("point_in_time"),
            asked_at=run.start_date or datetime.now(UTC),
            source=params.get("source") or None,
        )
        self.log.info("%s", plan.describe())
        context["ti"].xcom_push(TARGET, plan.target)
        return {"target": plan.target, "moment": f"{plan.moment:%FT%TZ}"}


class _Step(BaseOperator):
    """A step of the recovery that `plan_task` has planned.

    :param plan_task: task id of the `PlanRecovery` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan_task = plan_task


class _WaitingStep(BaseSensorOperator):
    """A step that is asked again until it is done, without holding a worker's slot in between.

    Its own limits, in the platform file, end the waiting with words; the sensor's timeout is only a net behind them.

    :param plan_task: task id of the `PlanRecovery` of this DAG.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, plan_task: str = "plan", **kwargs: Any) -> None:
        super().__init__(mode="reschedule", timeout=timedelta(days=2), **kwargs)
        self.plan_task = plan_task


class RestoreInstance(_WaitingStep):
    """Make the new instance and wait until it is available.

    Guarantees: one instance per run, whatever is retried or killed; one that is not this run's is refused. It gets the
    source's subnet, security, parameter and option groups, Multi-AZ, tags and deletion protection. When it does not
    come, the error says what exists and how it is removed.
    """

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from dbops.postgres.recovery import restore

        world = _world()
        plan = _plan(world, context, self.plan_task)
        done = restore(world, plan)
        return PokeReturnValue(True, {"instance": plan.target}) if done else False


class EmitTerraform(_Step):
    """Write the Terraform that brings the code in line into the bucket; the returned value is its URL."""

    def execute(self, context: Context) -> str:
        from dbops.postgres.recovery import emit_terraform

        world = _world()
        url = emit_terraform(world, _plan(world, context, self.plan_task))
        self.log.info("%s", url)
        return url


class ValidateRecovery(_Step):
    """Run the validation queries on the new instance and compare its tables with the damaged one.

    The findings stand in the bucket, in the log, and in the text that a person approves.

    :raises ValidationFailed: a query, a table or a setting is not as it should be. Nothing was switched; it is kept.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.postgres.recovery import check

        world = _world()
        plan = _plan(world, context, self.plan_task)
        findings = check(world, plan)
        text = f"{plan.describe()}\n\n{findings.describe()}"
        self.log.info("%s", text)
        context["ti"].xcom_push(APPROVAL, text)
        return {
            "validations": len(findings.validations),
            "tables": {one.table: "equal" if one.is_equal else "differs" for one in findings.tables},
        }


class SwitchRecord(_Step):
    """Let the CNAME lead to the new instance.

    Guarantees: only when a person has approved it in this run, and only when the record still is as the plan saw it.

    :param approval_task: the `ApprovePlan` of this DAG.
    """

    def __init__(self, *, approval_task: str = "approve", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approval_task = approval_task

    def execute(self, context: Context) -> None:
        from dbops.postgres.recovery import decided, switch

        world = _world()
        plan = _plan(world, context, self.plan_task)
        if not is_approved(context, self.approval_task):
            raise AirflowSkipException("nobody has approved the switch")
        answer = context["ti"].xcom_pull(task_ids=self.approval_task) or {}
        who = (answer.get("responded_by_user") or {}).get("name") or "a person in Airflow"
        now = datetime.now(UTC)
        approval = world.state(plan).step("approve")
        if approval is None or approval.outcome != "done":  # a retry leaves the time of the first one
            decided(world, plan, approved=True, who=who, asked_at=now)
        switch(world, plan)


class FollowRecord(_WaitingStep):
    """Wait until Route 53 is in sync and the record's TTL has passed.

    :raises NotFollowed: it takes longer than `record.timeout`.
    """

    def poke(self, context: Context) -> bool:
        from dbops.postgres.recovery import follow

        world = _world()
        return follow(world, _plan(world, context, self.plan_task))


class RestartDeployments(_Step):
    """Restart the configured deployments; each is restarted once for this run."""

    def execute(self, context: Context) -> list[str]:
        from dbops.postgres.recovery import restart

        world = _world()
        return restart(world, _plan(world, context, self.plan_task))


class FollowRollout(_WaitingStep):
    """Wait until the deployments have only new pods, all available.

    :raises RolloutFailed, NotFollowed: one has not.
    """

    def poke(self, context: Context) -> bool:
        from dbops.postgres.recovery import rollout

        world = _world()
        return rollout(world, _plan(world, context, self.plan_task))


class CheckSessions(_WaitingStep):
    """Wait until the deployments' sessions are on the new instance.

    :raises NotFollowed: they are not, after `sessions_timeout`.
    """

    def poke(self, context: Context) -> bool:
        from dbops.postgres.recovery import arrived

        world = _world()
        return arrived(world, _plan(world, context, self.plan_task))


class ReportRecovery(_Step):
    """Put the time of each step beside the RTO, and write the report. Writes the check `postgres_rto`.

    A recovery that took longer raises a warning.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.postgres.recovery import report

        world = _world()
        done = report(world, _plan(world, context, self.plan_task))
        self.log.info("%s", done.describe())
        self._tell(context, world.postgres.name, done)
        return done.model_dump(mode="json")

    def _tell(self, context: Context, instance: str, done: Report) -> None:
        from dbops.alerts.airflow import notify, resolve
        from dbops.alerts.alert import Alert
        from dbops.postgres.recovery import RTO

        key = f"{RTO}/{instance}"
        if done.in_time:
            resolve(key)
            return
        slowest = max(done.phases, key=lambda name: done.phases[name])
        notify(
            Alert(
                severity=Severity.WARNING,
                key=key,
                title=f"Recovering {instance} takes longer than its RTO",
                what=f"{done.target} was ready later than was promised; most of the time went to {slowest}.",
                value=duration_text(timedelta(seconds=round(done.seconds))),
                limit=duration_text(timedelta(seconds=done.rto_seconds)),
                run_url=str(context["ti"].log_url),
                runbook="postgres_recovery",
            )
        )


class KeepInstance(_Step):
    """Say what there is after a recovery that switched nothing: it was rejected, not answered, or found wanting.

    :raises AirflowSkipException: there is no plan, so nothing was made.
    """

    def execute(self, context: Context) -> str:
        from dbops.postgres.recovery import decided, kept

        if context["ti"].xcom_pull(task_ids=self.plan_task, key=TARGET) is None:
            raise AirflowSkipException(f"task {self.plan_task} left no plan: nothing was made")
        world = _world()
        plan = _plan(world, context, self.plan_task)
        steps = world.state(plan).steps()
        if (found := steps.get("validate")) is not None and found.outcome == "done" and "approve" not in steps:
            at = found.finished_at or found.started_at
            decided(world, plan, approved=False, who="rejected, or not answered in time", asked_at=at)
        text = kept(world, plan)
        self.log.warning("%s", text)
        return text


class RollBackRecord(_WaitingStep):
    """Let the CNAME lead to the source again, when this run has switched it, and wait until everybody sees it.

    Guarantees: only when it still leads to the new instance. Both instances are kept.
    """

    def poke(self, context: Context) -> bool:
        from dbops.postgres.recovery import roll_back_dns

        if context["ti"].xcom_pull(task_ids=self.plan_task, key=TARGET) is None:
            raise AirflowSkipException(f"task {self.plan_task} left no plan: nothing was switched")
        world = _world()
        plan = _plan(world, context, self.plan_task)
        if world.state(plan).step("switch") is None:
            raise AirflowSkipException("nothing was switched")
        return roll_back_dns(world, plan)


class RollBackDeployments(_WaitingStep):
    """Restart those deployments again that this run has restarted, and wait for their rollout."""

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from dbops.postgres.recovery import kept, roll_back_deployments

        world = _world()
        plan = _plan(world, context, self.plan_task)
        if not roll_back_deployments(world, plan):
            return False
        text = kept(world, plan)
        self.log.warning("%s", text)
        return PokeReturnValue(True, text)
