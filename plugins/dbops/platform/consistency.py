"""The part of a platform file that says what must be the same in all three databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field, field_validator

from dbops.platform.fields import Cron, Duration, DurationOrZero, Model, Name, Number, Whole, refuse
from dbops.platform.redshift import Column, Percent, TableName
from dbops.platform.sync import Identifier

NUMBERS = ("scaled", "decimal", "integer", "double")
"""Forms of a bin that hold an amount."""


class Tolerance(Model):
    """Two amounts are the same when they differ by no more than the larger of the two."""

    amount: Number = 0.01
    """In the currency of the amounts; what rounding to cents explains."""
    percent: Percent = 0.1


class WarehouseSpend(Model):
    """Where Redshift has the spend, a row for each win or an aggregate of them."""

    table: TableName = "public.wins"
    time: Column = "timestamp"
    """The sort key, UTC, so that a day is found at once."""
    line_item: Column = "line_item_id"
    amount: Column = "win_price"


class SpendConsistency(Model):
    """The spend of each line item and day: in PostgreSQL, in the set that follows it, and in Redshift."""

    pair: Name = "spend"
    """Of `sync`: the table, and the set with its clusters."""
    line_item: Identifier = "line_item_id"
    day: Identifier = "day"
    amount: Identifier = "spent"
    """Columns of the pair's table."""
    warehouse: WarehouseSpend = Field(default_factory=WarehouseSpend)
    tolerance: Tolerance = Field(default_factory=Tolerance)


class EventTable(Model):
    """A table of Redshift whose rows belong to a campaign."""

    table: TableName
    time: Column = "timestamp"
    campaign: Column = "order_id"


class CampaignConsistency(Model):
    """The campaigns that events name must exist."""

    pair: Name = "campaigns"
    """Of `sync`: its table, and the column that is its key."""
    events: Annotated[tuple[EventTable, ...], Field(min_length=1)]

    @field_validator("events")
    @classmethod
    def _once(cls, value: tuple[EventTable, ...]) -> tuple[EventTable, ...]:
        names = [one.table for one in value]
        refuse(((n, "table"), f"{name} was named before") for n, name in enumerate(names) if name in names[:n])
        return value


class Consistency(Model):
    schedule: Cron = "30 7 * * *"
    days: Annotated[Whole, Field(ge=1, le=31)] = 3
    """So many whole days, UTC, are compared. One that differs is compared until it is the same, or a month old."""
    settle: DurationOrZero = timedelta(hours=4)
    """So long after its end a day has arrived everywhere."""
    listed: Annotated[Whole, Field(ge=1, le=1000)] = 100
    """Differences of a system that are listed; all are counted."""
    trend: Duration = timedelta(days=30)
    """The days that the charts of the summary show."""
    spend: SpendConsistency | None = None
    campaigns: CampaignConsistency | None = None
