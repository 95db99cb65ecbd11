"""Which days of which tables go: one statement for each table, however many days it has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

from dbops.errors import ConfigurationError
from dbops.platform import ArchiveTable
from dbops.redshift.archive_checks import Column, Kind
from dbops.redshift.archive_marks import attached_days
from dbops.redshift.archive_parts import ArchivePlace, unfinished_days
from dbops.redshift.archive_source import read_columns, source_of
from dbops.redshift.session import Session
from dbops.sql import quoted, statement

MOST_DAYS: Final = 1024  # of one run: Airflow's limit of one mapped task
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class PlannedDay:
    """A day of a table that is to be archived."""

    table: str
    """The archived table's name in the platform file."""
    day: date
    rows: int | None
    """When the plan was made; None: not counted."""
    why: str


@dataclass
class ArchivePlan:
    """What a run does, in this order, and what it leaves, with the reasons."""

    days: list[PlannedDay] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    """`table day` -> why it stays."""
    later: int = 0
    """Days beyond what one run takes: the next one takes them."""
    approval: str | None = None
    """Why a person must agree."""

    def describe(self) -> str:
        lines = [f"{day.table} {day.day}: {_count(day.rows)}, {day.why}" for day in self.days]
        lines += [f"{name} stays: {why}" for name, why in sorted(self.left.items())]
        if self.later:
            lines.append(f"{self.later:,} more days are left to the next run")
        return "\n".join([*([self.approval] if self.approval else []), *lines]) or "nothing is to be archived"


def _count(rows: int | None) -> str:
    return "not counted" if rows is None else f"{rows:,} rows"


def plan_archive(
    session: Session,
    place: ArchivePlace,
    tables: Sequence[ArchiveTable],
    *,
    now: datetime,
    first: date | None = None,
    last: date | None = None,
) -> ArchivePlan:
    """Decide which days of which tables go. Changes nothing.

    A table is asked once, for all of its days. With `first` or `last` only days of that range go, days without rows
    too, which are then written down as empty.

    :param now: aware; days are those of UTC.
    :raises ConfigurationError: a table or column is not there, or cannot be archived.
    """
    plan = ArchivePlan()
    today = now.astimezone(UTC).date()
    days_of = {table.dataset: _day_tables(session, table) for table in tables if table.days == "tables"}
    names = [table.table for table in tables if table.days == "rows"]
    columns = read_columns(session, [*names, *(name for found in days_of.values() for name in found.values())])
    attached = attached_days(session, place, now)
    for table in tables:
        before = min(today - table.keep, last + _DAY if last else date.max)
        found = _days_of(session, table, days_of.get(table.dataset, {}), columns, first, before)
        wanted = dict.fromkeys(sorted(found), "older than what the table keeps")
        for day in unfinished_days(place.store, table.dataset):
            if (first is None or first <= day) and day < before:
                wanted.setdefault(day, "an earlier run did not end")
        if first is not None and last is not None and table.days == "rows":
            for number in range((before - first).days):
                wanted.setdefault(first + number * _DAY, "asked for")
        for day in sorted(wanted):
            name = f"{table.dataset} {day}"
            hold, until = place.settings.hold(table, day), attached.get((table.dataset, day))
            if hold is not None:
                plan.left[name] = f"legal hold, {hold.reason}"
            elif until is not None:
                plan.left[name] = f"it was brought back, until {until:%Y-%m-%d %H:%M} UTC"
            else:
                rows = found.get(day, 0 if table.days == "rows" else None)
                plan.days.append(PlannedDay(table.table, day, rows, wanted[day]))
    plan.days.sort(key=lambda day: (day.day, day.table))  # the oldest first, and the tables side by side
    plan.later = max(0, len(plan.days) - MOST_DAYS)
    del plan.days[MOST_DAYS:]
    plan.approval = _approval(plan, place.settings.max_days)
    return plan


def _approval(plan: ArchivePlan, most: int) -> str | None:
    counts: dict[str, int] = {}
    for day in plan.days:
        if day.rows != 0:
            counts[day.table] = counts.get(day.table, 0) + 1
    over = [f"{count} days of {table}" for table, count in sorted(counts.items()) if count > most]
    return f"{', '.join(over)} would be deleted after they were archived; more than {most} at once" if over else None


def _days_of(
    session: Session,
    table: ArchiveTable,
    day_tables: dict[date, str],
    columns: dict[str, tuple[Column, ...]],
    first: date | None,
    before: date,
) -> dict[date, int | None]:
    """Days that have rows, or a table, and how many rows."""
    if table.days == "tables":
        for name in day_tables.values():
            source_of(table, name, columns.get(name, ()))
        return {day: None for day in day_tables if (first is None or first <= day) and day < before}
    if table.table not in columns:
        raise ConfigurationError(
            f"archive of {table.table}: the warehouse has no such table; correct redshift.archive.tables, or grant "
            "USAGE on its schema"
        )
    source = source_of(table, table.table, columns[table.table])
    column = quoted(table.column)
    day = {Kind.TIMESTAMPTZ: f"({column} at time zone 'UTC')::date", Kind.TIMESTAMP: f"{column}::date"}
    sql = statement("redshift/archive_days").format(
        day=day.get(source.column.kind, column), table=source.sql, range=source.range(first, before)
    )
    return {found: int(rows) for found, rows in session.rows(sql)}


def _day_tables(session: Session, table: ArchiveTable) -> dict[date, str]:
    """The tables of the days, by day."""
    schema, _, pattern = table.table.partition(".")
    start, _, end = pattern.partition("{day}")
    found = {}
    for (name,) in session.rows(statement("redshift/archive_tables"), schema, len(start), start):
        match = re.fullmatch(rf"{re.escape(start)}(\d{{8}}){re.escape(end)}", name)
        if match:
            with suppress(ValueError):
                found[datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC).date()] = f"{schema}.{name}"
    return found
