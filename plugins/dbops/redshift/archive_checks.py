"""What is compared between rows of the warehouse and archived files, column by column.

Both sides give the same figures, none of which depends on the order of rows: the warehouse by one aggregate over the
day (`expressions`, `read_checks`), the files by a stream of Arrow batches (`archived_files`).

| column | compared |
|---|---|
| whole numbers, decimals, booleans, dates, timestamps | values that are not null, least, greatest, exact sum |
| real, double, decimals of more than 27 digits | the same up to rounding; what is infinite or NaN is only counted |
| texts | values that are not null, and the sum of MD5 over all texts of a row |
| SUPER | nothing but the number of rows: JSON has many spellings |

A sum over one column does not notice two rows that exchange a number; the MD5 of a row's texts does for texts.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Context, Decimal
from enum import StrEnum
from typing import Any, Final

from pydantic import ConfigDict

from dbops.backups.manifest import Document
from dbops.errors import ConfigurationError
from dbops.sql import quoted

SEPARATOR, NULL = "\x1f", "\x01"
LONGEST_TEXT: Final = 65_535  # bytes of a VARCHAR, and so of what a row's texts are joined to
LARGEST_EXACT: Final = 27  # digits of a decimal: 10^11 of them can still be summed in 38
LARGEST_DOUBLE: Final = sys.float_info.max
MOST_EXPRESSIONS: Final = 1_500  # of one query; Redshift ends at 1,600 columns
EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - as the warehouse has its timestamps: UTC without saying so
_WIDE: Final = Context(prec=80)
_SHOWN: Final = {"real": 1e-5}  # share of a number that is lost where it is shown: a real has six digits
_DIGITS: Final = 1e-14  # of a double, fifteen


class Kind(StrEnum):
    WHOLE = "whole"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    TEXT = "text"
    CHAR = "char"
    SUPER = "super"


_KINDS: Final = {
    "smallint": Kind.WHOLE,
    "integer": Kind.WHOLE,
    "bigint": Kind.WHOLE,
    "numeric": Kind.DECIMAL,
    "real": Kind.FLOAT,
    "double precision": Kind.FLOAT,
    "boolean": Kind.BOOLEAN,
    "date": Kind.DATE,
    "timestamp without time zone": Kind.TIMESTAMP,
    "timestamp with time zone": Kind.TIMESTAMPTZ,
    "character varying": Kind.TEXT,
    "text": Kind.TEXT,
    "character": Kind.CHAR,
    "super": Kind.SUPER,
}
TEXTS: Final = (Kind.TEXT, Kind.CHAR)
MOMENTS: Final = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


class Column(Document):
    """A column as the warehouse's catalog names it."""

    name: str
    type: str
    not_null: bool = False

    @property
    def kind(self) -> Kind:
        """:raises ConfigurationError: UNLOAD cannot write such a column to Parquet."""
        base = re.sub(r"\(.*\)", "", self.type).strip()
        if base not in _KINDS:
            raise ConfigurationError(
                f"column {self.name} is {self.type}, which UNLOAD does not write to Parquet; "
                f"convert it, or leave this table out of redshift.archive.tables"
            )
        return _KINDS[base]

    @property
    def numbers(self) -> tuple[int, ...]:
        """What stands in the type's parentheses."""
        return tuple(int(found) for found in re.findall(r"\d+", self.type.partition("(")[2]))

    @property
    def scale(self) -> int:
        return self.numbers[1] if len(self.numbers) > 1 else 0

    @property
    def is_exact(self) -> bool:
        """Whether its values are summed exactly."""
        return self.kind is not Kind.FLOAT and not (
            self.kind is Kind.DECIMAL and (self.numbers or (18,))[0] > LARGEST_EXACT
        )


class ColumnCheck(Document):
    """The figures of one column. Exact ones are whole: microseconds or days since 1970, decimals without the point."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: str
    type: str
    filled: int
    """Values that are not null."""
    low: int | None = None
    high: int | None = None
    total: int | None = None
    rough: tuple[float, float, float, float] | None = None
    """Of what is not exact: least, greatest, sum, sum of absolute values; all of them of finite numbers."""
    infinite: int = 0
    """Values that are infinite, or NaN."""


class TextCheck(Document):
    columns: tuple[str, ...]
    total: int
    """Sum of the first 60 bits of the MD5 of each row's texts."""


class Checks(Document):
    rows: int
    columns: tuple[ColumnCheck, ...]
    texts: tuple[TextCheck, ...]


@dataclass(frozen=True)
class _Figure:
    """An expression of the aggregate, and which figure of which column it is."""

    column: int
    name: str
    sql: str


# --- the warehouse's side -----------------------------------------------------------------------------------


def text_groups(columns: Sequence[Column]) -> list[list[int]]:
    """Which columns' texts are joined to one, for a row; by their places. More than fit into one text are split."""
    groups: list[list[int]] = []
    room = 0
    for place, column in enumerate(columns):
        if column.kind not in TEXTS:
            continue
        size = (column.numbers[0] if column.numbers else LONGEST_TEXT) + 1
        if not groups or size > room:
            groups.append([])
            room = LONGEST_TEXT
        groups[-1].append(place)
        room -= size
    return groups


def _figures(columns: Sequence[Column]) -> list[_Figure]:
    found: list[_Figure] = []
    for place, column in enumerate(columns):
        name, kind = quoted(column.name), column.kind
        value = f"({name} at time zone 'UTC')" if kind is Kind.TIMESTAMPTZ else name
        if kind is Kind.FLOAT:  # NaN may be equal to itself and above all, or comparable to nothing: it is left out
            value = f"case when abs({name}) <= '{LARGEST_DOUBLE!r}'::float8 then {name} end"
        figures = {"filled": f"count({name})"}
        if kind not in (*TEXTS, Kind.BOOLEAN, Kind.SUPER):
            figures |= {"low": f"min({value})", "high": f"max({value})"}
        if kind is Kind.FLOAT:
            figures["finite"] = f"count({value})"
        if not column.is_exact:
            figures |= {"total": f"sum(({value})::float8)", "size": f"sum(abs(({value})::float8))"}
        elif kind is Kind.WHOLE:
            figures["total"] = f"sum({name}::bigint)"
        elif kind is Kind.DECIMAL:
            figures["total"] = f"sum({name})"
        elif kind is Kind.BOOLEAN:
            figures["total"] = f"sum(case when {name} then 1 else 0 end)"
        elif kind is Kind.DATE:
            figures["total"] = f"sum(({name} - '1970-01-01'::date)::bigint)"
        elif kind in (Kind.TIMESTAMP, Kind.TIMESTAMPTZ):
            figures["total"] = f"sum(datediff(microsecond, '1970-01-01'::timestamp, {value}))"
        if kind is not Kind.SUPER:
            found += [_Figure(place, figure, sql) for figure, sql in figures.items()]
    for number, group in enumerate(text_groups(columns)):
        joined = " || chr(31) || ".join(f"nvl({_text(columns[place])}, chr(1))" for place in group)
        found.append(_Figure(-1 - number, "text", f"sum(strtol(left(md5({joined}), 15), 16))"))
    return found


def _text(column: Column) -> str:
    """CHAR is padded, and how much of that reaches a file is nobody's promise."""
    return f"rtrim({quoted(column.name)})" if column.kind is Kind.CHAR else quoted(column.name)


def expressions(columns: Sequence[Column]) -> list[str]:
    """The select lists of the aggregate over a day: one, but for tables of hundreds of columns.

    All of them in one transaction see the same rows. `read_checks` takes the rows that they give.
    """
    found = ["count(*)", *(figure.sql for figure in _figures(columns))]
    return [", ".join(found[at : at + MOST_EXPRESSIONS]) for at in range(0, len(found), MOST_EXPRESSIONS)]


def read_checks(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Checks:
    """The answers to `expressions` as figures."""
    rows_found, *values = [value for row in rows for value in row]
    parts: list[dict[str, Any]] = [{} for _ in columns]
    texts: dict[int, int] = {}
    for figure, value in zip(_figures(columns), values, strict=True):
        if figure.column < 0:
            texts[-1 - figure.column] = int(value or 0)
        else:
            parts[figure.column][figure.name] = value
    return Checks(
        rows=int(rows_found),
        columns=tuple(_column_check(column, part) for column, part in zip(columns, parts, strict=True)),
        texts=tuple(
            TextCheck(columns=tuple(columns[place].name for place in group), total=texts[number])
            for number, group in enumerate(text_groups(columns))
        ),
    )


def _column_check(column: Column, part: dict[str, Any]) -> ColumnCheck:
    named: dict[str, Any] = {"name": column.name, "type": column.type, "filled": int(part.get("filled") or 0)}
    if not column.is_exact:
        least, most, summed, size = (float(part[figure] or 0) for figure in ("low", "high", "total", "size"))
        odd = named["filled"] - int(part["finite"] or 0) if "finite" in part else 0
        return ColumnCheck(**named, rough=(least, most, summed, size), infinite=odd)
    total = None if column.kind in (*TEXTS, Kind.SUPER) else _whole(column, part.get("total")) or 0
    return ColumnCheck(**named, low=_whole(column, part.get("low")), high=_whole(column, part.get("high")), total=total)


def _whole(column: Column, value: Any) -> int | None:
    """A value of the column as the whole number that stands for it."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1)
    if isinstance(value, date):
        return value.toordinal() - EPOCH.toordinal()
    if column.kind is Kind.DECIMAL:
        return int(Decimal(value).scaleb(column.scale, _WIDE))
    return int(value)


# --- both sides ---------------------------------------------------------------------------------------------


def merged(checks: Sequence[Checks]) -> Checks:
    """The figures of all parts together; they have the same columns.

    :raises ValueError: there is none, or the columns differ.
    """
    first = checks[0]
    shape = [(column.name, column.type) for column in first.columns]
    for other in checks[1:]:
        if [(column.name, column.type) for column in other.columns] != shape:
            raise ValueError("parts have different columns")
    return Checks(
        rows=sum(one.rows for one in checks),
        columns=tuple(_merged([one.columns[place] for one in checks]) for place in range(len(shape))),
        texts=tuple(
            TextCheck(columns=text.columns, total=sum(one.texts[place].total for one in checks))
            for place, text in enumerate(first.texts)
        ),
    )


def _merged(found: Sequence[ColumnCheck]) -> ColumnCheck:
    rough = None
    if found[0].rough is not None:
        some = [one.rough for one in found if one.rough is not None and one.filled > one.infinite] or [(0.0,) * 4]
        rough = (min(one[0] for one in some), max(one[1] for one in some), sum(one[2] for one in some),
                 sum(one[3] for one in some))  # fmt: skip
    return ColumnCheck(
        name=found[0].name,
        type=found[0].type,
        filled=sum(one.filled for one in found),
        low=min((one.low for one in found if one.low is not None), default=None),
        high=max((one.high for one in found if one.high is not None), default=None),
        total=None if found[0].total is None else sum(one.total or 0 for one in found),
        rough=rough,
        infinite=sum(one.infinite for one in found),
    )


def differences(table: Checks, files: Checks, *, one: str = "the table", other: str = "the files") -> list[str]:
    """What the two do not agree on, in words; the figures of a column that is fine are left out."""
    if table.rows != files.rows:
        return [f"{one} has {table.rows:,} rows, {other} {files.rows:,}"]
    told, kept = ({column.name: column.type for column in side.columns} for side in (table, files))
    if told != kept:
        odd = sorted(name for name in told.keys() | kept.keys() if told.get(name) != kept.get(name))
        return [f"the columns differ: {', '.join(odd)}"]
    there = {column.name: column for column in files.columns}
    found = [
        f"{column.name}: {words} {mine} in {one}, {theirs} in {other}"
        for column in table.columns
        for words, mine, theirs in _column_differences(column, there[column.name])
    ]
    sums = {text.columns: text.total for text in files.texts}
    odd = [", ".join(text.columns) for text in table.texts if sums.get(text.columns) != text.total]
    return found + [f"the texts of {names} differ" for names in odd]


def _column_differences(table: ColumnCheck, files: ColumnCheck) -> list[tuple[str, str, str]]:
    """Figure, value in the table, value in the files."""
    found: list[tuple[str, str, str]] = []
    for figure, words in (
        ("filled", "values"), ("infinite", "infinite values"), ("low", "least"), ("high", "greatest"), ("total", "sum"),
    ):  # fmt: skip
        mine, theirs = getattr(table, figure), getattr(files, figure)
        if mine != theirs:
            found.append((words, str(mine), str(theirs)))
    if table.rough is not None and files.rough is not None:
        # A sum depends on the order of what is summed: by the spacing of doubles for each of the values, at most.
        sums = max(table.rough[3], files.rough[3]) * (_DIGITS + math.ulp(1.0) * 2 * table.filled)
        for at, words in enumerate(("least", "greatest", "sum")):
            value, wanted = table.rough[at], files.rough[at]
            shown = _SHOWN.get(table.type, _DIGITS)
            allowed = sums if words == "sum" else shown * max(abs(value), abs(wanted))
            if not _is_near(value, wanted, allowed):
                found.append((words, repr(value), repr(wanted)))
    return found


def _is_near(one: float, other: float, allowed: float) -> bool:
    if math.isfinite(one) and math.isfinite(other):
        return abs(one - other) <= allowed
    return one == other or (math.isnan(one) and math.isnan(other))  # a sum can leave what a double holds
