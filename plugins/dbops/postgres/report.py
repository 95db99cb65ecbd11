"""The daily report: what grew, what is slow, what is in the way, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from dbops.errors import DbopsError
from dbops.platform import Postgres, duration_text
from dbops.postgres.health import GB, MB, OpenSession
from dbops.postgres.reports import run_report
from dbops.postgres.session import Session
from dbops.postgres.statements import Counters, change, named, read_counters

if TYPE_CHECKING:
    from dbops.ledger.read import PastCheck

SIZE = "postgres_size"
"""Name of the ledger's rows with the sizes of a database and its tables, which growth is told by."""
LOOK_BACK = timedelta(days=31)
MOST_TABLES = 200
MOST_NAMED = 5
LEAST_GROWTH = 10 * MB
LEAST_WASTE = 100 * MB


@dataclass(frozen=True)
class Sizes:
    """Of one database now, and of its largest tables."""

    database: str
    bytes: int
    tables: Mapping[str, int]


@dataclass(frozen=True)
class Daily:
    """What was found; `blind` is what could not be looked at, which is never well."""

    lines: tuple[str, ...]
    findings: int
    """Lines that somebody should look into."""
    sizes: tuple[Sizes, ...]
    counters: Counters | None
    blind: Mapping[str, DbopsError]


@dataclass
class _Page:
    """Lines as they come together."""

    lines: list[str] = field(default_factory=list)
    findings: int = 0
    blind: dict[str, DbopsError] = field(default_factory=dict)

    def section(self, name: str, write: Callable[[], None]) -> None:
        """What cannot be looked at keeps nobody from the rest."""
        try:
            write()
        except DbopsError as error:
            self.blind[name] = error
            self.lines.append(f"{name}: could not look: {error}")

    def say(self, text: str) -> None:
        self.lines.append(text)

    def find(self, title: str, found: Sequence[str]) -> None:
        """A line, only if there is something."""
        if found:
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            self.lines.append(f"{title}: {'; '.join(found[:MOST_NAMED])}{more}")
            self.findings += 1


def compile_report(
    postgres: Postgres,
    open_session: OpenSession,
    past: Mapping[str, Sequence[PastCheck]],
    before: Counters | None,
    now: datetime,
) -> Daily:
    """Look at everything once.

    :param past: rows of `SIZE` of earlier days by database, the oldest first.
    :param before: the counters of statements of the report before.
    """
    page = _Page()
    sizes: list[Sizes] = []
    counters: list[Counters] = []
    for place, database in enumerate(postgres.databases):
        try:
            session = open_session(database)
        except DbopsError as error:
            page.blind[database] = error
            page.say(f"{database}: could not look: {error}")
            continue
        with session:
            if place == 0:
                _instance(page, postgres, session, before, now, counters)
            page.say(f"--- database {database}")
            page.section("sizes", partial(_sizes, page, session, database, past.get(database, ()), now, sizes))
            _database(page, session)
    return Daily(tuple(page.lines), page.findings, tuple(sizes), counters[0] if counters else None, page.blind)


def _instance(
    page: _Page, postgres: Postgres, session: Session, before: Counters | None, now: datetime, counters: list[Counters]
) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        return run_report(session, name).dicts()

    def connections() -> None:
        found = rows("connections")[0]
        page.say(
            f"{found['used']} of {found['allowed']} connections: {found['active']} active, {found['idle']} idle, "
            f"{found['idle_in_transaction']} idle in transaction"
        )

    def statements() -> None:
        current = read_counters(session, now)
        counters.append(current)
        found = change(before, current)
        if found is None:
            page.say("statements: the first report, there is nothing to compare with")
            return
        page.say(
            f"{found.calls:,} calls of statements in {duration_text(found.until - found.since)}, "
            f"{found.total_ms / 1000:,.1f} s in sum; 95 % took up to {found.p95_ms:.1f} ms. The most time went to:"
        )
        for one in named(session, found.slowest)[:MOST_NAMED]:
            page.say(
                f"  {one['total_ms'] / 1000:,.1f} s, {one['calls']:,} calls of {one['mean_ms']:.1f} ms, "
                f"{one['role']}@{one['database']}: {one['query'][:120]}"
            )

    def cache() -> None:
        low = [row for row in rows("cache_hit") if (row["hit_percent"] or 100) < postgres.health.cache_hit]
        page.find(
            f"found in shared_buffers below {postgres.health.cache_hit:g} %",
            [f"{row['database']} {row['hit_percent']:g} %" for row in low],
        )

    def rest() -> None:
        page.find(
            "settings that wait for a restart",
            [f"{row['name']} (now {row['current']})" for row in rows("settings_pending")],
        )
        page.find("damaged pages", [f"{row['database']}: {row['failures']}" for row in rows("checksum_failures")])
        page.find(
            "replication slots that nobody reads",
            [
                f"{row['slot']} keeps {(row['kept_bytes'] or 0) / MB:.0f} MB"
                for row in rows("replication_slots")
                if not row["active"]
            ],
        )
        page.find(
            "transactions open for more than an hour",
            [
                f"pid {row['pid']} {row['role']}@{row['database']}, "
                f"{duration_text(timedelta(seconds=row['transaction_s']))}"
                for row in rows("long_transactions")
                if (row["transaction_s"] or 0) > 3600
            ],
        )
        worst = rows("wraparound")[0]
        page.say(f"transaction ids: {worst['xid_percent']:g} % of 2^31 in use, by database {worst['database']}")
        for row in rows("replication_lag"):
            page.say(f"standby {row['standby']}: {row['state']}, {row['replay_s'] or 0:.1f} s behind")

    for name, write in {"connections": connections, "statements": statements, "cache": cache, "instance": rest}.items():
        page.section(name, write)


def _sizes(
    page: _Page, session: Session, database: str, past: Sequence[PastCheck], now: datetime, sizes: list[Sizes]
) -> None:
    total = next(row["bytes"] for row in run_report(session, "database_sizes").dicts() if row["database"] == database)
    tables = {
        f"{row['schema']}.{row['table']}": row["bytes"]
        for row in run_report(session, "table_sizes").dicts()[:MOST_TABLES]
    }
    sizes.append(Sizes(database, total, tables))
    grown = ""
    for days in (1, 7, 30):
        then = _at(past, now - timedelta(days=days))
        if then is not None and then.value is not None:
            grown += f", {(total - then.value) / MB:+,.1f} MB in {_days(now - then.at)}"
    page.say(f"size {total / GB:,.2f} GB{grown or ', growth is known from the second day on'}")
    week = _at(past, now - timedelta(days=7)) or (past[0] if past else None)
    old = week.details["tables"] if week is not None else {}
    growth = sorted(((size - old[name], name) for name, size in tables.items() if name in old), reverse=True)
    page.find(
        f"grew the most in {_days(now - week.at)}" if week is not None else "",
        [f"{name} {more / MB:+,.0f} MB" for more, name in growth if more >= LEAST_GROWTH],
    )


def _at(past: Sequence[PastCheck], moment: datetime) -> PastCheck | None:
    """The newest row that is at least about that old."""
    return next((row for row in reversed(past) if row.at <= moment + timedelta(hours=1)), None)


def _days(span: timedelta) -> str:
    return f"{span.total_seconds() / 86400:.0f} d"


def _database(page: _Page, session: Session) -> None:
    def rows(name: str) -> list[dict[str, Any]]:
        return run_report(session, name).dicts()

    def bloat(name: str, column: str) -> Callable[[], None]:
        def write() -> None:
            found = rows(name)
            trusted = [row for row in found if row["doubt"] is None and row["waste_bytes"] >= LEAST_WASTE]
            page.find(
                f"bloat of {'indexes' if column == 'index' else 'tables'}, estimated",
                [
                    f"{row['schema']}.{row[column]} {row['waste_bytes'] / MB:,.0f} MB of {row['bytes'] / MB:,.0f} MB"
                    for row in trusted
                ],
            )
            doubted = [row for row in found if row["doubt"] and "too small" not in row["doubt"]]
            if doubted:
                page.say(f"  {len(doubted)} more cannot be told: {doubted[0]['schema']}.{doubted[0][column]}: "
                         f"{doubted[0]['doubt']}")  # fmt: skip

        return write

    def indexes() -> None:
        page.find("invalid indexes", [f"{_name(row)}" for row in rows("invalid_indexes") if not row["building"]])
        page.find(
            "needless indexes",
            [
                f"{_name(row)} (covered by {row['covered_by']}, {row['bytes'] / MB:,.1f} MB)"
                for row in rows("duplicate_indexes")
            ],
        )
        page.find(
            "unused indexes (look at the replicas too)",
            [
                f"{_name(row)} {row['bytes'] / MB:,.1f} MB, {row['scans']} scans since "
                f"{row['since']:%Y-%m-%d}" if row["since"] else f"{_name(row)} {row['bytes'] / MB:,.1f} MB"
                for row in rows("unused_indexes")
            ],
        )  # fmt: skip
        page.find(
            "large tables read as a whole",
            [f"{row['schema']}.{row['table']} ({row['whole_scans']:,} times)" for row in rows("missing_index_hints")],
        )
        page.find(
            "foreign keys without an index",
            [f"{row['schema']}.{row['table']} ({row['columns']})" for row in rows("unindexed_foreign_keys")],
        )

    def rows_of_tables() -> None:
        page.find(
            "dead rows",
            [
                f"{row['schema']}.{row['table']} {row['dead_rows']:,} ({row['dead_percent']:g} %)"
                for row in rows("dead_tuples")
                if row["dead_rows"] >= 10_000 and row["dead_percent"] >= 10
            ],
        )
        page.find("old or missing statistics", [f"{row['schema']}.{row['table']}" for row in rows("stale_statistics")])

    def sequences() -> None:
        page.find(
            "sequences that are more than half used",
            [
                f"{row['schema']}.{row['sequence']} {row['used_percent']:g} %"
                for row in rows("sequences")
                if row["used_percent"] > 50
            ],
        )
        hidden = sum(not row["readable"] for row in rows("sequences"))
        if hidden:
            page.say(f"{hidden} sequences cannot be read: include/sql/postgres/grants.sql")

    for name, write in {
        "rows": rows_of_tables,
        "bloat of tables": bloat("table_bloat", "table"),
        "bloat of indexes": bloat("index_bloat", "index"),
        "indexes": indexes,
        "sequences": sequences,
    }.items():
        page.section(f"{session.info.schema} {name}", write)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['schema']}.{row['index']}"
