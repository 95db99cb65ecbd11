"""The part of a platform file that says which pipelines load the warehouse, and what is expected of each hour."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from string import Formatter
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from dbops.platform.fields import (
    Bucket,
    ConnectionId,
    Cron,
    Duration,
    DurationOrZero,
    Model,
    Name,
    Number,
    PlatformError,
    Region,
    Whole,
    inherited,
    refuse,
    unique,
)
from dbops.platform.redshift import Column, TableName

HOUR = timedelta(hours=1)
Format = Literal["json", "csv", "parquet"]


def _prefix(value: str) -> str:
    try:
        fields = [name for _, name, _, _ in Formatter().parse(value) if name is not None]
        if fields and set(fields) == {"hour"}:
            first, second = (value.format(hour=datetime(2026, 1, 1, hour)) for hour in (1, 2))  # noqa: DTZ001
            if first != second:
                return value
    except (ValueError, IndexError):
        pass
    raise ValueError("names no hour; write {hour:...} with patterns of strftime: wins/dt={hour:%Y-%m-%d}/hr={hour:%H}/")


def _hourly(value: str) -> str:
    minute, _, rest = value.partition(" ")
    if not re.fullmatch(r"[0-5]?\d", minute) or rest != "* * * *":
        raise ValueError("must be once an hour, `30 * * * *`: each run judges the hour that ended so many minutes ago")
    return value


class Thresholds(Model):
    """Beyond `warn` there is a warning, beyond `error` an error."""

    warn: Number
    error: Number

    @field_validator("error")
    @classmethod
    def _order(cls, value: float, info: ValidationInfo) -> float:
        if "warn" in info.data and value < info.data["warn"]:
            raise ValueError(f"must not be below warn, which is {info.data['warn']:g}")
        return value


class Floor(Model):
    """Rows of an hour."""

    warn: Annotated[Whole, Field(ge=0)] = 1
    error: Annotated[Whole, Field(ge=1)] = 1

    @field_validator("error")
    @classmethod
    def _order(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("warn", value):
            raise ValueError(f"must not be above warn, which is {info.data['warn']}")
        return value


class Ages(Model):
    warn: Duration
    error: Duration

    @field_validator("error")
    @classmethod
    def _order(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        if value < info.data.get("warn", value):
            raise ValueError("must not be less than warn")
        return value


class Anomaly(Model):
    """How far the rows of an hour may lie from the median of the same hour in past weeks, percent."""

    weeks: Annotated[Whole, Field(ge=2, le=12)] = 4
    warn: Number = 40
    error: Number = 80


class KeyColumn(Model):
    """What is expected of a column in every hour."""

    name: Column
    nulls: Thresholds | None = None
    """Percent of rows that may be NULL."""
    min: float | None = None
    max: float | None = None
    """A value outside is an error."""


class Reference(Model):
    """A column whose values must stand in another table: wins without impressions."""

    column: Column
    table: TableName
    of: Column
    """The other table's column."""
    time: Column = "timestamp"
    """The other table's sort key; so that not all of it is read."""
    back: DurationOrZero = HOUR
    """How much earlier than the hour what is referred to may be."""
    orphans: Thresholds = Field(default_factory=lambda: Thresholds(warn=0, error=1))
    """Percent of rows that may refer to nothing."""


class Pipeline(Model):
    """One table that is loaded every hour from files that a Glue job writes."""

    name: Name
    job: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    hour_argument: Annotated[str, StringConstraints(pattern=r"^--\S+$")] | None = "--hour"
    """The argument of a run that says its hour, in ISO 8601. None: a run that starts in the hour after it is for it."""
    rule: Annotated[str, StringConstraints(pattern=r"^[.\w-]{1,64}$")] | None = None
    """EventBridge's rule that starts it; None: something else does."""
    bucket: Bucket
    prefix: Annotated[str, AfterValidator(_prefix)]
    """Of the files of an hour (UTC), with the hour as strftime writes it: `wins/dt={hour:%Y-%m-%d}/hr={hour:%H}/`."""
    format: Format
    """Parquet: rows are counted from the footers. json: one record per line. csv: as RFC 4180. The latter two may be
    compressed with gzip (`.gz`)."""
    header_lines: Annotated[Whole, Field(ge=0, le=100)] = 0
    """Of each csv file (IGNOREHEADER)."""
    manifest: Annotated[str, StringConstraints(pattern=r"^[^/]+$")] | None = None
    """A file below the prefix that counts the rows of the others (UNLOAD's MANIFEST VERBOSE): they are not read."""
    table: TableName
    column: Column = "timestamp"
    """Says which hour (UTC) a row belongs to; the sort key."""
    key: Column | None = None
    """Whose values are all different; None: rows may repeat."""
    max_runtime: Duration = timedelta(minutes=30)
    """Of a Glue run."""
    freshness: Ages = Field(default_factory=lambda: Ages(warn=timedelta(hours=2), error=timedelta(hours=4)))
    """Age of the newest row."""
    rows: Floor = Field(default_factory=Floor)
    anomaly: Anomaly | None = Field(default_factory=Anomaly)
    mismatch: Thresholds = Field(default_factory=lambda: Thresholds(warn=0, error=0))
    """Percent by which rows of files and table may differ: for pipelines whose files hold rows of other hours."""
    lost: Thresholds = Field(default_factory=lambda: Thresholds(warn=0, error=1))
    """Percent of lines that COPY may leave out (MAXERROR)."""
    columns: Annotated[tuple[KeyColumn, ...], unique("column")] = ()
    references: tuple[Reference, ...] = ()

    def prefix_of(self, hour: datetime) -> str:
        return self.prefix.format(hour=hour)

    def url_of(self, hour: datetime) -> str:
        return f"s3://{self.bucket}/{self.prefix_of(hour)}"


class Etl(Model):
    schedule: Annotated[Cron, AfterValidator(_hourly)] = "30 * * * *"
    """So many minutes after the end of an hour it is judged."""
    due: Duration = timedelta(minutes=25)
    """After the end of an hour its rows must be in the table."""
    recheck: Duration = timedelta(days=7)
    """So long an hour that is not as it should be is looked at again by every run, until it is or was accepted.
    After that it stays in its incident until somebody has it judged or accepts it."""
    files_kept: Duration = timedelta(days=30)
    """Files of older hours may be gone: such an hour is judged without them."""
    aws_connection: ConnectionId = Field(default_factory=inherited)
    """For Glue, EventBridge and the files. Default: that of the storage."""
    region: Region = Field(default_factory=inherited)
    """Default: that of the storage."""
    pipelines: Annotated[tuple[Pipeline, ...], unique("pipeline"), Field(min_length=1)]

    @model_validator(mode="after")
    def _due_in_time(self) -> Etl:
        if self.due > timedelta(minutes=int(self.schedule.split()[0])):
            raise ValueError("`due` is later than `schedule`: hours would be judged before they are due")
        return self

    @field_validator("pipelines")
    @classmethod
    def _apart(cls, value: tuple[Pipeline, ...]) -> tuple[Pipeline, ...]:
        places = [(one.bucket, one.prefix) for one in value]
        refuse(
            ((n, "prefix"), f"is that of pipeline {value[places.index(place)].name} too")
            for n, place in enumerate(places)
            if place in places[:n]
        )
        return value

    def pipeline(self, name: str) -> Pipeline:
        """:raises PlatformError: there is no such pipeline; the message names those that exist."""
        for one in self.pipelines:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.pipelines)
        raise PlatformError(f"{name!r} is no pipeline of `etl`; there are {known}")
