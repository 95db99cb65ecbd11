"""Old days of a table go to S3 and are then deleted: planned in one statement, done day by day.

What makes each step safe to repeat, and to kill, lies in S3 and in the warehouse; nothing is believed that one of them
does not say. A day goes like this, under its lease:

1. `<attempt>.json` in `_attempts/` says that somebody works on the day: a plan finds it, however this ends.
2. In one transaction the day is counted and unloaded, to a prefix that nothing was ever written to. A day without
   rows is written down as an empty part.
3. The manifest, the number of rows that UNLOAD told, the count and the objects must agree; each file is read whole.
4. The files are copied into the dataset.
5. In one transaction: `lock` the table of marks; ask the day of the table for the same figures as the files gave,
   column by column; **only when all of them are equal** write `<attempt>.json` in `_parts/`, delete the day, count
   what was deleted, and mark the attempt as deleted. The comparison is made here and once, since here it is about
   exactly the rows that go: rows that arrived or changed since UNLOAD are a difference, and so is a file that is not
   what the table had.
6. The part's document gets `deleted_at`, the ledger its row, and `_attempts/` of the day is emptied.

The mark decides. A part without one is still in the table, whatever its document says: when the figures are equal it
is deleted now; when they are not, it is discarded and the day unloaded again. To discard is to mark as discarded, under
the same lock, before any file is removed: a process that was thought to be dead, and comes to step 5 after that, finds
the mark and deletes nothing; one that was there before it is found to have deleted. So no row is ever deleted whose
archive somebody removes. Not discarded is a part that was the only copy once (it was deleted, and brought back, or the
warehouse itself was restored): when the table differs from it, a person decides (`replace`).

Rows that arrive for a day that is gone are the next part of it. Days under a legal hold stay as they are: neither
copied nor deleted. Rows without a date in the column are never archived.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeVar

from dbops.backups.lease import Lease
from dbops.backups.store import AlreadyExists, NotFound, StoredObject
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.platform import ArchiveTable
from dbops.redshift.archive_checks import (
    MOMENTS,
    Checks,
    Column,
    Kind,
    differences,
    expressions,
    merged,
    read_checks,
)
from dbops.redshift.archive_parts import (
    ATTEMPTS,
    ArchivedFile,
    ArchivedPart,
    ArchivePlace,
    Attempt,
    attempt_key,
    attempt_of,
    attempt_prefix,
    day_prefix,
    file_key,
    lease_key,
    manifest_key,
    new_attempt,
    part_key,
    parts_of_day,
    unfinished_days,
)
from dbops.redshift.session import SerializationConflict, Session, StatementRefused
from dbops.sql import literal, quoted, statement

log = logging.getLogger(__name__)

_T = TypeVar("_T")
LEASE: Final = timedelta(minutes=10)
DELETED, DISCARDED, ATTACHED = "deleted", "discarded", "attached"
MOST_DAYS: Final = 1024  # of one run: Airflow's limit of one mapped task
ROUNDS: Final = 3
CONFLICTS: Final = 6
_COPIES: Final = 8
_DAY: Final = timedelta(days=1)
_WRONG_NUMBER: Final = "{name}: {what}; nothing was deleted, unload again"


class UnloadFailed(RetryableError):
    """UNLOAD ended half way. What it wrote is removed by the next try."""


class RowsMoving(RetryableError):
    """Rows of the day arrive or change faster than they are archived."""


class PartChanged(FinalError):
    """The table holds other rows of a day than the only archive of them."""


class NotExpired(FinalError):
    """A day that the platform file wants to stay."""


# --- what a table is ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A table of the warehouse, or that of a day, with its columns."""

    table: ArchiveTable
    name: str
    columns: tuple[Column, ...]

    @property
    def sql(self) -> str:
        return quoted(*self.name.split(".", 1))

    @property
    def column(self) -> Column:
        return next(column for column in self.columns if column.name == self.table.column)

    def range(self, first: date | None, end: date | None) -> str:
        """Rows from a day on and before another one, as a condition on the column itself."""
        if self.table.days == "tables":
            return "true"
        name, bounds = quoted(self.table.column), []
        for day, sign in ((first, ">="), (end, "<")):
            if day is not None:
                bounds.append(f"{name} {sign} {_moment(self.column.kind, day)}")
        return " and ".join(bounds)

    def of_day(self, day: date) -> str:
        return self.range(day, day + _DAY)


def _moment(kind: Kind, day: date) -> str:
    if kind is Kind.DATE:
        return f"'{day:%Y-%m-%d}'::date"
    if kind is Kind.TIMESTAMP:
        return f"'{day:%Y-%m-%d} 00:00:00'::timestamp"
    return f"'{day:%Y-%m-%d} 00:00:00+00'::timestamptz"


def read_columns(session: Session, names: Iterable[str]) -> dict[str, tuple[Column, ...]]:
    """The columns of tables, in one statement; a table that is not there is left out."""
    wanted = ", ".join(literal(name) for name in names)
    found: dict[str, list[Column]] = {}
    if wanted:
        for schema, table, name, type_, not_null in session.rows(
            statement("redshift/archive_columns").format(tables=wanted)
        ):
            found.setdefault(f"{schema}.{table}", []).append(Column(name=name, type=type_, not_null=bool(not_null)))
    return {name: tuple(columns) for name, columns in found.items()}


def source_of(table: ArchiveTable, name: str, columns: Sequence[Column]) -> Source:
    """:raises ConfigurationError: the table cannot be archived, and why."""
    what = f"archive of {name}"
    named = {column.name: column for column in columns}
    if table.column not in named:
        raise ConfigurationError(
            f"{what}: it has no column {table.column}, but {', '.join(named)}; correct redshift.archive.tables"
        )
    for column in columns:
        try:
            kind = column.kind
        except ConfigurationError as error:
            raise ConfigurationError(f"{what}: {error}") from None
        if column.name == table.column and kind not in MOMENTS:
            raise ConfigurationError(
                f"{what}: column {column.name} is {column.type}, not a date or timestamp: it does not say which day a "
                "row belongs to; correct redshift.archive.tables"
            )
    return Source(table, name, tuple(columns))


# --- plan ---------------------------------------------------------------------------------------------------


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
    attached = _attached(session, place, now)
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


def _attached(session: Session, place: ArchivePlace, now: datetime) -> dict[tuple[str, date], datetime]:
    if not _has_marks(session, place):
        return {}
    sql = statement("redshift/archive_attached").format(marks=_marks(place))
    return {(dataset, day): until for dataset, day, until in session.rows(sql, _naive(now))}


def make_marks(session: Session, place: ArchivePlace) -> None:
    """Make the table of marks, when it is not there.

    :raises ConfigurationError: the login may not, and somebody else must.
    """
    if _has_marks(session, place):
        return
    sql = statement("redshift/archive_marks_table").format(marks=_marks(place))
    try:
        session.run(sql)
    except StatementRefused as error:
        if not _has_marks(session, place):  # or somebody else was faster
            raise ConfigurationError(
                f"table {place.settings.marks}, in which deletions are marked, cannot be made: {error}; let somebody "
                f"make it who may, and grant it to this login: {' '.join(sql.split())}"
            ) from None


def _has_marks(session: Session, place: ArchivePlace) -> bool:
    schema, _, name = place.settings.marks.partition(".")
    ((there,),) = session.rows(statement("redshift/archive_has_marks"), schema, name)
    return bool(there)


def _marks(place: ArchivePlace) -> str:
    return quoted(*place.settings.marks.split(".", 1))


def _naive(moment: datetime) -> datetime:
    """As a TIMESTAMP of the warehouse holds it."""
    return moment.astimezone(UTC).replace(tzinfo=None)


# --- a day --------------------------------------------------------------------------------------------------


@dataclass
class DayDone:
    """What became of a day."""

    dataset: str
    day: date
    parts: list[ArchivedPart] = field(default_factory=list)
    """All of the day that were archived, those of earlier runs too."""
    archived: int = 0
    """Rows that this call archived."""
    deleted: int = 0
    """Rows that this call deleted from the warehouse; those of a part that an earlier run archived are among them."""
    bytes: int = 0
    kept: str | None = None
    """Why the day was left as it is."""


OnPart = Callable[[ArchivedPart], None]


def nobody(part: ArchivedPart) -> None:
    """Nobody is watching."""


def archive_day(
    session: Session,
    place: ArchivePlace,
    table: ArchiveTable,
    day: date,
    *,
    holder: str,
    now: datetime | None = None,
    replace: bool = False,
    on_part: OnPart = nobody,
) -> DayDone:
    """Archive a day and delete it from its table. Safe to repeat, and to kill; a day that is done costs a look.

    :param holder: who takes the day's lease: the same text in a retry.
    :param replace: let go of the day's archive when the table, where it was brought back, has other rows now.
    :param on_part: called with each part of the day once its rows are gone; when it raises, the day is not done.
    :raises NotExpired: the platform file wants the day to stay.
    :raises LeaseHeld: somebody else works on the day.
    """
    now = now or datetime.now(UTC)
    if day >= now.astimezone(UTC).date() - table.keep:
        raise NotExpired(
            f"archive of {table.dataset} {day}: the table keeps {table.keep.days} days, so this day stays; "
            "change redshift.archive.tables, or name older days"
        )
    done = DayDone(table.dataset, day)
    hold = place.settings.hold(table, day)
    if hold is not None:
        done.kept = f"legal hold, {hold.reason}"
        return done
    lease = Lease.acquire(place.store, lease_key(table.dataset, day), holder, LEASE)
    with lease.kept():
        work = _Day(session, place, table, day, lease, now, replace, done)
        if not work.settle():
            return done
        for _ in range(ROUNDS):
            if work.archive_rows():
                break
        else:
            raise RowsMoving(
                f"archive of {table.dataset} {day}: rows of it arrived or changed {ROUNDS} times between UNLOAD and "
                "DELETE; nothing was lost, find out who writes to a day so old, and run it again"
            )
        work.finish(on_part)
    return done


class _Day:
    """The work on one day, while its lease is held."""

    def __init__(
        self,
        session: Session,
        place: ArchivePlace,
        table: ArchiveTable,
        day: date,
        lease: Lease,
        now: datetime,
        replace: bool,
        done: DayDone,
    ) -> None:
        self.session, self.place, self.table, self.day = session, place, table, day
        self.lease, self.now, self.replace, self.done = lease, now, replace, done
        self.store, self.dataset, self.marks = place.store, table.dataset, _marks(place)
        self.what = f"archive of {self.dataset} {day}"
        self.parts: list[ArchivedPart] = []
        self.staged: list[StoredObject] = []

    # ------------------------------------------------------------------ what earlier runs left

    def settle(self) -> bool:
        """End what earlier runs began; False when the day must be left alone."""
        make_marks(self.session, self.place)
        marks = self._read_marks()
        until = [mark.keep_until for mark in marks.values() if mark.outcome == ATTACHED and mark.keep_until]
        if until and max(until) > _naive(self.now):
            self.done.kept = f"it was brought back, until {max(until):%Y-%m-%d %H:%M} UTC"
            return False
        parts = parts_of_day(self.store, self.dataset, self.day)
        known = {part.attempt for part in parts}
        for attempt in sorted(self._attempts() - known):
            if not self._discard(attempt):
                raise FinalError(
                    f"{self.what}: attempt {attempt} is marked as deleted in {self.place.settings.marks}, but "
                    f"{self.place.url}/{part_key(self.dataset, self.day, attempt)} is not there: somebody removed it; "
                    "bring it back from an older version of the bucket"
                )
        open_parts = []
        for part in parts:
            outcome = marks[part.attempt].outcome if part.attempt in marks else None
            if outcome == DISCARDED:
                self._remove(part.attempt, [file.name for file in part.files])
            elif outcome == DELETED or not part.rows:
                self.parts.append(part)
            else:
                open_parts.append(part)
        if open_parts:
            self._settle_open(open_parts)
        return True

    def _settle_open(self, parts: list[ArchivedPart]) -> None:
        """Parts that the table has still, or has again."""
        for part in parts:
            self._note(part.attempt, part.table)
        why = self._delete(parts)
        if not why:
            self.parts += parts
            return
        was_gone = [part.name for part in parts if part.deleted_at is not None]
        if was_gone and not self.replace:
            raise PartChanged(
                f"{self.what}: {', '.join(was_gone)} was deleted from {self.table.table} before and is there again, "
                f"but not the same: {'; '.join(why[:3])}. When the table is right, archive it with `dbops archive run "
                f"--table {self.dataset} --first {self.day} --last {self.day} --replace`; when the archive is right, "
                "delete the day's rows from the table"
            )
        for part in parts:
            log.warning("%s: part %d is discarded: %s", self.what, part.part, "; ".join(why[:3]))
            if not self._discard(part.attempt):
                self.parts.append(part)

    def _note(self, attempt: str, table: str) -> Attempt:
        """Leave word that somebody works on the day, until `finish`."""
        begun = Attempt(
            dataset=self.dataset,
            day=self.day,
            table=table,
            attempt=attempt,
            started_at=datetime.now(UTC),
            holder=self.lease.holder,
        )
        self.store.put(attempt_key(self.dataset, self.day, attempt), begun.to_json())
        return begun

    def _attempts(self) -> set[str]:
        """Every attempt that left anything in the bucket."""
        below = (f"{ATTEMPTS}/{day_prefix(self.dataset, self.day)}", day_prefix(self.dataset, self.day))
        return {attempt_of(item.key[len(prefix) :]) for prefix in below for item in self.store.list(prefix)}

    # ------------------------------------------------------------------ rows that are in the table

    def archive_rows(self) -> bool:
        """Archive and delete what the table has of the day; False when there is, or may be, more."""
        source = self._source()
        if source is None:
            return True
        attempt = new_attempt(datetime.now(UTC))
        if not self._count(source):
            if not self.parts:
                self._commit_empty(source, attempt)
            return True
        begun = self._note(attempt, source.name)
        warm = threading.Thread(target=_warm, name="warm", daemon=True)
        warm.start()
        rows = self._unload(source, attempt)
        warm.join()
        if not rows:
            self._discard(attempt)
            return False
        part = self._verified(source, begun, rows)
        self._publish(part)
        self.lease.renew()
        try:
            why = self._delete([part], is_new=True)
        except FinalError:  # it will be refused again: what is still in the table is not left in the dataset too
            self._discard(attempt)
            raise
        if why:
            log.warning("%s: attempt %s is discarded: %s", self.what, attempt, "; ".join(why[:3]))
            self._discard(attempt)
            return False
        self.parts.append(part)
        self.done.archived += part.rows
        self.done.bytes += part.bytes
        return self.table.days == "tables" or self._count(source) == 0

    def _source(self) -> Source | None:
        """The table of the day, as it is now; None when the day has none."""
        name = self.table.source(self.day)
        columns = read_columns(self.session, [name]).get(name)
        if columns is None and self.table.days == "tables":
            return None
        if columns is None:
            raise ConfigurationError(f"{self.what}: the warehouse has no table {name}")
        return source_of(self.table, name, columns)

    def _count(self, source: Source) -> int:
        sql = statement("redshift/archive_count").format(table=source.sql, range=source.of_day(self.day))
        ((rows,),) = self.session.rows(sql)
        return int(rows)

    def _unload(self, source: Source, attempt: str) -> int:
        """UNLOAD of the day; how many rows it has, which UNLOAD has written all."""
        prefix = attempt_prefix(self.dataset, self.day, attempt)
        role = self.place.settings.iam_role
        query = statement("redshift/archive_rows").format(table=source.sql, range=source.of_day(self.day))
        sql = statement("redshift/archive_unload").format(
            query=literal(query),
            destination=literal(f"s3://{self.store.bucket}/{self.store.prefix}{prefix}"),
            role=role if role == "default" else literal(role),
            region=literal(self.place.region),
        )
        with self.session.transaction():  # one snapshot for all three
            rows = self._count(source)
            if not rows:
                return 0
            try:
                self.session.run(sql)
            except StatementRefused as error:
                if error.code.startswith("XX") and "AccessDenied" not in str(error):
                    raise UnloadFailed(
                        f"{self.what}: {error}; nothing was deleted, and what was written is removed by the next try"
                    ) from None
                raise
            ((unloaded,),) = self.session.rows(statement("redshift/archive_unloaded"))
        if int(unloaded) != rows:
            what = f"UNLOAD wrote {int(unloaded):,} rows, the table had {rows:,}"
            raise UnloadFailed(_WRONG_NUMBER.format(name=self.what, what=what))
        return rows

    def _verified(self, source: Source, begun: Attempt, rows: int) -> ArchivedPart:
        """Read back what UNLOAD wrote, and describe it.

        :raises UnloadDamaged: it is not all there, or not what the manifest says.
        """
        from dbops.redshift.archived_files import (
            FileDamaged,
            UnloadDamaged,
            check_files,
            read_unload_manifest,
            total_checks,
        )

        prefix = attempt_prefix(self.dataset, self.day, begun.attempt)
        name = f"{self.store.url}/{prefix}manifest"
        try:
            data = self.store.get(f"{prefix}manifest")
        except NotFound:
            raise UnloadDamaged(f"{self.what}: UNLOAD left no manifest at {name}; unload again") from None
        told = {
            file.url.removeprefix(f"s3://{self.store.bucket}/{self.store.prefix}"): file
            for file in read_unload_manifest(data, name)
        }
        found = {item.key: item for item in self.store.list(prefix) if item.key != f"{prefix}manifest"}
        problem = None
        if told.keys() != found.keys():
            odd = sorted(told.keys() ^ found.keys())
            problem = f"{odd[0]} is {'not there' if odd[0] in told else 'not in the manifest'}"
        elif sum(file.rows for file in told.values()) != rows:
            problem = f"its files have {sum(file.rows for file in told.values()):,} rows, the table had {rows:,}"
        for key, file in told.items():
            if problem is None and found[key].size != file.size:
                problem = f"{key} has {found[key].size:,} bytes, the manifest says {file.size:,}"
        if problem:
            raise UnloadDamaged(_WRONG_NUMBER.format(name=f"{self.what}, {name}", what=problem))
        keys = sorted(told)
        try:
            facts = check_files(self.store, [(key, told[key].size) for key in keys], source.columns)
        except FileDamaged as error:
            raise UnloadDamaged(f"{self.what}: {error}; nothing was deleted, unload again") from None
        for key, fact in zip(keys, facts, strict=True):
            if fact.rows != told[key].rows:
                what = f"{key} has {fact.rows:,} rows, the manifest says {told[key].rows:,}"
                raise UnloadDamaged(_WRONG_NUMBER.format(name=self.what, what=what))
        self.staged = [found[key] for key in keys]
        files = [
            ArchivedFile(
                name=f"{begun.attempt}_{key.rpartition('/')[2]}",
                size=told[key].size,
                rows=fact.rows,
                sha256=fact.sha256,
            )
            for key, fact in zip(keys, facts, strict=True)
        ]
        return self._part(source, begun, files, total_checks(source.columns, facts), hashlib.sha256(data).hexdigest())

    def _part(
        self, source: Source, begun: Attempt, files: list[ArchivedFile], checks: Checks, manifest_sha256: str | None
    ) -> ArchivedPart:
        return ArchivedPart(
            warehouse=self.place.warehouse,
            dataset=self.dataset,
            table=source.name,
            column=self.table.column,
            day=self.day,
            part=max((part.part for part in self.parts), default=0) + 1,
            attempt=begun.attempt,
            started_at=begun.started_at,
            archived_at=datetime.now(UTC),
            columns=source.columns,
            files=tuple(files),
            rows=checks.rows,
            bytes=sum(file.size for file in files),
            checks=checks,
            manifest_sha256=manifest_sha256,
        )

    def _publish(self, part: ArchivedPart) -> None:
        """Let S3 copy exactly the bytes that were read into the dataset, and write a manifest of them for COPY."""
        from dbops.redshift.archived_files import UnloadDamaged, copy_manifest

        def copy(staged: StoredObject) -> None:
            key = file_key(self.dataset, self.day, _name(part.attempt, staged.key))
            self.store.copy(staged.key, key, if_match=staged.etag or "")

        with ThreadPoolExecutor(_COPIES, thread_name_prefix="publish") as pool:
            list(pool.map(copy, self.staged))
        prefix = file_key(self.dataset, self.day, f"{part.attempt}_")
        there = {item.key: item.size for item in self.store.list(prefix)}
        wanted = {file_key(self.dataset, self.day, file.name): file.size for file in part.files}
        if there != wanted:
            odd = sorted(there.items() ^ wanted.items())
            raise UnloadDamaged(_WRONG_NUMBER.format(name=self.what, what=f"the copy {odd[0][0]} is not its original"))
        base = f"s3://{self.store.bucket}/{self.store.prefix}"
        manifest = copy_manifest([(base + key, size) for key, size in sorted(wanted.items())])
        self.store.put(manifest_key(self.dataset, self.day, part.attempt), manifest)

    def _commit_empty(self, source: Source, attempt: str) -> None:
        """Write down that the day has no rows, which is not the same as that nobody looked."""
        from dbops.redshift.archived_files import total_checks

        begun = self._note(attempt, source.name)
        part = self._part(source, begun, [], total_checks(source.columns, []), None)
        part = part.model_copy(update={"deleted_at": part.archived_at})
        self.store.put(part_key(self.dataset, self.day, part.attempt), part.to_json(), if_absent=True)
        self.parts.append(part)

    # ------------------------------------------------------------------ deleting

    def _delete(self, parts: list[ArchivedPart], *, is_new: bool = False) -> list[str]:
        """Delete the day's rows when they are exactly those of the parts; else say what differs, and delete nothing.

        :param is_new: the part has no document yet.
        """
        why, deleted = self._locked(lambda marks: self._delete_locked(parts, marks, is_new=is_new))
        self.done.deleted += deleted
        return why

    def _locked(self, work: Callable[[dict[str, _Mark]], _T]) -> _T:
        """A transaction that nobody else is in: it begins with the lock, and then reads the marks of the day."""
        for number in range(CONFLICTS):
            try:
                with self.session.transaction():
                    self.session.run(statement("redshift/archive_lock").format(marks=self.marks))
                    return work(self._read_marks())
            except SerializationConflict as error:
                if number == CONFLICTS - 1:
                    raise
                log.info("%s: %s", self.what, error)
                time.sleep(random.uniform(0.1, 0.5) * 2**number)
        raise AssertionError("the last conflict was raised")

    def _delete_locked(
        self, parts: list[ArchivedPart], marks: dict[str, _Mark], *, is_new: bool
    ) -> tuple[list[str], int]:
        """What differs, and how many rows were deleted."""
        for part in parts:
            if part.attempt in marks and marks[part.attempt].outcome != ATTACHED:
                return [f"attempt {part.attempt} was {marks[part.attempt].outcome} by somebody else"], 0
        source = self._source()  # of now: a column may have been added
        table = self._checks(source) if source is not None else None
        if table is None or (not table.rows and not is_new):
            log.warning("%s: its rows are gone from the table, and not by us", self.what)
            table = None
        else:
            assert source is not None
            try:
                why = differences(table, merged([part.checks for part in parts]))
            except ValueError as error:
                why = [str(error)]
            if why:
                return why, 0
            if is_new:
                self._commit(parts[0])
            self._delete_rows(source, table.rows)
        for part in parts:
            self._mark(part.attempt, DELETED, part.rows, was_marked=part.attempt in marks)
        return [], table.rows if table is not None else 0

    def _checks(self, source: Source) -> Checks:
        found = [
            row
            for figures in expressions(source.columns)
            for row in self.session.rows(
                statement("redshift/archive_checks").format(
                    figures=figures, table=source.sql, range=source.of_day(self.day)
                )
            )
        ]
        return read_checks(source.columns, found)

    def _commit(self, part: ArchivedPart) -> None:
        key = part_key(self.dataset, self.day, part.attempt)
        with suppress(AlreadyExists):  # by this process, before a conflict
            self.store.put(key, part.to_json(), if_absent=True)

    def _delete_rows(self, source: Source, rows: int) -> None:
        if self.table.days == "tables":
            self.session.run(statement("redshift/archive_drop").format(table=source.sql))
            return
        sql = statement("redshift/archive_delete").format(table=source.sql, range=source.of_day(self.day))
        deleted = self.session.run(sql)
        if deleted != rows:
            raise RetryableError(
                f"{self.what}: DELETE took {deleted:,} rows where {rows:,} were compared; it was rolled back, try again"
            )

    # ------------------------------------------------------------------ marks

    def _read_marks(self) -> dict[str, _Mark]:
        sql = statement("redshift/archive_marks").format(marks=self.marks)
        found = self.session.rows(sql, self.dataset, self.day)
        return {attempt: _Mark(outcome, int(rows), until) for attempt, outcome, rows, until in found}

    def _mark(self, attempt: str, outcome: str, rows: int, *, was_marked: bool) -> None:
        key = (self.dataset, self.day, attempt)
        if was_marked:
            self.session.run(statement("redshift/archive_unmark").format(marks=self.marks), *key)
        sql = statement("redshift/archive_mark").format(marks=self.marks)
        self.session.run(sql, *key, outcome, rows, _naive(datetime.now(UTC)), None)

    def _discard(self, attempt: str) -> bool:
        """Mark an attempt as discarded, then remove what it left; False when it has deleted its rows by now."""
        if not self._locked(lambda marks: self._discard_locked(attempt, marks.get(attempt))):
            return False
        prefix = day_prefix(self.dataset, self.day)
        found = [item.key for item in self.store.list(f"{prefix}{attempt}_")]
        self._remove(attempt, [key.removeprefix(prefix) for key in found])
        return True

    def _discard_locked(self, attempt: str, mark: _Mark | None) -> bool:
        if mark is not None and mark.outcome == DELETED:
            return False
        if mark is None or mark.outcome != DISCARDED:
            self._mark(attempt, DISCARDED, 0, was_marked=mark is not None)
        return True

    def _remove(self, attempt: str, names: Iterable[str]) -> None:
        """The document first: what it describes goes next. The note that somebody works on it goes last."""
        self.store.delete([part_key(self.dataset, self.day, attempt)])
        self.store.delete(file_key(self.dataset, self.day, name) for name in names)
        self.store.delete([manifest_key(self.dataset, self.day, attempt)])
        self._clear(attempt)

    def _clear(self, attempt: str) -> None:
        prefix = attempt_prefix(self.dataset, self.day, attempt)
        self.store.delete([item.key for item in self.store.list(prefix)])
        self.store.delete([attempt_key(self.dataset, self.day, attempt)])

    # ------------------------------------------------------------------ the end

    def finish(self, on_part: OnPart) -> None:
        """Say in each document that its rows are gone, tell whoever remembers it, and only then end the attempt."""
        for part in self.parts:
            if part.deleted_at is None or part.attached_at is not None:
                part = self._as_deleted(part)
            on_part(part)
            self.done.parts.append(part)
        for attempt in {part.attempt for part in self.parts}:
            self._clear(attempt)

    def _as_deleted(self, part: ArchivedPart) -> ArchivedPart:
        key = part_key(self.dataset, self.day, part.attempt)
        there = self.store.head(key)
        part = part.model_copy(update={"deleted_at": datetime.now(UTC), "attached_at": None})
        self.store.put(key, part.to_json(), if_match=there.etag if there else "")
        return part


@dataclass(frozen=True)
class _Mark:
    outcome: str
    rows: int
    keep_until: datetime | None


def _name(attempt: str, staged_key: str) -> str:
    """What a file that UNLOAD wrote is called in the dataset."""
    return f"{attempt}_{staged_key.rpartition('/')[2]}"


def _warm() -> None:
    """Load what reads files while the warehouse writes them."""
    import pyarrow as pa

    from dbops.redshift.text_hash import sum_of_md5

    sum_of_md5(pa.array(["warm"]))
