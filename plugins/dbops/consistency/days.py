"""Which days are compared: those that are over and have arrived, and those that still differ."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta

DAY = timedelta(days=1)
LONGEST = timedelta(days=31)
"""An older day is not looked at again by itself: the warehouse archives its days, and records expire."""


def settled(now: datetime, settle: timedelta) -> date:
    """The newest day that ended at least `settle` ago.

    :param now: aware UTC.
    """
    return (now - settle).date() - DAY


def days_to_look_at(now: datetime, settle: timedelta, days: int, still_open: Iterable[date] = ()) -> list[date]:
    """The newest whole days, and the older ones that differed when they were last looked at; the oldest first."""
    last = settled(now, settle)
    window = {last - DAY * n for n in range(days)}
    return sorted(window | {day for day in still_open if last - LONGEST < day <= last})


def days_between(first: date | None, last: date | None, newest: date, days: int) -> list[date]:
    """The days that a person names: from the first to the last.

    :param newest: what `last` is when it is not given; `days`: how many there are when `first` is not given.
    :raises ValueError: there is none, or more than a month.
    """
    last = last or newest
    first = first or last - DAY * (days - 1)
    if first > last:
        raise ValueError(f"the first day is {first}, which is after the last, {last}")
    if last > newest:
        raise ValueError(f"{last} has not arrived everywhere: the newest day to compare is {newest}")
    if last - first >= LONGEST:
        raise ValueError(
            f"{first} to {last} are {(last - first).days + 1} days; compare at most {LONGEST.days} at once"
        )
    return [first + DAY * n for n in range((last - first).days + 1)]


def open_after(before: Iterable[date], looked_at: Iterable[date], differ: Iterable[date], newest: date) -> list[date]:
    """The days that differ as far as is known now: found just now, or not looked at since they were found."""
    seen = set(looked_at)
    left = {day for day in before if day not in seen and day > newest - LONGEST}
    return sorted(left | set(differ))
