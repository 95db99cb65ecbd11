"""What the tests of archival share: a table of the stand-in, its archive, and counting both by key."""

from __future__ import annotations

import os
import secrets
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

import pyarrow.dataset as ds
import pyarrow.fs as fs
from dbops.connections import ConnectionInfo
from dbops.platform import Archive, ArchiveTable
from dbops.redshift import archive
from dbops.redshift.archive import DayDone
from dbops.redshift.archive_parts import ArchivedPart, ArchivePlace, parts_of
from dbops.redshift.session import ConnectorSession, Row, Session, open_session
from dbops.backups.store import S3Store
from dbops_lab import connections
from dbops_lab.testing import LabRedshift, LabS3

NOW = datetime(2026, 11, 25, 0, 5, tzinfo=UTC)
DAY = date(2026, 9, 1)
COLUMNS = '"timestamp" timestamp, bid varchar(32), "we""ird" varchar(64), price decimal(12,6), won boolean, score float8'


@dataclass
class World:
    """One table, and the place where its days go."""

    info: ConnectionInfo
    s3: ConnectionInfo
    bucket: str
    region: str
    table: str
    settings: Archive
    keys: list[int] = field(default_factory=list)
    """Every row that was loaded, by its key."""

    @property
    def place(self) -> ArchivePlace:
        store = S3Store(self.bucket, self.settings.prefix, self.s3, self.region)
        return ArchivePlace(store, self.settings, self.region, "bedrock")

    @property
    def configured(self) -> ArchiveTable:
        return self.settings.tables[0]

    def open(self) -> ConnectorSession:
        return open_session(self.info)

    def sql(self, text: str, *values: Any) -> list[Row]:
        with self.open() as session:
            return session.rows(text, *values)

    def run(self, *statements: str) -> None:
        with self.open() as session:
            for text in statements:
                session.run(text)

    def create(self, table: str | None = None) -> None:
        self.run(f"create table {table or self.table} (id bigint, {COLUMNS}) sortkey (\"timestamp\")")

    def load(self, rows: int, day: date = DAY, table: str | None = None) -> list[int]:
        """Rows of a day with new keys."""
        first = max(self.keys, default=0) + 1
        keys = list(range(first, first + rows))
        self.keys += keys
        with self.open() as session:
            for at in range(0, rows, 500):
                session.run(f"insert into {table or self.table} values " + ", ".join(
                    f"({key}, '{day} 00:00:00'::timestamp + interval '{key % 86400} seconds', 'bid-{key}', "
                    f"{'null' if key % 7 == 0 else quoted(key)}, {key}.25, {'true' if key % 2 else 'false'}, {key} / 3.0)"
                    for key in keys[at : at + 500]
                ))  # fmt: skip
        return keys

    def archive(self, day: date = DAY, *, session: Session | None = None, now: datetime = NOW, **more: Any) -> DayDone:
        more.setdefault("holder", "run-1")
        if session is not None:
            return archive.archive_day(session, self.place, self.configured, day, now=now, **more)
        with self.open() as own:
            return archive.archive_day(own, self.place, self.configured, day, now=now, **more)

    # ------------------------------------------------------------------ counting

    def in_table(self, table: str | None = None) -> list[int]:
        return sorted(row[0] for row in self.sql(f"select id from {table or self.table}"))

    def in_archive(self) -> list[int]:
        """What a reader sees that knows no manifest: pyarrow, of all files below the dataset."""
        return sorted(self.dataset().to_table(columns=["id"])["id"].to_pylist())

    def dataset(self) -> Any:
        filesystem = fs.S3FileSystem(
            access_key=self.s3.login,
            secret_key=self.s3.password,
            endpoint_override=self.s3.extra["endpoint_url"],
            region=self.region,
        )
        base = f"{self.bucket}/{self.settings.prefix}/{self.configured.dataset}"
        return ds.dataset(base, filesystem=filesystem, format="parquet", partitioning="hive")

    def archived(self) -> list[ArchivedPart]:
        return parts_of(self.place.store, self.configured.dataset)

    def staged(self) -> list[str]:
        return [item.key for item in self.place.store.list("_attempts/")]

    def published(self) -> list[str]:
        return [item.key for item in self.place.store.list(f"{self.configured.dataset}/")]

    def marks(self) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self.sql(f"select attempt, outcome from {self.settings.marks} order by 1")]

    def check(self) -> None:
        """Rows in the table and rows in the archive are the rows that were loaded, each exactly once."""
        archived = self.in_archive() if self.published() else []
        assert Counter(self.in_table()) + Counter(archived) == Counter(self.keys)
        told = sum(part.rows for part in self.archived())
        assert told == len(archived), "the documents say what is there"


def quoted(key: int) -> str:
    return f"'it''s {key} \\u00fc'"


def world(redshift: LabRedshift, s3: LabS3, *, table: str | None = None, days: str = "rows", **settings: Any) -> World:
    name = table or f"public.bids_{secrets.token_hex(4)}"
    archived = ArchiveTable(table=name, column="timestamp", keep=timedelta(days=30), days=days)
    made = Archive(
        prefix=s3.new_prefix(), tables=(archived,), marks=f"public.marks_{secrets.token_hex(4)}",
        **settings,
    )  # fmt: skip
    return World(redshift.info(), s3.connection, s3.bucket, s3.region, name, made)
