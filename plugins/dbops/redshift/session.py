"""One connection to a Redshift cluster or workgroup, and its errors in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, DbopsError, FinalError, RetryableError

if TYPE_CHECKING:
    from dbops.redshift.data_api import DataApiSession

Row = Sequence[Any]

QUERY_GROUP = "dbops"
"""Label of all that this package runs: for a queue of its own (WLM), and so that reviews of use can leave it out."""


class RedshiftUnreachable(RetryableError):
    """No connection, or it was lost."""


class SerializationConflict(RetryableError):
    """Error 1023: another transaction changed the same table. Nothing was done."""


class StatementCancelled(RetryableError):
    """The statement ran into its time limit, or somebody cancelled it."""


class StatementRefused(FinalError):
    """Redshift refuses the statement."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Session(Protocol):
    """What runs statements. `%s` in a statement stands for a bound value."""

    def rows(self, sql: str, *values: Any) -> list[Row]: ...

    def run(self, sql: str, *values: Any) -> int:
        """Number of rows that were changed, -1 where that has no meaning."""
        ...

    def transaction(self) -> Any:
        """A context: committed when it ends well, else rolled back. Outside of it each statement stands alone."""
        ...

    def close(self) -> None: ...


class ConnectorSession:
    """A session of `redshift_connector`."""

    def __init__(self, info: ConnectionInfo) -> None:
        """:raises RedshiftUnreachable, ConfigurationError: the connection is not made."""
        import redshift_connector

        self.info = info
        options: dict[str, Any] = {"timeout": 30, "tcp_keepalive": True, "application_name": "dbops"}
        options |= {name: value for name, value in info.extra.items() if name != "region_name"}
        if info.extra.get("iam"):
            options |= {"db_user": info.login}
        else:
            options |= {"user": info.login, "password": info.password}
        try:
            self._connection = redshift_connector.connect(
                host=info.host, port=info.port or 5439, database=info.schema or "dev", **options
            )
        except TypeError as error:
            raise ConfigurationError(
                f"connection {info.conn_id}: its extra is not for redshift_connector: {error}"
            ) from None
        except (redshift_connector.error.Error, OSError) as error:
            code, message = _details(error)
            where = f"{info.host}:{info.port or 5439}/{info.schema or 'dev'} (connection {info.conn_id})"
            if code.startswith("28") or code == "3D000":
                raise ConfigurationError(
                    f"connect to Redshift at {where}: {message}; check login and database"
                ) from None
            raise RedshiftUnreachable(f"connect to Redshift at {where}: {message}") from None
        # `timeout` is of the socket, and would end every statement that takes longer to answer.
        self._connection._usock.settimeout(None)
        self._connection.autocommit = True
        self.run(f"set query_group to '{QUERY_GROUP}'")

    def __enter__(self) -> ConnectorSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(Exception):  # it may be lost already, and there is nothing left to save
            self._connection.close()

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query.

        :raises RedshiftUnreachable, SerializationConflict, StatementCancelled, StatementRefused: and nothing was done.
        """
        with self._cursor(sql, values) as cursor:
            return list(cursor.fetchall())

    def run(self, sql: str, *values: Any) -> int:
        """Run a statement; how many rows it changed, -1 where that has no meaning.

        :raises RedshiftUnreachable, SerializationConflict, StatementCancelled, StatementRefused: see `rows`.
        """
        with self._cursor(sql, values) as cursor:
            return int(cursor.rowcount)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.run("begin")
        try:
            yield
        except BaseException:
            try:
                self.run("rollback")
            except (RetryableError, FinalError):
                self.close()  # the server rolls back what a lost connection left open
            raise
        self.run("commit")

    @contextmanager
    def _cursor(self, sql: str, values: Sequence[Any]) -> Iterator[Any]:
        import redshift_connector

        cursor = self._connection.cursor()
        if not values:
            cursor.paramstyle = "qmark"  # a % is a % then, in a literal and outside of one
        try:
            cursor.execute(sql, tuple(values))
            yield cursor
        except (redshift_connector.error.Error, OSError) as error:
            raise _explained(error, sql, self.info) from None
        finally:
            cursor.close()


def open_session(info: ConnectionInfo) -> ConnectorSession | DataApiSession:
    """A session over the driver, or over the Data API when the connection's extra says `data_api`.

    :raises RedshiftUnreachable, ConfigurationError: the connection is not made.
    """
    if info.extra.get("data_api"):
        from dbops.redshift.data_api import DataApiSession

        return DataApiSession(info)
    return ConnectorSession(info)


class LazySession:
    """A session that its first statement opens, for work that goes on without it.

    When it cannot be opened, that is tried once: each statement says why.
    """

    def __init__(self, opened: Callable[[], Session]) -> None:
        self._opened = opened
        self._session: Session | None = None
        self._error: DbopsError | None = None

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return self._open().rows(sql, *values)

    def run(self, sql: str, *values: Any) -> int:
        return self._open().run(sql, *values)

    def transaction(self) -> Any:
        return self._open().transaction()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _open(self) -> Session:
        if self._error is not None:
            raise self._error
        if self._session is None:
            try:
                self._session = self._opened()
            except DbopsError as error:
                self._error = error
                raise
        return self._session


def _details(error: BaseException) -> tuple[str, str]:
    """SQLSTATE and message of an error of the driver."""
    found = error.args[0] if error.args else ""
    if isinstance(found, dict):
        return str(found.get("C", "")), str(found.get("M", found))
    return "", str(found or error)


_CONFLICT = re.compile(r"\s*(ERROR:\s*)?1023\b|.*serializable isolation violation", re.IGNORECASE | re.DOTALL)


def is_conflict(message: str) -> bool:
    """Whether an error's text is that of 1023, and not of a table or a key with that number in its name."""
    return _CONFLICT.match(message) is not None


def _explained(error: BaseException, sql: str, info: ConnectionInfo) -> RetryableError | FinalError:
    code, message = _details(error)
    words = " ".join(sql.split()[:4])
    what = f"{words} ... on Redshift (connection {info.conn_id})"
    if code == "40001" or is_conflict(message):
        return SerializationConflict(f"{what}: {message}; run it again")
    if code == "57014":
        return StatementCancelled(f"{what}: {message}")
    if not code or code.startswith(("08", "57P")):
        return RedshiftUnreachable(f"{what}: the connection was lost: {message}")
    return StatementRefused(f"{what}: {message} (SQLSTATE {code})", code)
