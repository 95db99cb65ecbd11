"""One connection to a PostgreSQL database, and its errors in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, FinalError, RetryableError

OLDEST = 14
"""PostgreSQL 13 has no query ids in pg_stat_activity and is past its end of life."""
REPORT_LOCK = timedelta(seconds=2)
REPORT_STATEMENT = timedelta(seconds=60)


class PostgresUnreachable(RetryableError):
    """No connection, or it was lost."""


class LockHeld(RetryableError):
    """Somebody holds a lock for longer than `lock_timeout`."""


class StatementCancelled(RetryableError):
    """The statement ran into its time limit, or somebody cancelled it."""


class StatementRefused(FinalError):
    """PostgreSQL refuses the statement."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class RightsMissing(StatementRefused):
    """The role may not do that."""


@dataclass(frozen=True)
class Table:
    """What a query found: names of the columns, and rows in their order."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def dicts(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Session:
    """A session of psycopg2 in autocommit: each statement stands alone, as VACUUM and CONCURRENTLY demand.

    :param read_only: the server refuses every change.
    :param lock_timeout, statement_timeout: of every statement; `limits` changes them.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        database: str | None = None,
        read_only: bool = False,
        lock_timeout: timedelta = REPORT_LOCK,
        statement_timeout: timedelta = REPORT_STATEMENT,
    ) -> None:
        """:raises PostgresUnreachable, ConfigurationError: the connection is not made, or the server is too old."""
        import psycopg2

        self.info = replace(info, schema=database or info.schema or info.login)
        self.where = (
            f"PostgreSQL {info.host or 'localhost'}:{info.port or 5432}/{self.info.schema} (connection {info.conn_id})"
        )
        # With `hostaddr`, `host` is only the name that the server's certificate must be for.
        named = ("ssl", "hostaddr")
        tls: dict[str, Any] = {name: str(value) for name, value in info.extra.items() if name.startswith(named)}
        try:
            self._connection = psycopg2.connect(
                host=info.host,
                port=info.port or 5432,
                user=info.login,
                password=info.password,
                dbname=self.info.schema,
                connect_timeout=10,
                application_name="dbops",
                keepalives_idle=30,
                keepalives_interval=10,
                keepalives_count=3,
                tcp_user_timeout=60_000,
                **tls,
            )
        except psycopg2.ProgrammingError as error:
            raise ConfigurationError(f"{self.where}: its settings cannot be used: {_first_line(error)}") from None
        except psycopg2.OperationalError as error:
            message = _first_line(error)
            # Before there is a session the driver knows no SQLSTATE, only the server's words.
            if any(word in message for word in ("authentication failed", "does not exist", "no pg_hba.conf entry")):
                raise ConfigurationError(f"connect to {self.where}: {message}; check login and database") from None
            raise PostgresUnreachable(f"connect to {self.where}: {message}") from None
        self._connection.autocommit = True
        try:
            self.version = self._connection.server_version // 10_000
            if self.version < OLDEST:
                raise ConfigurationError(f"{self.where} is PostgreSQL {self.version}; {OLDEST} or newer is needed")
            self.rows(
                "select set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false), "
                "set_config('default_transaction_read_only', %s, false), set_config('timezone', 'UTC', false)",
                _ms(lock_timeout),
                _ms(statement_timeout),
                "on" if read_only else "off",
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(Exception):  # it may be lost already, and there is nothing left to save
            self._connection.close()

    def cancel(self) -> None:
        """End the statement that another thread runs here; does nothing when there is none."""
        with suppress(Exception):  # the session may be lost already: then nothing runs
            self._connection.cancel()

    @property
    def pid(self) -> int:
        """Process of the server."""
        return int(self._connection.get_backend_pid())

    def limits(self, lock_timeout: timedelta, statement_timeout: timedelta) -> None:
        """From now on no statement waits for a lock, or lasts, longer than this."""
        self.rows(
            "select set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)",
            _ms(lock_timeout),
            _ms(statement_timeout),
        )

    def query(self, sql: str, *values: Any) -> Table:
        """:raises PostgresUnreachable, LockHeld, StatementCancelled, StatementRefused: and nothing was done."""
        with self._cursor(sql, values) as cursor:
            return Table(tuple(column.name for column in cursor.description or ()), tuple(cursor.fetchall()))

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return list(self.query(sql, *values).rows)

    def run(self, sql: str) -> list[str]:
        """Run a statement that answers with no rows; what the server warned of.

        VACUUM and ANALYZE warn and do nothing when the role may not: the caller must look.
        """
        del self._connection.notices[:]
        with self._cursor(sql, ()):
            pass
        found = [notice.strip() for notice in self._connection.notices]
        return [notice.removeprefix("WARNING:").strip() for notice in found if notice.startswith("WARNING:")]

    @contextmanager
    def _cursor(self, sql: str, values: Sequence[Any]) -> Iterator[Any]:
        import psycopg2

        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql, tuple(values) or None)
                yield cursor
        except (psycopg2.Error, OSError) as error:
            raise self._explained(error, sql) from None

    def _explained(self, error: BaseException, sql: str) -> RetryableError | FinalError:
        code = str(getattr(error, "pgcode", None) or "")
        message = _first_line(error)
        words = " ".join(sql.split()[:6])
        what = f"{words} ... on {self.where}"
        if code == "55P03":
            return LockHeld(f"{what}: {message}; see who holds it with `dbops postgres report blocked`")
        if code == "57014":
            return StatementCancelled(f"{what}: {message}")
        if code == "42501":
            return RightsMissing(f"{what}: {message}; include/sql/postgres/grants.sql says what is needed", code)
        if not code or code.startswith(("08", "57P")):
            return PostgresUnreachable(f"{what}: the connection was lost: {message}")
        if code in {"40001", "40P01", "53300", "55006"}:
            return StatementCancelled(f"{what}: {message}")
        return StatementRefused(f"{what}: {message} (SQLSTATE {code})", code)


def _ms(limit: timedelta) -> str:
    return f"{max(1, round(limit.total_seconds() * 1000))}ms"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
