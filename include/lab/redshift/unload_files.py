"""The files that the slices of an UNLOAD write: Parquet from Arrow batches, text from lines.

Rows come from PostgreSQL as one stream, sorted by partition if there are any; each block of them is cut evenly
over the slices. What is held in memory is a row group per slice.
"""

from __future__ import annotations

import bz2
import gzip
import re
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from types import TracebackType
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import zstandard
from dbops_lab.redshift.backend import Column
from dbops_lab.redshift.bulk import InternalError, now, text_literal
from dbops_lab.redshift.columns import BOOL, INT2, INT4, INT8, STRINGS, SUPERS, arrow_type
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.options import UnloadStatement

BLOCK = 4 << 20
DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def alias(index: int) -> str:
    """What a column of the query is called on its way."""
    return f"c{index}"


class Place(Protocol):
    """Where complete files go."""

    slices: int

    def enter(self, folder: str) -> None: ...

    def put(self, folder: str, slice_number: int, body: IO[bytes], lines: int, started: datetime) -> None: ...


class Slices(AbstractContextManager["Slices"]):
    """The open files of all slices, all in one partition at a time."""

    def __init__(self, statement: UnloadStatement, columns: Sequence[Column], place: Place) -> None:
        hidden = () if statement.include else statement.partition_by
        names = [column.name for column in columns]
        self._all = list(columns)
        self._kept = [index for index, name in enumerate(names) if name not in hidden]
        self._keys = [names.index(name) for name in statement.partition_by]
        self.columns = [columns[index] for index in self._kept]
        self._statement = statement
        self._place = place
        self._folder: str | None = None
        self._open: dict[int, Any] = {}

    @abstractmethod
    def copy_statement(self, source: str) -> str:
        """PostgreSQL's COPY that yields the rows in the form that `write` takes."""

    @abstractmethod
    def write(self, blocks: Iterator[bytes]) -> int:
        """Write all rows, upload all files; the number of rows."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()
        pa.default_memory_pool().release_unused()

    def _enter(self, folder: str) -> None:
        if folder != self._folder:
            self._finish()
            self._folder = folder
            self._place.enter(folder)

    def _finish(self) -> None:
        """Upload what is open; a slice that fails does not keep the others from finishing."""
        failed: BaseException | None = None
        for number in sorted(self._open):
            try:
                self._upload(number)
            except BackendError as error:
                failed = failed or error
        if failed:
            raise failed

    def _upload(self, number: int) -> None:
        file = self._open.pop(number)
        try:
            self._place.put(self._folder or "", number, file.complete(), file.lines, file.started)
        finally:
            file.close()


def hive_folder(names: Sequence[str], values: Sequence[str | None]) -> str:
    """`a=1/b=x/`: Hive's convention, with its escapes."""
    return "".join(f"{name}={_hive_value(value)}/" for name, value in zip(names, values, strict=True))


def _hive_value(value: str | None) -> str:
    if not value:
        return DEFAULT_PARTITION
    return re.sub(r"[\x00-\x1f\x7f\"#%'*/:=?\\{}\[\]^]", lambda match: f"%{ord(match[0]):02X}", value)


# Parquet


class ParquetFile:
    def __init__(self, schema: pa.Schema, row_group_size: int) -> None:
        self.lines = 0
        self.started = now()
        self._body = tempfile.TemporaryFile()  # noqa: SIM115
        self._writer = pq.ParquetWriter(self._body, schema, version="1.0", compression="snappy")
        self._schema = schema
        self._row_group_size = row_group_size
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_size = 0
        self._last_group = 0

    def write(self, batch: pa.RecordBatch) -> int:
        """Take rows up to the end of a row group; how many."""
        room, size = self._row_group_size - self._waiting_size, batch.nbytes
        rows: int = batch.num_rows if size <= room else max(1, batch.num_rows * room // size)
        self.lines += rows
        self._waiting.append(batch.slice(0, rows))
        self._waiting_size += size * rows // batch.num_rows
        if rows < batch.num_rows or self._waiting_size >= self._row_group_size:
            self._flush()
        return rows

    def full(self, size: int) -> bool:
        """Whether a row group more would make the file larger than that."""
        return not self._waiting and self._body.tell() + self._last_group > size

    def _flush(self) -> None:
        if self._waiting:
            before = self._body.tell()
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._last_group = self._body.tell() - before
            self._waiting, self._waiting_size = [], 0

    def complete(self) -> IO[bytes]:
        self._flush()
        self._writer.close()
        return self._body

    def close(self) -> None:
        self._writer.close()  # or it does so later, into a file that is gone
        self._body.close()


class ParquetSlices(Slices):
    def __init__(self, statement: UnloadStatement, columns: Sequence[Column], place: Place) -> None:
        super().__init__(statement, columns, place)
        self._types = [arrow_type(column) for column in self._all]
        self._schema = pa.schema([pa.field(self._all[index].name, self._types[index]) for index in self._kept])
        self._row_group_size = min(statement.row_group_size, statement.max_file_size)

    def copy_statement(self, source: str) -> str:
        return f"COPY ({source}) TO STDOUT WITH (FORMAT csv)"

    def write(self, blocks: Iterator[bytes]) -> int:
        source = BlockReader(blocks)
        if source.empty:
            return 0
        rows = 0
        try:
            names = [alias(index) for index in range(len(self._all))]
            reader = pacsv.open_csv(
                source,
                pacsv.ReadOptions(column_names=names, block_size=BLOCK),
                pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                pacsv.ConvertOptions(
                    column_types=dict(zip(names, self._types, strict=True)),
                    null_values=[""],
                    true_values=["t"],
                    false_values=["f"],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            for batch in reader:
                rows += batch.num_rows
                self._take(batch)
        except pa.ArrowInvalid as error:
            raise source.error or InternalError(f"Cannot write a value to PARQUET: {error}") from error
        finally:
            source.stop()
        self._finish()
        return rows

    def _take(self, batch: pa.RecordBatch) -> None:
        for start, end in runs([batch.column(index) for index in self._keys], batch.num_rows):
            part = batch.slice(start, end - start)
            if self._keys:
                values = [_text(part.column(index)[0].as_py()) for index in self._keys]
                self._enter(hive_folder(self._statement.partition_by, values))
            part = pa.RecordBatch.from_arrays([part.column(index) for index in self._kept], schema=self._schema)
            for number, (first, last) in enumerate(shares(part.num_rows, self._place.slices)):
                if first < last:
                    self._write(number, part.slice(first, last - first))

    def _write(self, number: int, batch: pa.RecordBatch) -> None:
        while batch.num_rows:
            if number not in self._open:
                self._open[number] = ParquetFile(self._schema, self._row_group_size)
            file: ParquetFile = self._open[number]
            batch = batch.slice(file.write(batch))
            if file.full(self._statement.max_file_size):
                self._upload(number)


def runs(keys: Sequence[pa.Array], rows: int) -> Iterator[tuple[int, int]]:
    """First and last row of each run of equal keys."""
    ends = {rows}
    for key in keys:
        ends.update(pc.run_end_encode(key).run_ends.to_pylist())
    start = 0
    for end in sorted(ends):
        yield start, end
        start = end


def shares(rows: int, slices: int) -> Iterator[tuple[int, int]]:
    """The rows, cut evenly."""
    for number in range(slices):
        yield rows * number // slices, rows * (number + 1) // slices


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


class BlockReader:
    """Blocks as a file, for Arrow, which reads ahead in a thread of its own.

    An error of the blocks is kept, since Arrow may change it.
    """

    closed = False

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self.error: Exception | None = None
        self._rest = next((block for block in blocks if block), b"")
        self.empty = not self._rest
        self._lock = threading.Lock()
        self._stopped = False

    def readable(self) -> bool:
        return True

    def stop(self) -> None:
        """Nobody takes a block any more when this returns."""
        with self._lock:
            self._stopped = True

    def read(self, size: int) -> bytes:
        with self._lock:
            return b"" if self._stopped else self._read(size)

    def _read(self, size: int) -> bytes:
        parts, length = [self._rest], len(self._rest)
        try:
            while length < size:
                block = next(self._blocks, b"")
                if not block:
                    break
                parts.append(block)
                length += len(block)
        except Exception as error:
            self.error = error
            raise
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


# Text

_ESCAPES = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def unescape(lines: bytes) -> bytes:
    """Undo what PostgreSQL's COPY escapes in its text format."""
    if b"\\" not in lines:
        return lines
    return re.sub(rb"\\(.)", lambda match: _ESCAPES[match[1]], lines)


class TextFile:
    def __init__(self, compression: str | None, header: bytes) -> None:
        self.lines = 0
        self.started = now()
        self._body = tempfile.TemporaryFile()  # noqa: SIM115
        self._stream: Any = self._body
        if compression == "gzip":
            self._stream = gzip.GzipFile(fileobj=self._body, mode="wb", compresslevel=6, mtime=0)
        elif compression == "bzip2":
            self._stream = bz2.BZ2File(self._body, "wb")
        elif compression == "zstd":
            self._stream = zstandard.ZstdCompressor().stream_writer(self._body, closefd=False)
        self.rows = 0
        if header:
            self._stream.write(header)
            self.lines = 1

    @property
    def size(self) -> int:
        return self._body.tell()

    def write(self, lines: bytes, count: int) -> None:
        self._stream.write(lines)
        self.lines += count
        self.rows += count

    def complete(self) -> IO[bytes]:
        if self._stream is not self._body:
            self._stream.close()
        return self._body

    def close(self) -> None:
        self._body.close()


class TextSlices(Slices):
    """Each row comes as a line that PostgreSQL has formatted, in COPY's text format, with its partition after it."""

    def __init__(self, statement: UnloadStatement, columns: Sequence[Column], place: Place) -> None:
        super().__init__(statement, columns, place)
        self._delimiter = statement.delimiter or ("," if statement.format == "csv" else "|")
        names = [self._plain(column.name) for column in self.columns]
        self._header = (self._delimiter.join(names) + "\n").encode() if statement.header else b""

    def _plain(self, value: str) -> str:
        """A column's name in the form of the file."""
        if self._statement.format == "csv":
            if any(mark in value for mark in (self._delimiter, '"', "\n", "\r")):
                return '"' + value.replace('"', '""') + '"'
            return value
        for old, new in self._replacements() if self._statement.escape else ():
            value = value.replace(old, new)
        return f'"{value}"' if self._statement.add_quotes else value

    def _replacements(self) -> list[tuple[str, str]]:
        marks = ["\\", "\n", "\r", self._delimiter, *(['"', "'"] if self._statement.add_quotes else [])]
        return [(mark, "\\" + mark) for mark in marks]

    def _field(self, index: int) -> str:
        """SQL that formats a column's value."""
        column, name = self._all[index], f"rows.{alias(index)}"
        value = f"{name}::text"
        null = self._statement.null_as or ""
        if column.oid == BOOL:
            value = f"CASE WHEN {name} THEN 't' WHEN NOT {name} THEN 'f' END"
        elif column.oid in SUPERS:
            null = "null"  # as JSON has it, whatever NULL AS says
        if self._statement.format == "csv":
            if column.oid not in (BOOL, INT2, INT4, INT8):
                mark = text_literal("[" + re.sub(r"([\\\]\[^-])", r"\\\1", self._delimiter) + '"\n\r]')
                value = (
                    f"""CASE WHEN {value} ~ {mark} THEN '"' || replace({value}, '"', '""') || '"' ELSE {value} END"""
                )
        elif self._statement.escape and column.oid in STRINGS:
            for old, new in self._replacements():
                value = f"replace({value}, {text_literal(old)}, {text_literal(new)})"
        value = f"coalesce({value}, {text_literal(null)})"
        return f"'\"' || {value} || '\"'" if self._statement.add_quotes else value

    def copy_statement(self, source: str) -> str:
        line = f" || {text_literal(self._delimiter)} || ".join(self._field(index) for index in self._kept)
        keys = "".join(f", rows.{alias(index)}::text" for index in self._keys)
        aliases = ", ".join(alias(index) for index in range(len(self._all)))
        return f"COPY (SELECT {line}{keys} FROM ({source}) AS rows ({aliases})) TO STDOUT"

    def write(self, blocks: Iterator[bytes]) -> int:
        rows = 0
        for lines in whole_lines(blocks):
            count = lines.count(b"\n")
            rows += count
            if self._statement.partition_by:
                self._partition(lines)
            else:
                self._spread(lines, count)
        self._finish()
        return rows

    def _partition(self, lines: bytes) -> None:
        """Sort the lines to their partitions, which come one after the other."""
        depth = len(self._statement.partition_by)
        current: bytes | None = None
        run: list[bytes] = []
        for line in lines[:-1].split(b"\n"):
            text, *keys = line.rsplit(b"\t", depth)
            key = b"\t".join(keys)
            if key != current:
                self._place_run(current, run)
                current, run = key, []
            run.append(text)
        self._place_run(current, run)

    def _place_run(self, key: bytes | None, run: list[bytes]) -> None:
        if key is None:
            return
        values = [None if value == b"\\N" else unescape(value).decode() for value in key.split(b"\t")]
        self._enter(hive_folder(self._statement.partition_by, values))
        self._spread(b"\n".join(run) + b"\n", len(run))

    def _spread(self, lines: bytes, count: int) -> None:
        if self._place.slices == 1:
            self._write(0, lines, count)
            return
        split = lines[:-1].split(b"\n")
        for number, (first, last) in enumerate(shares(count, self._place.slices)):
            if first < last:
                self._write(number, b"\n".join(split[first:last]) + b"\n", last - first)

    def _write(self, number: int, lines: bytes, count: int) -> None:
        while lines:
            if number not in self._open:
                self._open[number] = TextFile(self._statement.compression, self._header)
            file: TextFile = self._open[number]
            room = self._statement.max_file_size - file.size
            part = lines
            if len(lines) > room:
                part = lines[: lines.rfind(b"\n", 0, max(room, 0)) + 1]
            if not part and not file.rows:  # a row larger than a file may be
                part = lines[: lines.index(b"\n") + 1]
            written = count if part is lines else part.count(b"\n")
            file.write(unescape(part), written)
            lines, count = lines[len(part) :], count - written
            if lines:
                self._upload(number)


def whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The stream in blocks of some size that end with a row."""
    waiting: list[bytes] = []
    size = 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= BLOCK:
            whole = b"".join(waiting)
            end = whole.rfind(b"\n") + 1
            if end:
                yield whole[:end]
            waiting, size = [whole[end:]], len(whole) - end
    if rest := b"".join(waiting):
        yield rest
