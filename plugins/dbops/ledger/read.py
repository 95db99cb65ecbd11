"""Looking up what was done and seen before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, func, select, true
from sqlalchemy.dialects.postgresql import distinct_on

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
        return [_check(found) for found in session.scalars(wanted.order_by(CheckResult.at, CheckResult.id))]


def failing_checks(
    engine: Engine, names: Sequence[str], since: datetime, *, blind: str | None = None
) -> list[PastCheck]:
    """Of each check and target the newest row since a moment, if it is not well; ordered by target and check.

    :param blind: the `outcome` in the details of rows that saw nothing: they do not count, and the one before does.
    """
    newest = (
        select(CheckResult.id)
        .ext(distinct_on(CheckResult.name, CheckResult.target))
        .where(CheckResult.name.in_(names), CheckResult.at >= since)
        .where(true() if blind is None else func.coalesce(CheckResult.details["outcome"].astext, "") != blind)
        .order_by(CheckResult.name, CheckResult.target, CheckResult.at.desc(), CheckResult.id.desc())
    )
    wanted = select(CheckResult).where(CheckResult.id.in_(newest), CheckResult.ok.is_(False))
    with transaction(engine) as session:
        return [_check(found) for found in session.scalars(wanted.order_by(CheckResult.target, CheckResult.name))]


def last_looks(engine: Engine, name: str, prefix: str) -> dict[str, datetime]:
    """When a check last looked at each of its targets that begin with `prefix`."""
    wanted = (
        select(CheckResult.target, func.max(CheckResult.at))
        .where(CheckResult.name == name, CheckResult.target.startswith(prefix, autoescape=True))
        .group_by(CheckResult.target)
    )
    with transaction(engine) as session:
        return {found[0]: found[1] for found in session.execute(wanted)}


def actions_since(engine: Engine, name: str, since: datetime) -> list[PastAction]:
    """What was done of a name since a moment, in that order."""
    wanted = select(Action).where(Action.name == name, Action.started_at >= since)
    with transaction(engine) as session:
        return [_action(found) for found in session.scalars(wanted.order_by(Action.started_at, Action.id))]


def _check(found: CheckResult) -> PastCheck:
    return PastCheck(
        found.name, found.target, found.run, found.at, found.ok, found.value, found.unit, found.message, found.details
    )


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
