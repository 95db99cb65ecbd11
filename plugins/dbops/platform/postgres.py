"""The part of a platform file that describes its PostgreSQL instance."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo, field_validator

from dbops.platform.fields import (
    ConnectionId,
    Cron,
    Duration,
    Model,
    Name,
    Number,
    Region,
    Whole,
    duration_text,
    inherited,
    refuse,
    unique,
)
from dbops.platform.postgres_backup import DatabaseName, PostgresExports, PostgresRds
from dbops.platform.postgres_guard import Audit, ChangeGuard, Migrated, PostgresGrantee
from dbops.platform.postgres_recovery import PostgresRecovery
from dbops.platform.redshift import Percent, TableName, Window


class PostgresSchedules(Model):
    """Cron of five fields, UTC. Health is looked at every 15 minutes."""

    report: Cron = "0 7 * * *"
    audit: Cron = "15 7 * * *"
    maintenance: Cron = "30 2 * * *"
    backup: Cron = "30 0 * * *"
    """After the automated backup of RDS, which is looked at."""
    drill: Cron = "0 5 * * 6"


class DurationLevels(Model):
    """Above these an alert of that severity is raised."""

    warn: Duration
    critical: Duration

    @field_validator("critical")
    @classmethod
    def _order(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        if "warn" in info.data and value <= info.data["warn"]:
            raise ValueError(f"must be more than warn, which is {duration_text(info.data['warn'])}")
        return value


class Levels(Model):
    """Above these an alert of that severity is raised."""

    warn: Number
    critical: Number

    @field_validator("critical")
    @classmethod
    def _order(cls, value: float, info: ValidationInfo) -> float:
        if "warn" in info.data and value <= info.data["warn"]:
            raise ValueError(f"must be more than warn, which is {info.data['warn']:g}")
        return value


class PercentLevels(Levels):
    warn: Percent
    critical: Percent


class PostgresHealth(Model):
    """Limits beside those of `limits`, which hold connections, query time, replication lag and disk.

    The defaults are pgmonitor's, where it has one.
    """

    idle_in_transaction: DurationLevels = Field(
        default_factory=lambda: DurationLevels(warn=timedelta(minutes=5), critical=timedelta(minutes=15))
    )
    long_transaction: DurationLevels = Field(
        default_factory=lambda: DurationLevels(warn=timedelta(hours=1), critical=timedelta(hours=12))
    )
    """Open and working."""
    blocked: DurationLevels = Field(
        default_factory=lambda: DurationLevels(warn=timedelta(minutes=1), critical=timedelta(minutes=5))
    )
    """How long a session waits for a lock."""
    wraparound: PercentLevels = Field(default_factory=lambda: PercentLevels(warn=50, critical=75))
    """Of the 2^31 transaction ids (or multixacts) after which no write is accepted."""
    sequences: PercentLevels = Field(default_factory=lambda: PercentLevels(warn=75, critical=90))
    """Of the values of a sequence that are used."""
    replication_lag_mb: Levels = Field(default_factory=lambda: Levels(warn=50, critical=100))
    """Beside `limits.postgres_replication_lag`: the primary knows no seconds of a standby that replays nothing."""
    slot_kept_mb: Levels = Field(default_factory=lambda: Levels(warn=1024, critical=10240))
    """WAL that a replication slot keeps on the disk."""
    cache_hit: Percent = 99
    """The daily report names databases below it."""
    least_calls: Annotated[Whole, Field(ge=1)] = 100
    """Fewer calls between two looks say nothing about query time."""


class PostgresMaintenance(Model):
    """From when on a table or index is worked on. Shares and sizes hold together: a share of little is little."""

    window: Window = Field(default_factory=lambda: Window(last_start=timedelta(hours=2), hard_end=timedelta(hours=3)))
    """Counted from the start of the run. Nothing starts after `last_start`; what runs at `hard_end` is cancelled."""
    lock_timeout: Duration = timedelta(seconds=5)
    """So long is waited for a lock; everybody else waits behind it."""
    analyze_timeout: Duration = timedelta(minutes=5)
    vacuum_timeout: Duration = timedelta(hours=1)
    reindex_timeout: Duration = timedelta(hours=1)
    dead_percent: Percent = 10
    dead_rows: Annotated[Whole, Field(ge=0)] = 10_000
    changed_percent: Percent = 10
    changed_rows: Annotated[Whole, Field(ge=0)] = 1_000
    freeze_percent: Annotated[Number, Field(gt=0, le=100)] = 75
    """Of autovacuum_freeze_max_age: older tables are frozen in our window, before autovacuum has to at any hour."""
    index_bloat_percent: Percent = 50
    index_waste_mb: Number = 100
    reindex_tables: Annotated[tuple[TableName, ...], unique("table")] = ()
    """Tables (schema.table, in every database) whose bloated indexes are rebuilt. Others are only reported."""
    reindex_invalid: StrictBool = True
    """Rebuild what an interrupted CREATE INDEX CONCURRENTLY left invalid, on any table."""
    largest_index_mb: Number = 51_200
    """A larger index is not rebuilt: that needs its size again on the disk, and hours."""


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must name at least one database")
    return value


class Postgres(Model):
    name: Name
    """The instance's identifier."""
    connection: ConnectionId = "dbops_postgres"
    """A role with pg_monitor; its database is only where it begins."""
    maintenance_connection: ConnectionId = "dbops_postgres_maintenance"
    """The owner of the tables, or from PostgreSQL 17 on a role with pg_maintain."""
    databases: Annotated[tuple[DatabaseName, ...], unique("database"), AfterValidator(_some)]
    """Whose tables are looked at and maintained. What concerns the whole instance is asked in the first one."""
    storage_gb: Annotated[Number, Field(gt=0)] | None = None
    """Size of its volume, for `limits.postgres_disk`: SQL cannot ask for it. None: RDS is asked, where there is a
    section `rds`; else the fill of the disk is not checked."""
    schedules: PostgresSchedules = Field(default_factory=PostgresSchedules)
    health: PostgresHealth = Field(default_factory=PostgresHealth)
    maintenance: PostgresMaintenance = Field(default_factory=PostgresMaintenance)
    aws_connection: ConnectionId = Field(default_factory=inherited)
    """For what RDS does. Default: that of the storage."""
    region: Region = Field(default_factory=inherited)
    """Default: that of the storage."""
    rds: PostgresRds | None = None
    """None: the instance is not on RDS."""
    exports: PostgresExports | None = None
    """None: nothing is exported."""
    migrations: Annotated[tuple[Migrated, ...], unique("database")] = ()
    """Which version each database is to be at. Those that are not named are not looked at."""
    guard: ChangeGuard = Field(default_factory=ChangeGuard)
    audit: Audit = Field(default_factory=Audit)
    access: Annotated[tuple[PostgresGrantee, ...], unique("role")] = ()
    """Who may what. Empty: rights are not reviewed."""
    recovery: PostgresRecovery | None = None
    """None: no recovery to a moment by this package."""

    @field_validator("rds")
    @classmethod
    def _copies_go_elsewhere(cls, value: PostgresRds | None, info: ValidationInfo) -> PostgresRds | None:
        if value is not None and value.copy_region is not None and value.copy_region == info.data.get("region"):
            refuse([(("copy_region",), "is the region of the instance: a copy is there for the loss of that one")])
        return value

    @field_validator("exports")
    @classmethod
    def _drills_go_elsewhere(cls, value: PostgresExports | None, info: ValidationInfo) -> PostgresExports | None:
        """A drill makes and drops databases: it gets no connection that anything else uses."""
        scratch = value.scratch if value is not None else None
        for name in ("connection", "maintenance_connection"):
            if scratch is not None and scratch.connection == info.data.get(name):
                refuse([(("scratch", "connection"), f"is that of `postgres.{name}`: drills need one of their own")])
        return value

    @field_validator("migrations")
    @classmethod
    def _of_the_databases(cls, value: tuple[Migrated, ...], info: ValidationInfo) -> tuple[Migrated, ...]:
        known = info.data.get("databases")
        refuse(
            ((index, "name"), f"{one.name} is not among databases")
            for index, one in enumerate(value)
            if known is not None and one.name not in known
        )
        return value

    @field_validator("access")
    @classmethod
    def _in_the_databases(cls, value: tuple[PostgresGrantee, ...], info: ValidationInfo) -> tuple[PostgresGrantee, ...]:
        known = info.data.get("databases")
        refuse(
            ((index, "databases", place), f"{name} is not among databases")
            for index, one in enumerate(value)
            for place, name in enumerate(one.databases)
            if known is not None and name not in known
        )
        return value

    @field_validator("guard")
    @classmethod
    def _tried_somewhere(cls, value: ChangeGuard, info: ValidationInfo) -> ChangeGuard:
        known = {one.name for one in info.data.get("migrations") or ()}
        if value.staging is not None and "migrations" in info.data and value.staging not in known:
            refuse([(("staging",), f"{value.staging} is not among migrations")])
        return value

    @field_validator("audit")
    @classmethod
    def _log_of_rds(cls, value: Audit, info: ValidationInfo) -> Audit:
        if value.log == "rds" and "rds" in info.data and info.data["rds"] is None:
            refuse([(("log",), "is rds, but there is no section `rds`")])
        return value

    def migrated(self, database: str) -> Migrated | None:
        """What is expected of the migrations of a database."""
        return next((one for one in self.migrations if one.name == database), None)
