"""What a weekly maintenance did, in words, with how the warehouse grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dbops.platform import Limit
from dbops.redshift.plan import MaintenancePlan, Step

if TYPE_CHECKING:
    from dbops.ledger import PastAction, PastCheck

LOOK_BACK = timedelta(days=28)
MOST_NAMED = 30
MOST_GROWING = 5
DAY = 86400.0


@dataclass(frozen=True)
class Trend:
    """A straight line through what was measured (least squares)."""

    last: float
    per_day: float | None
    """None: there are not two days to compare."""
    days: float
    """From the first to the last measurement."""


@dataclass(frozen=True)
class WeeklyReport:
    title: str
    lines: tuple[str, ...]
    done: int
    skipped: int
    failed: int
    missing: int
    """Statements of the plan that have no outcome: the run broke off."""
    problems: tuple[str, ...]
    """What will be the same next week unless somebody does something."""


def trend(points: Sequence[tuple[datetime, float]]) -> Trend | None:
    """:param points: moments and values, the oldest first; None: there are none."""
    if not points:
        return None
    start = points[0][0]
    days = [(at - start).total_seconds() / DAY for at, _ in points]
    values = [value for _, value in points]
    if days[-1] < 1:
        return Trend(values[-1], None, days[-1])
    mean_day, mean = sum(days) / len(days), sum(values) / len(values)
    spread = sum((day - mean_day) ** 2 for day in days)
    slope = sum((day - mean_day) * (value - mean) for day, value in zip(days, values, strict=True)) / spread
    return Trend(values[-1], slope, days[-1])


def days_until(found: Trend, limit: float) -> float | None:
    """Days until a limit is reached; None: never, as it goes."""
    if found.last >= limit:
        return 0.0
    if found.per_day is None or found.per_day <= 0:
        return None
    return (limit - found.last) / found.per_day


def growth_in_words(storage: Sequence[PastCheck], disk: Sequence[PastCheck], limit: Limit) -> list[str]:
    """How the warehouse grows, by what the daily checks wrote down.

    :param storage: checks `redshift_storage`, MB; :param disk: checks `redshift_disk`, percent; the oldest first.
    """
    found = trend([(check.at, check.value) for check in storage if check.value is not None])
    if found is None:
        return ["storage: nothing measured yet (redshift_maintenance_daily writes it down)"]
    if found.per_day is None:
        return [f"storage: {found.last:,.0f} MB; the trend needs two days of measurements"]
    lines = [f"storage: {found.last:,.0f} MB, {found.per_day:+,.0f} MB a day over {found.days:.0f} days"]
    use = trend([(check.at, check.value) for check in disk if check.value is not None])
    if use is not None:
        until = days_until(use, limit.warn)
        when = (
            f"reaches {limit.warn:g} % in about {until:,.0f} days"
            if until is not None
            else f"does not go towards {limit.warn:g} %"
        )
        lines.append(f"disk: {use.last:.1f} %, {when}")
    growing = _growing(storage)
    if growing:
        lines.append("grow most: " + ", ".join(f"{name} {per_day:+,.0f} MB a day" for name, per_day in growing))
    return lines


def _growing(storage: Sequence[PastCheck]) -> list[tuple[str, float]]:
    first, last = storage[0], storage[-1]
    days = (last.at - first.at).total_seconds() / DAY
    old, new = _tables(first), _tables(last)
    changes = [(name, (size - old.get(name, 0.0)) / days) for name, size in new.items()]
    grown = sorted((found for found in changes if found[1] >= 1), key=lambda found: -found[1])
    return grown[:MOST_GROWING]


def _tables(check: PastCheck) -> Mapping[str, float]:
    found: Mapping[str, float] = check.details.get("tables", {})
    return found


def weekly_report(
    plan: MaintenancePlan, actions: Sequence[PastAction], growth: Sequence[str], duration: timedelta | None = None
) -> WeeklyReport:
    """What became of a plan.

    :param actions: the rows that the run left in the ledger.
    """
    rows = {(row.name, row.target): row for row in actions}
    found = [(step, rows.get((step.action, f"{plan.cluster}/{step.target}"))) for step in plan.steps]
    counts = {
        name: sum(row is not None and row.outcome == name for _, row in found) for name in ("done", "skipped", "failed")
    }
    missing = len(found) - sum(counts.values())
    problems = [_line(step, row) for step, row in found if row is not None and row.details.get("needs_person")]
    told = ", ".join(f"{count} {name}" for name, count in counts.items()) + (
        f", {missing} not finished" if missing else ""
    )
    lines = [f"{len(plan.steps)} statements for {plan.tables} tables: {told}"]
    # What went wrong is read first.
    order = {"failed": 0, "skipped": 1, "done": 2}
    shown = sorted(found, key=lambda one: order.get(one[1].outcome, 0) if one[1] is not None else 0)
    lines += [_line(step, row) for step, row in shown[:MOST_NAMED]]
    if len(shown) > MOST_NAMED:
        lines.append(f"and {len(shown) - MOST_NAMED} more: table `action` of the ledger, run {plan.run}")
    lines += [f"{item.table} wants a deep copy by hand: {item.reason}" for item in plan.advice]
    lines += [f"was open when the plan was made: {blocker}" for blocker in plan.blockers]
    lines += growth
    return WeeklyReport(
        title=f"Redshift {plan.cluster}: weekly maintenance: {told}",
        lines=tuple(lines),
        done=counts["done"],
        skipped=counts["skipped"],
        failed=counts["failed"],
        missing=missing,
        problems=tuple(problems),
    )


def _line(step: Step, row: PastAction | None) -> str:
    if row is None:
        return f"not begun: {step.statement}"
    if row.outcome == "running":
        return f"not finished: {step.statement}: its end is not known; a retry of `maintain` finds it out"
    return f"{row.outcome}: {step.statement}: {row.message}"
