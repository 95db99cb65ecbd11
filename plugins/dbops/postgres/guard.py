"""May a change be made now? What the guide asks for before one, looked at: go, or no-go with every reason.

The guide (Change Management): changes through migrations, tried in staging first, a backup before, documented with the
way back. Beside that: nothing on the instance that a change would wait for, or that it would make worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from dbops.errors import ConfigurationError, DbopsError, FinalError
from dbops.platform import Migrated, Platform, Postgres, Severity, duration_text
from dbops.postgres import health
from dbops.postgres.health import Check, Look, OpenSession
from dbops.postgres.migrations import read_state
from dbops.postgres.places import FindConnection, storage_gb
from dbops.postgres.reports import run_report, text_for
from dbops.postgres.session import Session

if TYPE_CHECKING:
    from dbops.postgres.rds import Instance
    from dbops.redshift.snapshots import Snapshot

GUARD = "postgres_change_guard"
"""Name of the action in the ledger; its checks are `postgres_guard_<name>`."""
MOST_NAMED = 5
CLOCK_SKEW = timedelta(minutes=10)


class NoGo(FinalError):
    """A change should not be made now."""


@dataclass(frozen=True)
class Change:
    """What somebody wants to do.

    :param what: in words; empty: nobody has said.
    :param rollback: how it is taken back.
    :param expected: the version that the database is to be at before; None: that of the platform file.
    :param brings: the version that it will be at after; None: the change is no migration.
    """

    database: str
    what: str = ""
    ticket: str = ""
    rollback: str = ""
    expected: int | None = None
    brings: int | None = None


@dataclass(frozen=True)
class Verdict:
    change: Change
    checks: tuple[Check, ...]

    @property
    def is_go(self) -> bool:
        """What could not be looked at is a reason not to."""
        return all(check.ok for check in self.checks)

    @property
    def reasons(self) -> tuple[str, ...]:
        return tuple(f"{short_name(check.name)}: {check.message}" for check in self.checks if not check.ok)

    @property
    def lines(self) -> tuple[str, ...]:
        """All of it, what speaks against it first."""
        well = [f"ok, {short_name(check.name)}: {check.message}" for check in self.checks if check.ok]
        return (*(f"NO-GO, {reason}" for reason in self.reasons), *well)

    def raise_no_go(self) -> None:
        """:raises NoGo: something speaks against the change."""
        if not self.is_go:
            raise NoGo(f"no-go for {self.change.database}: {'; '.join(self.reasons)}")

    @property
    def title(self) -> str:
        change = self.change
        what = f"{change.ticket} {change.what}".strip() or "a change that nobody described"
        return f"{'GO' if self.is_go else 'NO-GO'}: {what}"


def short_name(name: str) -> str:
    """Of a check, without what all of them begin with."""
    return name.removeprefix("postgres_guard_").removeprefix("postgres_")


def examine(
    platform: Platform,
    postgres: Postgres,
    change: Change,
    open_session: OpenSession,
    find: FindConnection,
    now: datetime,
    snapshot: str | None = None,
) -> Verdict:
    """Look at everything; what cannot be looked at keeps nobody from the rest.

    :param snapshot: name of the one that was taken for this change; None: none was, yet or at all.
    :raises ConfigurationError: the platform has no such database.
    """
    if change.database not in postgres.databases:
        known = ", ".join(postgres.databases)
        raise ConfigurationError(f"{change.database!r} is no database of {postgres.name}; there are {known}")
    target = f"{postgres.name}/{change.database}"
    checks = [_documented(target, change), *_way_back(postgres, find, snapshot, now)]
    looks: dict[str, Look] = {
        health.LAG: partial(health.check_lag, platform, postgres),
        health.SLOTS: partial(health.check_slots, postgres),
        health.BLOCKED: partial(health.check_blocked, postgres),
        health.IDLE: partial(health.check_idle, postgres),
        health.WRAPAROUND: partial(health.check_wraparound, postgres),
        health.CHECKSUMS: partial(health.check_checksums, postgres.name),
        health.DISK: partial(health.check_disk, platform, postgres, lambda: storage_gb(postgres, find)),
        "postgres_guard_connections": partial(_connections, postgres),
        "postgres_guard_transactions": partial(_transactions, postgres, change.database),
        "postgres_guard_maintenance": partial(_maintenance, target, change.database),
    }
    try:
        with open_session(change.database) as session:
            for name, look in looks.items():
                checks.append(_tried(name, target, partial(look, session)))
            checks.append(_tried("postgres_guard_version", target, partial(_version, postgres, change, session)))
    except DbopsError as error:
        seen = {check.name for check in checks}
        missed = [name for name in (*looks, "postgres_guard_version") if name not in seen]
        checks += [Check(name, target, f"could not look: {error}", error=error) for name in missed]
    staging = postgres.guard.staging
    if change.brings is not None and staging is not None and staging != change.database:
        checks.append(
            _tried("postgres_guard_staging", target, partial(_tried_in_staging, postgres, change, open_session))
        )
    return Verdict(change, tuple(checks))


def _tried(name: str, target: str, look: Callable[[], Check | None]) -> Check:
    try:
        found = look()
    except DbopsError as error:
        return Check(name, target, f"could not look: {error}", error=error)
    if found is None:  # by configuration: the size of the volume is nowhere to be had
        return Check(name, target, "not looked at: postgres.storage_gb is not set", undecided=True)
    return found


def _no(name: str, target: str, message: str, **more: Any) -> Check:
    return Check(f"postgres_guard_{name}", target, message, Severity.WARNING, **more)


def _yes(name: str, target: str, message: str, **more: Any) -> Check:
    return Check(f"postgres_guard_{name}", target, message, **more)


# --- the change itself --------------------------------------------------------------------------------------


def _documented(target: str, change: Change) -> Check:
    words = {"what is changed": change.what, "its ticket": change.ticket, "how it is rolled back": change.rollback}
    missing = [name for name, text in words.items() if not text.strip()]
    if missing:
        return _no("documented", target, f"nobody has said {', '.join(missing)}")
    return _yes("documented", target, f"{change.ticket}: {change.what}; back by: {change.rollback}")


def _version(postgres: Postgres, change: Change, session: Session) -> Check:
    """The database is at the version that the change was written for, and does not have the new one yet."""
    name, target = "version", f"{postgres.name}/{change.database}"
    known = postgres.migrated(change.database)
    expected = change.expected if change.expected is not None else known.version if known else None
    if expected is None:
        return _no(name, target, "no version is expected: say one, or add the database to postgres.migrations")
    table = (known or Migrated(name=change.database, version=expected)).table
    current = (state := read_state(session, table)).current
    details = {"expected": expected, "current": current, "brings": change.brings}
    if current != expected:
        at = "was never migrated" if current is None else f"is at version {current}"
        return _no(name, target, f"the database {at}; the change expects {expected}", details=details)
    if change.brings is not None and state.has(change.brings):
        return _no(name, target, f"version {change.brings} is applied already", details=details)
    if change.brings is not None and change.brings < expected:
        message = f"version {change.brings} is older than {expected}, which is applied: goose would leave it out"
        return _no(name, target, message, details=details)
    return _yes(name, target, f"at version {expected}, as expected", details=details)


def _tried_in_staging(postgres: Postgres, change: Change, open_session: OpenSession) -> Check:
    name, staging = "staging", postgres.guard.staging or ""
    known = postgres.migrated(staging)
    target = f"{postgres.name}/{staging}"
    with open_session(staging) as session:
        state = read_state(session, known.table if known else "public.goose_db_version")
    if not state.has(change.brings or 0):
        return _no(name, target, f"version {change.brings} was not tried in {staging}, which is at {state.current}")
    return _yes(name, target, f"version {change.brings} is applied in {staging}")


# --- the way back -------------------------------------------------------------------------------------------


def _way_back(postgres: Postgres, find: FindConnection, snapshot: str | None, now: datetime) -> list[Check]:
    name, target = "backup", postgres.name
    if postgres.rds is None:
        message = "no way back is known: the platform file has no section postgres.rds"
        return [_no(name, target, message)]
    from dbops.postgres.rds import describe, open_snapshots

    found: Snapshot | None = None
    try:
        snapshots = open_snapshots(postgres, find(postgres.aws_connection))
        instance = describe(snapshots.client, postgres.name)
        found = snapshots.get(snapshot) if snapshot else None
    except DbopsError as error:
        return [Check(f"postgres_guard_{name}", target, f"could not look: {error}", error=error)]
    return [_restorable(postgres, instance, now), _idle(instance), *_taken(postgres, snapshot, found)]


def _restorable(postgres: Postgres, instance: Instance, now: datetime) -> Check:
    latest, limit = instance.latest_restorable, postgres.guard.backup_age
    if latest is None:
        return _no("backup", instance.id, "RDS can bring it back to no moment: automated backups are off")
    if latest > now + CLOCK_SKEW:
        return _no("backup", instance.id, f"RDS says it can be brought back to {latest:%FT%TZ}, in the future")
    age = max(now - latest, timedelta(0))
    message = f"can be brought back to {latest:%FT%TZ}, {duration_text(age)} ago"
    more = {"value": age.total_seconds(), "limit": limit.total_seconds(), "unit": "s"}
    if age > limit:
        return _no("backup", instance.id, f"{message}; {duration_text(limit)} are allowed", **more)
    return _yes("backup", instance.id, message, **more)


def _idle(instance: Instance) -> Check:
    if instance.status != "available":
        return _no("instance", instance.id, f"RDS says that the instance is {instance.status}: wait until it is done")
    return _yes("instance", instance.id, "the instance is available")


def _taken(postgres: Postgres, snapshot: str | None, found: Snapshot | None) -> list[Check]:
    if snapshot is None:
        return []
    if found is None or not found.is_usable:
        state = "gone" if found is None else found.status
        return [_no("snapshot", postgres.name, f"snapshot {snapshot} of this change is {state}")]
    when = found.created_at.astimezone(UTC)
    return [_yes("snapshot", postgres.name, f"snapshot {snapshot} was taken at {when:%FT%TZ}")]


# --- what else goes on --------------------------------------------------------------------------------------


def _connections(postgres: Postgres, session: Session) -> Check:
    found = run_report(session, "connections").dicts()[0]
    allowed = found["allowed"] - found["reserved"]
    free, limit = 100 * (allowed - found["used"]) / allowed, postgres.guard.free_connections
    message = f"{allowed - found['used']} of {allowed} connections are free ({free:.0f} %)"
    more = {"value": round(free, 1), "limit": limit, "unit": "%"}
    if free < limit:
        return _no("connections", postgres.name, f"{message}; {limit:g} % should be", **more)
    return _yes("connections", postgres.name, message, **more)


def _transactions(postgres: Postgres, database: str, session: Session) -> Check:
    """Of the database alone: those of others hold none of its locks."""
    health.must_see_others(session)
    target, limit = f"{postgres.name}/{database}", postgres.guard.long_transaction
    rows = [row for row in run_report(session, "long_transactions").dicts() if row["database"] == database]
    longest = max((float(row["transaction_s"] or 0) for row in rows), default=0.0)
    message = f"{len(rows)} open transactions, the longest for {duration_text(timedelta(seconds=longest))}"
    more = {"value": round(longest, 1), "limit": limit.total_seconds(), "unit": "s"}
    over = [row for row in rows if float(row["transaction_s"] or 0) > limit.total_seconds()]
    if over:
        message += f": {'; '.join(_who(row) for row in over[:MOST_NAMED])}; end them, or wait"
        return _no("transactions", target, message, **more)
    return _yes("transactions", target, message, **more)


def _who(row: dict[str, Any]) -> str:
    return f"pid {row['pid']} {row['role']} {row['application']!r}, {row['state']}, {row['transaction_s']:.0f} s"


def _maintenance(target: str, database: str, session: Session) -> Check:
    health.must_see_others(session)
    rows = session.query(text_for("maintenance_running", session.version)).dicts()
    in_the_way = [row for row in rows if not row["gives_way"] and row["database"] in (database, None)]
    if in_the_way:
        named = "; ".join(
            f"{row['what']} of {row['role'] or row['backend_type']} (pid {row['pid']}), {row['runs_s'] or 0:.0f} s"
            for row in in_the_way[:MOST_NAMED]
        )
        return _no("maintenance", target, f"maintenance runs: {named}; wait until it is done")
    more = f"; {len(rows)} run elsewhere or give way" if rows else ""
    return _yes("maintenance", target, f"no maintenance is in the way{more}")
