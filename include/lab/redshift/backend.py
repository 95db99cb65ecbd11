"""The client's own session at PostgreSQL, as the proxy and its COPY, UNLOAD and VACUUM use it.

What they run there is part of the client's transaction: a rollback undoes a COPY.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from dbops_lab.redshift import wire
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.translate import CANCELLED, translated
from dbops_lab.redshift.wire import Column, Wire, text

Rows = list[tuple[str | None, ...]]
__all__ = ["Backend", "BackendError", "Column", "Rows", "Upstream"]

IDLE, IN_TRANSACTION, FAILED = b"I", b"T", b"E"
BLOCK = 1 << 16


class Backend(Protocol):
    """What runs a statement's parts in the client's session."""

    def query(self, sql: str) -> tuple[list[Column], Rows]:
        """:raises BackendError: with code and message as the client gets them."""
        ...

    def copy_in(self, sql: str, blocks: Iterable[bytes]) -> int:
        """`COPY ... FROM STDIN`; how many rows came in."""
        ...

    def copy_out(self, sql: str) -> Iterator[bytes]:
        """`COPY ... TO STDOUT` in blocks of whole rows."""
        ...


class Upstream:
    """The connection to PostgreSQL that belongs to one client.

    :param pass_on: gets what the server says unasked (notices, parameters), for the client.
    """

    def __init__(self, connection: Wire, pass_on: Callable[[bytes, bytes], None]) -> None:
        self.wire = connection
        self.status = IDLE
        self.is_cancelled = False
        self.needs_sync = False  # an error was answered: nothing is until Sync
        self._pass_on = pass_on
        self._prepared: set[str] = set()

    def read(self) -> tuple[bytes, bytes]:
        """The next message that is an answer."""
        while True:
            kind, payload = self.wire.read()
            if kind == b"Z":
                self.status, self.needs_sync = payload, False
            elif kind == b"E":
                self.needs_sync = True
            if kind not in (b"N", b"S", b"A"):
                return kind, payload
            self._pass_on(kind, payload)

    # ------------------------------------------------------------------ simple statements

    def query(self, sql: str) -> tuple[list[Column], Rows]:
        found: list[Column] = []
        rows: Rows = []
        for kind, payload in self._simple(sql):
            if kind == b"T":
                found = wire.columns(payload)
            elif kind == b"D":
                rows.append(wire.values(payload))
        return found, rows

    def execute(self, sql: str) -> str:
        """Run a statement without an answer of rows; its command tag."""
        tag = ""
        for kind, payload in self._simple(sql):
            if kind == b"C":
                tag = payload[:-1].decode()
        return tag

    def copy_in(self, sql: str, blocks: Iterable[bytes]) -> int:
        rows = 0
        for kind, payload in self._simple(sql):
            if kind == b"G":
                self._send_copy(blocks)
            elif kind == b"C":
                rows = int(payload[:-1].split()[-1])
        return rows

    def _send_copy(self, blocks: Iterable[bytes]) -> None:
        try:
            for block in blocks:
                self._check()
                for at in range(0, len(block), BLOCK):
                    self.wire.write(b"d", block[at : at + BLOCK])
                    self.wire.flush()
        except BaseException as problem:
            self.wire.write(b"f", text(f"{type(problem).__name__}"))
            self.wire.flush()
            self._drain()
            raise
        self.wire.write(b"c")
        self.wire.flush()

    def copy_out(self, sql: str) -> Iterator[bytes]:
        self._ask(sql)
        problem: bytes | None = None
        is_ready = False
        try:
            while True:
                if block := self.wire.read_copied():
                    self._check()
                    yield block
                    continue
                kind, payload = self.read()
                if kind == b"E":
                    problem = payload
                elif kind == b"Z":
                    is_ready = True
                    break
        finally:
            if not is_ready:
                self._drain()
        if problem is not None:
            raise translated(problem)

    def _simple(self, sql: str) -> Iterator[tuple[bytes, bytes]]:
        self._ask(sql)
        problem: bytes | None = None
        while True:
            kind, payload = self.read()
            if kind == b"E":
                problem = payload
            elif kind == b"Z":
                break
            else:
                yield kind, payload
        if problem is not None:
            raise translated(problem)

    def _ask(self, sql: str) -> None:
        self._check()
        self.wire.write(b"Q", text(sql))
        self.wire.flush()

    def _drain(self) -> None:
        while not self.wire.read_copied() and self.read()[0] != b"Z":
            pass

    def _check(self) -> None:
        if self.is_cancelled:
            self.is_cancelled = False
            raise BackendError("57014", CANCELLED)

    # ------------------------------------------------------------------ beside the client's own statements

    def beside(self, sql: str, *parameters: str | None) -> Rows:
        """Run a statement within what the client has under way, disturbing none of its statements and portals."""
        name = f"rs:{sql}"
        if name not in self._prepared:
            self.wire.write(b"P", text(name) + text(sql) + b"\0\0")
        self.wire.write(b"B", text("rs:") + text(name) + b"\0\0" + _bound(parameters) + b"\0\0")
        self.wire.write(b"E", text("rs:") + b"\0\0\0\0")
        self.wire.write(b"C", b"P" + text("rs:"))
        self.wire.write(b"H")
        self.wire.flush()
        rows: Rows = []
        while True:
            kind, payload = self.read()
            if kind == b"E":
                raise translated(payload)
            if kind == b"1":
                self._prepared.add(name)
            elif kind == b"D":
                rows.append(wire.values(payload))
            elif kind == b"3":
                return rows


def _bound(parameters: tuple[str | None, ...]) -> bytes:
    parts = [wire.INT16.pack(len(parameters))]
    for value in parameters:
        if value is None:
            parts.append(wire.INT32.pack(-1))
        else:
            encoded = value.encode()
            parts += (wire.INT32.pack(len(encoded)), encoded)
    return b"".join(parts)
