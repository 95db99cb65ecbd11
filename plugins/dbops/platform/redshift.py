"""The part of a platform file that describes its Redshift warehouse."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictBool, StringConstraints, ValidationInfo, field_validator

from dbops.platform.fields import (
    Bucket,
    ConnectionId,
    Cron,
    Duration,
    Model,
    Name,
    Number,
    PlatformError,
    Prefix,
    Region,
    Whole,
    duration_text,
    inherited,
    refuse,
    unique,
)

DAY = timedelta(days=1)


def _table(value: str) -> str:
    schema, dot, table = value.partition(".")
    if not dot or not schema or not table or "." in table or any(c in value for c in "\0\"'\n"):
        raise ValueError("is no table; write schema.table")
    return value


def _days(value: timedelta) -> timedelta:
    if value % DAY:
        raise ValueError("must be whole days, as what is archived is whole days")
    return value


TableName = Annotated[str, AfterValidator(_table)]
Column = Annotated[
    str, StringConstraints(min_length=1, max_length=127, pattern=r'^[^\x00"]+$')
]  # 127: Redshift's limit
Days = Annotated[Duration, AfterValidator(_days)]
Percent = Annotated[Number, Field(le=100)]


class RedshiftSchedules(Model):
    """Cron of five fields, UTC."""

    daily: Cron = "0 6 * * *"
    weekly: Cron = "0 3 * * 0"
    monthly: Cron = "0 4 1 * *"
    archive: Cron = "0 0 * * *"
    """At midnight, so that the data interval of a run is a day, and a backfill of days is one of these days."""
    snapshots: Cron = "30 5 * * *"


class Window(Model):
    """When the weekly maintenance may work, counted from its start."""

    last_start: Duration = timedelta(hours=3)
    """No VACUUM or ANALYZE starts later."""
    hard_end: Duration = timedelta(hours=4)
    """What still runs is cancelled."""

    @field_validator("hard_end")
    @classmethod
    def _later(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        if "last_start" in info.data and value <= info.data["last_start"]:
            raise ValueError(f"must be later than last_start, which is {duration_text(info.data['last_start'])}")
        return value


class Vacuum(Model):
    """From when on a table is worked on. The first six are the rules of awslabs' AnalyzeVacuumUtility."""

    min_unsorted: Percent = 5
    max_unsorted: Percent = 50
    """A table beyond `max_size_mb` that is more unsorted than this gets advice for a deep copy instead."""
    stats_off: Percent = 10
    max_size_mb: Annotated[Whole, Field(ge=1)] = 716_800
    min_interleaved_skew: Annotated[Number, Field(ge=1)] = 1.4
    sort_benefit: Percent = 5
    """`vacuum_sort_benefit` from which sorting is worth it, as in the guide."""
    min_deleted: Percent = 10
    """Share of rows that are deleted and not yet reclaimed."""
    to_percent: Annotated[Whole, Field(ge=1, le=100)] = 99
    boost: StrictBool = False


class Health(Model):
    """What the daily check warns of, beside `limits`."""

    failed_queries: Percent = 5
    """Share of statements that may fail."""
    old_transaction: Duration = timedelta(hours=1)
    """A transaction that is open longer keeps VACUUM from removing deleted rows."""


class Review(Model):
    """What the monthly review looks at."""

    min_size_mb: Annotated[Whole, Field(ge=1)] = 1024
    """Smaller tables are not worth advice."""
    skew_rows: Annotated[Number, Field(ge=1)] = 4
    """Rows of the fullest slice over those of the emptiest one."""
    skew_sort_key: Annotated[Number, Field(ge=1)] = 4
    """Size of the largest column over that of the first sort key column; AWS advises not to compress the key then."""
    unused_after: Days = timedelta(days=30)
    """A table that nobody has read for so long is reported."""
    cold_after: Days = timedelta(days=365)
    """Rows that are older should be archived."""


class ArchiveTable(Model):
    """A table whose old days go to S3."""

    table: TableName
    """With `days: tables`, the name of a day's table, with {day} for its date: `events.clicks_{day}` (YYYYMMDD)."""
    column: Column
    """Date or timestamp (UTC) that says which day a row belongs to; the sort key, so that a day is found at once."""
    keep: Days
    """Days that stay in the table."""
    days: Literal["rows", "tables"] = "rows"
    """What a day is: rows of one table, which are deleted, or a table of its own, which is dropped."""

    @field_validator("days")
    @classmethod
    def _has_day(cls, value: str, info: ValidationInfo) -> str:
        table = info.data.get("table", "")
        if table and (value == "tables") != ("{day}" in table):
            raise ValueError("needs {day} in `table`" if value == "tables" else "is rows, but `table` has {day}")
        return value

    @property
    def dataset(self) -> str:
        """What its archive is called: the table, without the day that its name may have."""
        schema, _, name = self.table.partition(".")
        return f"{schema}.{name.replace('{day}', '').strip('_-') or 'days'}"

    def source(self, day: date) -> str:
        """The table that has the rows of a day."""
        return self.table.replace("{day}", f"{day:%Y%m%d}")


class LegalHold(Model):
    """Days that stay in the table as they are, whatever its `keep` says: neither archived nor deleted."""

    table: TableName
    first: date
    last: date | None = None
    """Inclusive; None: no end yet."""
    reason: Annotated[str, StringConstraints(min_length=1)]

    @field_validator("last")
    @classmethod
    def _in_order(cls, value: date | None, info: ValidationInfo) -> date | None:
        if value is not None and "first" in info.data and value < info.data["first"]:
            raise ValueError(f"is before first, which is {info.data['first']}")
        return value

    def covers(self, table: str, day: date) -> bool:
        return table == self.table and self.first <= day and (self.last is None or day <= self.last)


class StorageClass(Model):
    after: Days
    name: Literal["STANDARD_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"]


class Archive(Model):
    """Where archived days go: `<prefix>/<schema>.<table>/dt=YYYY-MM-DD/...` as Parquet."""

    bucket: Bucket | None = None
    """None: the bucket of the backups."""
    prefix: Prefix = "archive"
    iam_role: Annotated[str, StringConstraints(pattern=r"^(default|arn:aws[a-z-]*:iam::\d{12}:role/\S+)$")] = "default"
    """The role that Redshift uses for UNLOAD and COPY; `default`: the one that the cluster has."""
    tables: Annotated[tuple[ArchiveTable, ...], AfterValidator(lambda value: _tables(value))] = ()
    legal_holds: tuple[LegalHold, ...] = ()
    storage_classes: tuple[StorageClass, ...] = ()
    """By age of the archived object, through the bucket's lifecycle."""
    marks: TableName = "public.dbops_archived"
    """A small table in the warehouse that says which archived days were deleted there: a row is written with each
    deletion, in its transaction. It is made when it is not there."""
    max_days: Annotated[Whole, Field(ge=1)] = 31
    """When more days than this of one table would go at once, a person is asked."""
    at_once: Annotated[Whole, Field(ge=1, le=64)] = 4
    """Days that Airflow archives at once."""

    def table(self, name: str) -> ArchiveTable:
        """:raises PlatformError: no such table is archived; the message names those that are."""
        for table in self.tables:
            if name in (table.table, table.dataset):
                return table
        known = ", ".join(table.dataset for table in self.tables) or "none"
        raise PlatformError(f"{name!r} is no archived table; there are {known}")

    def hold(self, table: ArchiveTable, day: date) -> LegalHold | None:
        """The hold that a day of a table is under."""
        return next((hold for hold in self.legal_holds if hold.covers(table.table, day)), None)


def _tables(value: tuple[ArchiveTable, ...]) -> tuple[ArchiveTable, ...]:
    names = [item.table for item in value]
    refuse(((index, "table"), f"{name} was named before") for index, name in enumerate(names) if name in names[:index])
    sets = [item.dataset for item in value]
    refuse(
        ((index, "table"), f"would be archived as {name}, like {names[sets.index(name)]}")
        for index, name in enumerate(sets)
        if name in sets[:index]
    )
    return value


class Snapshots(Model):
    """Snapshots of the cluster or namespace."""

    max_age: Duration = timedelta(hours=24)
    """The newest automated or manual snapshot must be younger, or an alert is raised."""
    keep: Days = timedelta(days=7)
    """How long the manual ones are kept that this package takes."""
    before_maintenance: Literal["never", "risky", "always"] = "risky"
    """When the weekly maintenance takes one first. `risky`: its plan sorts a table, which moves all of its rows, and
    Airflow has `aws_connection`. `always`: its plan has anything to run; without that connection it fails."""
    restore_node_type: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+\.[a-z0-9]+$")] | None = None
    """Node type of a restored cluster; None: as the snapshot's. Serverless has none."""
    restore_timeout: Duration = timedelta(hours=6)
    """A restore that is not available by then has failed, whatever the RTO."""
    check_days: Annotated[Whole, Field(ge=1, le=90)] = 7
    """So many days before a snapshot are counted in each archived table, to compare a restored cluster with."""
    tolerance: Percent = 1
    """A restored day may lack so much of its rows: what arrived late, after the snapshot."""


SystemPrivilege = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[A-Za-z]+( [A-Za-z]+)*$")]


class Grantee(Model):
    """What a user, group or role may do; anything beyond is reported."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=127)]
    kind: Literal["user", "group", "role"] = "user"
    superuser: StrictBool = False
    schemas: tuple[str, ...] = ()
    """Schemas on whose tables it has `privileges`."""
    privileges: tuple[Literal["select", "insert", "update", "delete", "references", "drop"], ...] = ("select",)
    creates: StrictBool = False
    """Whether it may create tables in its schemas."""
    member_of: tuple[str, ...] = ()
    """Roles and groups that it may be in: `sys:monitor`, `analysts`."""
    system: tuple[SystemPrivilege, ...] = ()
    """Of a role: its permissions on the whole database, such as `vacuum`."""


class Redshift(Model):
    name: Name
    """The cluster's identifier, or the workgroup's."""
    connection: ConnectionId = "dbops_redshift"
    aws_connection: ConnectionId = Field(default_factory=inherited)
    """For snapshots and restores. Default: that of the storage."""
    region: Region = Field(default_factory=inherited)
    """Default: that of the storage."""
    serverless: StrictBool = False
    schedules: RedshiftSchedules = Field(default_factory=RedshiftSchedules)
    window: Window = Field(default_factory=Window)
    vacuum: Vacuum = Field(default_factory=Vacuum)
    health: Health = Field(default_factory=Health)
    review: Review = Field(default_factory=Review)
    archive: Archive = Field(default_factory=Archive)
    snapshots: Snapshots = Field(default_factory=Snapshots)
    access: Annotated[tuple[Grantee, ...], unique("grantee")] = ()
    """Who may what; the monthly review compares."""

    @field_validator("archive")
    @classmethod
    def _holds_are_of_tables(cls, value: Archive) -> Archive:
        known = {table.table for table in value.tables}
        problems: list[tuple[Sequence[str | int], str]] = [
            (("legal_holds", index, "table"), f"{hold.table} is not among the archived tables")
            for index, hold in enumerate(value.legal_holds)
            if hold.table not in known
        ]
        refuse(problems)
        return value
