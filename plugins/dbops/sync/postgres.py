"""The side of PostgreSQL: one snapshot, read by COPY in the binary format, hashed where it arrives."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg2
from numpy.typing import NDArray
from psycopg2 import sql

from dbops.aerospike.kernel import BROKEN, NEED_MORE, OUT_FULL, SOURCE_NEEDED, WHY
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError, FinalError, RetryableError
from dbops.platform import duration_text
from dbops.platform.sync import SyncPair, key_parts
from dbops.sync import kernel
from dbops.sync.plan import Plan, Work

log = logging.getLogger(__name__)

Bytes = NDArray[np.uint8]
Longs = NDArray[np.uint64]

READ_SECONDS = 300.0
MOST_PLACES = 4 << 20  # rows whose place is kept, so that they are found again without reading the table
_BUFFER = 2 << 20
_BLOCK = 256 << 10  # read at once: small enough that the server goes on meanwhile, and for the processor's cache
_NONE: Longs = np.empty(0, np.uint64)
_rows_kernel: Callable[..., Any] = kernel.rows


class PostgresUnreachable(RetryableError):
    """No connection, or it was lost."""


class ReplicaBehind(RetryableError):
    """The server is a replica that does not have the newest changes."""


class TableWrong(ConfigurationError):
    """Table or columns are not what the platform file says."""


def connect(info: ConnectionInfo) -> Any:
    """A connection of psycopg2; what it reads is UTC, ISO and UTF-8.

    :raises PostgresUnreachable, ConfigurationError: it is not made.
    """
    options = {name: value for name, value in info.extra.items() if name.startswith("ssl") or name == "keepalives_idle"}
    try:
        return psycopg2.connect(
            host=info.host, port=info.port or 5432, user=info.login, password=info.password,
            dbname=info.schema or info.login, connect_timeout=10, application_name="dbops sync",
            client_encoding="UTF8",
            options="-c timezone=UTC -c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=1", **options,
        )  # fmt: skip
    except psycopg2.Error as error:
        where = f"{info.host}:{info.port or 5432}/{info.schema or info.login} (connection {info.conn_id})"
        text = str(error).strip()
        if "authentication failed" in text or "does not exist" in text:
            raise ConfigurationError(f"connect to PostgreSQL at {where}: {text}; check login and database") from None
        raise PostgresUnreachable(f"connect to PostgreSQL at {where}: {text}") from None


def explained(error: BaseException, what: str) -> RetryableError | FinalError:
    """An error of the driver or of COPY, in words."""
    code, text = str(getattr(error, "pgcode", "") or ""), str(error).strip().splitlines()
    message = f"{what}: {text[0] if text else type(error).__name__}"
    if code in ("42P01", "42703", "42P17"):
        return TableWrong(f"{message}; correct the pair in the platform file, or the schema")
    if code.startswith("22"):  # PostgreSQL quotes the value, which may be of a masked column and hold quotes itself
        message = message.partition('"')[0] + "..."
    if code.startswith(("42", "22")):
        return TableWrong(f"{message}; a column's type is not what the pair says: correct its `form` (SQLSTATE {code})")
    if not code or code.startswith(("08", "40", "53", "55", "57", "58")):
        return PostgresUnreachable(message)
    return FinalError(f"{message} (SQLSTATE {code})")


class Rows:
    """Collected rows: digest words, hash, place, and the hashes of columns if wanted. Grows as needed."""

    def __init__(self, columns: int = 0, rows: int = 1024) -> None:
        self.width = kernel.ROW + columns
        self.data: Longs = np.empty(self.width * rows, np.uint64)

    def grow(self) -> None:
        larger = np.empty(self.data.size * 2, np.uint64)
        larger[: self.data.size] = self.data
        self.data = larger

    def cut(self, rows: int) -> NDArray[np.uint64]:
        return self.data[: rows * self.width].reshape(rows, self.width)


class Snapshot:
    """One repeatable-read transaction on the table of a pair.

    :raises TableWrong: table or columns are not there.
    :raises ReplicaBehind: the server is a replica and lags more than `max_replica_lag`.
    """

    def __init__(self, info: ConnectionInfo, pair: SyncPair, max_replica_lag: timedelta) -> None:
        self.pair, self._info = pair, info
        self._what = f"read {pair.table} (connection {info.conn_id})"
        self._connection = connect(info)
        try:
            self._begin(max_replica_lag)
        except BaseException:
            self.close()
            raise

    def _begin(self, max_replica_lag: timedelta) -> None:
        with self._asking():
            self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with self._connection.cursor() as cursor:
                cursor.execute(
                    # A replica that has replayed all that it received is current only while it still receives.
                    "select clock_timestamp(), pg_is_in_recovery(), case when pg_is_in_recovery() and "
                    "(pg_last_wal_receive_lsn() is distinct from pg_last_wal_replay_lsn() "
                    "or not exists (select from pg_stat_wal_receiver)) then extract(epoch from clock_timestamp() - "
                    "coalesce(pg_last_xact_replay_timestamp(), pg_postmaster_start_time())) end"
                )
                self.at, self.is_replica, behind = cursor.fetchone()
                self.at = self.at.astimezone(UTC)
                require_current(self._info, behind, max_replica_lag)
                self.types, self.unmapped = self._columns(cursor)
        self.plan = Plan(self.pair, self.types)

    def _columns(self, cursor: Any) -> tuple[dict[str, str], list[str]]:
        """Types of all columns, and which of them the pair does not speak of."""
        cursor.execute(
            "select a.attname, format_type(a.atttypid, null), c.relkind from pg_class c "
            "join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped "
            "where c.oid = to_regclass(%s) order by a.attnum",
            [self._table.as_string(self._connection)],
        )
        found = cursor.fetchall()
        if not found:
            raise TableWrong(f"{self._what}: there is no such table; correct the pair {self.pair.name}, or the schema")
        if found[0][2] not in ("r", "p", "m"):
            raise TableWrong(f"{self._what}: it is no table; rows of a view cannot be found again")
        types = {name: kind for name, kind, _ in found}
        pair = self.pair
        named = [one.column for one in pair.columns] + [*pair.key_columns, *pair.deleted]
        named += [pair.expires.column] if pair.expires else []
        named += [pair.changed] if pair.changed else []
        if missing := [name for name in dict.fromkeys(named) if name not in types]:
            raise TableWrong(
                f"{self._what}: it has no column {', '.join(missing)}; correct the pair {pair.name}, or the schema"
            )
        known = {*named, *pair.ignored}
        return types, [name for name in types if name not in known]

    def close(self) -> None:
        with contextlib.suppress(psycopg2.Error):
            self._connection.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ statements

    def ask(self, text: str, values: Sequence[Any], **parts: sql.Composable) -> list[Any]:
        """The rows of a statement whose {table}, {key} and {alive} are those of the pair.

        :param values: for its %s; :param parts: for its other {names}.
        """
        known = {"table": self._table, "key": self.key, "alive": self.alive}
        return self._rows(sql.SQL(text).format(**known | parts), values)

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(*self.pair.table.split("."))

    @property
    def key(self) -> sql.Composable:
        """The user key, as text or bigint."""
        return key_expression(self.pair)

    @property
    def alive(self) -> sql.Composable:
        """Which rows have a record."""
        parts: list[sql.Composable] = []
        for column, values in self.pair.deleted.items():
            parts.append(
                sql.SQL("({}::text in ({})) is not true").format(
                    sql.Identifier(column), sql.SQL(", ").join(map(sql.Literal, values))
                )
            )
        if self.pair.expires is not None:
            parts.append(
                sql.SQL("(({} + {}) <= statement_timestamp()) is not true").format(
                    sql.Identifier(self.pair.expires.column), sql.Literal(self.pair.expires.after)
                )
            )
        return sql.SQL(" and ").join(parts) if parts else sql.SQL("true")

    def _values(self) -> list[sql.Composable]:
        """Each column in the form that its kind is hashed from."""
        made: list[sql.Composable] = []
        for number, one in enumerate(self.pair.columns):
            kind = self.types[one.column]
            cast = _CASTS[int(self.plan.kinds[number])]
            if one.form in ("json", "json_text"):
                cast = "::text" if kind == "jsonb" else "::jsonb::text"
                if kind not in ("jsonb", "json", "text", "character varying"):
                    made.append(sql.SQL("to_jsonb({})::text").format(sql.Identifier(one.column)))
                    continue
            elif kind == "boolean" and cast == "::bigint":
                cast = "::int::bigint"
            made.append(sql.SQL("{}" + cast).format(sql.Identifier(one.column)))
        return made

    def _copy(self, where: sql.Composable, *, keys_only: bool = False) -> str:
        key = sql.Identifier(self.pair.key_columns[0]) if self.plan.is_uuid_key else self.key
        wanted = [key, sql.SQL("ctid"), *([] if keys_only else self._values())]
        query = sql.SQL("copy (select {} from {} where ({}) and ({})) to stdout (format binary)").format(
            sql.SQL(", ").join(wanted), self._table, self.alive, where
        )
        return str(query.as_string(self._connection))

    def _places(self, places: Sequence[int] | Longs) -> sql.Composable:
        texts = [f"({int(place) >> 11 & 0xFFFFFFFF},{int(place) & 0x7FF})" for place in places]
        return sql.SQL("ctid = any ({}::tid[])").format(sql.Literal(texts))

    # ------------------------------------------------------------------ streams

    def add_up(self, mask: Bytes, table: Longs, places: Longs) -> tuple[int, int]:
        """All rows of the mask into `table`; how many there are, and how many of them are in `places`.

        The second number is -1 when there were more rows than room.
        """
        state = self._stream(self._copy(sql.SQL("true")), self.plan.hashing, mask, table, places, Rows(0, 1))
        return int(state[kernel.ROWS]), -1 if state[kernel.FULL] else int(state[kernel.FOUND])

    def read(self, parse: Parse) -> None:
        """Hand all messages of the rows to `parse`."""
        with self._asking():
            copy_out(self._connection, self._copy(sql.SQL("true")), parse)

    def collect(self, mask: Bytes, places: Longs | None = None) -> Longs:
        """The rows of the mask one by one; read at these places, or else by going through the whole table."""
        if places is None:
            return self._collected(self._copy(sql.SQL("true")), mask)
        parts = [
            self._collected(self._copy(self._places(places[at : at + 20_000])), mask)
            for at in range(0, len(places), 20_000)
        ]
        return np.concatenate(parts) if parts else Rows().cut(0)

    def keys_of(self, mask: Bytes) -> Longs:
        """Which rows of the mask there are: no values are read, so their hashes are 0."""
        return self._collected(self._copy(sql.SQL("true"), keys_only=True), mask, keys_only=True)

    def at_keys(self, keys: Sequence[Sequence[str]], *, columns: bool = False) -> Longs:
        """The rows of these values of the key columns, as far as there are any; with hashes of columns if wanted."""
        mask = np.ones(kernel.BUCKETS, np.uint8)
        parts = [
            self._collected(self._copy(self._keys(keys[at : at + 5000])), mask, columns=columns)
            for at in range(0, len(keys), 5000)
        ]
        return np.concatenate(parts) if parts else Rows(len(self.pair.columns) if columns else 0).cut(0)

    def at_user_keys(self, keys: Sequence[str]) -> Longs:
        """All rows of these user keys, whatever columns make them; the whole table is gone through."""
        if not keys:
            return Rows().cut(0)
        mask = np.ones(kernel.BUCKETS, np.uint8)
        where = sql.SQL("({})::text = any ({}::text[])").format(self.key, sql.Literal(list(keys)))
        return self._collected(self._copy(where), mask)

    def _keys(self, keys: Sequence[Sequence[str]]) -> sql.Composable:
        names = self.pair.key_columns
        typed = sql.SQL(", ").join(sql.SQL("k.{}::" + self.types[name]).format(sql.Identifier(name)) for name in names)
        arrays = sql.SQL(", ").join(
            sql.SQL("{}::text[]").format(sql.Literal(list(one))) for one in zip(*keys, strict=True)
        )
        own = sql.SQL(", ").join(map(sql.Identifier, names))
        return sql.SQL("({own}) in (select {typed} from unnest({arrays}) as k ({own}))").format(
            own=own, typed=typed, arrays=arrays
        )

    def _collected(self, query: str, mask: Bytes, *, keys_only: bool = False, columns: bool = False) -> Longs:
        rows = Rows(len(self.pair.columns) if columns else 0)
        hashing = self.plan.keys_only if keys_only else self.plan.hashing
        state = self._stream(query, hashing, mask, _NONE, _NONE, rows)
        return rows.cut(int(state[kernel.FOUND]))

    def _stream(
        self, query: str, hashing: tuple[Any, ...], mask: Bytes, table: Longs, places: Longs, rows: Rows
    ) -> Any:
        state, work = np.zeros(kernel.STATE, np.int64), Work()
        state[kernel.UUID_KEY] = self.plan.is_uuid_key
        block = self.plan.block()

        def parse(source: Bytes, pos: int, end: int) -> tuple[int, int]:
            nonlocal block
            while True:
                pos, status = _rows_kernel(
                    source, pos, end, state, *hashing, mask, table, places, rows.data, rows.width, block,
                    len(self.plan.prefix), work.words, work.block_words, *work.texts,
                )  # fmt: skip
                if status == OUT_FULL:
                    if needed := int(state[SOURCE_NEEDED]):
                        work.grow(needed)
                        block = self.plan.block(2 * needed + 512)
                    else:
                        rows.grow()
                    continue
                if status == BROKEN:
                    raise FinalError(
                        f"{self._what}: the server's COPY cannot be read (reason {int(state[WHY])}); is it PostgreSQL?"
                    )
                return pos, int(state[SOURCE_NEEDED]) if status == NEED_MORE else 0

        with self._asking():
            copy_out(self._connection, query, parse)
        if nulls := int(state[kernel.NULL_KEYS]):
            raise TableWrong(f"{self._what}: {nulls} rows have a NULL in {', '.join(self.pair.key_columns)}, the key")
        return state

    # ------------------------------------------------------------------ words

    def keys_at(self, places: Sequence[int] | Longs) -> list[tuple[str, tuple[str, ...]]]:
        """Of each place: the user key in words, and the values of the key columns."""
        columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(n)) for n in self.pair.key_columns)
        found = []
        for at in range(0, len(places), 20_000):
            query = sql.SQL("select ({})::text, {} from {} where {}").format(
                self.key, columns, self._table, self._places(places[at : at + 20_000])
            )
            found += [(row[0], tuple(row[1:])) for row in self._rows(query)]
        return found

    def changed_since(self, since: datetime) -> list[tuple[str, tuple[str, ...]]]:
        """Keys of the rows that changed since then, deleted and expired ones too."""
        if self.pair.changed is None:
            raise ConfigurationError(f"pair {self.pair.name} names no column `changed`: validate it in full")
        columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(n)) for n in self.pair.key_columns)
        query = sql.SQL("select ({})::text, {} from {} where {} >= {}").format(
            self.key, columns, self._table, sql.Identifier(self.pair.changed), sql.Literal(since)
        )
        return [(row[0], tuple(row[1:])) for row in self._rows(query)]

    def row_keys(self, keys: Sequence[str | None]) -> list[tuple[str, ...] | None] | None:
        """Values of the key column by which rows of these user keys are found; None for a key that no row can have.

        None altogether: they cannot be told from the keys, only by going through the table.
        """
        column = self.pair.key_columns[0]
        pattern = _KEYS.get(self.types[column])
        if self.pair.key != f"{{{column}}}" or pattern is None or any(key is None for key in keys):
            return None
        return [(key,) if key is not None and pattern.fullmatch(key) else None for key in keys]

    def values(self, keys: Sequence[Sequence[str]]) -> dict[str, dict[str, str | None]]:
        """By user key: the mapped columns as text."""
        if not keys:
            return {}
        names = [one.column for one in self.pair.columns]
        columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names)
        query = sql.SQL("select ({})::text, {} from {} where {}").format(
            self.key, columns, self._table, self._keys(keys)
        )
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in self._rows(query)}

    def alive_rows(self, keys: Sequence[Sequence[str]]) -> list[tuple[Any, float | None, tuple[Any, ...]]]:
        """Of the rows of these keys that have a record: user key, seconds until they have none, and the columns.

        A column that goes into a bin as text comes as text.
        """
        if not keys:
            return []
        left: sql.Composable = sql.SQL("null")
        if self.pair.expires is not None:
            left = sql.SQL("extract(epoch from {} + {} - statement_timestamp())").format(
                sql.Identifier(self.pair.expires.column), sql.Literal(self.pair.expires.after)
            )
        columns = []
        for one in self.pair.columns:
            text = {"text": "{}::text", "json": "to_jsonb({})", "json_text": "to_jsonb({})"}.get(one.form, "{}")
            if one.form.startswith("json") and self.types[one.column] in ("text", "character varying"):
                text = "{}::jsonb"
            columns.append(sql.SQL(text).format(sql.Identifier(one.column)))
        query = sql.SQL("select {}, {}, {} from {} where ({}) and ({})").format(
            self.key, left, sql.SQL(", ").join(columns), self._table, self.alive, self._keys(keys)
        )
        return [(row[0], None if row[1] is None else float(row[1]), tuple(row[2:])) for row in self._rows(query)]

    def _rows(self, query: sql.Composable, values: Sequence[Any] | None = None) -> list[Any]:
        with self._asking(), self._connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (psycopg2.Error, OSError, CopyFailed) as error:
            raise explained(error, self._what) from None


def require_current(info: ConnectionInfo, behind: float | None, most: timedelta) -> None:
    """:raises ReplicaBehind: the replica's newest transaction is older than that."""
    if behind is not None and behind > most.total_seconds():
        raise ReplicaBehind(
            f"read connection {info.conn_id}: it is a replica, {duration_text(timedelta(seconds=float(behind)))} "
            f"behind (at most {duration_text(most)}); what it lacks would look like drift: wait, or name the primary"
        )


def key_expression(pair: SyncPair) -> sql.Composable:
    """The record's user key from the columns of the table."""
    parts: list[sql.Composable] = []
    for text, column, form in key_parts(pair.key):
        if text:
            parts.append(sql.Literal(text))
        if column and form:
            parts.append(sql.SQL("to_char({}, {})").format(sql.Identifier(column), sql.Literal(form)))
        elif column:
            parts.append(
                sql.SQL("{}::" + ("bigint" if pair.key_type == "integer" else "text")).format(sql.Identifier(column))
            )
    return sql.SQL(" || ").join(parts)


_INTEGER = re.compile(r"0|-?[1-9]\d{0,8}")
_KEYS: Mapping[str, re.Pattern[str]] = {
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "text": re.compile(r"[^\x00]*"),
    "integer": _INTEGER,
    "bigint": re.compile(r"0|-?[1-9]\d{0,17}"),
}
"""How PostgreSQL writes values of a type: a text that is written otherwise is the key of no row."""
_CASTS: Mapping[int, str] = {
    kernel.TEXT: "::text",
    kernel.INTEGER: "::bigint",
    kernel.DOUBLE: "::double precision",
    kernel.BOOL: "::boolean",
    kernel.TIMESTAMP: "::timestamptz",
    kernel.SCALED: "::numeric",
    kernel.DECIMAL: "::numeric",
    kernel.JSON: "::text",
    kernel.UUID: "",
}


# ------------------------------------------------------------------ COPY

Parse = Callable[[Bytes, int, int], tuple[int, int]]
"""Takes what is complete of source[pos:end] and says where it stopped, and how many bytes from there it needs (0: the
message there is not for it)."""


class CopyFailed(Exception):
    """The server ended COPY with an error."""

    def __init__(self, message: str, pgcode: str | None) -> None:
        super().__init__(message)
        self.pgcode = pgcode


def copy_out(connection: Any, query: str, parse: Parse) -> None:
    """Run a COPY ... TO STDOUT and hand its messages to `parse` as they come from the socket.

    The driver makes an object of each row, which takes longer than all that is done with it here. So the messages are
    taken from the driver's own connection, which is idle before and after; with TLS, which only the driver can read,
    they come through the driver.

    :raises CopyFailed: the server refuses or gives up; the transaction is over then.
    :raises OSError: the connection is lost.
    """
    if connection.info.ssl_in_use:
        _copy_by_driver(connection, query, parse)
        return
    with contextlib.closing(socket.socket(fileno=os.dup(connection.fileno()))) as link:
        try:
            link.settimeout(READ_SECONDS)
            text = query.encode() + b"\0"
            link.sendall(b"Q" + struct.pack(">I", len(text) + 4) + text)
            _read_copy(link, parse)
        except CopyFailed:
            raise  # the server has said that it is ready again
        except BaseException:
            connection.close()  # the rest of the answer is still to come: nobody may use it again
            raise


def _read_copy(link: socket.socket, parse: Parse) -> None:
    buffer: Bytes = np.empty(_BUFFER, np.uint8)
    pos = have = 0
    failed: CopyFailed | None = None
    while True:
        need = 5
        while have - pos >= 5:
            kind, size = chr(buffer[pos]), int.from_bytes(buffer[pos + 1 : pos + 5].tobytes(), "big")
            if kind == "d":
                pos, need = parse(buffer, pos, have)
                if need:
                    break
                need = 5
                continue
            need = size + 1
            if have - pos < need:
                break
            body = buffer[pos + 5 : pos + 1 + size].tobytes()
            pos += need
            need = 5
            if kind == "E":
                failed = _copy_error(body)
            elif kind == "Z":
                if failed is not None:
                    raise failed
                return
            elif kind not in "HcCNSA":
                raise OSError(f"an unexpected message {kind!r} of the server")
        if need > buffer.size:
            larger = np.empty(max(need, 2 * buffer.size), np.uint8)
            larger[: have - pos] = buffer[pos:have]
            buffer = larger
        elif pos:
            buffer[: have - pos] = buffer[pos:have].copy()
        have, pos = have - pos, 0
        count = link.recv_into(buffer.data[have : have + max(_BLOCK, need)])
        if not count:
            raise OSError("the server closed the connection")
        have += count


def _copy_error(body: bytes) -> CopyFailed:
    fields = {part[:1]: part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
    return CopyFailed(fields.get(b"M", "COPY failed"), fields.get(b"C"))


class _Messages:
    """A file for the driver: what it writes becomes the messages that it took apart."""

    def __init__(self, parse: Parse) -> None:
        self._parse = parse
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> int:
        self._parts += (b"d" + struct.pack(">I", len(data) + 4), data)
        self._size += len(data)
        if self._size > _BUFFER:
            self.flush()
        return len(data)

    def flush(self) -> None:
        whole = bytearray().join(self._parts)  # to be written to, as the kernel knows no other arrays
        self._parts, self._size = [], 0
        if whole:
            self._parse(np.frombuffer(whole, np.uint8), 0, len(whole))


def _copy_by_driver(connection: Any, query: str, parse: Parse) -> None:
    file = _Messages(parse)
    with connection.cursor() as cursor:
        cursor.copy_expert(query, file)
    file.flush()
