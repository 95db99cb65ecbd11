"""The monthly look at how tables are made and used: distribution, sort keys, what nobody reads, what could be archived.

It gives advice with the exact statement; a person decides, as an ALTER of a large table takes long and space.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from dbops.platform import Archive, Review, duration_text
from dbops.redshift.session import Session
from dbops.redshift.views import TableFigures, moment, naive, read
from dbops.sql import quoted, statement

if TYPE_CHECKING:
    from dbops.ledger import PastCheck

ADVICE, UNUSED, COLD = "redshift_table_advice", "redshift_unused_tables", "redshift_cold_data"
"""Names of the checks, in the ledger."""

LEAST_QUERIES = 20
"""Fewer say nothing about a sort key."""
COVERED = 0.8
"""Share of the days that must have been looked at before a table is called unused."""


@dataclass(frozen=True)
class Advice:
    table: str
    reason: str
    statement: str

    def __str__(self) -> str:
        return f"{self.table}: {self.reason}: {self.statement}"


@dataclass(frozen=True)
class Unused:
    """A table that nobody read."""

    table: str
    size_mb: int

    def __str__(self) -> str:
        return f"{self.table}, {self.size_mb:,} MB"


@dataclass(frozen=True)
class Cold:
    """Old rows that no archive takes."""

    table: str
    column: str
    rows: int
    oldest: datetime

    def __str__(self) -> str:
        return f"{self.table}: {self.rows:,} rows by {self.column}, the oldest of {self.oldest:%Y-%m-%d}"


@dataclass(frozen=True)
class Usage:
    """How often statements read each table, by the daily checks."""

    queries: Mapping[str, int]
    in_range: Mapping[str, int]
    """Those whose scan was limited to a range of the sort key."""
    covered: timedelta
    """How much of the time the checks have seen."""


# --- distribution and sort keys -----------------------------------------------------------------------------


def read_advisor(session: Session, tables: Sequence[TableFigures]) -> list[Advice]:
    """What Redshift's own Advisor recommends for these tables."""
    names = {table.id: table.name for table in tables}
    return [
        Advice(
            names[int(table)],
            f"Redshift's Advisor recommends another {kind}" + (", and may do it by itself" if eligible == "t" else ""),
            f"{str(ddl).rstrip(';')};",
        )
        for kind, table, ddl, eligible in read(session, "redshift/advisor", "svv_alter_table_recommendations")
        if int(table) in names
    ]


def read_alerts(session: Session, since: datetime) -> dict[int, list[tuple[str, int]]]:
    """What the planner and the executor remarked, by table: texts and how many statements they were about."""
    found: dict[int, list[tuple[str, int]]] = {}
    for table, text, queries in read(session, "redshift/query_alerts", "sys_query_detail", naive(since)):
        found.setdefault(int(table), []).append((str(text), int(queries)))
    return found


def table_advice(
    tables: Sequence[TableFigures],
    alerts: Mapping[int, Sequence[tuple[str, int]]],
    usage: Usage,
    archive: Archive,
    review: Review,
) -> list[Advice]:
    """What could be better, the largest table first."""
    columns = {table.table: table.column for table in archive.tables}
    found = []
    for table in sorted(tables, key=lambda table: (-table.size_mb, table.name)):
        if table.size_mb < review.min_size_mb:
            continue
        found += _distribution(table, alerts.get(table.id, ()), review)
        found += _sort_key(table, _archive_column(table.name, columns), usage, review)
    return found


def _distribution(table: TableFigures, alerts: Sequence[tuple[str, int]], review: Review) -> list[Advice]:
    name = quoted(table.schema, table.table)
    found = []
    style = table.diststyle.upper()
    if style.startswith("KEY(") and table.skew_rows is not None and table.skew_rows > review.skew_rows:
        reason = (
            f"its fullest slice has {table.skew_rows:g} times the rows of the emptiest ({table.diststyle}, limit "
            f"{review.skew_rows:g})"
        )
        found.append(Advice(table.name, reason, f"alter table {name} alter diststyle even;"))
    elif not style.startswith("AUTO") and (sent := _about(alerts, "distributed", "broadcast")):
        reason = f"{sent} statements sent its rows across the network ({table.diststyle})"
        found.append(Advice(table.name, reason, f"alter table {name} alter diststyle auto;"))
    if unknown := _about(alerts, "statistics"):
        found.append(
            Advice(table.name, f"{unknown} statements were planned without its statistics", f"analyze {name};")
        )
    return found


def _sort_key(table: TableFigures, archived_by: str | None, usage: Usage, review: Review) -> list[Advice]:
    name = quoted(table.schema, table.table)
    found = []
    key = (
        "an interleaved sort key"
        if table.is_interleaved
        else f"sort key {table.sort_key}"
        if table.sort_key
        else "no sort key"
    )
    queries, in_range = usage.queries.get(table.name, 0), usage.in_range.get(table.name, 0)
    if archived_by is not None and table.sort_key != archived_by:
        reason = f"it is archived by {archived_by} and has {key}: each day is looked for in the whole table"
        found.append(Advice(table.name, reason, f"alter table {name} alter compound sortkey ({quoted(archived_by)});"))
    elif not table.has_sort_key and not table.is_auto_sorted:
        reason = "it has no sort key, and Redshift may not choose one"
        found.append(Advice(table.name, reason, f"alter table {name} alter sortkey auto;"))
    elif (
        archived_by is None
        and table.has_sort_key
        and not table.is_auto_sorted
        and queries >= LEAST_QUERIES
        and not in_range
    ):
        reason = f"none of {queries:,} statements that read it made use of {key}"
        found.append(Advice(table.name, reason, f"alter table {name} alter sortkey auto;"))
    is_raw = table.sort_key_encoding.lower() in {"none", "raw", ""}
    if table.sort_key and not is_raw and (table.skew_sort_key or 0) > review.skew_sort_key:
        reason = (
            f"its sort key column is compressed {table.skew_sort_key:g} times more than its largest column (limit "
            f"{review.skew_sort_key:g}): a block of it spans many blocks of others, which are read in vain"
        )
        found.append(
            Advice(table.name, reason, f"alter table {name} alter column {quoted(table.sort_key)} encode raw;")
        )
    return found


def _about(alerts: Sequence[tuple[str, int]], *words: str) -> int:
    """How many statements an alert was about that has one of these words."""
    return sum(queries for text, queries in alerts if any(word in text.lower() for word in words))


# --- use ----------------------------------------------------------------------------------------------------


def usage_of(checks: Sequence[PastCheck], since: datetime) -> Usage:
    """Add up what the daily checks wrote down.

    :param checks: `redshift_table_use`, the oldest first.
    """
    queries: dict[str, int] = {}
    in_range: dict[str, int] = {}
    covered, seen_until = timedelta(), since
    for check in checks:
        if "until" not in check.details:
            continue  # it could not look
        begin, until = (datetime.fromisoformat(check.details[name]) for name in ("since", "until"))
        covered += max(timedelta(), until - max(begin, seen_until))
        seen_until = max(seen_until, until)
        for name, used in check.details["tables"].items():
            queries[name] = queries.get(name, 0) + used["queries"]
            in_range[name] = in_range.get(name, 0) + used["in_range"]
    return Usage(queries, in_range, covered)


def unused_tables(
    tables: Sequence[TableFigures], usage: Usage, review: Review, now: datetime
) -> tuple[list[Unused], str | None]:
    """Tables that nobody read for `unused_after`, the largest first; or why that cannot be said."""
    if usage.covered < review.unused_after * COVERED:
        return [], (
            f"use of tables is known of {duration_text(usage.covered)} in the last "
            f"{duration_text(review.unused_after)}: too little to call one unused "
            "(redshift_maintenance_daily writes it down)"
        )
    born = now - review.unused_after
    found = [
        Unused(table.name, table.size_mb)
        for table in tables
        if not usage.queries.get(table.name) and table.created_at is not None and table.created_at < born
    ]
    return sorted(found, key=lambda one: (-one.size_mb, one.table)), None


# --- cold data ----------------------------------------------------------------------------------------------


def read_date_columns(session: Session) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for table, column, _ in read(session, "redshift/date_columns", "pg_attribute"):
        found.setdefault(int(table), []).append(str(column))
    return found


def cold_candidates(
    tables: Sequence[TableFigures], dates: Mapping[int, Collection[str]], archive: Archive, review: Review
) -> list[TableFigures]:
    """Large tables that no archive covers and whose sort key is a date or time, so that old rows are found at once."""
    columns = {table.table: table.column for table in archive.tables}
    return [
        table
        for table in tables
        if table.size_mb >= review.min_size_mb
        and _archive_column(table.name, columns) is None
        and table.sort_key in dates.get(table.id, ())
    ]


def look_for_cold(session: Session, candidates: Sequence[TableFigures], before: datetime) -> list[Cold]:
    """How much of each is older than a moment."""
    found = []
    for table in candidates:
        assert table.sort_key is not None
        sql = statement("redshift/cold_rows").format(
            table=quoted(table.schema, table.table), column=quoted(table.sort_key)
        )
        rows, oldest = session.rows(sql, naive(before))[0]
        if int(rows):
            found.append(Cold(table.name, table.sort_key, int(rows), moment(oldest)))
    return sorted(found, key=lambda one: -one.rows)


def _archive_column(name: str, columns: Mapping[str, str]) -> str | None:
    """The column by which a table is archived; `events.clicks_{day}` stands for each day's table."""
    if name in columns:
        return columns[name]
    for pattern, column in columns.items():
        if "{day}" in pattern and re.fullmatch(re.escape(pattern).replace(re.escape("{day}"), r"\d{8}"), name):
            return column
    return None
