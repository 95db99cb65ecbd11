"""A table of every type that is archived, as rows, as Arrow, and as files."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dbops.redshift.archive_checks import Column

COLUMNS = [
    Column(name="id", type="bigint"),
    Column(name="small", type="smallint"),
    Column(name="price", type="numeric(12,6)"),
    Column(name="huge", type="numeric(38,2)"),
    Column(name="score", type="double precision"),
    Column(name="ratio", type="real"),
    Column(name="won", type="boolean"),
    Column(name="served", type="date"),
    Column(name="timestamp", type="timestamp without time zone"),
    Column(name="seen", type="timestamp with time zone"),
    Column(name='we"ird', type="character varying(64)"),
    Column(name="country", type="character(2)"),
    Column(name="notes", type="super"),
]
SCHEMA = pa.schema([
    ("id", pa.int64()),
    ("small", pa.int16()),
    ("price", pa.decimal128(12, 6)),
    ("huge", pa.decimal128(38, 2)),
    ("score", pa.float64()),
    ("ratio", pa.float32()),
    ("won", pa.bool_()),
    ("served", pa.date32()),
    ("timestamp", pa.timestamp("us")),
    ("seen", pa.timestamp("us", "UTC")),
    ('we"ird', pa.string()),
    ("country", pa.string()),
    ("notes", pa.string()),
])
Row = dict[str, Any]


def rows(count: int, seed: int = 1) -> list[Row]:
    """Random rows, some values of each column null, and the extremes of its type."""
    rng = random.Random(seed)

    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.1 else value

    def one() -> Row:
        moment = datetime(2026, 1, 1) + timedelta(microseconds=rng.randrange(10**15))  # noqa: DTZ001
        return {
            "id": maybe(rng.choice([rng.randrange(-(2**63), 2**63), 2**63 - 1, -(2**63)])),
            "small": maybe(rng.randrange(-(2**15), 2**15)),
            "price": maybe(Decimal(rng.randrange(-(10**12) + 1, 10**12)).scaleb(-6)),
            "huge": maybe(Decimal(rng.randrange(10**30)).scaleb(-2)),
            "score": maybe(rng.choice([rng.gauss(0, 1e6), rng.gauss(0, 1), float("nan"), float("-inf"), 0.0, -0.0])),
            "ratio": maybe(rng.randrange(1000) / 8),
            "won": maybe(rng.random() < 0.5),
            "served": maybe(date(1900, 1, 1) + timedelta(days=rng.randrange(80_000))),
            "timestamp": maybe(moment),
            "seen": maybe(moment.replace(tzinfo=UTC)),
            'we"ird': maybe(rng.choice(["", " ", "ü" * rng.randrange(30), "\x1f", "\x01", "it's", "a\nb"])),
            "country": maybe(rng.choice(["DE", "U ", "  "])),
            "notes": maybe('{"a": 1}'),
        }

    return [one() for _ in range(count)]


def table(found: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(found), SCHEMA)


def write(path: Path, found: Sequence[Row], group: int = 100) -> int:
    """A file with row groups of so many rows; its size."""
    pq.write_table(table(found), path, row_group_size=group, compression="snappy")
    return path.stat().st_size
