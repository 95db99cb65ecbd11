"""How checks have been over some weeks: a figure for each day, added up in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Date, Engine, and_, cast, func, or_, select
from sqlalchemy.dialects.postgresql import distinct_on

from dbops.ledger.models import CheckResult
from dbops.ledger.session import transaction

HOUR = r"/\d{4}-\d\d-\d\dT\d\d$"
"""What ends the target of a check of one hour (`wins/2026-11-22T13`): its hours are one trend."""
RECENT = timedelta(days=1)
MOST = 500
"""Targets; more are no report that anybody reads."""


@dataclass(frozen=True)
class TrendDay:
    """A day of one check and target."""

    day: date
    seen: int
    """Results."""
    failed: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Trend:
    """A check of one target: its newest result, and the days before.

    Of a check of hours, the newest result of each hour that was looked at within the last day; one that failed stands
    for all.
    """

    name: str
    target: str
    at: datetime
    ok: bool
    value: float | None
    limit: float | None
    unit: str | None
    message: str
    days: tuple[TrendDay, ...]
    """The oldest first; a day without a result is left out."""
    low_is_bad: bool = False
    """It failed with less than the limit, as a number of rows does."""

    @property
    def seen(self) -> int:
        return sum(one.seen for one in self.days)

    @property
    def failed(self) -> int:
        return sum(one.failed for one in self.days)

    def worst(self, one: TrendDay) -> float | None:
        """The worst value of a day."""
        return one.low if self.low_is_bad else one.high

    def each_day(self) -> list[TrendDay | None]:
        """Every day from the first to the last one, None where there was no result."""
        known = {one.day: one for one in self.days}
        first, last = self.days[0].day, self.days[-1].day
        return [known.get(first + timedelta(days=n)) for n in range((last - first).days + 1)]


def trends(engine: Engine, prefixes: Sequence[str], since: datetime) -> list[Trend]:
    """The checks whose names begin so, with a result since then; those that fail now first, then by name and target.

    :param since: aware; the day of it, UTC, is whole.
    """
    since = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    named = or_(*(CheckResult.name.startswith(prefix, autoescape=True) for prefix in prefixes))
    wanted = and_(named, CheckResult.at >= since)
    series = func.regexp_replace(CheckResult.target, HOUR, "").label("series")
    day = cast(func.timezone("UTC", CheckResult.at), Date).label("day")
    failing = CheckResult.ok.is_(False)
    by_day = (
        select(
            CheckResult.name, series, day, func.count(), func.count().filter(failing), func.min(CheckResult.value),
            func.max(CheckResult.value),
            func.coalesce(func.bool_or(and_(failing, CheckResult.value < CheckResult.limit)), False),
        )
        .where(wanted)
        .group_by(CheckResult.name, series, day)
        .order_by(CheckResult.name, series, day)
    )  # fmt: skip
    each = (
        select(
            CheckResult.name, series, CheckResult.target, CheckResult.at, CheckResult.ok, CheckResult.value,
            CheckResult.limit, CheckResult.unit, CheckResult.message,
        )
        .ext(distinct_on(CheckResult.name, CheckResult.target))
        .where(wanted)
        .order_by(CheckResult.name, CheckResult.target, CheckResult.at.desc(), CheckResult.id.desc())
        .subquery()
    )  # fmt: skip
    last = func.max(each.c.at).over(partition_by=[each.c.name, each.c.series])
    recent = select(each, last.label("last")).subquery()
    newest = (
        select(
            recent.c.name, recent.c.series, recent.c.at, recent.c.ok, recent.c.value, recent.c.limit, recent.c.unit,
            recent.c.message,
        )
        .ext(distinct_on(recent.c.name, recent.c.series))
        .where(recent.c.at > recent.c.last - RECENT)
        .order_by(recent.c.name, recent.c.series, recent.c.ok, recent.c.at.desc(), recent.c.target.desc())
    )  # fmt: skip
    days: dict[tuple[str, str], list[TrendDay]] = {}
    low: set[tuple[str, str]] = set()
    with transaction(engine) as session:
        for name, target, moment, seen, failed, least, most, is_low in session.execute(by_day):
            days.setdefault((name, target), []).append(TrendDay(moment, seen, failed, least, most))
            if is_low:
                low.add((name, target))
        found = [
            Trend(*row, days=tuple(days[row.name, row.series]), low_is_bad=(row.name, row.series) in low)
            for row in session.execute(newest)
            if (row.name, row.series) in days
        ]
    return sorted(found, key=lambda one: (one.ok, one.name, one.target))[:MOST]
