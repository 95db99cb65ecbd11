"""The queries one can ask of an instance and its databases, each a file of include/sql/postgres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from dbops import sql
from dbops.errors import ConfigurationError, FinalError
from dbops.postgres.session import Session, StatementRefused, Table

Scope = Literal["instance", "database"]


class ExtensionMissing(FinalError):
    """The report needs an extension that the database does not have."""


@dataclass(frozen=True)
class Report:
    """`scope`: asked once, or in each database. `needs`: an extension. `argument`: what its one value is."""

    title: str
    scope: Scope = "instance"
    needs: str | None = None
    argument: str | None = None


REPORTS: Mapping[str, Report] = {
    "database_sizes": Report("Size of databases"),
    "storage": Report("Databases and write-ahead log"),
    "connections": Report("Connections"),
    "connections_by": Report("Whose connections"),
    "activity": Report("What clients do now"),
    "long_transactions": Report("Transactions by age"),
    "blocked": Report("Who waits for a lock, and for whom"),
    "slow_queries": Report("Statements by mean time, since the counters began", needs="pg_stat_statements"),
    "cache_hit": Report("Found in shared_buffers, by database"),
    "wraparound": Report("Age of transaction ids, by database"),
    "replication_slots": Report("Replication slots"),
    "replication_lag": Report("Replication lag"),
    "settings_pending": Report("Settings that wait for a restart"),
    "settings": Report("Settings of memory and maintenance"),
    "checksum_failures": Report("Damaged pages"),
    "table_sizes": Report("Size of tables", "database"),
    "cache_hit_tables": Report("Found in shared_buffers, by table", "database"),
    "dead_tuples": Report("Dead rows", "database"),
    "table_bloat": Report("Bloat of tables, estimated", "database"),
    "index_bloat": Report("Bloat of indexes, estimated", "database"),
    "stale_statistics": Report("Old or missing statistics", "database"),
    "index_use": Report("Use of indexes", "database"),
    "unused_indexes": Report("Unused indexes", "database"),
    "duplicate_indexes": Report("Duplicate indexes", "database"),
    "invalid_indexes": Report("Invalid indexes", "database"),
    "missing_index_hints": Report("Large tables that are read as a whole", "database"),
    "unindexed_foreign_keys": Report("Foreign keys without an index", "database"),
    "wraparound_tables": Report("Age of transaction ids, by table", "database"),
    "sequences": Report("Sequences by use", "database"),
    "autovacuum_running": Report("VACUUM and ANALYZE that run now", "database"),
    "table_bloat_exact": Report("Bloat of a table, measured", "database", "pgstattuple", "table"),
    "index_bloat_exact": Report("Bloat of an index, measured", "database", "pgstattuple", "index"),
}
"""Name -> what it is. The name is that of the file."""


def report(name: str) -> Report:
    """:raises ConfigurationError: there is none of that name."""
    if name not in REPORTS:
        raise ConfigurationError(f"{name!r} is no report; there are {', '.join(REPORTS)}")
    return REPORTS[name]


def run_report(session: Session, name: str, *values: str) -> Table:
    """What a report says now.

    :param values: the table or index of an exact report, as `schema.name`.
    :raises ExtensionMissing: it needs one that the database does not have; the message says how it comes there.
    """
    wanted = report(name)
    if (wanted.argument is None) != (not values):
        raise ConfigurationError(f"report {name} takes {wanted.argument or 'no table or index'}")
    if name == "slow_queries":
        return in_extension(session, slow_queries(session))
    if wanted.needs:
        require(session, wanted.needs)
    return session.query(text_for(name, session.version), *values)


def slow_queries(session: Session) -> str:
    """The statement that fits the extension, which may be older than the server (nobody ran ALTER EXTENSION)."""
    version = require(session, "pg_stat_statements")
    return text_for("slow_queries", 17 if version >= (1, 11) else 14)


def in_extension(session: Session, text: str, *values: Any) -> Table:
    """Ask the views of pg_stat_statements, in whichever schema it lies.

    :raises ExtensionMissing: it is created, but its library is not loaded.
    """
    ((schema,),) = session.rows(
        "select n.nspname from pg_extension e join pg_namespace n on n.oid = e.extnamespace "
        "where e.extname = 'pg_stat_statements'"
    )
    session.rows("select set_config('search_path', %s, false)", f"pg_catalog, {sql.quoted(schema)}")
    try:
        return session.query(text, *values)
    except StatementRefused as error:
        if error.code == "55000":
            raise ExtensionMissing(
                f"{session.where}: pg_stat_statements is created, but not loaded; put it into "
                "shared_preload_libraries (on RDS: the parameter group) and restart"
            ) from None
        raise
    finally:
        session.rows("select set_config('search_path', %s, false)", "public")


def require(session: Session, extension: str) -> tuple[int, ...]:
    """Its version.

    :raises ExtensionMissing: the database does not have it.
    """
    found = session.rows("select extversion from pg_extension where extname = %s", extension)
    if not found:
        raise ExtensionMissing(
            f"{session.where}: extension {extension} is not there; CREATE EXTENSION {extension}"
            + (
                ", with pg_stat_statements in shared_preload_libraries (on RDS: it is)"
                if extension == "pg_stat_statements"
                else ""
            )
            + ": include/sql/postgres/grants.sql does it"
        )
    return tuple(int(part) for part in str(found[0][0]).split("."))


@cache
def text_for(name: str, version: int) -> str:
    """The file for a major version: `<name>_17.sql` from 17 on, where there is one, else `<name>.sql`."""
    newest, found = name, 0
    for path in (sql.DIRECTORY / "postgres").glob(f"{name}_[0-9]*.sql"):
        since = path.stem.removeprefix(f"{name}_")
        if since.isdigit() and found < int(since) <= version:
            newest, found = path.stem, int(since)
    return sql.statement(f"postgres/{newest}")
