"""Types: PostgreSQL's numbers for them, Redshift's names for them, Arrow's for files."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
from dbops_lab.redshift.backend import Column
from dbops_lab.redshift.errors import BackendError

BOOL, INT8, INT2, INT4, TEXT, JSON, FLOAT4, FLOAT8 = 16, 20, 21, 23, 25, 114, 700, 701
BPCHAR, VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, NUMERIC, JSONB = 1042, 1043, 1082, 1083, 1114, 1184, 1700, 3802
NAME, CHAR = 19, 18
SUPER = 4000  # as Redshift's own clients see it
STRINGS = (TEXT, VARCHAR, BPCHAR, NAME, CHAR)
SUPERS = (JSON, JSONB, SUPER)
UNBOUND_PRECISION, UNBOUND_SCALE = 38, 10  # of a numeric without typmod: PostgreSQL's aggregates have none

_NAMES = {
    BOOL: "boolean", INT8: "bigint", INT2: "smallint", INT4: "integer", FLOAT4: "real", FLOAT8: "double precision",
    DATE: "date", TIME: "time without time zone", TIMESTAMP: "timestamp without time zone",
    TIMESTAMPTZ: "timestamp with time zone", JSON: "super", JSONB: "super", SUPER: "super",
}  # fmt: skip
_ARROW = {
    BOOL: pa.bool_(), INT8: pa.int64(), INT2: pa.int16(), INT4: pa.int32(), FLOAT4: pa.float32(),
    FLOAT8: pa.float64(), DATE: pa.date32(), TIMESTAMP: pa.timestamp("us"), TIMESTAMPTZ: pa.timestamp("us", "UTC"),
    **dict.fromkeys((*STRINGS, *SUPERS), pa.string()),
}  # fmt: skip


class Numeric(NamedTuple):
    precision: int
    scale: int


def numeric(typmod: int) -> Numeric:
    """Precision and scale out of a typmod."""
    if typmod < 4:
        return Numeric(UNBOUND_PRECISION, UNBOUND_SCALE)
    return Numeric((typmod - 4) >> 16, (typmod - 4) & 0x7FF)


def arrow_type(column: Column) -> pa.DataType:
    """The column's type in Parquet."""
    if column.oid == NUMERIC:
        precision, scale = numeric(column.typmod)
        if precision <= 38:
            return pa.decimal128(precision, scale)
    elif column.oid in _ARROW:
        return _ARROW[column.oid]
    raise BackendError("0A000", f'The type of column "{column.name}" is not supported with PARQUET')


def manifest_type(column: Column) -> dict[str, str | int]:
    """The column's type as a verbose manifest names it."""
    if column.oid == NUMERIC:
        return {"base": "numeric", **numeric(column.typmod)._asdict()}
    if column.oid in STRINGS:
        base = "character" if column.oid == BPCHAR else "character varying"
        return {"base": base, "max_length": column.typmod - 4 if column.typmod > 4 else 65535}
    return {"base": _NAMES.get(column.oid, "character varying")}
