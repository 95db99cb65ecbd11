"""What the tests of archival share: a table of the stand-in, its archive, and counting both by key."""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import pyarrow.dataset as ds
import pyarrow.fs as fs
from dbops.backups.store import S3Store
from dbops.connections import ConnectionInfo
from dbops.platform import Archive, ArchiveTable
from dbops.redshift import archive
from dbops.redshift.archive import DayDone
from dbops.redshift.archive_parts import ArchivedPart, ArchivePlace, folder, parts_of
from dbops.redshift.session import ConnectorSession, Row, Session, open_session
from dbops_lab.testing import LabRedshift, LabS3

T = TypeVar("T")
NOW = datetime(2026, 11, 25, 0, 5, tzinfo=UTC)
DAY = date(2026, 9, 1)
COLUMNS = (
    'id bigint, "timestamp" timestamp, bid varchar(32), "we""ird" varchar(64), price decimal(12,6), won boolean, '
    "score float8"
)


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
        self.run(f'create table {table or self.table} ({COLUMNS}) sortkey ("timestamp")')

    def load(self, rows: int, day: date = DAY, table: str | None = None) -> list[int]:
        """Rows of a day with new keys."""
        first = max(self.keys, default=0) + 1
        keys = list(range(first, first + rows))
        self.keys += keys
        with self.open() as session:
            for at in range(0, rows, 500):
                values = ", ".join(values_of(key, day) for key in keys[at : at + 500])
                session.run(f"insert into {table or self.table} values {values}")
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
        base = f"{self.bucket}/{self.settings.prefix}/{folder(self.configured.dataset)}"
        return ds.dataset(base, filesystem=filesystem, format="parquet", partitioning="hive")

    def archived(self) -> list[ArchivedPart]:
        return parts_of(self.place.store, self.configured.dataset)

    def staged(self) -> list[str]:
        return [item.key for item in self.place.store.list("_attempts/")]

    def published(self) -> list[str]:
        return [item.key for item in self.place.store.list(f"{folder(self.configured.dataset)}/")]

    def marks(self) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self.sql(f"select attempt, outcome from {self.settings.marks} order by 1")]

    def check(self) -> None:
        """Rows in the table and rows in the archive are the rows that were loaded, each exactly once."""
        archived = self.in_archive() if self.published() else []
        assert Counter(self.in_table()) + Counter(archived) == Counter(self.keys)
        told = sum(part.rows for part in self.archived())
        assert told == len(archived), "the documents say what is there"


def values_of(key: int, day: date) -> str:
    at = f"'{day} 00:00:00'::timestamp + interval '{key % 86400} seconds'"
    text = "null" if key % 7 == 0 else f"'it''s {key} \u00fc'"
    return f"({key}, {at}, 'bid-{key}', {text}, {key}.25, {'true' if key % 2 else 'false'}, {key} / 3.0)"


def world(redshift: LabRedshift, s3: LabS3, *, table: str | None = None, days: str = "rows", **settings: Any) -> World:
    name = table or f"public.bids_{secrets.token_hex(4)}"
    archived = ArchiveTable(table=name, column="timestamp", keep=timedelta(days=30), days=days)
    made = Archive(
        prefix=s3.new_prefix(), tables=(archived,), marks=f"public.marks_{secrets.token_hex(4)}",
        **settings,
    )  # fmt: skip
    return World(redshift.info(), s3.connection, s3.bucket, s3.region, name, made)


# --- breaking off -------------------------------------------------------------------------------------------


class Hooked(ConnectorSession):
    """A session that does something before or after a statement that matches: the first, or after `skip` of them."""

    def __init__(
        self, info: ConnectionInfo, match: str, act: Callable[[], Any], *, after: bool = False, skip: int = 0
    ) -> None:
        super().__init__(info)
        self._match, self._act, self._after, self._skip = re.compile(match, re.IGNORECASE), act, after, skip

    def run(self, sql: str, *values: Any) -> int:
        return self._hooked(sql, lambda: super(Hooked, self).run(sql, *values))

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return self._hooked(sql, lambda: super(Hooked, self).rows(sql, *values))

    def _hooked(self, sql: str, do: Callable[[], T]) -> T:
        found = self._act if "_act" in vars(self) and self._match.match(sql) else None
        if found is not None and self._skip:
            self._skip, found = self._skip - 1, None
        if found is not None:
            del self._act
            if not self._after:
                found()
        result = do()
        if found is not None and self._after:
            found()
        return result


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_in_child(pipe: Connection, made: World, match: str, after: bool, skip: int) -> None:
    """Archive the day, and be killed at a statement, or (`ledger`) before the ledger is told."""
    pipe.send("started")
    if match == "ledger":
        with made.open() as session:
            made.archive(session=session, on_part=lambda part: die())
    with Hooked(made.info, match, die, after=after, skip=skip) as session:
        made.archive(session=session)
    pipe.send("not killed")
