"""Cron expressions as Airflow reads them (the same library, UTC)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from croniter import CroniterBadDateError, CroniterError, croniter

FOUR_YEARS = 1461  # days: every combination of month and leap day


def check_cron(expression: str) -> None:
    """:raises ValueError: not five fields, not readable, or never due."""
    if len(expression.split()) != 5:
        raise ValueError("is no cron expression of five fields: minute hour day-of-month month day-of-week")
    try:
        next(starts(expression, datetime(2024, 1, 1, tzinfo=UTC)))
    except CroniterBadDateError:
        raise ValueError("never fires: no such date exists") from None
    except (CroniterError, TypeError) as error:
        raise ValueError(f"cannot be read as cron: {error}") from None


def starts(expression: str, after: datetime) -> Iterator[datetime]:
    """The times when it is due, ascending, the first one later than `after`."""
    times = croniter(expression, after, ret_type=datetime, max_years_between_matches=FOUR_YEARS // 365 + 1)
    while True:
        yield times.get_next()


def is_weekly(expression: str) -> bool:
    """It repeats every week: neither the day of the month nor the month is restricted."""
    days, months = croniter.expand(expression)[0][2:4]
    return bool(days == ["*"] and months == ["*"])


def period(expression: str) -> timedelta:
    """After how long the pattern of its starts repeats."""
    return timedelta(days=7 if is_weekly(expression) else FOUR_YEARS)
