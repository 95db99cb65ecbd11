"""How far a recovery is: its plan, steps and report, as objects of the platform's bucket and rows of the ledger.

The bucket is what a retry, another process and the command line go by; the ledger is for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from dbops.backups.manifest import Document, Utc
from dbops.backups.store import AlreadyExists, NotFound, Store
from dbops.errors import DbopsError, FinalError
from dbops.postgres.recovery_plan import RecoveryPlan
from dbops.redact import redact

if TYPE_CHECKING:
    from sqlalchemy import Engine

PREFIX = "recoveries/postgres"
ACTION = "postgres_recovery"
Outcome = Literal["running", "done", "failed", "skipped"]

STEPS = (
    "plan", "restore", "terraform", "validate", "approve", "switch", "dns", "restart", "rollout", "sessions", "report",
    "roll_back_dns", "roll_back_deployments",
)  # fmt: skip
PHASES = {
    "plan": "plan", "restore": "restore", "validate": "validate", "approve": "approve", "dns": "dns",
    "rollout": "restart", "sessions": "sessions",
}  # fmt: skip
"""Step that ends a phase, and the phase: together they are the time to recovery."""


class RecoveryUnknown(FinalError):
    """The bucket knows no such recovery, or what it knows cannot be read."""


class Step(Document):
    """One step: when, with which end, and how it was before and after."""

    name: str
    started_at: Utc
    finished_at: Utc | None = None
    outcome: Outcome = "running"
    message: str = ""
    before: dict[str, Any] = Field(default_factory=dict)
    after: dict[str, Any] = Field(default_factory=dict)


class Recovery:
    """One recovery in the bucket.

    :param ledger: None: its rows are not written (the command line on a bad day).
    """

    def __init__(self, store: Store, target: str, ledger: Engine | None) -> None:
        self.store, self.target, self.ledger = store, target, ledger

    def key(self, name: str) -> str:
        return f"{PREFIX}/{self.target}/{name}"

    def url(self, name: str) -> str:
        return f"{self.store.url}/{self.key(name)}"

    # --- plan ---

    def plan(self) -> RecoveryPlan:
        """:raises RecoveryUnknown: there is none."""
        try:
            return RecoveryPlan.model_validate_json(self.store.get(self.key("plan.json")))
        except NotFound:
            raise RecoveryUnknown(
                f"{self.target}: no recovery of that name in {self.store.url}/{PREFIX}/; `dbops postgres recovery "
                "list` names them"
            ) from None
        except ValidationError as error:
            raise RecoveryUnknown(f"{self.url('plan.json')} cannot be read: {error.errors()[0]['msg']}") from None

    def keep_plan(self, plan: RecoveryPlan) -> RecoveryPlan:
        """Write it down, unless an earlier try has: then that one counts."""
        try:
            self.store.put(self.key("plan.json"), plan.to_json(), if_absent=True)
        except AlreadyExists:
            kept = self.plan()
            if (kept.run, kept.source) != (plan.run, plan.source):
                raise RecoveryUnknown(
                    f"{self.url('plan.json')} is of run {kept.run}, not of {plan.run}: trigger a new run"
                ) from None
            return kept
        return plan

    # --- steps ---

    def step(self, name: str) -> Step | None:
        try:
            return Step.model_validate_json(self.store.get(self.key(f"steps/{name}.json")))
        except NotFound:
            return None

    def steps(self) -> dict[str, Step]:
        """Those that have begun, in their order."""
        return {name: found for name in STEPS if (found := self.step(name)) is not None}

    def note(self, run: str, step: Step) -> Step:
        """Write a step down, in the ledger too."""
        step = step.model_copy(update={"message": redact(step.message)})
        self.store.put(self.key(f"steps/{step.name}.json"), step.to_json())
        if self.ledger is not None:
            from dbops.ledger import record_action

            record_action(
                self.ledger,
                name=ACTION,
                target=f"{self.target}/{step.name}",
                run=run,
                started_at=step.started_at,
                finished_at=step.finished_at,
                outcome=step.outcome,
                message=step.message,
                details={"before": step.before, "after": step.after},
            )
        return step

    @contextmanager
    def working(self, run: str, name: str, before: Mapping[str, Any] | None = None) -> Iterator[Work]:
        """A step that begins, or goes on: it is noted as running, and in the end as done, failed or still running.

        What it found before is kept from its first try.
        """
        known = self.step(name)
        going_on = known is not None and known.outcome == "running"
        work = Work(
            Step(
                name=name,
                started_at=known.started_at if known and going_on else datetime.now(UTC),
                before=dict(known.before if known and known.before else before or {}),
                after=dict(known.after if known and going_on else {}),
            )
        )
        if not going_on:
            self.note(run, work.step)
        finish = partial(_finish, work)
        try:
            yield work
        except FinalError as problem:
            self.note(run, finish("failed", str(problem)))
            raise
        except DbopsError as problem:  # it is tried again: the step goes on
            self.note(run, work.step.model_copy(update={"message": str(problem)}))
            raise
        if work.is_done:
            self.note(run, finish("done", work.message))
        elif work.changed:
            self.note(run, work.step)


class Work:
    """A step under way; who works at it says what it is like afterwards, and when it is done."""

    def __init__(self, step: Step) -> None:
        self.step, self.is_done, self.changed, self.message = step, False, False, ""

    def before(self, **found: Any) -> None:
        """What it is like now, unless an earlier try has said so."""
        self.changed = True
        self.step = self.step.model_copy(update={"before": found | self.step.before})

    def begin_again(self, **found: Any) -> None:
        """What an earlier try waited for is over."""
        self.changed = True
        self.step = self.step.model_copy(update={"started_at": datetime.now(UTC), "after": found})

    def after(self, **found: Any) -> None:
        self.changed = True
        self.step = self.step.model_copy(update={"after": self.step.after | found})

    def done(self, message: str = "", **found: Any) -> None:
        self.after(**found)
        self.is_done, self.message = True, message


def _finish(work: Work, outcome: Outcome, message: str) -> Step:
    return work.step.model_copy(update={"outcome": outcome, "message": message, "finished_at": datetime.now(UTC)})


def phases(asked_at: datetime, steps: Mapping[str, Step]) -> dict[str, timedelta]:
    """How long each phase took, from the moment somebody asked: together they are the time to recovery."""
    found, before = {}, asked_at
    for name, phase in PHASES.items():
        step = steps.get(name)
        if step is None or step.finished_at is None or step.outcome not in ("done", "skipped"):
            continue
        found[phase] = max(step.finished_at - before, timedelta(0))
        before = max(before, step.finished_at)
    return found


def known(store: Store) -> list[str]:
    """Names of the recoveries that the bucket has."""
    return sorted(key.rstrip("/").rpartition("/")[2] for key in store.list_prefixes(f"{PREFIX}/"))
