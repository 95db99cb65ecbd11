"""The look at an instance every quarter of an hour: values against limits. Changes nothing.

Each check is a value, or an error: what could not be looked at is never well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dbops.errors import DbopsError, FinalError
from dbops.platform import Platform, Postgres, Severity, duration_text
from dbops.postgres.reports import run_report, text_for
from dbops.postgres.session import PostgresUnreachable, RightsMissing, Session
from dbops.postgres.statements import Counters, change, named, read_counters

REACHABLE, CONNECTIONS, IDLE = "postgres_reachable", "postgres_connections", "postgres_idle_in_transaction"
LONG, BLOCKED, QUERIES = "postgres_long_transactions", "postgres_blocked", "postgres_query_p95"
LAG, SLOTS, WRAPAROUND = "postgres_replication_lag", "postgres_replication_slots", "postgres_wraparound"
CHECKSUMS, DISK, SEQUENCES = "postgres_checksums", "postgres_disk", "postgres_sequences"
"""Names of the checks, in the ledger and in incidents."""

TITLES: Mapping[str, str] = {
    REACHABLE: "cannot be reached",
    CONNECTIONS: "connections are running out",
    IDLE: "a transaction is open and idle",
    LONG: "a transaction is open for long",
    BLOCKED: "sessions wait for locks",
    QUERIES: "statements are slow",
    LAG: "a standby is behind",
    SLOTS: "a replication slot keeps WAL",
    WRAPAROUND: "transaction ids are running out",
    CHECKSUMS: "pages are damaged",
    DISK: "the disk is filling up",
    SEQUENCES: "a sequence is running out",
}
RUNBOOKS: Mapping[str, str] = {
    REACHABLE: "postgres_unreachable",
    CONNECTIONS: "postgres_sessions",
    IDLE: "postgres_sessions",
    LONG: "postgres_sessions",
    BLOCKED: "postgres_sessions",
    QUERIES: "postgres_queries",
    LAG: "postgres_replication",
    SLOTS: "postgres_replication",
    WRAPAROUND: "postgres_wraparound",
    CHECKSUMS: "postgres_storage",
    DISK: "postgres_storage",
    SEQUENCES: "postgres_storage",
}
MOST_NAMED = 5
MB, GB = 1 << 20, 1 << 30
OpenSession = Callable[[str], Session]
"""Opens a session to a database of the instance."""


@dataclass(frozen=True)
class Check:
    """What one look found."""

    name: str
    target: str
    message: str
    severity: Severity | None = None
    """Of the incident; None when it is well."""
    value: float | None = None
    limit: float | None = None
    unit: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    error: DbopsError | None = None
    """It could not be looked at."""
    undecided: bool = False
    """There was too little to tell: it begins no incident and ends none."""

    @property
    def ok(self) -> bool:
        return self.severity is None and self.error is None

    @property
    def key(self) -> str:
        """Of its incident."""
        return f"{self.name}/{self.target}"


Look = Callable[[Session], Check | None]
Volume = Callable[[], float | None]
"""Gigabytes of the instance's volume; None: nobody knows."""


@dataclass(frozen=True)
class Health:
    checks: tuple[Check, ...]
    counters: Counters | None
    """Of statements, to be kept for the next look; None: they could not be read."""


def check_health(
    platform: Platform,
    postgres: Postgres,
    open_session: OpenSession,
    before: Counters | None,
    now: datetime,
    volume: Volume | None = None,
) -> Health:
    """Every check; one that cannot look does not keep the others from it.

    :param before: the counters of statements of the look before.
    :param volume: how its size is found; None: as configured.
    """
    name = postgres.name
    seen: list[Counters] = []

    def queries(session: Session) -> Check:
        counters = read_counters(session, now)
        seen.append(counters)
        return check_queries(platform, postgres, session, before, counters)

    looks: dict[str, Look] = {
        CONNECTIONS: partial(check_connections, platform, name),
        IDLE: partial(check_idle, postgres),
        LONG: partial(check_long, postgres),
        BLOCKED: partial(check_blocked, postgres),
        QUERIES: queries,
        LAG: partial(check_lag, platform, postgres),
        SLOTS: partial(check_slots, postgres),
        WRAPAROUND: partial(check_wraparound, postgres),
        CHECKSUMS: partial(check_checksums, name),
        DISK: partial(check_disk, platform, postgres, volume or (lambda: postgres.storage_gb)),
    }
    checks: list[Check | None] = []
    for place, database in enumerate(postgres.databases):
        try:
            session = open_session(database)
        except DbopsError as error:
            checks += _unreachable(postgres, database, error, tuple(looks) if place == 0 else ())
            continue
        with session:
            if place == 0:
                checks.append(Check(REACHABLE, name, f"PostgreSQL {session.version} answers"))
                checks += [_tried(check, name, look, session) for check, look in looks.items()]
            checks.append(_tried(SEQUENCES, f"{name}/{database}", partial(check_sequences, postgres), session))
    return Health(tuple(filter(None, checks)), seen[0] if seen else None)


def _unreachable(postgres: Postgres, database: str, error: DbopsError, missed: tuple[str, ...]) -> list[Check]:
    """A first database that does not answer is an outage; of the others only their own checks are missed."""
    found = [Check(SEQUENCES, f"{postgres.name}/{database}", f"could not look: {error}", error=error)]
    if missed:
        if isinstance(error, PostgresUnreachable):
            found.append(Check(REACHABLE, postgres.name, str(error), Severity.CRITICAL))
        found += [Check(name, postgres.name, f"could not look: {error}", error=error) for name in missed]
    return found


def _tried(name: str, target: str, look: Look, session: Session) -> Check | None:
    try:
        return look(session)
    except DbopsError as error:
        return Check(name, target, f"could not look: {error}", error=error)


# --- sessions -----------------------------------------------------------------------------------------------


def must_see_others(session: Session) -> None:
    """:raises RightsMissing: the role is no member of pg_monitor: it would take for well what it does not see."""
    facts = session.query(text_for("facts", session.version)).dicts()[0]
    if not facts["monitor"]:
        raise RightsMissing(
            f"{session.where}: role {facts['role']} does not see what others do; it needs pg_monitor: "
            "include/sql/postgres/grants.sql",
            "42501",
        )


def check_connections(platform: Platform, name: str, session: Session) -> Check:
    """Used of those that ordinary roles can have, against `limits.postgres_connections`."""
    limit = platform.limits["postgres_connections"]
    found = run_report(session, "connections").dicts()[0]
    allowed = found["allowed"] - found["reserved"]
    share = 100 * found["used"] / allowed
    severity, reached = against(limit.warn, limit.critical, share)
    message = (
        f"{found['used']} of {allowed} connections are used ({share:.0f} %): {found['active']} active, {found['idle']} "
        f"idle, {found['idle_in_transaction']} idle in transaction, {found['waiting']} waiting for a lock"
    )
    return Check(CONNECTIONS, name, message, severity, round(share, 1), reached, "%", found)


def check_idle(postgres: Postgres, session: Session) -> Check:
    must_see_others(session)
    idle = [
        row
        for row in run_report(session, "long_transactions").dicts()
        if str(row["state"]).startswith("idle in transaction")
    ]
    return _longest(postgres, IDLE, idle, "in_state_s", postgres.health.idle_in_transaction, "idle in transaction")


def check_long(postgres: Postgres, session: Session) -> Check:
    must_see_others(session)
    working = [
        row
        for row in run_report(session, "long_transactions").dicts()
        if not str(row["state"]).startswith("idle in transaction")
    ]
    return _longest(postgres, LONG, working, "transaction_s", postgres.health.long_transaction, "open transactions")


def check_blocked(postgres: Postgres, session: Session) -> Check:
    must_see_others(session)
    rows = run_report(session, "blocked").dicts()
    return _longest(postgres, BLOCKED, rows, "waits_s", postgres.health.blocked, "sessions that wait for a lock")


def _longest(postgres: Postgres, check: str, rows: list[dict[str, Any]], column: str, levels: Any, what: str) -> Check:
    longest = max((float(row[column] or 0) for row in rows), default=0.0)
    warn, critical = levels.warn.total_seconds(), levels.critical.total_seconds()
    severity, reached = against(warn, critical, longest)
    over = sorted((row for row in rows if float(row[column] or 0) > warn), key=lambda row: -row[column])
    message = f"{len(rows)} {what}, the longest for {duration_text(timedelta(seconds=longest))}"
    for row in over[:MOST_NAMED]:
        message += f"\n{_session(row, column)}"
    return Check(
        check, postgres.name, message, severity, round(longest, 1), reached, "s", {"sessions": over[:MOST_NAMED]}
    )


def _session(row: Mapping[str, Any], column: str) -> str:
    said = f"pid {row['pid']}: {row['role']}@{row['database']} {row['application']!r}, {row[column]:.0f} s"
    if "blocker" in row:
        return (
            f"{said}, waits for {row['waits_for']}, held by pid {row['blocker']} "
            f"({row['blocker_role']} {row['blocker_application']!r}, {row['blocker_state']})"
        )
    return f"{said}, {row['state']}"


# --- statements ---------------------------------------------------------------------------------------------


def check_queries(
    platform: Platform, postgres: Postgres, session: Session, before: Counters | None, after: Counters
) -> Check:
    """What 95 % of the calls since the look before took at most, against `limits.postgres_query_p95`."""
    must_see_others(session)
    limit, name = platform.limits["postgres_query_p95"], postgres.name
    found = change(before, after)
    if found is None:
        message = "the first look at the counters of statements: there is nothing to compare with"
        return Check(QUERIES, name, message, undecided=True)
    long = duration_text(found.until - found.since)
    if found.calls < postgres.health.least_calls:
        return Check(QUERIES, name, f"{found.calls} calls in {long}: too few to tell", unit="ms", undecided=True)
    severity, reached = against(limit.warn, limit.critical, found.p95_ms)
    slowest = named(session, found.slowest)
    message = (
        f"95 % of {found.calls:,} calls in {long} are of statements that took up to {found.p95_ms:.1f} ms on average"
    )
    if severity is not None:
        for one in slowest[:MOST_NAMED]:
            message += (
                f"\n{one['calls']:,} calls, {one['mean_ms']:.1f} ms each, {one['role']}@{one['database']}: "
                f"{one['query'][:150]}"
            )
    return Check(QUERIES, name, message, severity, round(found.p95_ms, 2), reached, "ms", {"slowest": slowest})


# --- replication --------------------------------------------------------------------------------------------


def check_lag(platform: Platform, postgres: Postgres, session: Session) -> Check:
    """Seconds against `limits.postgres_replication_lag`, bytes against `replication_lag_mb`.

    A standby that does not stream is behind, however little.
    """
    must_see_others(session)
    limit, levels, name = platform.limits["postgres_replication_lag"], postgres.health.replication_lag_mb, postgres.name
    rows = run_report(session, "replication_lag").dicts()
    if not rows:
        return Check(LAG, name, "no standby streams from this server", unit="s")
    value, unit = max(float(row["replay_s"] or 0) for row in rows), "s"
    severity, reached = against(limit.warn, limit.critical, value)
    behind = max(float(row["behind_bytes"] or 0) / MB for row in rows)
    by_bytes, reached_bytes = against(levels.warn, levels.critical, behind)
    if by_bytes is not None and severity is not Severity.CRITICAL and severity is not by_bytes:
        severity, value, reached, unit = by_bytes, behind, reached_bytes, "MB"
    broken = [row for row in rows if row["state"] not in {"streaming", "standby", "backup"}]
    if broken and severity is None:
        severity = Severity.WARNING
    said = "; ".join(
        f"{row['standby']}: {row['state']}, {float(row['replay_s'] or 0):.1f} s, "
        f"{(row['behind_bytes'] or 0) / MB:.1f} MB"
        for row in rows
    )
    return Check(LAG, name, f"standbys: {said}", severity, round(value, 2), reached, unit, {"standbys": rows})


def check_slots(postgres: Postgres, session: Session) -> Check:
    """WAL that slots keep on the disk. One that nobody reads is a warning, since it will fill the disk."""
    levels, name = postgres.health.slot_kept_mb, postgres.name
    rows = run_report(session, "replication_slots").dicts()
    most = max((float(row["kept_bytes"] or 0) / MB for row in rows), default=0.0)
    severity, reached = against(levels.warn, levels.critical, most)
    lost = [row for row in rows if row["wal_status"] in {"lost", "unreserved"}]
    idle = [row for row in rows if not row["active"]]
    if lost:
        severity = Severity.CRITICAL
    elif idle and severity is None:
        severity = Severity.WARNING
    said = "; ".join(
        f"{row['slot']}: {'read' if row['active'] else 'nobody reads it'}, "
        f"keeps {(row['kept_bytes'] or 0) / MB:.0f} MB, WAL {row['wal_status']}"
        for row in rows
    )
    return Check(
        SLOTS, name, f"slots: {said}" if rows else "there are no replication slots", severity, round(most, 1), reached,
        "MB", {"slots": rows},
    )  # fmt: skip


# --- what runs out ------------------------------------------------------------------------------------------


def check_wraparound(postgres: Postgres, session: Session) -> Check:
    levels = postgres.health.wraparound
    rows = run_report(session, "wraparound").dicts()
    worst = max(rows, key=lambda row: max(row["xid_percent"], row["multixact_percent"]))
    share = max(worst["xid_percent"], worst["multixact_percent"])
    severity, reached = against(levels.warn, levels.critical, share)
    message = (
        f"database {worst['database']}: {worst['xid_age']:,} transaction ids ({worst['xid_percent']:g} %) and "
        f"{worst['multixact_age']:,} multixacts ({worst['multixact_percent']:g} %) of 2^31 are in use; at "
        f"{worst['forced_percent']:g} % of what forces an autovacuum"
    )
    return Check(WRAPAROUND, postgres.name, message, severity, share, reached, "%", {"databases": rows})


def check_checksums(name: str, session: Session) -> Check:
    rows = run_report(session, "checksum_failures").dicts()
    total = sum(row["failures"] for row in rows)
    said = ", ".join(f"{row['database']}: {row['failures']}, last {row['last']:%Y-%m-%d %H:%M} UTC" for row in rows)
    message = f"pages whose checksum was wrong: {said}" if rows else "no page with a wrong checksum was read"
    details = {"databases": [row | {"last": row["last"].isoformat()} for row in rows]}
    return Check(CHECKSUMS, name, message, Severity.CRITICAL if rows else None, total, 0, None, details)


def check_disk(platform: Platform, postgres: Postgres, volume: Volume, session: Session) -> Check | None:
    """Databases and WAL of the volume, against `limits.postgres_disk`; None: nobody knows its size."""
    size_gb = volume()
    if size_gb is None:
        return None
    limit = platform.limits["postgres_disk"]
    must_see_others(session)
    found = run_report(session, "storage").dicts()[0]
    used = found["databases"] + found["wal"]
    share = 100 * used / (size_gb * GB)
    severity, reached = against(limit.warn, limit.critical, share)
    message = (
        f"databases {found['databases'] / GB:.1f} GB and WAL {found['wal'] / GB:.1f} GB fill {share:.0f} % of "
        f"{size_gb:g} GB; logs and temporary files are not counted"
    )
    return Check(DISK, postgres.name, message, severity, round(share, 1), reached, "%", found)


def check_sequences(postgres: Postgres, session: Session) -> Check:
    """:raises RightsMissing: some cannot be read."""
    levels = postgres.health.sequences
    target = f"{postgres.name}/{session.info.schema}"
    rows = run_report(session, "sequences").dicts()
    hidden = [f"{row['schema']}.{row['sequence']}" for row in rows if not row["readable"]]
    if hidden:
        raise RightsMissing(
            f"{session.where}: {len(hidden)} sequences cannot be read, {', '.join(hidden[:MOST_NAMED])}: "
            "GRANT SELECT on them, include/sql/postgres/grants.sql does",
            "42501",
        )
    most = max((row["used_percent"] for row in rows), default=0.0)
    severity, reached = against(levels.warn, levels.critical, most)
    over = [row for row in rows if row["used_percent"] > levels.warn]
    message = f"the sequence that is used the most is at {most:g} %"
    for row in over[:MOST_NAMED]:
        message += (
            f"\n{row['schema']}.{row['sequence']} of {row['table']}.{row['column']}: {row['used_percent']:g} % of "
        )
        message += f"{row['ends_at']:,}"
    details = {
        "sequences": [
            {"name": f"{row['schema']}.{row['sequence']}", "used_percent": row["used_percent"]} for row in over
        ]
    }
    return Check(SEQUENCES, target, message, severity, most, reached, "%", details)


def against(warn: float, critical: float, value: float) -> tuple[Severity | None, float]:
    """The severity of a value, and the limit that it is told with."""
    if value > critical:
        return Severity.CRITICAL, critical
    return (Severity.WARNING if value > warn else None), warn


def could_not_look(checks: Iterable[Check]) -> DbopsError | None:
    """One error for all checks that could not look; it may be retried when one of them may."""
    blind = [check for check in checks if check.error is not None]
    if not blind:
        return None
    causes = list(dict.fromkeys(str(check.error) for check in blind))
    text = f"{len(blind)} checks could not look: {'; '.join(causes[:MOST_NAMED])}"
    final = all(isinstance(check.error, FinalError) for check in blind)
    return FinalError(text) if final else PostgresUnreachable(text)
