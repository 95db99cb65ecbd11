"""The parts of a platform file that describe backups of its PostgreSQL instance: RDS, exports, drills."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StringConstraints, ValidationInfo, field_validator

from dbops.platform.fields import (
    ConnectionId,
    Duration,
    KmsKey,
    Model,
    Name,
    PlatformError,
    Region,
    Whole,
    refuse,
    unique,
)
from dbops.platform.redshift import Days, TableName

DatabaseName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[^\x00\"/]+$")]  # 63: its limit


def _hours(value: str) -> str:
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", value)
    if not found or value[:5] == value[6:]:
        raise ValueError("is no window; write hh:mm-hh:mm in UTC, as RDS does: 23:00-00:00")
    return value


class PostgresRds(Model):
    """The instance as RDS knows it, under `postgres.name`."""

    backup_window: Annotated[str, AfterValidator(_hours)] | None = None
    """When RDS must take its automated backup, in UTC: a setting that differs is reported. None: any time will do."""
    backup_retention: Days = timedelta(days=7)
    """RDS must keep its automated backups for so many days."""
    max_age: Duration = timedelta(hours=26)
    """The newest automated snapshot must be younger: it is taken daily, and takes a while."""
    daily_snapshot: StrictBool = True
    """Take a manual snapshot every day too: automated ones go with their instance, and stay in their region."""
    keep: Days = timedelta(days=7)
    """How long the manual ones are kept that this package takes."""
    snapshot_timeout: Duration = timedelta(hours=2)
    """A snapshot, or its copy, that is not available by then has failed."""
    copy_region: Region | None = None
    """Where the daily snapshot is copied to. None: nowhere."""
    copy_kms_key: KmsKey | None = None
    """A key of `copy_region`; an encrypted snapshot cannot be copied to another region without one."""

    @field_validator("copy_kms_key")
    @classmethod
    def _of_a_copy(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("copy_region") is None:
            raise ValueError("has no meaning without copy_region")
        return value


class PostgresExport(Model):
    """What is exported together: the whole definition of one database, and rows, as of one moment."""

    name: Name
    database: DatabaseName
    tables: Annotated[tuple[TableName, ...], unique("table")] = ()
    """Whose rows are exported, with those of their partitions. Empty: the rows of all."""
    jobs: Annotated[Whole, Field(ge=1, le=32)] = 1
    """With more than one, so many tables are read at once into files of the worker (pg_dump -Fd -j), then stored."""
    compression: Annotated[Whole, Field(ge=0, le=9)] | None = None
    """Level of gzip. None: zstd, where the workers' pg_dump has it (from 16 on; five times as fast and no larger)."""
    checksums: StrictBool = True
    """Have the server hash each row, which costs it about what reading the table costs. Off: rows are only counted."""


class ExportScratch(Model):
    """Where drills restore to: each makes a database of its own and drops it."""

    connection: ConnectionId = "dbops_postgres_scratch"
    """A role with CREATEDB on a server that serves nobody."""
    on_the_instance: StrictBool = False
    """Let drills make their databases on the instance that was exported. They load it: a lab may do so."""


class PostgresExports(Model):
    connection: ConnectionId = "dbops_postgres_export"
    """A role that may read what is exported (pg_read_all_data)."""
    programs: Annotated[str, StringConstraints(pattern=r"^/")] | None = None
    """Folder of the workers with pg_dump and pg_restore; None: the oldest that fits the server, of those found in
    /usr/lib/postgresql and on the PATH."""
    work_folder: Annotated[str, StringConstraints(pattern=r"^/")] | None = None
    """Where the workers have room for exports with `jobs`; None: that of temporary files."""
    lock_timeout: Duration = timedelta(seconds=30)
    """So long is waited for each table's lock; only a change of the table's definition holds it."""
    timeout: Duration = timedelta(hours=2)
    """Longest that one export may take: so long old row versions stay on the instance."""
    keep: Days = timedelta(days=30)
    scratch: ExportScratch | None = None
    """None: no drills."""
    sets: Annotated[tuple[PostgresExport, ...], unique("export"), Field(min_length=1)]

    @field_validator("scratch")
    @classmethod
    def _of_nobody(cls, value: ExportScratch | None, info: ValidationInfo) -> ExportScratch | None:
        if value is not None and value.connection == info.data.get("connection"):
            refuse([(("connection",), "is the one that exports: drills must not be able to write there")])
        return value

    def export(self, name: str) -> PostgresExport:
        """:raises PlatformError: there is none; the message names those that there are."""
        for one in self.sets:
            if one.name == name:
                return one
        raise PlatformError(f"{name!r} is no export; there are {', '.join(one.name for one in self.sets)}")
