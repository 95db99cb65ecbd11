"""The server behind the stand-in, as COPY and UNLOAD need it: the client's own session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol


class Column(NamedTuple):
    name: str
    oid: int
    typmod: int


class BackendError(Exception):
    """The server refused a statement."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Backend(Protocol):
    """Statements in the session of the client, so that its rollback undoes them."""

    def query(self, sql: str) -> tuple[list[Column], list[tuple[str | None, ...]]]: ...

    def copy_in(self, sql: str, blocks: Iterable[bytes]) -> int:
        """`COPY ... FROM STDIN`; what `blocks` raises cancels it."""
        ...

    def copy_out(self, sql: str) -> Iterator[bytes]:
        """`COPY ... TO STDOUT`, streaming; blocks need not end with a row."""
        ...
