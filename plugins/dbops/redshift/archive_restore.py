"""Bringing archived days back: into a side table, checked there, and from it into the table where they were.

A day's side table has the columns that the day had, and is compared with the parts' documents figure by figure before
anybody sees it: what is in it is what was deleted. `attach_day` moves its rows into their table (or, where each day had
a table of its own, gives it its name back) and says so in the table of marks, in one transaction. From then on the rows
are in the warehouse and in the archive; archival leaves the day alone until `keep_until`, and then deletes it again
without writing anything, if it still is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

from dbops.backups.lease import Lease
from dbops.backups.store import NotFound
from dbops.errors import ConfigurationError, FinalError
from dbops.redshift.archive import LEASE, OnPart, nobody
from dbops.redshift.archive_checks import Column, Kind, differences, merged
from dbops.redshift.archive_marks import ATTACHED, DELETED, Mark, locked, make_marks, mark
from dbops.redshift.archive_parts import (
    ArchivedPart,
    ArchivePlace,
    files_of,
    lease_key,
    manifest_key,
    parts_of,
    parts_of_day,
    update_part,
)
from dbops.redshift.archive_source import check_rows, read_columns
from dbops.redshift.session import Session
from dbops.sql import literal, quoted, statement

log = logging.getLogger(__name__)

KEEP: Final = timedelta(days=7)
THAWED_DAYS: Final = 7
LONGEST_NAME: Final = 127
SIDE_ONLY: Final = "restore the days to their side tables only"
_LOOKS: Final = 16


class NotArchived(ConfigurationError):
    """There is no archive of these days."""


class Frozen(FinalError):
    """Files are of a storage class that must be thawed before they can be read."""


class RestoreDiffers(FinalError):
    """What was loaded is not what was archived."""


class CannotAttach(FinalError):
    """The rows cannot go back into their table."""


@dataclass
class RestorePlan:
    """Which parts come back."""

    dataset: str
    parts: list[ArchivedPart]
    missing: list[date] = field(default_factory=list)
    """Days of the range that were never archived."""

    @property
    def days(self) -> list[date]:
        """Days that have rows."""
        return sorted({part.day for part in self.parts if part.rows})

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def describe(self) -> str:
        lines = [
            f"{day} of {self.dataset}: {sum(part.rows for part in self.parts if part.day == day):,} rows in "
            f"{sum(part.day == day for part in self.parts)} parts, to {', '.join(sorted(side_tables(self.parts, day)))}"
            for day in self.days
        ]
        lines += [f"{day} of {self.dataset} was never archived" for day in self.missing]
        return "\n".join([f"{self.rows:,} rows, {self.bytes / 1e6:,.1f} MB of {self.dataset}", *lines])


def plan_restore(place: ArchivePlace, dataset: str, first: date, last: date, *, thaw: bool = False) -> RestorePlan:
    """Which parts there are of these days, both included, and whether they can be read. Changes nothing.

    :param thaw: ask S3 to thaw what is frozen.
    :raises NotArchived: there is nothing.
    :raises Frozen: something must be thawed first, or is being thawed by now.
    """
    if last < first:
        raise ConfigurationError(f"restore of {dataset}: the last day, {last}, is before the first, {first}")
    parts = parts_of(place.store, dataset, first, last)
    plan = RestorePlan(dataset, parts)
    if not plan.days:
        raise NotArchived(
            f"restore of {dataset} {first} to {last}: nothing is archived of these days at {place.url}; "
            "`dbops archive list` shows what is"
        )
    archived = {part.day for part in parts}
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    plan.missing = [day for day in days if day not in archived]
    require_readable(place, parts, thaw=thaw)
    return plan


def require_readable(place: ArchivePlace, parts: Sequence[ArchivedPart], *, thaw: bool = False) -> None:
    """:raises Frozen: files must be thawed first. :raises NotFound: a file is not there."""
    keys = [key for _, _, key in files_of(parts)]
    with ThreadPoolExecutor(_LOOKS, thread_name_prefix="looks") as pool:
        frozen = [key for key, cold in zip(keys, pool.map(place.store.is_frozen, keys), strict=True) if cold]
        if frozen and thaw:
            list(pool.map(lambda key: place.store.thaw(key, THAWED_DAYS), frozen))
    if not frozen:
        return
    what = (
        f"{len(frozen)} of {len(keys)} files, among them {place.url}/{frozen[0]}, are of a storage class for archives"
    )
    if thaw:
        raise Frozen(
            f"{what}: S3 was asked to thaw them for {THAWED_DAYS} days, which takes up to two days; then try again"
        )
    raise Frozen(f"{what}: they cannot be read before they are thawed; ask for that with `thaw`")


# --- side tables --------------------------------------------------------------------------------------------


def side_tables(parts: Sequence[ArchivedPart], day: date) -> dict[str, list[ArchivedPart]]:
    """The side table of a day with its parts; one more for parts that had other columns, as a column came or went."""
    found: list[list[ArchivedPart]] = []
    for part in parts:
        if part.day == day and part.rows:
            group = next((one for one in found if one[0].columns == part.columns), None)
            if group is None:
                found.append([part])
            else:
                group.append(part)
    named = {}
    for number, group in enumerate(found, 1):
        schema, _, name = group[0].dataset.partition(".")
        end = f"_restored_{day:%Y%m%d}" + (f"_{number}" if number > 1 else "")
        named[f"{schema}.{name[: LONGEST_NAME - len(end)]}{end}"] = group
    return named


def restore_day(session: Session, place: ArchivePlace, dataset: str, day: date, *, holder: str) -> dict[str, int]:
    """Load a day into its side table, and compare it with what was archived; the tables and their rows.

    Safe to repeat: the side table is made anew.

    :raises RestoreDiffers: nothing is left of it.
    :raises LeaseHeld: somebody archives the day.
    """
    done: dict[str, int] = {}
    lease = Lease.acquire(place.store, lease_key(dataset, day), holder, LEASE)
    with lease.kept():
        for side, parts in side_tables(parts_of_day(place.store, dataset, day), day).items():
            with session.transaction():
                _load(session, place, side, parts)
            done[side] = sum(part.rows for part in parts)
    if not done:
        raise NotArchived(f"restore of {dataset} {day}: no rows are archived of it")
    return done


def _load(session: Session, place: ArchivePlace, side: str, parts: Sequence[ArchivedPart]) -> None:
    columns, where = parts[0].columns, quoted(*side.split(".", 1))
    role = place.settings.iam_role
    session.run(statement("redshift/archive_side_drop").format(side=where))
    session.run(
        statement("redshift/archive_side_create").format(
            side=where, columns=", ".join(_definition(column) for column in columns), column=quoted(parts[0].column)
        )
    )
    for part in parts:
        key = manifest_key(part.dataset, part.day, part.attempt)
        if place.store.head(key) is None:
            raise NotFound(
                f"restore of {part.name}: {place.url}/{key} is not there: somebody removed it; its files are named in "
                "the part's document"
            )
        session.run(
            statement("redshift/archive_side_copy").format(
                side=where,
                manifest=literal(f"s3://{place.store.bucket}/{place.store.prefix}{key}"),
                role=role if role == "default" else literal(role),
                more="serializetojson" if any(column.kind is Kind.SUPER for column in columns) else "",
            )
        )
    why = differences(check_rows(session, where, columns, "true"), merged([part.checks for part in parts]))
    if why:
        raise RestoreDiffers(
            f"restore of {parts[0].dataset} {parts[0].day} to {side}: {'; '.join(why[:5])}; nothing was left of it: "
            f"run `dbops archive verify {parts[0].dataset}`, which says which file is damaged"
        )


def _definition(column: Column) -> str:
    return f"{quoted(column.name)} {column.type}{' not null' if column.not_null else ''}"


# --- attaching ----------------------------------------------------------------------------------------------


def require_attachable(session: Session, plan: RestorePlan) -> None:
    """Look, before anything is loaded, whether the rows can go back into their tables.

    :raises CannotAttach: a table is not there, lacks a column, or numbers its rows itself.
    """
    parts = [part for part in plan.parts if part.rows]
    tables = sorted({part.table for part in parts})
    found = read_columns(session, tables)
    for part in parts:
        what = f"attach {part.dataset} {part.day}"
        if part.table in found:
            _require_columns(what, part, found[part.table], SIDE_ONLY)
        elif part.table == part.dataset:
            raise CannotAttach(f"{what}: table {part.table} is not there; {SIDE_ONLY}")
    sql = statement("redshift/archive_identity").format(tables=", ".join(map(literal, tables)))
    for table, column in session.rows(sql):
        raise CannotAttach(
            f"attach {plan.dataset}: column {column} of {table} is an IDENTITY, and INSERT cannot give it a value; "
            f"{SIDE_ONLY}, and read both tables with UNION ALL"
        )


def _require_columns(what: str, part: ArchivedPart, there: Sequence[Column], do: str) -> None:
    lacking = sorted({column.name for column in part.columns} - {column.name for column in there})
    if lacking:
        raise CannotAttach(f"{what}: {part.table} has no column {', '.join(lacking)} any more; {do}")


def attach_day(
    session: Session,
    place: ArchivePlace,
    dataset: str,
    day: date,
    *,
    holder: str,
    keep: timedelta = KEEP,
    now: datetime | None = None,
    on_part: OnPart = nobody,
) -> int:
    """Move the rows of a day's side tables into the table where they were; how many. Safe to repeat.

    :param keep: so long archival leaves the day alone.
    :param on_part: called with each part that is back.
    :raises CannotAttach: a side table is not there, the table has no such column, or the rows were never deleted.
    """
    until = (now or datetime.now(UTC)) + keep
    lease = Lease.acquire(place.store, lease_key(dataset, day), holder, LEASE)
    with lease.kept():
        make_marks(session, place)
        parts = [part for part in parts_of_day(place.store, dataset, day) if part.rows]
        if not parts:
            raise NotArchived(f"restore of {dataset} {day}: no rows are archived of it")
        rows = locked(session, place, dataset, day, lambda marks: _attach(session, place, parts, day, until, marks))
        for part in parts:
            on_part(update_part(place.store, part, attached_at=datetime.now(UTC)))
    return rows


def _attach(
    session: Session,
    place: ArchivePlace,
    parts: list[ArchivedPart],
    day: date,
    until: datetime,
    marks: dict[str, Mark],
) -> int:
    outcomes = {marks[part.attempt].outcome if part.attempt in marks else None for part in parts}
    sides = side_tables(parts, day)
    what = f"attach {parts[0].dataset} {day}"
    if outcomes == {ATTACHED}:
        return 0  # an earlier try was committed
    if outcomes != {DELETED}:
        raise CannotAttach(f"{what}: its rows were not deleted from the table: they would be there twice")
    found = read_columns(session, [*sides, *{part.table for part in parts}])
    moved = 0
    for side, group in sides.items():
        if side not in found:
            raise CannotAttach(f"{what}: side table {side} is not there; restore the day again")
        rows = sum(part.rows for part in group)
        _move(session, what, side, group, found)
        moved += rows
        found |= read_columns(session, [group[0].table])
    for part in parts:
        mark(session, place, part.dataset, day, part.attempt, ATTACHED, part.rows, until=until, was_marked=True)
    return moved


def _move(
    session: Session, what: str, side: str, parts: Sequence[ArchivedPart], found: dict[str, tuple[Column, ...]]
) -> None:
    live, where = parts[0].table, quoted(*side.split(".", 1))
    rows = sum(part.rows for part in parts)
    if live not in found:
        if parts[0].table == parts[0].dataset:
            raise CannotAttach(f"{what}: table {live} is not there; the rows stay in {side}")
        session.run(statement("redshift/archive_attach_table").format(side=where, name=quoted(live.partition(".")[2])))
        return
    _require_columns(what, parts[0], found[live], f"the rows stay in {side}")
    names = ", ".join(quoted(column.name) for column in parts[0].columns)
    inserted = session.run(
        statement("redshift/archive_attach").format(table=quoted(*live.split(".", 1)), columns=names, side=where)
    )
    if inserted != rows:
        raise CannotAttach(f"{what}: {inserted:,} rows of {rows:,} were inserted; it was rolled back")
    session.run(statement("redshift/archive_side_drop").format(side=where))
