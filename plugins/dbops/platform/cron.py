"""Cron expressions, read by the library that Airflow reads them with, in UTC.

The library is imported where it is used: it would be a fifth of the cost of `import dbops.platform`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

WEEK = timedelta(days=7)
FOUR_YEARS = timedelta(days=1461)  # holds every month, with and without a leap day
MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1024)
def check_cron(expression: str) -> None:
    """:raises ValueError: not five fields, not readable, or never due."""
    from croniter import CroniterBadDateError, CroniterError

    if len(expression.split()) != 5:
        raise ValueError("must have five fields: minute hour day-of-month month day-of-week")
    try:
        next(starts(expression, MONDAY))
    except CroniterBadDateError:
        raise ValueError("never fires: there is no such date") from None
    except (CroniterError, TypeError) as error:
        raise ValueError(f"cannot be read as cron: {str(error).splitlines()[0]}") from None


def starts(expression: str, after: datetime) -> Iterator[datetime]:
    """The times when it is due, ascending, the first one later than `after`."""
    from croniter import croniter

    times = croniter(expression, after, ret_type=datetime, max_years_between_matches=9)
    while True:
        yield times.get_next()


def is_weekly(expression: str) -> bool:
    """It is the same every week: neither the day of the month nor the month is restricted."""
    from croniter import croniter

    days, months = croniter.expand(expression)[0][2:4]
    return bool(days == ["*"] and months == ["*"])
