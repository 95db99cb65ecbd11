"""The task that stops a run until a person has seen its plan."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.alerts.airflow import approval_over, approval_wanted

if TYPE_CHECKING:
    from airflow.sdk import Context

APPROVAL = "approval"  # XCom key: the plan in words when a person has to approve it, else None


class ApprovePlan(ApprovalOperator):
    """Wait for a person when the planning task asks for one; skipped when it does not.

    Guarantees: the text that is approved is the one that the planning task left. A warning is raised while it waits.
    Rejected, or not answered in time, it fails and is not asked again.

    :param plan_task: the task that leaves the text under XCom key `approval`.
    :param subject: headline in Airflow's list of required actions.
    :param runbook: name of a page in include/runbooks, without `.md`.
    :param response_timeout: how long to wait.
    """

    template_fields: Collection[str] = ()

    def __init__(
        self, *, plan_task: str, subject: str, runbook: str, response_timeout: timedelta, **kwargs: Any
    ) -> None:
        super().__init__(subject=subject, fail_on_reject=True, response_timeout=response_timeout, **kwargs)
        self.plan_task, self.runbook = plan_task, runbook

    def execute(self, context: Context) -> Any:
        text = context["ti"].xcom_pull(task_ids=self.plan_task, key=APPROVAL)
        if not text:
            raise AirflowSkipException("the plan needs no approval")
        self.body = text
        approval_wanted(context, text, self.runbook)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        try:
            return super().execute_complete(context, event)
        finally:
            approval_over(context)


def is_approved(context: Context, task_id: str) -> bool:
    """Whether a person has approved in that task of this run; False when it was skipped."""
    answer = context["ti"].xcom_pull(task_ids=task_id)
    return bool(answer) and answer.get("chosen_options") == [ApprovalOperator.APPROVE]
