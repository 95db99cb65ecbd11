"""What of PostgreSQL goes where in Aerospike, and in which form: the rules that the syncer keeps and validation checks.

| table | namespace.set | key |
|---|---|---|
| campaigns | bidder.orders | id |
| line_items | bidder.lineitems | id |
| creatives | bidder.creatives | id |
| spend_tracking | spend.spend | line_item_id:YYYYMMDD |

A NULL has no bin, and neither has a value that is the bin's default. A row whose status is `deleted` has no record, nor
has one whose time is over: 30 days after the end of a campaign or line item, or `keep_until`.
`synced_at` comes from no column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from dbops_lab.application.database import COLUMNS
from dbops_lab.application.world import GRACE, Row, json_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SYNCED_AT = "synced_at"  # milliseconds since 1970; in every record, and in no table
_MICROSECOND = timedelta(microseconds=1)
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def _micros(value: Decimal) -> int:
    return int(value.scaleb(6))


def _microseconds(value: datetime) -> int:
    return (value - EPOCH) // _MICROSECOND


FORMS: Mapping[str, Callable[[Any], Any]] = {
    "text": str,
    "integer": int,
    "double": float,
    "micros": _micros,  # money as millionths, an integer
    "decimal_text": lambda value: format(value, "f"),
    "bool": bool,
    "integer_bool": int,  # 0 or 1, as the oldest bidders have it
    "epoch_us": _microseconds,
    "epoch_ms": lambda value: _microseconds(value) // 1000,
    "epoch_s": lambda value: _microseconds(value) // 1_000_000,
    "day": date.isoformat,
    "map": dict,  # a JSON object as a map
    "list": list,
    "json_text": json_text,
}


@dataclass(frozen=True)
class Bin:
    """A bin, the column that it comes from, and how (a key of `FORMS`)."""

    name: str
    column: str
    form: str
    default: Any = None
    """A column's value that has no bin."""


@dataclass(frozen=True)
class Pair:
    """A table and the set that follows it."""

    table: str
    namespace: str
    set: str
    bins: tuple[Bin, ...]
    ignored: tuple[str, ...]
    """Columns that do not go to Aerospike."""
    expires: str | None = None
    """The column after which, and `grace`, a record is gone; None: never."""
    grace: timedelta = timedelta()

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS[self.table]

    def key(self, row: Row) -> str:
        if self.table == "spend_tracking":
            return f"{row[0]}:{row[1]:%Y%m%d}"
        return str(row[0])

    def is_key(self, key: str) -> bool:
        """Whether a row can have that key, letter by letter."""
        return re.fullmatch(_UUID + (r":\d{8}" if self.table == "spend_tracking" else ""), key) is not None

    def expiry(self, row: Row) -> datetime | None:
        end = row[self.columns.index(self.expires)] if self.expires else None
        return end + self.grace if end is not None else None

    def has_record(self, row: Row, now: datetime) -> bool:
        """Whether there is a record for this row at that time."""
        end = self.expiry(row)
        is_deleted = "status" in self.columns and row[self.columns.index("status")] == "deleted"
        return not is_deleted and (end is None or end > now)

    def record(self, row: Row) -> dict[str, Any]:
        """The bins of the row's record."""
        values = dict(zip(self.columns, row, strict=True))
        return {
            one.name: FORMS[one.form](values[one.column])
            for one in self.bins
            if values[one.column] is not None and values[one.column] != one.default
        }


PAIRS: Mapping[str, Pair] = {
    pair.table: pair
    for pair in (
        Pair(
            "campaigns", "bidder", "orders",
            (
                Bin("ID", "id", "text"),
                Bin("account_id", "account_id", "text"),
                Bin("name", "name", "text"),
                Bin("state", "status", "text"),
                Bin("currency", "currency", "text", default="EUR"),
                Bin("budget", "budget_total", "micros"),
                Bin("daily", "budget_daily", "double"),
                Bin("start_ms", "starts_at", "epoch_ms"),
                Bin("end_ms", "ends_at", "epoch_ms"),
                Bin("test", "is_test", "bool"),
                Bin("cap", "frequency_cap", "map"),
                Bin("labels", "labels", "list"),
                Bin("version", "version", "integer"),
                Bin("updated_us", "updated_at", "epoch_us"),
            ),
            ignored=("notes", "created_at"), expires="ends_at", grace=GRACE,
        ),
        Pair(
            "line_items", "bidder", "lineitems",
            (
                Bin("ID", "id", "text"),
                Bin("order_id", "campaign_id", "text"),
                Bin("name", "name", "text"),
                Bin("state", "status", "text"),
                Bin("max_bid", "max_bid", "double"),
                Bin("daily_micros", "budget_daily", "micros"),
                Bin("pacing", "pacing", "text", default="even"),
                Bin("win_goal", "win_rate_goal", "double"),
                Bin("prio", "priority", "integer"),
                Bin("segments", "segments", "list"),
                Bin("targeting", "targeting", "map"),
                Bin("guaranteed", "is_guaranteed", "bool"),
                Bin("start_s", "starts_at", "epoch_s"),
                Bin("end_s", "ends_at", "epoch_s"),
                Bin("updated_us", "updated_at", "epoch_us"),
            ),
            ignored=("created_at",), expires="ends_at", grace=GRACE,
        ),
        Pair(
            "creatives", "bidder", "creatives",
            (
                Bin("ID", "id", "text"),
                Bin("lineitem_id", "line_item_id", "text"),
                Bin("title", "name", "text"),
                Bin("state", "status", "text"),
                Bin("type", "kind", "text"),
                Bin("width", "width", "integer"),
                Bin("height", "height", "integer"),
                Bin("url", "landing_url", "text"),
                Bin("html", "markup", "text"),
                Bin("seconds", "duration_seconds", "decimal_text"),
                Bin("meta", "metadata", "json_text"),
                Bin("approved", "is_approved", "integer_bool"),
                Bin("updated_ms", "updated_at", "epoch_ms"),
            ),
            ignored=("created_at",),
        ),
        Pair(
            "spend_tracking", "spend", "spend",
            (
                Bin("lineitem_id", "line_item_id", "text"),
                Bin("day", "day", "day"),
                Bin("order_id", "campaign_id", "text"),
                Bin("spent", "spent", "micros"),
                Bin("budget", "budget", "micros"),
                Bin("imps", "impressions", "integer"),
                Bin("clicks", "clicks", "integer"),
                Bin("pacing", "pacing", "double"),
                Bin("updated_ms", "updated_at", "epoch_ms"),
            ),
            ignored=("keep_until",), expires="keep_until",
        ),
    )
}  # fmt: skip
"""By table."""
