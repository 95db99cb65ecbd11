"""Reading the archive without the warehouse: rows and sums of archived days, and whether they are what they were.

Only the columns that are asked for are read, as ranges of the files. Rows stream; what is held in memory is a batch,
and a row per group.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dbops.backups.store import NotFound, Store
from dbops.errors import ConfigurationError
from dbops.redshift.archive_checks import differences
from dbops.redshift.archive_parts import ArchivedPart, ArchivePlace, files_of
from dbops.redshift.archived_files import FileDamaged, check_files, total_checks

DAY: Final = "dt"
_BATCH: Final = 65_536
_FOLD: Final = 64
_FUNCTIONS: Final = {"count": "sum", "sum": "sum", "min": "min", "max": "max"}
"""Of a batch, and of the results of batches."""
_COMPARISONS: Final = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


# --- query --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """`column op value`, or `column is [not] null`."""

    column: str
    op: str
    value: str | None

    @classmethod
    def parse(cls, text: str) -> Condition:
        """:raises ConfigurationError: it is none."""
        null = re.fullmatch(r"\s*(.+?)\s+is\s+(not\s+)?null\s*", text, re.IGNORECASE)
        if null:
            return cls(null[1], "is not" if null[2] else "is", None)
        found = re.fullmatch(r"\s*(.+?)\s*(<=|>=|<>|!=|=|<|>)\s*(.*?)\s*", text)
        if not found:
            raise ConfigurationError(
                f"{text!r} is no condition; write column = value, with =, !=, <, <=, > or >=, or column is null"
            )
        return cls(found[1], found[2], found[3])

    def mask(self, values: pa.Array) -> pa.Array:
        """:raises ConfigurationError: the value is not of the column's type."""
        if self.value is None:
            return pc.is_null(values) if self.op == "is" else pc.is_valid(values)
        try:
            other = pc.cast(pa.scalar(self.value), values.type)
        except pa.ArrowException as error:
            raise ConfigurationError(f"{self.column} is {values.type}: {self.value!r} is none: {error}") from None
        return pc.fill_null(_COMPARISONS[self.op](values, other), False)


@dataclass(frozen=True)
class Aggregate:
    """`function(column)`, or `count` of rows."""

    function: Literal["count", "sum", "min", "max"]
    column: str | None

    @classmethod
    def parse(cls, text: str) -> Aggregate:
        """:raises ConfigurationError: it is none."""
        found = re.fullmatch(r"\s*(count|sum|min|max)\s*(?:\(\s*(\*|.+?)\s*\))?\s*", text, re.IGNORECASE)
        function = found[1].lower() if found else ""
        column = found[2] if found and found[2] != "*" else None
        if not found or (column is None and function != "count"):
            raise ConfigurationError(f"{text!r} is no aggregate; write count, count(column), sum, min or max(column)")
        return cls(function, column)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        return f"{self.function}({self.column})" if self.column else self.function


@dataclass(frozen=True)
class Query:
    """What is asked. Without aggregates: rows, at most `limit` of them."""

    columns: tuple[str, ...] = ()
    """Empty: all."""
    where: tuple[Condition, ...] = ()
    """All of them hold."""
    aggregates: tuple[Aggregate, ...] = ()
    group_by: tuple[str, ...] = ()
    limit: int = 100


def run_query(place: ArchivePlace, parts: Sequence[ArchivedPart], query: Query) -> pa.Table:
    """Ask archived parts; `dt` is a column too, the day. A column that a part did not have is null there.

    :raises ConfigurationError: no part has such a column, or a value is not of its type.
    """
    types = _types(parts, query)
    if query.aggregates:
        return _aggregated(_batches(place.store, parts, query, types), query, types)
    shown = query.columns or tuple(types)
    tables: list[pa.Table] = []
    rows = 0
    for table in _batches(place.store, parts, query, types):
        tables.append(table.select(list(shown)).slice(0, query.limit - rows))
        rows += tables[-1].num_rows
        if rows >= query.limit:
            break
    empty = pa.schema([(name, types[name]) for name in shown]).empty_table()
    return pa.concat_tables([empty, *tables])


def _types(parts: Sequence[ArchivedPart], query: Query) -> dict[str, pa.DataType]:
    """The columns that are read, with their types: those of the newest part that has them."""
    known: dict[str, pa.DataType] = {DAY: pa.date32()}
    for part in parts:
        known |= {column.name: _TYPES_OF[column.kind](column) for column in part.columns}
    asked = [*query.columns, *query.group_by, *(condition.column for condition in query.where)]
    asked += [aggregate.column for aggregate in query.aggregates if aggregate.column]
    for name in asked:
        if name not in known:
            raise ConfigurationError(f"no archived part has a column {name}; there are {', '.join(known)}")
    if not query.columns and not query.aggregates:
        return {name: known[name] for name in [*(name for name in known if name != DAY), DAY]}
    return {name: known[name] for name in dict.fromkeys(asked)}


def _decimal(column: Any) -> pa.DataType:
    precision, *scale = column.numbers or (18,)
    return pa.decimal128(precision, scale[0] if scale else 0)


_TYPES_OF: Final[dict[str, Any]] = {
    "whole": lambda column: pa.int64(),
    "decimal": _decimal,
    "float": lambda column: pa.float64(),
    "boolean": lambda column: pa.bool_(),
    "date": lambda column: pa.date32(),
    "timestamp": lambda column: pa.timestamp("us"),
    "timestamptz": lambda column: pa.timestamp("us", "UTC"),
    "text": lambda column: pa.string(),
    "char": lambda column: pa.string(),
    "super": lambda column: pa.string(),
}


def _batches(
    store: Store, parts: Sequence[ArchivedPart], query: Query, types: dict[str, pa.DataType]
) -> Iterator[pa.Table]:
    """Rows that the conditions let through, with the columns that were asked for."""
    for part, file, key in files_of(parts):
        with StoreFile(store, key, file.size) as source:
            parquet = pq.ParquetFile(source)
            there = [name for name in types if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(_BATCH, columns=there):
                values = {name: batch.column(place) for place, name in enumerate(there)}
                arrays = [
                    pa.repeat(pa.scalar(part.day, type_), batch.num_rows)
                    if name == DAY and name not in values
                    else pc.cast(values[name], type_)
                    if name in values
                    else pa.nulls(batch.num_rows, type_)
                    for name, type_ in types.items()
                ]
                # A table of no columns has no rows: what only counts gets one to count by.
                table = pa.table([*arrays, pa.repeat(pa.scalar(1), batch.num_rows)], names=[*types, _ONE])
                for condition in query.where:
                    table = table.filter(condition.mask(table[condition.column].combine_chunks()))
                if table.num_rows:
                    yield table


_ONE: Final = "\0one"


def _aggregated(tables: Iterator[pa.Table], query: Query, types: dict[str, pa.DataType]) -> pa.Table:
    keys = list(query.group_by)
    wanted = [(one.column or _ONE, one.function) for one in query.aggregates]
    names = [f"{column}_{function}" for column, function in wanted]
    partial: list[pa.Table] = []
    for table in tables:
        made = table.group_by(keys).aggregate(list(dict.fromkeys(wanted)))
        partial.append(made)
        if len(partial) >= _FOLD:
            partial = [_folded(partial, keys, wanted)]
    if not partial:
        empty = pa.table(
            [pa.array([], type_) for type_ in types.values()] + [pa.array([], pa.int64())], names=[*types, _ONE]
        )
        partial = [empty.group_by(keys).aggregate(list(dict.fromkeys(wanted)))]
    whole = _folded(partial, keys, wanted)
    shown = pa.table([whole[name] for name in [*keys, *names]], names=[*keys, *(one.name for one in query.aggregates)])
    return shown.sort_by([(key, "ascending") for key in keys]).slice(0, query.limit) if keys else shown


def _folded(tables: Sequence[pa.Table], keys: list[str], wanted: Sequence[tuple[str, str]]) -> pa.Table:
    """The results of several batches as one."""
    joined = pa.concat_tables(tables)
    once = list(dict.fromkeys(wanted))
    folded = joined.group_by(keys).aggregate([(f"{name}_{function}", _FUNCTIONS[function]) for name, function in once])
    names = {f"{name}_{function}_{_FUNCTIONS[function]}": f"{name}_{function}" for name, function in once}
    return folded.rename_columns([names.get(name, name) for name in folded.column_names])


class StoreFile(io.RawIOBase):
    """An object as a file that is read in ranges."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        super().__init__()
        self._store, self._key, self._size, self._at = store, key, size, 0

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
        size = self._size - self._at if size < 0 else min(size, self._size - self._at)
        found = b"".join(self._store.read(self._key, self._at, size)) if size > 0 else b""
        self._at += len(found)
        return found


# --- verify -------------------------------------------------------------------------------------------------


def verify_part(place: ArchivePlace, part: ArchivedPart) -> list[str]:
    """Read a part's files back whole, and compare them with its document; what is wrong, in words."""
    store, problems = place.store, []
    wanted = [(key, file) for _, file, key in files_of([part])]
    there = []
    for key, file in wanted:
        found = store.head(key)
        if found is None:
            problems.append(f"{file.name} is not there")
        elif found.size != file.size:
            problems.append(f"{file.name} has {found.size:,} bytes, was written with {file.size:,}")
        else:
            there.append((key, file))
    if problems:
        return problems
    try:
        facts = check_files(store, [(key, file.size) for key, file in there], part.columns)
    except (FileDamaged, NotFound) as error:
        return [str(error)]
    for (_, file), fact in zip(there, facts, strict=True):
        if fact.sha256 != file.sha256:
            problems.append(f"{file.name} has SHA-256 {fact.sha256}, was written with {file.sha256}")
    return problems or differences(part.checks, total_checks(part.columns, facts), one="the document")
