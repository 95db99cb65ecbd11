"""What the warehouse says of an hour of a pipeline: its loads, and the rows of its table. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from dbops.platform.etl import HOUR, KeyColumn, Pipeline, Reference
from dbops.redshift.session import Session
from dbops.redshift.views import NoInsight, moment, naive, read
from dbops.sql import quoted, statement

LOADS_KEPT = timedelta(days=7)
"""Redshift keeps its history about that long."""
WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Load:
    """A COPY that read, or was told to read, files of the hour."""

    query: int
    status: str
    at: datetime
    rows: int
    """Rows of this hour's files that came in."""
    lost: int
    """Lines that it left out (MAXERROR), of all files that it read."""

    @property
    def is_completed(self) -> bool:
        return self.status == "completed"


@dataclass(frozen=True)
class LoadedTwice:
    file: str
    times: int
    lines: int


@dataclass(frozen=True)
class LoadError:
    """Why lines were not loaded."""

    column: str
    error: str
    times: int
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.column}: {self.error} ({self.times} times, {self.file} line {self.line})"


@dataclass(frozen=True)
class Loads:
    """The newest load comes first."""

    loads: tuple[Load, ...]
    twice: tuple[LoadedTwice, ...] = ()
    errors: tuple[LoadError, ...] = ()
    files: frozenset[str] = frozenset()
    """All that were loaded; asked for when one was loaded more than once and no key tells what the table has of it."""

    @property
    def rows(self) -> int:
        return sum(load.rows for load in self.loads if load.is_completed)

    @property
    def lost(self) -> int:
        return sum(load.lost for load in self.loads if load.is_completed)


@dataclass(frozen=True)
class ColumnFigures:
    name: str
    nulls: int
    below: int
    above: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Rows:
    """The rows of an hour."""

    count: int
    repeated: int | None
    """How many more than there are values of the key; None: the pipeline has no key."""
    columns: tuple[ColumnFigures, ...]


@dataclass(frozen=True)
class Orphans:
    reference: Reference
    rows: int
    """That refer to something."""
    orphans: int
    others: int
    """Rows of the other table that they could refer to."""
    nulls: int = 0
    """Rows of the hour whose reference is NULL."""


def loads_of(session: Session, pipeline: Pipeline, hour: datetime) -> Loads:
    """Loads of the hour's files since the hour began.

    :raises NoInsight: the login may not read the history.
    """
    url, since, table = pipeline.url_of(hour), naive(hour), pipeline.table.partition(".")[2]
    head = (len(url), url)
    found = read(
        session, "redshift/etl_loads", "sys_load_history", *head * 3, since, since, *head, table
    )  # fmt: skip
    loads = tuple(
        Load(int(query), str(status), moment(at), int((lines if others else rows) or 0), int(errors or 0))
        for query, status, at, rows, errors, _, lines, others in found
    )
    if not loads:
        _must_see_others(session, since)
    twice: Sequence[Any] = ()
    if sum(load.is_completed for load in loads) > 1:
        twice = read(session, "redshift/etl_loaded_twice", "sys_load_detail", since, since, *head, table)
    files: Sequence[Any] = ()
    if twice and not pipeline.key:
        files = read(session, "redshift/etl_loaded_files", "sys_load_detail", since, since, *head, table)
    reasons: Sequence[Any] = ()
    if any(load.lost or not load.is_completed for load in loads):
        reasons = read(session, "redshift/etl_load_errors", "sys_load_error_detail", since, *head)
    return Loads(
        loads,
        tuple(LoadedTwice(str(file), int(times), int(lines or 0)) for file, times, lines in twice),
        tuple(LoadError(str(c), str(e), int(n), str(f), int(line or 0)) for c, e, n, f, line in reasons),
        frozenset(str(file) for (file,) in files),
    )


def _must_see_others(session: Session, since: datetime) -> None:
    """No load of one's own must not pass for no load at all."""
    everybody, roles = read(session, "redshift/my_rights", "svv_user_grants")[0]
    if everybody or int(roles) or int(read(session, "redshift/others_seen", "sys_query_history", since)[0][0]):
        return
    raise NoInsight(
        "Redshift shows this login no statement of anybody else: it cannot tell whether there was a load; grant it "
        "role sys:monitor, or ALTER USER ... SYSLOG ACCESS UNRESTRICTED"
    )


def rows_of(session: Session, pipeline: Pipeline, hour: datetime) -> Rows:
    """One read of the hour's range of the table."""
    figures, values = [], []
    if pipeline.key:
        figures.append(f"count(*) - count(DISTINCT {quoted(pipeline.key)})")
    for column in pipeline.columns:
        name = quoted(column.name)
        figures.append(f"coalesce(sum(CASE WHEN {name} IS NULL THEN 1 ELSE 0 END), 0)")
        if column.min is None and column.max is None:
            continue
        for sign, limit in (("<", column.min), (">", column.max)):
            figures.append(
                f"coalesce(sum(CASE WHEN {name} {sign} %s THEN 1 ELSE 0 END), 0)" if limit is not None else "0"
            )
            values += [Decimal(str(limit))] if limit is not None else []
        figures += [f"min({name})", f"max({name})"]
    text = statement("redshift/etl_hour").format(
        figures="".join(f", {figure}" for figure in figures),
        table=_table(pipeline.table),
        column=quoted(pipeline.column),
    )
    count, *rest = session.rows(text, *values, naive(hour), naive(hour + HOUR))[0]
    found = iter(rest)
    repeated = int(next(found)) if pipeline.key else None
    return Rows(int(count), repeated, tuple(_column(column, found) for column in pipeline.columns))


def _column(column: KeyColumn, found: Any) -> ColumnFigures:
    nulls = int(next(found))
    if column.min is None and column.max is None:
        return ColumnFigures(column.name, nulls, 0, 0, None, None)
    below, above, low, high = (next(found) for _ in range(4))
    return ColumnFigures(
        column.name, nulls, int(below), int(above), None if low is None else float(low),
        None if high is None else float(high),
    )  # fmt: skip


def past_rows(session: Session, pipeline: Pipeline, hour: datetime, weeks: int) -> list[int]:
    """Rows of the same hour in past weeks, the latest first; a week without rows counts as none."""
    hours = [hour - WEEK * n for n in range(1, weeks + 1)]
    column = quoted(pipeline.column)
    text = statement("redshift/etl_past_hours").format(
        table=_table(pipeline.table), column=column,
        ranges=" OR ".join([f"({column} >= %s AND {column} < %s)"] * weeks),
    )  # fmt: skip
    values = [value for start in hours for value in (naive(start), naive(start + HOUR))]
    found = {moment(start): int(count) for start, count in session.rows(text, *values)}
    return [found[start] for start in hours if found.get(start)]


def newest_row(session: Session, pipeline: Pipeline, now: datetime, since: datetime) -> datetime | None:
    """None: there is no row since then."""
    text = statement("redshift/etl_newest").format(table=_table(pipeline.table), column=quoted(pipeline.column))
    found = session.rows(text, naive(since), naive(now))[0][0]
    return None if found is None else moment(found)


def orphans_of(session: Session, pipeline: Pipeline, reference: Reference, hour: datetime) -> Orphans:
    """Rows of the hour that refer to nothing in the other table."""
    text = statement("redshift/etl_orphans").format(
        table=_table(pipeline.table), column=quoted(pipeline.column), reference=quoted(reference.column),
        other=_table(reference.table), other_time=quoted(reference.time), of=quoted(reference.of),
    )  # fmt: skip
    span = (naive(hour - reference.back), naive(hour + HOUR))
    rows, orphans, others, nulls = session.rows(text, *span * 2, naive(hour), naive(hour + HOUR))[0]
    return Orphans(reference, int(rows), int(orphans), int(others), int(nulls))


def _table(name: str) -> str:
    return quoted(*name.split("."))
