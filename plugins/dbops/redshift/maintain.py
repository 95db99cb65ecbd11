"""Carrying a maintenance plan out: one VACUUM or ANALYZE at a time, in a window, proven by history and figures.

A VACUUM that has no right to a table, or finds an older open transaction, ends well and does nothing; one whose
connection is lost may go on. So nothing is done because a statement ended: it is done when Redshift's history has it
and the table's figures moved. Each step has its row in the ledger before it runs, with the cluster's time and the
process, by which a later attempt of the same run finds out what became of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

from dbops.errors import FinalError, RetryableError
from dbops.platform import Window, duration_text
from dbops.redshift.judge import Outcome, blocked, judge_analyze, judge_vacuum
from dbops.redshift.plan import MaintenancePlan, Step
from dbops.redshift.rules import Form
from dbops.redshift.session import (
    RedshiftUnreachable,
    SerializationConflict,
    Session,
    StatementCancelled,
    StatementRefused,
)
from dbops.redshift.views import (
    AnalyzeRecord,
    Connect,
    SessionFacts,
    TableFigures,
    VacuumRecord,
    analyze_history,
    moment,
    one_table,
    open_transactions,
    running_since,
    running_vacuums,
    session_facts,
    vacuum_history,
)
from dbops.sql import statement

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.ledger import PastAction

log = logging.getLogger(__name__)

BUSY = "55000"
"""What Redshift answers to a second VACUUM."""
MOST_ATTEMPTS = 3
RECONNECTS = 6


@dataclass(frozen=True)
class Deadlines:
    last_start: datetime
    hard_end: datetime

    @classmethod
    def of(cls, window: Window, begins_at: datetime) -> Deadlines:
        return cls(begins_at + window.last_start, begins_at + window.hard_end)


@dataclass(frozen=True)
class StepResult:
    step: Step
    outcome: Outcome
    message: str
    needs_person: bool = False
    """It will be the same next time unless somebody does something."""
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class _SomebodyWasQuicker(Exception):
    """Another VACUUM began between the look and ours."""


# --- carrying it out ----------------------------------------------------------------------------------------


class Maintainer:
    """Carries out a plan.

    :param connect: opens a session; a second one is opened to cancel.
    :param old_transaction: one that is open longer keeps VACUUM from removing deleted rows.
    :param ledger: None: nothing is remembered, and a repeated run begins anew.
    :param poll_seconds: between two looks at something that is waited for.
    :param settle_seconds: how long history may take to show a statement that has ended.
    """

    def __init__(
        self,
        connect: Connect,
        deadlines: Deadlines,
        *,
        old_transaction: timedelta,
        ledger: Engine | None = None,
        poll_seconds: float = 10.0,
        settle_seconds: float = 15.0,
        on_result: Callable[[StepResult], None] = lambda result: None,
    ) -> None:
        self._connect, self._deadlines, self._ledger = connect, deadlines, ledger
        self._old_transaction, self._poll, self._settle = old_transaction, poll_seconds, settle_seconds
        self._on_result = on_result
        self._session: Session | None = None
        self._running: int | None = None  # process that runs the present statement
        self._plan: MaintenancePlan | None = None

    def carry_out(self, plan: MaintenancePlan) -> list[StepResult]:
        """Run every step that this run has not done yet; one that fails does not hold back the others.

        :raises RedshiftUnreachable: the cluster does not come back. Called again, it goes on where this broke off.
        """
        self._plan = plan
        results = []
        try:
            for step in plan.steps:
                result = self._known(step) or self._attempts(step)
                results.append(result)
                self._on_result(result)
        except Exception:
            raise  # a lost cluster: what still runs there is found by the next attempt
        except BaseException:
            self.cancel()  # whoever stops this (Ctrl-C) must not leave a VACUUM behind that nobody watches
            raise
        finally:
            self._drop_session()
        return results

    def cancel(self) -> None:
        """End the statement that runs at the moment, through a second connection."""
        pid = self._running
        if pid is None:
            return
        try:
            session = self._connect()
            try:
                session.rows(statement("redshift/cancel"), pid)
            finally:
                session.close()
        except (RetryableError, FinalError) as error:
            log.warning("the statement of process %d was not cancelled: %s", pid, error)

    # --- one step

    def _known(self, step: Step) -> StepResult | None:
        """What this run already did of a step, also by finding out what became of it; None: it is to be run."""
        past = self._past(step)
        if past is None:
            return None
        if past.outcome in {"done", "skipped"} or (past.outcome == "failed" and self._is_over()):
            return StepResult(
                step,
                cast("Outcome", past.outcome),
                past.message,
                bool(past.details.get("needs_person")),
                past.details.get("before", {}),
                past.details.get("after", {}),
                float(past.details.get("seconds", 0)),
            )
        if past.outcome == "running" and "pid" in past.details:
            facts = SessionFacts(moment(past.details["at"]), int(past.details["pid"]))
            log.info("%s was begun by an earlier attempt, finding out what became of it", step.statement)
            return self._adopt(step, facts, past.details.get("before", {}))
        return None

    def _attempts(self, step: Step) -> StepResult:
        for attempt in range(1, MOST_ATTEMPTS + 1):
            result = self._step(step)
            if result is not None:
                return result
            log.warning("%s: attempt %d was lost and left nothing", step.statement, attempt)
        return self._conclude(
            step,
            "failed",
            f"the connection was lost {MOST_ATTEMPTS} times while it ran, and nothing came of it",
            person=True,
        )

    def _step(self, step: Step) -> StepResult | None:
        """Run it, once no other VACUUM does; None: it was lost without a trace."""
        while True:
            try:
                return self._try(step)
            except _SomebodyWasQuicker:  # and may be invisible to this login: then only another try finds their end
                time.sleep(self._poll)

    def _try(self, step: Step) -> StepResult | None:
        if self._is_over():
            return self._conclude(
                step, "skipped", f"not begun: no statement starts after {_at(self._deadlines.last_start)}"
            )
        session = self._reconnected()
        table = one_table(session, step.table_id)
        if table is None or table.name != step.target:
            return self._conclude(step, "skipped", "the table is gone, was renamed, or has no rows any more")
        form, remark = step.form, ""
        if form is not None and form.deletes:
            blockers = open_transactions(session, session_facts(session).now - self._old_transaction)
            if blockers and form == Form.DELETE_ONLY:
                return self._conclude(step, "skipped", f"not run: {blocked(blockers)}", table.as_details(), person=True)
            if blockers and form == Form.FULL:
                form, remark = Form.SORT_ONLY, f"; sorted only: {blocked(blockers)}"
        if form is not None and (other := self._wait_for_others(session)):
            return self._conclude(
                step, "skipped", f"not run: {other} ran for the rest of the window", table.as_details()
            )
        return self._run(step.model_copy(update={"form": form}), step, table, remark)

    def _run(self, run: Step, step: Step, table: TableFigures, remark: str) -> StepResult | None:
        """:param run: the step as it runs; `step` is the one of the plan."""
        session = self._reconnected()
        facts = session_facts(session)
        before = table.as_details()
        self._record(step, "running", "", before, {"at": facts.now.isoformat(), "pid": facts.pid})
        log.info("%s (%s)", run.statement, run.reason)
        started = time.monotonic()
        self._running = facts.pid
        try:
            left = max(1.0, (self._deadlines.hard_end - datetime.now(UTC)).total_seconds())
            session.run(f"set statement_timeout to {int(left * 1000)}")
            session.run(run.statement)
        except RedshiftUnreachable as error:
            log.warning("%s: %s", run.statement, error)
            self._drop_session()
            return self._adopt(step, facts, before)
        except StatementCancelled as error:
            return self._conclude(
                step, "failed", self._cancelled(error), before, self._after(run), started, person=True
            )
        except SerializationConflict as error:
            log.warning("%s: %s", run.statement, error)
            return None
        except StatementRefused as error:
            if error.code == BUSY and "VACUUM is running" in str(error):
                log.info("%s: somebody was quicker, waiting for them", run.statement)
                raise _SomebodyWasQuicker from None
            return self._conclude(step, "failed", str(error), before, {}, started, person=True)
        finally:
            self._running = None
            self._drop_session()  # with its time limit
        return self._judged(run, step, facts, before, started, remark)

    def _judged(
        self, run: Step, step: Step, facts: SessionFacts, before: Mapping[str, Any], started: float, remark: str
    ) -> StepResult:
        session = self._reconnected()
        history = self._history(session, run, facts.now)
        table = one_table(session, step.table_id)
        after = (
            table.as_details()
            if table
            else {"rows": 0, "deleted_rows": 0, "unsorted": 0.0, "stats_off": 0.0, "size_mb": 0}
        )
        blockers = open_transactions(session, facts.now) if run.form and run.form.deletes else []
        if run.form is None:
            verdict = judge_analyze(before, after, history if isinstance(history, AnalyzeRecord) else None)
        else:
            verdict = judge_vacuum(
                run.form, before, after, history if isinstance(history, VacuumRecord) else None, blockers
            )
        return self._conclude(
            step,
            verdict.outcome,
            verdict.message + remark,
            before,
            after,
            started,
            person=verdict.needs_person or bool(remark),
        )

    def _history(self, session: Session, step: Step, since: datetime) -> VacuumRecord | AnalyzeRecord | None:
        """The last record of a statement that began at or after a moment; it may take a while to appear."""
        give_up = time.monotonic() + self._settle
        while True:
            ended = _ended(session, step, since)
            if ended or time.monotonic() >= give_up:
                return ended[-1] if ended else None
            time.sleep(min(1.0, self._settle))

    def _adopt(self, step: Step, facts: SessionFacts, before: Mapping[str, Any]) -> StepResult | None:
        """What became of a statement whose connection is lost. It may still run: then its end is waited for."""
        started = time.monotonic()
        self._running = facts.pid
        session = self._reconnected()
        is_cancelled = False
        while any(begun >= facts.now - timedelta(seconds=1) for begun in running_since(session, facts.pid)):
            if datetime.now(UTC) >= self._deadlines.hard_end and not is_cancelled:
                session.rows(statement("redshift/cancel"), facts.pid)
                is_cancelled = True
            time.sleep(self._poll)
            session = self._reconnected()
        self._running = None
        records = _ended(session, step, facts.now)
        if not records or (isinstance(records[-1], VacuumRecord) and records[-1].is_failed):
            if not self._is_over():
                return None
            why = "the connection was lost while it ran, nothing came of it, and nothing starts any more"
            if is_cancelled or datetime.now(UTC) >= self._deadlines.hard_end:
                why = self._cancelled(None)
            return self._conclude(step, "failed", why, before, self._after(step), started, person=True)
        result = self._judged(step, step, facts, before, started, "")
        log.info("%s: the connection was lost, and it ended all the same: %s", step.statement, result.message)
        return result

    # --- parts

    def _wait_for_others(self, session: Session) -> str:
        """Wait until no VACUUM runs on the cluster; what still ran when none may start any more."""
        told = False
        while others := running_vacuums(session):
            if self._is_over():
                return str(others[0])
            if not told:
                log.info("waiting for %s: a cluster runs one VACUUM at a time", others[0])
                told = True
            time.sleep(self._poll)
        return ""

    def _after(self, step: Step) -> Mapping[str, Any]:
        table = one_table(self._reconnected(), step.table_id)
        return table.as_details() if table else {}

    def _cancelled(self, error: StatementCancelled | None) -> str:
        if datetime.now(UTC) >= self._deadlines.hard_end - timedelta(seconds=2):
            return (
                f"cancelled at the hard end of the window, {_at(self._deadlines.hard_end)}: it needs more time than "
                "that; what it had sorted stays sorted"
            )
        return f"cancelled by somebody, or by a rule of a queue: {error}"

    def _is_over(self) -> bool:
        return datetime.now(UTC) >= self._deadlines.last_start

    def _reconnected(self) -> Session:
        """A session in which history has UTC and ANALYZE leaves no table out.

        :raises RedshiftUnreachable: several times in a row.
        """
        attempt = 0
        while self._session is None:
            attempt += 1
            try:
                self._session = self._connect()
                self._session.run("set timezone to 'UTC'")
                self._session.run("set analyze_threshold_percent to 0")
            except RedshiftUnreachable:
                self._drop_session()
                if attempt == RECONNECTS:
                    raise
                time.sleep(self._poll)
        return self._session

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _past(self, step: Step) -> PastAction | None:
        """The step's row of this run; one from before the plan was made anew does not count."""
        from dbops.ledger import find_action

        assert self._plan is not None
        if self._ledger is None:
            return None
        found = find_action(self._ledger, step.action, f"{self._plan.cluster}/{step.target}", self._plan.run)
        return found if found is not None and _begun(found) >= self._plan.made_at else None

    def _conclude(
        self,
        step: Step,
        outcome: Outcome,
        message: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        started: float | None = None,
        *,
        person: bool = False,
    ) -> StepResult:
        seconds = time.monotonic() - started if started is not None else 0.0
        more = {"after": dict(after or {}), "needs_person": person, "seconds": round(seconds, 3)}
        self._record(step, outcome, message, before or {}, more)
        (log.info if outcome == "done" else log.warning)("%s: %s: %s", step.statement, outcome, message)
        return StepResult(step, outcome, message, person, before or {}, after or {}, round(seconds, 3))

    def _record(
        self,
        step: Step,
        outcome: Outcome | Literal["running"],
        message: str,
        before: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> None:
        from dbops.ledger import record_action

        if self._ledger is None:
            return
        assert self._plan is not None
        now = datetime.now(UTC)
        details = {"statement": step.statement, "reason": step.reason, "begun": now.isoformat(), "before": dict(before)}
        record_action(
            self._ledger,
            name=step.action,
            target=f"{self._plan.cluster}/{step.target}",
            run=self._plan.run,
            started_at=now,
            finished_at=None if outcome == "running" else now,
            outcome=outcome,
            message=message,
            details=details | dict(more),
        )


def _ended(session: Session, step: Step, since: datetime) -> Sequence[VacuumRecord | AnalyzeRecord]:
    """What the history has of statements of this kind that began at or after a moment, and are over."""
    found: Sequence[VacuumRecord | AnalyzeRecord] = (
        analyze_history(session, step.table_id, since)
        if step.form is None
        else vacuum_history(session, step.table_id, since)
    )
    return [record for record in found if record.ended_at is not None or record.is_skipped]


def _begun(past: PastAction) -> datetime:
    """When the step was begun last: a row keeps `started_at` of its first time."""
    found = past.details.get("begun")
    return datetime.fromisoformat(found) if found else past.started_at


def _at(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def in_words(results: Collection[StepResult], duration: timedelta | None = None) -> str:
    """One line: `3 done, 1 skipped, 0 failed`."""
    counts = {name: sum(result.outcome == name for result in results) for name in ("done", "skipped", "failed")}
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return told + (f" in {duration_text(duration)}" if duration is not None else "")
