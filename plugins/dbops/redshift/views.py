"""What a warehouse says of its tables, transactions and maintenance, as typed values. Reads only."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dbops.errors import ConfigurationError
from dbops.redshift.session import Row, Session, StatementRefused
from dbops.sql import statement

INSUFFICIENT_PRIVILEGE = "42501"


class NoInsight(ConfigurationError):
    """The login may not read a system view."""


@dataclass(frozen=True)
class TableFigures:
    """A table as SVV_TABLE_INFO shows it; tables without rows are not shown there."""

    schema: str
    table: str
    id: int
    size_mb: int
    rows: int
    """Stored rows, those that are marked as deleted too."""
    visible_rows: int | None
    unsorted: float | None
    """Percent. Without a sort key null, or 100 for ever: says nothing then."""
    stats_off: float | None
    """Percent; 0 is current, 100 out of date."""
    diststyle: str
    sort_key: str | None
    """First column; None: no sort key. Of an interleaved key no column is told."""
    is_interleaved: bool
    sort_benefit: float | None
    """Percent that scans would gain at most by sorting, as queries are."""
    skew_rows: float | None
    skew_sort_key: float | None
    sort_key_encoding: str
    created_at: datetime | None = None
    is_auto_sorted: bool = False
    """Redshift may choose the sort key."""
    interleaved_skew: float | None = None
    is_initialised: bool = True
    """False: the interleaved key was never indexed."""

    @property
    def name(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def has_sort_key(self) -> bool:
        return self.sort_key is not None or self.is_interleaved

    @property
    def deleted_rows(self) -> int:
        """Rows that are deleted and still stored. `visible_rows` is an estimate and may lie above `rows`."""
        return 0 if self.visible_rows is None else max(0, self.rows - self.visible_rows)

    @property
    def deleted(self) -> float:
        """Percent of the stored rows."""
        return 100.0 * self.deleted_rows / self.rows if self.rows else 0.0

    @property
    def is_distributed_to_all(self) -> bool:
        return self.diststyle.upper() in {"ALL", "AUTO(ALL)"}

    def as_details(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "size_mb": self.size_mb,
            "rows": self.rows,
            "deleted_rows": self.deleted_rows,
            "unsorted": self.unsorted if self.has_sort_key else None,
            "stats_off": self.stats_off,
        }


@dataclass(frozen=True)
class OpenTransaction:
    pid: int
    owner: str
    database: str
    started_at: datetime

    def __str__(self) -> str:
        return (
            f"process {self.pid} of {self.owner} in {self.database}, open since {self.started_at:%Y-%m-%d %H:%M:%S} UTC"
        )


@dataclass(frozen=True)
class RunningVacuum:
    pid: int
    started_at: datetime
    text: str

    def __str__(self) -> str:
        return f"{self.text!r} of process {self.pid}, since {self.started_at:%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class VacuumRecord:
    """One VACUUM of one table, as the history has it."""

    kind: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    rows_before: int | None
    reclaimable: int | None
    reclaimed: int | None
    sorted_before: int | None
    sorted_after: int | None

    @property
    def is_skipped(self) -> bool:
        return self.status.lower().startswith("skipped")

    @property
    def is_failed(self) -> bool:
        return self.status.lower().startswith("fail")


@dataclass(frozen=True)
class AnalyzeRecord:
    status: str
    started_at: datetime
    ended_at: datetime | None

    @property
    def is_skipped(self) -> bool:
        return self.status.lower().startswith("skipped")


@dataclass(frozen=True)
class SessionFacts:
    now: datetime
    """The cluster's clock: what is asked of its history is asked by it."""
    pid: int


def session_facts(session: Session) -> SessionFacts:
    now, pid = session.rows(statement("redshift/session_facts"))[0]
    return SessionFacts(moment(now), int(pid))


def table_figures(session: Session) -> list[TableFigures]:
    """Every table of the session's database that has rows, the largest first.

    :raises NoInsight: the login may not read SVV_TABLE_INFO, or is shown nothing.
    """
    interleaved = _interleaved(session)
    rows = read(session, "redshift/table_figures", "svv_table_info")
    if not rows:
        raise NoInsight(
            "SVV_TABLE_INFO shows no table: the database is empty, or the login is no superuser and was not granted "
            "SELECT on it"
        )
    return [_table(row, interleaved) for row in rows if not str(row[0]).startswith("pg_temp")]


def one_table(session: Session, table_id: int) -> TableFigures | None:
    """None: it is gone, or has no rows any more."""
    rows = read(session, "redshift/one_table", "svv_table_info", table_id)
    return _table(rows[0], _interleaved(session)) if rows else None


def _interleaved(session: Session) -> dict[int, tuple[float, int]]:
    """Largest skew of each interleaved sort key, and how many of its columns were ever indexed."""
    return {
        int(table): (float(skew), int(indexed))
        for table, skew, indexed in read(session, "redshift/interleaved_columns", "svv_interleaved_columns")
    }


def _table(row: Row, interleaved: dict[int, tuple[float, int]]) -> TableFigures:
    (schema, table, id, size, rows, visible, unsorted, stats_off, diststyle, key, benefit, skew_rows, skew_key,
     encoding, created) = row  # fmt: skip
    column = sort_column(key)
    is_interleaved = int(id) in interleaved or str(key).strip().upper().startswith("INTERLEAVED")
    skew, indexed = interleaved.get(int(id), (None, 1))
    return TableFigures(
        schema=str(schema).rstrip(),
        table=str(table).rstrip(),
        id=int(id),
        size_mb=int(size or 0),
        rows=int(rows or 0),
        visible_rows=None if visible is None else int(visible),
        unsorted=_number(unsorted),
        stats_off=_number(stats_off),
        diststyle=str(diststyle or "").strip(),
        sort_key=None if is_interleaved else column,
        is_interleaved=is_interleaved,
        sort_benefit=_number(benefit),
        skew_rows=_number(skew_rows),
        skew_sort_key=_number(skew_key),
        sort_key_encoding=str(encoding or "").strip(),
        created_at=None if created is None else moment(created),
        is_auto_sorted=str(key or "").strip().upper().startswith("AUTO"),
        interleaved_skew=skew,
        is_initialised=indexed > 0,
    )


def sort_column(key: object) -> str | None:
    """The first sort key column of what `sortkey1` says; None: there is none.

    AUTO(SORTKEY) is a table whose key Redshift may choose and has not; AUTO(SORTKEY(day)) one where it has.
    """
    text = str(key or "").strip()
    found = re.fullmatch(r"AUTO\(SORTKEY(?:\((.+)\))?\)", text, re.IGNORECASE)
    if found:
        return found[1]
    return None if not text or text.upper().startswith("INTERLEAVED") else text


def open_transactions(session: Session, before: datetime) -> list[OpenTransaction]:
    """Those of others that began before a moment (of the cluster's clock) and are still open, the oldest first."""
    return [
        OpenTransaction(int(pid), str(owner), str(database), moment(started))
        for pid, _, owner, database, started in read(
            session, "redshift/open_transactions", "svv_transactions", naive(before)
        )
    ]


def running_vacuums(session: Session) -> list[RunningVacuum]:
    return [
        RunningVacuum(int(pid), moment(started), " ".join(str(text).split())[:200])
        for pid, _, _, started, text in read(session, "redshift/running_vacuums", "sys_query_history")
    ]


def running_since(session: Session, pid: int) -> list[datetime]:
    """Since when statements of another process run, by the cluster's clock."""
    return [moment(started) for (started,) in read(session, "redshift/running_of_process", "sys_query_history", pid)]


def vacuum_history(session: Session, table_id: int, since: datetime) -> list[VacuumRecord]:
    """What VACUUM statements did to a table since a moment of the cluster's clock, the first one first."""
    return [
        VacuumRecord(
            str(kind),
            str(status),
            moment(started),
            None if ended is None else moment(ended),
            *(None if number is None else int(number) for number in numbers),
        )
        for kind, status, started, ended, *numbers in read(
            session, "redshift/vacuum_history", "sys_vacuum_history", table_id, naive(since)
        )
    ]


def analyze_history(session: Session, table_id: int, since: datetime) -> list[AnalyzeRecord]:
    return [
        AnalyzeRecord(str(status), moment(started), None if ended is None else moment(ended))
        for status, started, ended, _ in read(
            session, "redshift/analyze_history", "sys_analyze_history", table_id, naive(since)
        )
    ]


def read(session: Session, name: str, view: str, *values: Any) -> Sequence[Row]:
    """A query of include/sql on a system view.

    :raises NoInsight: the login may not read the view.
    """
    try:
        return session.rows(statement(name), *values)
    except StatementRefused as error:
        if error.code != INSUFFICIENT_PRIVILEGE:
            raise
        raise NoInsight(
            f"{error}; the login may not read {view}: make it a superuser, or grant what the head of "
            f"include/sql/{name}.sql names"
        ) from error


def moment(value: object) -> datetime:
    """A time, or a day's beginning, as Redshift has it: UTC without saying so."""
    found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def naive(value: datetime) -> datetime:
    """A moment as the system views have it."""
    return value.astimezone(UTC).replace(tzinfo=None)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


Connect = Callable[[], Session]
"""Opens a session; called again when one was lost."""
