"""Reading archived Parquet files as a stream: their bytes once, in order, whatever their size.

A file is read one row group at a time into memory (UNLOAD writes groups of 32 MB), hashed on the way, and decoded in
batches whose size follows the rows. No Python object is made per row.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Context
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dbops.backups.store import Store
from dbops.errors import FinalError, RetryableError
from dbops.redshift.archive_checks import (
    NULL,
    SEPARATOR,
    TEXTS,
    Checks,
    Column,
    ColumnCheck,
    Kind,
    TextCheck,
    merged,
    text_groups,
)
from dbops.redshift.text_hash import sum_of_md5

BATCH_BYTES: Final = 4 << 20
BATCH_ROWS: Final = 65_536
FIRST_ROWS: Final = 1_024
FOOTER: Final = 64 << 10
MAGIC: Final = b"PAR1"
_WIDE: Final = Context(prec=80)
_TYPES: Final[dict[Kind, Callable[[pa.DataType], bool]]] = {
    Kind.WHOLE: pa.types.is_integer,
    Kind.DECIMAL: pa.types.is_decimal,
    Kind.FLOAT: pa.types.is_floating,
    Kind.BOOLEAN: pa.types.is_boolean,
    Kind.DATE: pa.types.is_date,
    Kind.TIMESTAMP: pa.types.is_timestamp,
    Kind.TIMESTAMPTZ: pa.types.is_timestamp,
    Kind.TEXT: lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    Kind.CHAR: lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    Kind.SUPER: lambda kind: True,
}


class FileDamaged(FinalError):
    """An archived file is not what was written down about it."""


class UnloadDamaged(RetryableError):
    """What UNLOAD left is not what it says, or not what the table holds. Nothing was deleted; a new UNLOAD may be."""


# --- the manifest of UNLOAD ---------------------------------------------------------------------------------


class _Meta(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    content_length: int = Field(ge=0)
    record_count: int = Field(ge=0)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    url: str
    meta: _Meta


class _UnloadManifest(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    entries: list[_Entry] = Field(min_length=1)
    meta: _Meta


@dataclass(frozen=True)
class UnloadedFile:
    """What UNLOAD's manifest says of a file."""

    url: str
    size: int
    rows: int


def read_unload_manifest(data: bytes, source: str) -> list[UnloadedFile]:
    """The files of a manifest of `MANIFEST VERBOSE`.

    :raises UnloadDamaged: it is none, or contradicts itself.
    """
    try:
        manifest = _UnloadManifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UnloadDamaged(f"{source}: is no manifest of UNLOAD: {place}: {first['msg']}; unload again") from None
    files = [UnloadedFile(entry.url, entry.meta.content_length, entry.meta.record_count) for entry in manifest.entries]
    if len({file.url for file in files}) != len(files):
        raise UnloadDamaged(f"{source}: names a file twice; unload again")
    for what, told, summed in (
        ("rows", manifest.meta.record_count, sum(file.rows for file in files)),
        ("bytes", manifest.meta.content_length, sum(file.size for file in files)),
    ):
        if told != summed:
            raise UnloadDamaged(f"{source}: its files have {summed:,} {what}, it says {told:,}; unload again")
    return files


def copy_manifest(files: Sequence[tuple[str, int]]) -> bytes:
    """A manifest for COPY, of addresses and sizes."""
    entries = [{"url": url, "mandatory": True, "meta": {"content_length": size}} for url, size in files]
    return json.dumps({"entries": entries}, indent=1).encode()


# --- a file as a stream -------------------------------------------------------------------------------------


class _Window(io.RawIOBase):
    """The bytes of a file that are in memory: its end, and one part that moves."""

    def __init__(self, size: int, end: bytes) -> None:
        super().__init__()
        self._size, self._end, self._at = size, end, 0
        self.start, self.part = 0, bytearray()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._size - self._at) if size >= 0 else self._size - self._at
        for start, data in ((self.start, self.part), (self._size - len(self._end), self._end)):
            if start <= self._at and self._at + size <= start + len(data):
                found = bytes(memoryview(data)[self._at - start : self._at - start + size])
                self._at += size
                return found
        raise OSError(f"bytes {self._at}-{self._at + size} lie outside of the row group that is read")


class _Feed:
    """An object from its beginning to its end, hashed on the way."""

    def __init__(self, store: Store, key: str) -> None:
        self._name = f"{store.url}/{key}"
        self._chunks = store.read(key)
        self._rest = bytearray()
        self.hash = hashlib.sha256()

    def take(self, size: int) -> bytearray:
        """:raises FileDamaged: there are not so many bytes left."""
        part, self._rest = self._rest, bytearray()
        while len(part) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise FileDamaged(f"{self._name}: ended {size - len(part):,} bytes too early: it was cut off")
            self.hash.update(chunk)
            part += chunk
        self._rest = part[size:]
        del part[size:]
        return part

    def is_done(self) -> bool:
        return not self._rest and next(self._chunks, None) is None


class ParquetStream:
    """The rows of an object in batches.

    When `batches` has ended, `sha256` is that of all its bytes.
    """

    def __init__(self, store: Store, key: str, size: int) -> None:
        """:raises FileDamaged: the object has no footer of a Parquet file at its end."""
        self._store, self._key, self._size = store, key, size
        self._name = f"{store.url}/{key}"
        self.sha256 = ""
        end = b"".join(store.read(key, max(0, size - FOOTER), min(size, FOOTER))) if size else b""
        footer = int.from_bytes(end[-8:-4], "little") + 8
        if end[-4:] != MAGIC or footer + len(MAGIC) > size:
            raise FileDamaged(f"{self._name}: is no Parquet file: it was cut off or overwritten")
        if footer > len(end):
            end = b"".join(store.read(key, size - footer, footer))
        self._end = end[-footer:]
        self._window = _Window(size, end)
        try:
            self._file = pq.ParquetFile(self._window, buffer_size=64 << 10, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise FileDamaged(f"{self._name}: is no Parquet file: {error}") from None
        self.schema: pa.Schema = self._file.schema_arrow
        self.rows: int = self._file.metadata.num_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """:raises FileDamaged: the bytes are no rows, or another file lies there by now."""
        feed, last = _Feed(self._store, self._key), self._size - len(self._end)
        starts = self._starts()
        feed.take(starts[0] if starts else last)
        seen = 0
        for group, (start, end) in enumerate(zip(starts, [*starts[1:], last], strict=True)):
            self._window.part = bytearray()  # before the next one comes
            self._window.start, self._window.part = start, feed.take(end - start)
            try:
                for batch in self._decoded(group):
                    seen += batch.num_rows
                    yield batch
            except (pa.ArrowException, OSError) as error:
                raise FileDamaged(f"{self._name}: row group {group} cannot be read: {error}") from None
        self._window.part = bytearray()
        if feed.take(len(self._end)) != self._end or not feed.is_done():
            raise FileDamaged(f"{self._name}: was overwritten while it was read; read it again")
        if seen != self.rows:
            raise FileDamaged(f"{self._name}: has {seen:,} rows, its footer says {self.rows:,}")
        self.sha256 = feed.hash.hexdigest()

    def _starts(self) -> list[int]:
        """Where each row group begins."""
        metadata, found = self._file.metadata, []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = [group.column(place) for place in range(group.num_columns)]
            found.append(min(column.dictionary_page_offset or column.data_page_offset for column in columns))
        if found != sorted(found) or (found and found[-1] > self._size - len(self._end)):
            raise FileDamaged(f"{self._name}: its row groups are not in order")
        return found

    def _decoded(self, group: int) -> Iterator[pa.RecordBatch]:
        """A row group in batches of about `BATCH_BYTES`, after a look at how long its rows are."""
        first = next(self._iterate(group, FIRST_ROWS), None)
        if first is None:
            return
        per_row = max(1, first.nbytes // first.num_rows)
        del first
        yield from self._iterate(group, min(BATCH_ROWS, max(64, BATCH_BYTES // per_row)))

    def _iterate(self, group: int, rows: int) -> Iterator[pa.RecordBatch]:
        found: Iterator[pa.RecordBatch] = self._file.iter_batches(rows, row_groups=[group], use_threads=False)
        return found


# --- the files' side of the checks --------------------------------------------------------------------------


@dataclass(frozen=True)
class FileFacts:
    rows: int
    sha256: str
    checks: Checks


def check_files(
    store: Store, files: Sequence[tuple[str, int]], columns: Sequence[Column], *, workers: int = 2
) -> list[FileFacts]:
    """Read files back whole.

    :param files: keys and sizes.
    :raises FileDamaged: a file cannot be read, or has other columns.
    """
    with _thrifty(), ThreadPoolExecutor(max(1, min(workers, len(files))), thread_name_prefix="archived") as pool:
        return list(pool.map(lambda file: check_file(store, file[0], file[1], columns), files))


@contextmanager
def _thrifty() -> Iterator[None]:
    """Memory that is given back when it is free: Arrow's own pool keeps half as much again."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def check_file(store: Store, key: str, size: int, columns: Sequence[Column]) -> FileFacts:
    """Read one file back: its SHA-256, and the figures that the warehouse gives for the same rows."""
    stream = ParquetStream(store, key, size)
    _check_schema(stream.schema, columns, f"{store.url}/{key}")
    tally = _Tally(columns)
    for batch in stream.batches():
        tally.add(batch)
    return FileFacts(stream.rows, stream.sha256, tally.checks())


def total_checks(columns: Sequence[Column], facts: Sequence[FileFacts]) -> Checks:
    """The figures of all files together; of no file, those of no row."""
    return merged([_Tally(columns).checks(), *(one.checks for one in facts)])


def _check_schema(schema: pa.Schema, columns: Sequence[Column], name: str) -> None:
    told, found = [column.name for column in columns], list(schema.names)
    if told != found:
        odd = ", ".join(sorted(set(told) ^ set(found))) or "their order"
        raise FileDamaged(f"{name}: its columns are not those of the table: {odd}")
    for column, field in zip(columns, schema, strict=True):
        fits = _TYPES[column.kind](field.type)
        if fits and column.kind is Kind.DECIMAL:
            fits = field.type.scale == column.scale
        if not fits:
            raise FileDamaged(f"{name}: column {column.name} is {field.type}, in the table {column.type}")


@dataclass
class _Sum:
    """Figures of one column so far."""

    filled: int = 0
    low: int | None = None
    high: int | None = None
    total: int = 0
    rough: list[float] | None = None
    infinite: int = 0

    def whole(self, low: int, high: int, total: int) -> None:
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        self.total += total


class _Tally:
    """Figures of all columns, batch by batch."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = list(columns)
        self._groups = text_groups(columns)
        self._sums = [_Sum() for _ in columns]
        self._texts = [0] * len(self._groups)
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        texts: dict[int, pa.Array] = {}
        for place, column in enumerate(self._columns):
            values = batch.column(place)
            if column.kind is Kind.SUPER:
                continue
            if column.kind is Kind.CHAR:
                values = pc.utf8_rtrim(values, characters=" ")
            if column.kind in TEXTS:
                texts[place] = values
            if len(values) > values.null_count:
                self._sums[place].filled += len(values) - values.null_count
                if column.kind not in TEXTS:
                    _add(column, values, self._sums[place])
        for number, group in enumerate(self._groups):
            joined = pc.binary_join_element_wise(
                *(texts[place] for place in group), SEPARATOR, null_handling="replace", null_replacement=NULL
            )
            self._texts[number] += sum_of_md5(joined)

    def checks(self) -> Checks:
        found = []
        for column, one in zip(self._columns, self._sums, strict=True):
            named: dict[str, Any] = {"name": column.name, "type": column.type, "filled": one.filled}
            if column.kind in (*TEXTS, Kind.SUPER):
                found.append(ColumnCheck(**named))
            elif column.is_exact:
                found.append(ColumnCheck(**named, low=one.low, high=one.high, total=one.total))
            else:
                low, high, total, size = one.rough or (0.0, 0.0, 0.0, 0.0)
                found.append(ColumnCheck(**named, rough=(low, high, total, size), infinite=one.infinite))
        texts = tuple(
            TextCheck(columns=tuple(self._columns[place].name for place in group), total=self._texts[number])
            for number, group in enumerate(self._groups)
        )
        return Checks(rows=self._rows, columns=tuple(found), texts=texts)


def _add(column: Column, values: pa.Array, so_far: _Sum) -> None:
    """A batch's values, of which one at least is not null."""
    kind = column.kind
    if kind is Kind.BOOLEAN:
        so_far.total += pc.sum(values).as_py()
    elif not column.is_exact:
        _add_rough(pc.cast(values, pa.float64()), so_far)
    elif kind is Kind.DECIMAL:
        ends = pc.min_max(values)
        numbers = (ends["min"].as_py(), ends["max"].as_py(), pc.sum(values).as_py())
        so_far.whole(*(int(number.scaleb(column.scale, _WIDE)) for number in numbers))
    else:
        if kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
            zone = values.type.tz
            values = pc.cast(values, pa.timestamp("us", zone))
        elif kind is Kind.DATE:
            values = pc.cast(values, pa.date32())
        whole = pc.cast(pc.cast(values, pa.int32()) if kind is Kind.DATE else values, pa.int64())
        ends = pc.min_max(whole)
        # As decimals: 65,536 times the largest bigint is no bigint.
        total = pc.sum(pc.cast(whole, pa.decimal128(19, 0))).as_py()
        so_far.whole(ends["min"].as_py(), ends["max"].as_py(), int(total))


def _add_rough(values: pa.Array, so_far: _Sum) -> None:
    is_finite = pc.is_finite(values)
    odd = len(values) - values.null_count - (pc.sum(is_finite).as_py() or 0)
    if odd:
        so_far.infinite += odd
        values = pc.filter(values, is_finite)
    if len(values) == values.null_count:
        return
    ends = pc.min_max(values)
    found = (ends["min"].as_py(), ends["max"].as_py(), pc.sum(values).as_py(), pc.sum(pc.abs(values)).as_py())
    rough = so_far.rough
    if rough is None:
        so_far.rough = list(found)
    else:
        so_far.rough = [min(rough[0], found[0]), max(rough[1], found[1]), rough[2] + found[2], rough[3] + found[3]]
