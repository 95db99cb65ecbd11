"""What a warehouse holds, in few numbers: a restored cluster is compared by them with its source.

Rows per day of the archived tables, for days that are over. Whole tables are not counted: they may have 10^11 rows, and
a count of a few days of the sort key reads little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from dbops.backups.manifest import Count, Document
from dbops.errors import FinalError
from dbops.platform import ArchiveTable
from dbops.redshift.session import Session, StatementRefused
from dbops.sql import quoted, statement

DAY = timedelta(days=1)
UNDEFINED = {"42P01", "3F000", "42703"}  # table, schema or column


class Figures(Document):
    """Counted of the days `first` (inclusive) to `until` (exclusive)."""

    first: date
    until: date
    days: dict[str, dict[date, Count]]
    """Table -> day -> rows; a day without rows is left out. A table that does not exist is left out."""
    tables: tuple[str, ...] = ()
    """All tables, `schema.table`."""

    @property
    def rows(self) -> int:
        return sum(sum(counts.values()) for counts in self.days.values())


def count_days(session: Session, tables: Iterable[ArchiveTable], first: date, until: date) -> Figures:
    """Count the rows of each table whose days are rows, day by day.

    :param until: the first day that is not counted: today, or that of a snapshot.
    """
    days: dict[str, dict[date, int]] = {}
    for table in tables:
        if table.days != "rows":
            continue
        text = statement("redshift/day_counts").format(
            table=quoted(*table.table.split(".")), column=quoted(table.column)
        )
        try:
            days[table.table] = {day: int(rows) for day, rows in session.rows(text, first, until)}
        except StatementRefused as refused:
            if refused.code not in UNDEFINED:
                raise
    names = [f"{schema}.{table}" for schema, table in session.rows(statement("redshift/table_names"))]
    return Figures(first=first, until=until, days=days, tables=tuple(names))


@dataclass(frozen=True)
class Comparison:
    """What differs. Problems mean that data is missing; notes are what a reader should know."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    days: int
    """How many days of tables were compared."""


def compare(
    restored: Figures, reference: Figures | None, tables: Iterable[ArchiveTable], snapshot_day: date, tolerance: float
) -> Comparison:
    """Compare a restored warehouse with figures of its source.

    A day of the reference must be there with at least `100 - tolerance` percent of its rows: some may have come after
    the snapshot. Days that the source has archived since are there all the more. Without a reference nothing is proven,
    which is a problem.

    :param snapshot_day: days from then on are not compared.
    :param tolerance: percent.
    """
    problems: list[str] = []
    notes: list[str] = []
    compared = 0
    if reference is None:
        counted = ", ".join(f"{name} {sum(days.values()):,}" for name, days in restored.days.items())
        problems.append(f"there is nothing to compare with; rows of the last days: {counted or 'none'}; look by hand")
    for table in tables:
        if table.days != "rows":
            continue
        found = restored.days.get(table.table)
        expected = {} if reference is None else reference.days.get(table.table)
        if found is None and (expected is not None or reference is None):
            problems.append(f"{table.table} or its column {table.column} is missing")
        if found is None or not expected:
            continue
        for day in sorted(expected):
            if not restored.first <= day < min(restored.until, snapshot_day):
                continue
            compared += 1
            rows, wanted = found.get(day, 0), expected[day]
            if rows < wanted * (1 - tolerance / 100):
                problems.append(f"{table.table}: {day} has {rows:,} rows of {wanted:,}")
            elif rows != wanted:
                notes.append(f"{table.table}: {day} has {rows:,} rows, the source {wanted:,}")
    if reference is not None:
        notes += _names("not in the restored warehouse (made after the snapshot?)", reference.tables, restored.tables)
        notes += _names("only in the restored warehouse (dropped since?)", restored.tables, reference.tables)
        if not compared and not problems:
            problems.append("no day of any archived table could be compared; look by hand")
    return Comparison(tuple(problems), tuple(notes), compared)


def _names(what: str, there: Iterable[str], elsewhere: Iterable[str]) -> list[str]:
    found = sorted(set(there) - set(elsewhere))
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    return [f"{what}: {', '.join(found[:10])}{more}"] if found else []


def read_figures(details: Mapping[str, object]) -> Figures:
    """Figures from a ledger row.

    :raises FinalError: the row holds none.
    """
    try:
        return Figures.model_validate(details)
    except ValueError as error:
        raise FinalError(f"the ledger's row redshift_figures cannot be read: {error}") from None
