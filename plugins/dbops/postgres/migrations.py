"""The version that goose's table says a database is at, against the one that the platform file expects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dbops.errors import DbopsError
from dbops.platform import Migrated, Postgres, Severity
from dbops.postgres.health import Check, OpenSession
from dbops.postgres.reports import text_for
from dbops.postgres.session import Session
from dbops.sql import quoted

MIGRATIONS = "postgres_migrations"
"""Name of the check, in the ledger and in incidents."""
MOST_NAMED = 5


@dataclass(frozen=True)
class Version:
    """One migration, as goose's newest row about it says."""

    number: int
    applied: bool
    at: datetime | None
    """As the server wrote it, without a time zone."""
    row: int
    """Its place in the order in which migrations were run."""


@dataclass(frozen=True)
class State:
    """What goose has done in a database. Nothing at all: it was never run there."""

    versions: tuple[Version, ...]

    @property
    def applied(self) -> tuple[Version, ...]:
        """In the order in which they were applied."""
        return tuple(one for one in sorted(self.versions, key=lambda one: one.row) if one.applied)

    @property
    def current(self) -> int | None:
        """What goose calls the version of the database: the migration that was applied last and not rolled back."""
        return self.applied[-1].number if self.applied else None

    @property
    def late(self) -> tuple[int, ...]:
        """Versions that were applied after a greater one: by `-allow-missing`, or from another branch."""
        found, highest = [], -1
        for one in self.applied:
            if one.number < highest:
                found.append(one.number)
            highest = max(highest, one.number)
        return tuple(found)

    def has(self, number: int) -> bool:
        return any(one.number == number for one in self.applied)


def read_state(session: Session, table: str) -> State:
    """:param table: schema.table; one that is not there was never migrated.

    :raises RightsMissing: the role may not read it.
    """
    schema, _, name = table.partition(".")
    ((there,),) = session.rows(text_for("table_there", session.version), schema, name)
    if not there:
        return State(())
    found = session.query(text_for("migrations", session.version).format(table=quoted(schema, name)))
    return State(tuple(_version(row) for row in found.rows))


def _version(row: Sequence[Any]) -> Version:
    number, applied, at, place = row
    return Version(int(number), bool(applied), at, int(place))


def drift(expected: Migrated, state: State) -> str | None:
    """How a database differs from what is expected of it, in words; None: it does not."""
    current, wanted = state.current, expected.version
    if current is None:
        return f"goose was never run here: there is no row in {expected.table}; {wanted} is expected"
    late = f"; applied after greater ones: {', '.join(map(str, state.late[:MOST_NAMED]))}" if state.late else ""
    later = sorted(one.number for one in state.applied if one.number > wanted)
    if not state.has(wanted):
        back = next((one for one in state.versions if one.number == wanted and not one.applied), None)
        why = f": it was rolled back at {back.at:%Y-%m-%d %H:%M}" if back is not None and back.at else ""
        if later:
            named = ", ".join(map(str, later[:MOST_NAMED]))
            return f"{wanted} is not applied{why}, but later ones are: {named}{late}"
        return f"behind: at {current}, {wanted} is expected and not applied{why}{late}"
    if later and not expected.ahead:
        named = ", ".join(map(str, later[:MOST_NAMED]))
        return f"ahead: {wanted} is expected, and later ones are applied: {named}{late}"
    return None


def check_migrations(postgres: Postgres, open_session: OpenSession) -> list[Check]:
    """One check for each database that the platform file names; one that cannot be looked at is an error."""
    return [
        _looked(postgres, expected, open_session)
        for expected in postgres.migrations
        if expected.name in postgres.databases
    ]


def _looked(postgres: Postgres, expected: Migrated, open_session: OpenSession) -> Check:
    target = f"{postgres.name}/{expected.name}"
    try:
        with open_session(expected.name) as session:
            state = read_state(session, expected.table)
    except DbopsError as error:
        return Check(MIGRATIONS, target, f"could not look: {error}", error=error)
    found = drift(expected, state)
    details = {
        "expected": expected.version,
        "current": state.current,
        "applied": len(state.applied),
        "late": list(state.late),
        "newest": _named(state.applied[-MOST_NAMED:]),
    }
    if found is not None:
        return Check(MIGRATIONS, target, found, Severity.WARNING, details=details)
    more = f", {state.current} at the last" if state.current != expected.version else ""
    return Check(MIGRATIONS, target, f"version {expected.version} is applied{more}", details=details)


def _named(versions: Iterable[Version]) -> list[dict[str, Any]]:
    return [{"version": one.number, "at": one.at.isoformat() if one.at else None} for one in versions]
