"""Looking up what was done and seen before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, select

from dbops.ledger.models import Action, CheckResult
from dbops.ledger.session import transaction


@dataclass(frozen=True)
class PastAction:
    name: str
    target: str
    run: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str
    message: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class PastCheck:
    name: str
    target: str
    run: str
    at: datetime
    ok: bool
    value: float | None
    unit: str | None
    message: str
    details: Mapping[str, Any]


def find_action(engine: Engine, name: str, target: str, run: str) -> PastAction | None:
    with transaction(engine) as session:
        wanted = select(Action).where(Action.name == name, Action.target == target, Action.run == run)
        found = session.scalar(wanted)
        return None if found is None else _action(found)


def actions_of(engine: Engine, run: str, names: Sequence[str]) -> list[PastAction]:
    """What a run did of these names, in the order it began."""
    with transaction(engine) as session:
        wanted = select(Action).where(Action.run == run, Action.name.in_(names))
        return [_action(found) for found in session.scalars(wanted.order_by(Action.started_at, Action.id))]


def checks_since(engine: Engine, name: str, target: str, since: datetime) -> list[PastCheck]:
    """What a check saw since a moment, the oldest first."""
    with transaction(engine) as session:
        wanted = select(CheckResult).where(
            CheckResult.name == name, CheckResult.target == target, CheckResult.at >= since
        )
        return [
            PastCheck(
                found.name,
                found.target,
                found.run,
                found.at,
                found.ok,
                found.value,
                found.unit,
                found.message,
                found.details,
            )
            for found in session.scalars(wanted.order_by(CheckResult.at, CheckResult.id))
        ]


def _action(found: Action) -> PastAction:
    return PastAction(
        found.name,
        found.target,
        found.run,
        found.started_at,
        found.finished_at,
        found.outcome,
        found.message,
        found.details,
    )
