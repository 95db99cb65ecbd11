"""The client's own session at PostgreSQL, as COPY and UNLOAD use it.

What they run there is part of the client's transaction: a rollback undoes a COPY.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from dbops_lab.redshift.errors import BackendError

Rows = list[tuple[str | None, ...]]
__all__ = ["Backend", "BackendError", "Column", "Rows"]


class Column(NamedTuple):
    name: str
    oid: int
    typmod: int


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
