"""Operators that look before a change is made: the snapshot, and go or no-go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from logging import INFO, WARNING
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from dbops.adapter import connection, open_ledger
from dbops.alerts import Alert, Severity
from dbops.postgres.operators import instance, plain, reader, run_of
from dbops.postgres.snapshot_operators import TakeRdsSnapshot

if TYPE_CHECKING:
    from airflow.sdk import Context, PokeReturnValue

    from dbops.postgres.guard import Change, Verdict


class TakeChangeSnapshot(TakeRdsSnapshot):
    """As `TakeRdsSnapshot`; skipped where the form wants none, and where the instance is not on RDS.

    Reads the trigger form: `snapshot`.
    """

    def poke(self, context: Context) -> bool | PokeReturnValue:
        if not context["params"]["snapshot"]:
            raise AirflowSkipException("no snapshot was wanted")
        if instance()[1].rds is None:
            raise AirflowSkipException("the instance is not on RDS: the platform file has no section postgres.rds")
        return super().poke(context)


class ExamineChange(BaseOperator):
    """Look at all that speaks for or against making a change now.

    Guarantees: changes nothing. Every check has a row in the ledger, also what could not be looked at, which is a
    reason against the change. The verdict with all reasons goes to the summary channel, once for a task; no-go fails
    it.

    Reads the trigger form: `database`, `change`, `ticket`, `rollback`, `expected_version`, `new_version`.

    :param snapshot_task: the task that took a snapshot. None: this is the first look, of which only a no-go is sent.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, snapshot_task: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot_task = snapshot_task

    def execute(self, context: Context) -> dict[str, Any]:
        from dbops.postgres.guard import examine

        platform, postgres = instance()
        now = datetime.now(UTC)
        snapshot = context["ti"].xcom_pull(task_ids=self.snapshot_task) if self.snapshot_task else None
        verdict = examine(platform, postgres, _change(context), reader(postgres), connection, now, snapshot)
        for check in verdict.checks:
            self.log.log(INFO if check.ok else WARNING, "%s: %s", check.name, check.message)
        self._write_down(context, verdict, now)
        if self.snapshot_task or not verdict.is_go:
            self._send(context, verdict)
        verdict.raise_no_go()
        return {"go": True, "checks": len(verdict.checks), "snapshot": snapshot}

    def _write_down(self, context: Context, verdict: Verdict, now: datetime) -> None:
        from dbops.ledger import record_action, record_check
        from dbops.postgres.guard import GUARD, short_name

        platform, postgres = instance()
        ledger, change, run = open_ledger(platform), verdict.change, f"{run_of(context)}/{self.task_id}"
        for check in verdict.checks:
            record_check(
                ledger,
                name=f"postgres_guard_{short_name(check.name)}",
                target=check.target,
                run=run,
                at=now,
                ok=check.ok,
                value=check.value,
                limit=check.limit,
                unit=check.unit,
                message=check.message,
                details=plain(check.details),
            )
        record_action(
            ledger,
            name=GUARD,
            target=f"{postgres.name}/{change.database}",
            run=run,
            started_at=now,
            finished_at=datetime.now(UTC),
            outcome="done" if verdict.is_go else "failed",
            message=verdict.title,
            details={"change": plain(vars(change)), "reasons": list(verdict.reasons)},
        )

    def _send(self, context: Context, verdict: Verdict) -> None:
        from dbops.alerts.airflow import report
        from dbops.postgres.guard import GUARD

        key = f"{GUARD}/{run_of(context)}/{self.task_id}"
        alert = Alert(
            Severity.SUMMARY, key=key, title=verdict.title, what="\n".join(verdict.lines), runbook="postgres_change"
        )
        report(context, [alert], [key])  # a verdict is no problem that lasts


def _change(context: Context) -> Change:
    from dbops.postgres.guard import Change

    form = context["params"]
    return Change(
        database=form["database"],
        what=form["change"],
        ticket=form["ticket"],
        rollback=form["rollback"],
        expected=form["expected_version"],
        brings=form["new_version"],
    )
