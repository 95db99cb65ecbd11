"""What statements cost between two looks.

The counters of pg_stat_statements only ever grow, so a mean of them is one over months. What is kept of a look is
compared with the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbops.postgres.reports import in_extension, require, text_for
from dbops.postgres.session import Session

if TYPE_CHECKING:
    from sqlalchemy import Engine

CHECK = "postgres_statement_counters"
"""Name of the ledger's rows that hold the counters of the last two looks."""
LATEST, PREVIOUS = "latest", "previous"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SLOWEST = 10


@dataclass(frozen=True)
class Counters:
    """What one look saw: calls and milliseconds of each statement since `reset_at`."""

    at: datetime
    reset_at: datetime
    statements: Mapping[str, tuple[int, float]]


@dataclass(frozen=True)
class Statement:
    key: str
    calls: int
    total_ms: float

    @property
    def mean_ms(self) -> float:
        return self.total_ms / self.calls


@dataclass(frozen=True)
class Change:
    """What happened between two looks."""

    since: datetime
    until: datetime
    calls: int
    total_ms: float
    p95_ms: float
    """95 % of the calls are of statements whose mean was at most this. Times of single calls are not known."""
    slowest: tuple[Statement, ...]
    """Those that took the most time in sum."""


def read_counters(session: Session, now: datetime) -> Counters:
    """:raises ExtensionMissing: the database has no pg_stat_statements."""
    require(session, "pg_stat_statements")
    ((reset_at, _),) = in_extension(session, text_for("statement_reset", session.version)).rows
    found = in_extension(session, text_for("statement_counters", session.version)).rows
    return Counters(now, reset_at, {str(key): (int(calls), float(ms)) for key, calls, ms in found})


def change(before: Counters | None, after: Counters) -> Change | None:
    """None: there is nothing to compare with yet.

    Counters that were reset in between began at zero. A statement that was dropped for lack of room and came back
    did so too, which shows in a smaller number of calls.
    """
    if before is None:
        return None
    reset = after.reset_at > before.reset_at
    old: Mapping[str, tuple[int, float]] = {} if reset else before.statements
    since = max(before.at, after.reset_at) if reset else before.at
    done: list[Statement] = []
    for key, (calls, total_ms) in after.statements.items():
        past_calls, past_ms = old.get(key, (0, 0.0))
        if calls < past_calls:
            past_calls, past_ms = 0, 0.0
        if calls > past_calls:
            done.append(Statement(key, calls - past_calls, max(0.0, total_ms - past_ms)))
    calls = sum(one.calls for one in done)
    by_mean = sorted(done, key=lambda one: one.mean_ms)
    p95, passed = 0.0, 0
    for one in by_mean:
        passed += one.calls
        p95 = one.mean_ms
        if passed >= 0.95 * calls:
            break
    slowest = sorted(done, key=lambda one: -one.total_ms)[:SLOWEST]
    return Change(since, after.at, calls, sum(one.total_ms for one in done), p95, tuple(slowest))


def named(session: Session, slowest: tuple[Statement, ...]) -> list[dict[str, Any]]:
    """The statements with their texts (constants are already $1, $2 in them), database and role."""
    texts = {
        row["statement"]: row
        for row in in_extension(
            session, text_for("statement_texts", session.version), [one.key for one in slowest]
        ).dicts()
    }
    return [
        {
            "database": texts.get(one.key, {}).get("database"),
            "role": texts.get(one.key, {}).get("role"),
            "calls": one.calls,
            "total_ms": round(one.total_ms, 1),
            "mean_ms": round(one.mean_ms, 2),
            "query": " ".join(str(texts.get(one.key, {}).get("query", "(not known any more)")).split()),
        }
        for one in slowest
    ]


def load_counters(ledger: Engine, target: str, run: str) -> Counters | None:
    """What the look before that of `run` saw: a retry compares with the same as the first attempt did."""
    from dbops.ledger.read import checks_since

    found = {row.run: row.details for row in checks_since(ledger, CHECK, target, EPOCH)}
    row = found.get(LATEST)
    if row is not None and row["run"] == run:
        row = found.get(PREVIOUS)
    if row is None:
        return None
    return Counters(
        datetime.fromisoformat(row["at"]),
        datetime.fromisoformat(row["reset_at"]),
        {key: (calls, ms) for key, (calls, ms) in row["statements"].items()},
    )


def keep_counters(ledger: Engine, target: str, run: str, counters: Counters) -> None:
    """Keep a look for the next one; two rows are overwritten, so that the ledger does not grow."""
    from dbops.ledger import record_check
    from dbops.ledger.read import checks_since

    def record(row: str, details: Mapping[str, Any]) -> None:
        count = len(details["statements"])
        record_check(
            ledger, name=CHECK, target=target, run=row, at=counters.at, ok=True, value=count,
            message=f"counters of {count} statements", details=details,
        )  # fmt: skip

    latest = next((row for row in checks_since(ledger, CHECK, target, EPOCH) if row.run == LATEST), None)
    if latest is not None and latest.details["run"] != run:
        record(PREVIOUS, latest.details)
    record(
        LATEST,
        {
            "run": run,
            "at": counters.at.isoformat(),
            "reset_at": counters.reset_at.isoformat(),
            "statements": {key: [calls, round(ms, 3)] for key, (calls, ms) in counters.statements.items()},
        },
    )
