"""What one run of the maintenance does, decided before anything is done, shown, and stored in the ledger."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from dbops.errors import ConfigurationError, FinalError
from dbops.platform import Redshift
from dbops.redshift.rules import Decision, Form, analyze_statement, decide_all, vacuum_statement
from dbops.redshift.session import Session
from dbops.redshift.views import open_transactions, session_facts, table_figures

if TYPE_CHECKING:
    from sqlalchemy import Engine

PLAN = "redshift_plan"
ANALYZE = "redshift_analyze"
STEPS = (ANALYZE, *(f"redshift_vacuum_{form.replace(' ', '_')}" for form in Form))
"""Names of actions in the ledger."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(_Document):
    """One statement of a plan."""

    form: Form | None
    """None: ANALYZE."""
    schema_name: str
    table: str
    table_id: int
    to_percent: int
    boost: bool
    reason: str
    benefit_mb: float

    @property
    def target(self) -> str:
        return f"{self.schema_name}.{self.table}"

    @property
    def action(self) -> str:
        """Its name in the ledger."""
        return ANALYZE if self.form is None else f"redshift_vacuum_{self.form.replace(' ', '_')}"

    @property
    def statement(self) -> str:
        if self.form is None:
            return analyze_statement(self.schema_name, self.table)
        return vacuum_statement(self.schema_name, self.table, self.form, self.to_percent, boost=self.boost)


class Advice(_Document):
    """What a person should do."""

    table: str
    reason: str
    statements: str


class MaintenancePlan(_Document):
    """What one run does, in this order."""

    cluster: str
    run: str
    made_at: datetime
    tables: int
    """Looked at."""
    steps: tuple[Step, ...]
    advice: tuple[Advice, ...]
    blockers: tuple[str, ...]
    """Old open transactions: VACUUM removes no rows that were deleted since they began."""

    @property
    def risky(self) -> tuple[Step, ...]:
        """Steps that sort: each moves the live rows of its table."""
        return tuple(step for step in self.steps if step.form is not None and step.form.sorts)


def plan_maintenance(
    session: Session, redshift: Redshift, *, run: str, tables: Collection[str] = ()
) -> tuple[MaintenancePlan, list[Decision]]:
    """Look at every table and decide; changes nothing.

    :param tables: only these (`schema.table`); empty: all.
    :raises ConfigurationError: one of `tables` does not exist, has no rows, or is not shown to this login.
    :raises NoInsight: no table is shown.
    """
    found = table_figures(session)
    missing = sorted(set(tables) - {table.name for table in found})
    if missing:
        raise ConfigurationError(f"Redshift {redshift.name}: {', '.join(missing)}: no such table, or it has no rows")
    decisions = decide_all([table for table in found if not tables or table.name in tables], redshift.vacuum)
    old = open_transactions(session, session_facts(session).now - redshift.health.old_transaction)
    plan = MaintenancePlan(
        cluster=redshift.name,
        run=run,
        made_at=datetime.now(UTC),
        tables=len(decisions),
        steps=tuple(step for decision in decisions for step in _steps(decision, boost=redshift.vacuum.boost)),
        advice=tuple(
            Advice(table=decision.table.name, reason="; ".join(decision.reasons), statements=decision.advice)
            for decision in decisions
            if decision.advice
        ),
        blockers=tuple(map(str, old)),
    )
    return plan, decisions


def _steps(decision: Decision, *, boost: bool) -> list[Step]:
    forms: list[Form | None] = [*decision.vacuum, *([None] if decision.analyze else [])]
    return [
        Step(
            form=form,
            schema_name=decision.table.schema,
            table=decision.table.table,
            table_id=decision.table.id,
            to_percent=decision.to_percent,
            boost=boost and form is not None,
            reason="; ".join(decision.reasons),
            benefit_mb=round(decision.benefit, 3),
        )
        for form in forms
    ]


def plan_in_words(plan: MaintenancePlan, decisions: list[Decision]) -> list[str]:
    """A line for each table, then what else a person should know."""
    lines = [f"{plan.tables} tables of {plan.cluster} looked at, {len(plan.steps)} statements to run"]
    for decision in decisions:
        what = [f"VACUUM {form.upper()}" for form in decision.vacuum] + ["ANALYZE"] * decision.analyze
        lines.append(f"{decision.table.name}: {' + '.join(what) or 'nothing'}: {'; '.join(decision.reasons)}")
    lines += [f"{item.table}: deep copy by hand: {item.reason}\n{item.statements}" for item in plan.advice]
    lines += [f"rows deleted since it began stay until it ends: {blocker}" for blocker in plan.blockers]
    return lines


def store_plan(ledger: Engine, plan: MaintenancePlan) -> None:
    from dbops.ledger import record_action

    record_action(
        ledger,
        name=PLAN,
        target=plan.cluster,
        run=plan.run,
        started_at=plan.made_at,
        finished_at=plan.made_at,
        outcome="done",
        message=f"{len(plan.steps)} statements for {plan.tables} tables",
        details=plan.model_dump(mode="json"),
    )


def stored_plan(ledger: Engine, cluster: str, run: str) -> MaintenancePlan:
    """:raises FinalError: this run has none."""
    from dbops.ledger import find_action

    found = find_action(ledger, PLAN, cluster, run)
    if found is None:
        raise FinalError(f"maintenance of {cluster}: run {run} has no plan in the ledger; clear its task `plan`")
    return MaintenancePlan.model_validate(found.details)
