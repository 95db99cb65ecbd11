"""A session over the Redshift Data API: for workers that reach AWS's HTTPS endpoint and not the warehouse's port."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from typing import Any

from dbops.backups.store import aws_client
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.redshift.api import ApiRefused, ApiUnreachable, NotThere, calls
from dbops.redshift.session import (
    QUERY_GROUP,
    RedshiftUnreachable,
    Row,
    SerializationConflict,
    StatementCancelled,
    StatementRefused,
    is_conflict,
)

WAIT_SECONDS = 20
"""How long one request waits for the statement; AWS allows 30, our clients give up after 60."""
PAUSE_SECONDS = 0.2
KEEP_SECONDS = 900
"""How long a session without a statement lives, and its open transaction with it."""
BEGINNING = f"set query_group to '{QUERY_GROUP}'"
TARGETS = ("cluster_identifier", "workgroup_name")
OWN = ("data_api", "secret_arn", "session_seconds", *TARGETS)
LOGIN = ("aws_access_key_id", "aws_secret_access_key")

_CODES = (
    (re.compile(r"permission denied|must be owner|must be superuser", re.IGNORECASE), "42501"),
    (re.compile(r"(relation|table) .* does not exist", re.IGNORECASE), "42P01"),
    (re.compile(r"column .* does not exist", re.IGNORECASE), "42703"),
    (re.compile(r"schema .* does not exist", re.IGNORECASE), "3F000"),
    (re.compile(r"syntax error", re.IGNORECASE), "42601"),
    (re.compile(r"inside a transaction block|multi-command string", re.IGNORECASE), "25001"),
    (re.compile(r"transaction is aborted", re.IGNORECASE), "25P02"),
    (re.compile(r"VACUUM is running", re.IGNORECASE), "55000"),
    (re.compile(r"S3ServiceException|S3 ?(Query|Curl)Exception|unload destination", re.IGNORECASE), "XX000"),
)
"""The Data API gives an error's text alone; these are the codes that callers ask for."""
_PART = re.compile(r"""(?s) ' (?:[^']|'')* ' | "(?:[^"]|"")*" | --[^\n]* | /\* .*? \*/ | %s | %% """, re.VERBOSE)


class DataApiSession:
    """A `Session` whose statements are sent to the Data API.

    Its connection's extra says so: `{"data_api": true, "cluster_identifier": "bedrock", "secret_arn": "arn:aws:...",
    "region_name": "eu-west-1"}`, with `workgroup_name` in place of a cluster for Serverless. The database is the
    connection's schema. Without `secret_arn` AWS makes a temporary login: of the connection's login on a cluster, of
    the IAM identity otherwise. `endpoint_url`, `profile_name`, `aws_access_key_id` and the like are as in a connection
    of type aws. `session_seconds` (900) is how long a session, and an open transaction in it, outlives a pause between
    two statements.
    """

    def __init__(self, info: ConnectionInfo) -> None:
        """:raises ConfigurationError: the extra does not say what to connect to."""
        self.info = info
        extra = dict(info.extra)
        named = {name: str(extra[name]) for name in TARGETS if extra.get(name)}
        if len(named) != 1:
            raise ConfigurationError(
                f"connection {info.conn_id}: extra has data_api and needs one of {' and '.join(TARGETS)} with it"
            )
        self._keep = int(extra.get("session_seconds") or KEEP_SECONDS)
        words = {"cluster_identifier": "ClusterIdentifier", "workgroup_name": "WorkgroupName"}
        self._target: dict[str, Any] = {words[name]: value for name, value in named.items()}
        self._target["Database"] = info.schema or "dev"
        if extra.get("secret_arn"):
            self._target["SecretArn"] = str(extra["secret_arn"])
        elif info.login and "cluster_identifier" in named:
            self._target["DbUser"] = info.login
        aws = {name: value for name, value in extra.items() if name not in (*OWN, *LOGIN)}
        keys = [str(extra[name]) if extra.get(name) else None for name in LOGIN]
        account = ConnectionInfo(info.conn_id, "aws", login=keys[0], password=keys[1], extra=aws)
        self._client = aws_client(account, extra.get("region_name"), "redshift-data")
        self._session: str | None = None
        self._in_transaction = False

    def __enter__(self) -> DataApiSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Undo what is open. The session itself cannot be ended: it ends by itself after its pause."""
        self._undo()
        self._session = None

    def _undo(self) -> None:
        if self._in_transaction:
            self._in_transaction = False
            try:
                self.run("rollback")
            except (RetryableError, FinalError):
                self._session = None  # its end undoes what it left open

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query, with the types that the driver gives.

        :raises RedshiftUnreachable, SerializationConflict, StatementCancelled, StatementRefused: and nothing was done.
        """
        done = self._execute(sql, values)
        if not done.get("HasResultSet"):
            raise StatementRefused(f"{self._what(sql)}: it answers no rows", "")
        found: list[Row] = []
        request: dict[str, Any] = {"Id": done["Id"]}
        readers: list[Callable[[Any], Any]] = []
        while True:
            with self._calls(f"read the rows of {self._what(sql)}"):
                page = self._client.get_statement_result(**request)
            if not readers:
                readers = [
                    _READERS.get(column.get("typeName", "").lower(), _as_is) for column in page["ColumnMetadata"]
                ]
            for record in page["Records"]:
                found.append([_value(field, read) for field, read in zip(record, readers, strict=True)])
            if not page.get("NextToken"):
                return found
            request["NextToken"] = page["NextToken"]

    def run(self, sql: str, *values: Any) -> int:
        """Run a statement; how many rows it changed, -1 where that has no meaning.

        :raises RedshiftUnreachable, SerializationConflict, StatementCancelled, StatementRefused: see `rows`.
        """
        return int(self._execute(sql, values).get("ResultRows", -1))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.run("begin")
        self._in_transaction = True
        try:
            yield
        except BaseException:
            self._undo()
            raise
        self.run("commit")
        self._in_transaction = False

    # ------------------------------------------------------------------ one statement

    def _execute(self, sql: str, values: Sequence[Any]) -> Mapping[str, Any]:
        """The description of the statement, which has ended well."""
        text, parameters = _bound(sql, values)
        if self._session is None and not text.startswith(BEGINNING):
            self.run(BEGINNING)  # what belongs to every session comes first in a new one
        # It is not waited for here: whoever is interrupted meanwhile could not cancel what has no id yet.
        request: dict[str, Any] = {"Sql": text, "SessionKeepAliveSeconds": self._keep}
        request |= {"SessionId": self._session} if self._session else self._target
        if parameters:
            request["Parameters"] = [{"name": name, "value": value} for name, value in parameters.items()]
        what = self._what(sql)
        with self._calls(what):
            found = self._client.execute_statement(**request)
        self._session = found.get("SessionId")
        try:
            done = self._wait(found["Id"], what)
        except BaseException:
            with suppress(Exception):  # whoever stops waiting for it does not want it any more
                self._client.cancel_statement(Id=found["Id"])
            raise
        if done["Status"] == "FINISHED":
            return done
        error = _explained(str(done.get("Error", "")), done["Status"], what)
        if isinstance(error, RedshiftUnreachable):
            self._session, self._in_transaction = None, False
        raise error

    def _wait(self, id: str, what: str) -> Mapping[str, Any]:
        while True:
            asked_at = time.monotonic()
            with self._calls(what):
                done: Mapping[str, Any] = self._client.describe_statement(Id=id, WaitTimeSeconds=WAIT_SECONDS)
            if done["Status"] in {"FINISHED", "FAILED", "ABORTED"}:
                return done
            time.sleep(max(0.0, PAUSE_SECONDS - (time.monotonic() - asked_at)))  # a service may not wait as asked

    def _what(self, sql: str) -> str:
        return f"{' '.join(sql.split()[:4])} ... on Redshift (connection {self.info.conn_id}, Data API)"

    @contextmanager
    def _calls(self, what: str) -> Iterator[None]:
        """The errors of the API as those of a session."""
        try:
            with calls(what):
                yield
        except ApiUnreachable as error:
            raise RedshiftUnreachable(str(error)) from None
        except NotThere as error:  # a statement or its rows are forgotten after 24 hours
            raise RedshiftUnreachable(str(error)) from None
        except ApiRefused as error:
            text = str(error)
            if re.search(r"session .*not available|session .*expired", text, re.IGNORECASE):
                self._session, self._in_transaction = None, False
                raise RedshiftUnreachable(
                    f"{text}: its session is over, and what was not committed is undone"
                ) from None
            if re.search(r"\((ActiveStatementsExceeded|ActiveSessionsExceeded|DatabaseConnection)Exception\)", text):
                raise RedshiftUnreachable(text) from None
            raise ConfigurationError(f"{text}; check the connection's extra, its secret and database") from None


def _explained(error: str, status: str, what: str) -> RetryableError | FinalError:
    message = error.removeprefix("ERROR:").strip() or f"it ended as {status}"
    if is_conflict(message):
        return SerializationConflict(f"{what}: {message}; run it again")
    if status == "ABORTED" or re.search(r"cancel(l?ed|ling|ing)\b.*(user|timeout|request)", message, re.IGNORECASE):
        return StatementCancelled(f"{what}: {message}")
    if re.search(
        r"(connection|socket|server)\b.{0,20}\b(lost|closed|reset|terminated)|broken ?pipe", message, re.IGNORECASE
    ):
        return RedshiftUnreachable(f"{what}: the connection was lost: {message}")
    code = next((code for pattern, code in _CODES if pattern.search(message)), "")
    return StatementRefused(f"{what}: {message}", code)


# ---------------------------------------------------------------------------------------------- values


def _bound(sql: str, values: Sequence[Any]) -> tuple[str, dict[str, str]]:
    """The statement with `:p1` for each text; everything else is written into it.

    The API binds texts only, and neither NULL nor an empty one.

    :raises ConfigurationError: the statement has another number of places, or a value is of a type that has no literal.
    """
    if not values:
        return sql, {}
    left = list(values)
    parameters: dict[str, str] = {}

    def place(found: re.Match[str]) -> str:
        part = found[0]
        if part == "%%":
            return "%"
        if part != "%s":
            return part
        if not left:
            raise ConfigurationError(f"{' '.join(sql.split()[:4])} ...: has more places than the {len(values)} values")
        value = left.pop(0)
        if isinstance(value, str) and value:
            parameters[f"p{len(parameters) + 1}"] = value
            return f":p{len(parameters)}"
        return _literal(value)

    text = _PART.sub(place, sql)
    if left:
        raise ConfigurationError(f"{' '.join(sql.split()[:4])} ...: has fewer places than the {len(values)} values")
    return text, parameters


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return f"({value})" if value < 0 else str(value)
    if isinstance(value, datetime):
        kind = "timestamptz" if value.tzinfo else "timestamp"
        return f"cast('{value.isoformat(' ')}' as {kind})"
    if isinstance(value, date):
        return f"cast('{value.isoformat()}' as date)"
    if value == "":
        return "''"
    raise ConfigurationError(f"a value of type {type(value).__name__} cannot be sent through the Data API")


def _as_is(value: Any) -> Any:
    return value


def _timestamp(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"([+-]\d\d)$", r"\1:00", text))


_READERS: dict[str, Callable[[Any], Any]] = {
    "date": date.fromisoformat,
    "numeric": Decimal,
    "decimal": Decimal,
    "time": time_of_day.fromisoformat,
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
}


def _value(field: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
    if field.get("isNull"):
        return None
    for kind in ("stringValue", "longValue", "doubleValue", "booleanValue", "blobValue"):
        if kind in field:
            return read(field[kind]) if kind == "stringValue" else field[kind]
    return None
