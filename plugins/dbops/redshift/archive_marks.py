"""The table in the warehouse that says what became of each attempt to archive a day, and the lock that it is for."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, TypeVar

from dbops.errors import ConfigurationError, FinalError
from dbops.redshift.archive_parts import ArchivePlace
from dbops.redshift.session import SerializationConflict, Session, StatementRefused
from dbops.sql import quoted, statement

log = logging.getLogger(__name__)

_T = TypeVar("_T")
DELETED, DISCARDED, ATTACHED = "deleted", "discarded", "attached"
CONFLICTS: Final = 6
UNDEFINED_TABLE: Final = "42P01"


@dataclass(frozen=True)
class Mark:
    """What became of an attempt, as the warehouse says."""

    outcome: str
    rows: int
    keep_until: datetime | None


def read_marks(session: Session, place: ArchivePlace, dataset: str, day: date) -> dict[str, Mark]:
    sql = statement("redshift/archive_marks").format(marks=_marks(place))
    found = session.rows(sql, dataset, day)
    return {attempt: Mark(outcome, int(rows), until) for attempt, outcome, rows, until in found}


def mark(
    session: Session,
    place: ArchivePlace,
    dataset: str,
    day: date,
    attempt: str,
    outcome: str,
    rows: int,
    *,
    until: datetime | None = None,
    was_marked: bool,
) -> None:
    """Say what became of an attempt, within `locked`."""
    key = (dataset, day, attempt)
    if was_marked:
        session.run(statement("redshift/archive_unmark").format(marks=_marks(place)), *key)
    sql = statement("redshift/archive_mark").format(marks=_marks(place))
    session.run(sql, *key, outcome, rows, naive(datetime.now(UTC)), naive(until) if until else None)


class TableGone(FinalError):
    """The table that is to be locked is not there."""


def locked(
    session: Session,
    place: ArchivePlace,
    dataset: str,
    day: date,
    work: Callable[[dict[str, Mark]], _T],
    *,
    table: str | None = None,
) -> _T:
    """A transaction that nobody else is in: it begins with the lock, and then reads the marks of the day.

    Repeated when it meets another one all the same (1023).

    :param table: quoted; nobody else may write to it either, until the transaction ends.
    :raises TableGone: there is no such table, and nothing was done.
    """
    for number in range(CONFLICTS):
        try:
            with session.transaction():
                session.run(statement("redshift/archive_lock").format(table=_marks(place)))
                if table is not None:
                    _lock(session, table)
                return work(read_marks(session, place, dataset, day))
        except SerializationConflict as error:
            if number == CONFLICTS - 1:
                raise
            log.info("archive of %s %s: %s", dataset, day, error)
            time.sleep(random.uniform(0.1, 0.5) * 2**number)
    raise AssertionError("the last conflict was raised")


def _lock(session: Session, table: str) -> None:
    try:
        session.run(statement("redshift/archive_lock").format(table=table))
    except StatementRefused as error:
        if error.code != UNDEFINED_TABLE:
            raise
        raise TableGone(f"{table} is gone: {error}") from None


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
                f"make it who may, and grant SELECT, INSERT and DELETE on it to this login: {' '.join(sql.split())}"
            ) from None


def attached_days(session: Session, place: ArchivePlace, now: datetime) -> dict[tuple[str, date], datetime]:
    """Dataset and day of what was brought back, and until when it stays."""
    if not _has_marks(session, place):
        return {}
    sql = statement("redshift/archive_attached").format(marks=_marks(place))
    return {(dataset, day): until for dataset, day, until in session.rows(sql, naive(now))}


def _has_marks(session: Session, place: ArchivePlace) -> bool:
    schema, _, name = place.settings.marks.partition(".")
    ((there,),) = session.rows(statement("redshift/archive_has_marks"), schema, name)
    return bool(there)


def _marks(place: ArchivePlace) -> str:
    return quoted(*place.settings.marks.split(".", 1))


def naive(moment: datetime) -> datetime:
    """As a TIMESTAMP of the warehouse holds it."""
    return moment.astimezone(UTC).replace(tzinfo=None)
