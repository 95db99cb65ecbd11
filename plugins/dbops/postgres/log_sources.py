"""Where a server's log is read from, in pieces: the server itself, or the API of RDS."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from dbops.errors import FinalError
from dbops.postgres.reports import text_for
from dbops.postgres.server_log import Entry, Format, LogUnreadable
from dbops.postgres.session import RightsMissing, Session, StatementRefused

PIECE = 1 << 20
"""Bytes that are asked for at once; RDS gives no more."""
HEAD = 64
"""So many bytes tell whether a file of the same name is the same: the first entry begins with its time."""
MARGIN = timedelta(minutes=10)
"""Files that were written to shortly before the last look are looked at again; the position says from where."""


@dataclass(frozen=True)
class LogFile:
    name: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Position:
    """Up to where a file was read: `skip` bytes after `marker`, which is the source's own.

    An entry that was not complete is read again from its first byte, so that none of its text has to be kept.
    """

    marker: str = "0"
    skip: int = 0
    identity: str = ""
    """A file of this name with another one is another file: the log was rotated."""


@dataclass(frozen=True)
class Piece:
    data: bytes
    marker: str
    """Of what follows."""
    is_last: bool


class LogSource(Protocol):
    """The log of one server. Its methods raise DbopsError when it cannot be read."""

    def files(self) -> list[LogFile]:
        """The oldest first."""
        ...

    def identity(self, file: LogFile) -> str: ...

    def read(self, file: LogFile, marker: str) -> Piece: ...


class ServerLog:
    """The log directory, by the function of grants_log.sql.

    :param is_csv: entries are in the files whose names end with .csv.
    """

    def __init__(self, session: Session, *, is_csv: bool) -> None:
        self._session, self._is_csv = session, is_csv

    def files(self) -> list[LogFile]:
        try:
            found = self._session.rows(text_for("log_files", self._session.version))
        except StatementRefused as error:
            if isinstance(error, RightsMissing) or error.code != "58P01":
                raise
            raise LogUnreadable(
                f"{self._session.where}: there is no log directory: set logging_collector = on (a restart), or "
                "audit.log to none in the platform file"
            ) from None
        return [
            LogFile(name, int(size), modified)
            for name, size, modified in found
            if name.endswith(".csv") == self._is_csv and not name.endswith(".json")
        ]

    def identity(self, file: LogFile) -> str:
        return hashlib.sha256(self._part(file.name, 0, HEAD)).hexdigest()[:16]

    def read(self, file: LogFile, marker: str) -> Piece:
        first = int(marker)
        data = self._part(file.name, first, PIECE)
        return Piece(data, str(first + len(data)), len(data) < PIECE)

    def _part(self, name: str, first: int, most: int) -> bytes:
        try:
            found = self._session.rows(text_for("log_part", self._session.version), name, first, most)
        except StatementRefused as error:
            if isinstance(error, RightsMissing) or error.code in {"42883", "3F000"}:
                raise FinalError(
                    f"{self._session.where}: the log may not be read; include/sql/postgres/grants_log.sql "
                    "gives the right"
                ) from None
            raise
        part = found[0][0] if found else None  # it may have been rotated away
        return bytes(part) if part is not None else b""


class LogReader:
    """Reads every file that was written to since a moment, each from where the last look ended.

    Holds one piece and one entry. What it has got to stands in its attributes once `entries` is exhausted.

    :param positions: of the last look.
    :param most_bytes: the look ends when it has read so many.
    """

    def __init__(
        self, source: LogSource, form: Format, positions: Mapping[str, Position], since: datetime, most_bytes: int
    ) -> None:
        self._source, self._form, self._known = source, form, positions
        self._since, self._most = since - MARGIN, most_bytes
        self.positions: dict[str, Position] = {}
        """Of every file that is still there."""
        self.files = self.bytes = 0
        """That were read."""
        self.left = 0
        """Files that were not read to their end: the next look goes on there."""

    def entries(self) -> Iterator[Entry]:
        for file in self._source.files():
            known = self._known.get(file.name)
            if known is not None:
                self.positions[file.name] = known
            if file.modified < self._since or (known is None and file.size == 0):
                continue
            if self.bytes >= self._most:
                self.left += 1
                continue
            identity = self._source.identity(file)
            begin = known if known is not None and known.identity == identity else Position(identity=identity)
            self.files += 1
            yield from self._of_file(file, begin)

    def _of_file(self, file: LogFile, begin: Position) -> Iterator[Entry]:
        splitter, marker = self._form.splitter(), begin.marker
        pieces: list[tuple[int, str]] = []  # in which an unfinished entry may begin: their first byte, their marker
        fed, is_last = -begin.skip, False
        while not is_last and self.bytes < self._most:
            piece = self._source.read(file, marker)
            pieces.append((fed, marker))
            fresh = piece.data[-fed:] if fed < 0 else piece.data
            fed, marker, is_last = fed + len(piece.data), piece.marker, piece.is_last
            self.bytes += len(piece.data)
            yield from self._statements(splitter.feed(fresh))
            while len(pieces) > 1 and pieces[1][0] <= splitter.done:
                del pieces[0]
        if is_last:
            yield from self._statements(splitter.finish())
        else:
            self.left += 1
        if splitter.done >= fed:
            self.positions[file.name] = Position(marker, 0, begin.identity)
        else:
            first, at = pieces[0]
            self.positions[file.name] = Position(at, splitter.done - first, begin.identity)

    def _statements(self, entries: Iterator[bytes]) -> Iterator[Entry]:
        return filter(None, map(self._form.entry, entries))


def to_details(positions: Mapping[str, Position]) -> dict[str, Any]:
    return {name: asdict(position) for name, position in positions.items()}


def from_details(details: Mapping[str, Any]) -> dict[str, Position]:
    found = {}
    for name, item in details.items():
        with suppress(TypeError):  # a row of an older form: that file is read again
            found[name] = Position(**item)
    return found
