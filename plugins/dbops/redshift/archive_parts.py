"""Where archived days lie, and what is written down about them.

Below the prefix of the archive (`s3://<bucket>/archive/`):

    public.wins/dt=2026-01-31/<attempt>_0000_part_00.parquet    the rows: all files here, and nothing else is here
    _parts/public.wins/dt=2026-01-31/<attempt>.json             what a part is: files, checks, when it was deleted
    _parts/public.wins/dt=2026-01-31/<attempt>.manifest         its files, for COPY ... MANIFEST
    _attempts/public.wins/dt=2026-01-31/<attempt>.json          a day that is being archived, until all of it is done
    _attempts/public.wins/dt=2026-01-31/<attempt>/...           what UNLOAD wrote
    _leases/public.wins/dt=2026-01-31.json                      who works on the day

`public.wins/` is one hive-partitioned dataset for Athena, DuckDB (`hive_partitioning`) and pyarrow: whatever reads it
needs no manifest, since rows that are not verified never lie below it. UNLOAD writes to `_attempts/`; what was verified
is copied to the dataset by S3 itself, unchanged (the copy is bound to the ETag that was read). A name that begins with
`_` cannot be a dataset, whose names hold a dot. The column of the date stays in the files; `dt` is the day, in UTC.

A day has a part for each time that rows of it were archived: a second one when rows arrived late. `<attempt>` is when
the attempt began, and a random number. Documents lie apart from the rows so that the bucket's lifecycle can move rows
to slower storage and leave readable what says where they are.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Literal
from urllib.parse import quote, unquote

from pydantic import Field

from dbops.backups.manifest import Count, Document, Sha256, Utc
from dbops.backups.store import PreconditionFailed, S3Store
from dbops.connections import ConnectionInfo
from dbops.errors import ConfigurationError
from dbops.platform import Archive, Platform, Redshift
from dbops.redshift.archive_checks import Checks, Column

PARTS, ATTEMPTS, LEASES, PLANS = "_parts", "_attempts", "_leases", "_plans"
AttemptName = Annotated[str, Field(pattern=r"^\d{8}T\d{6}Z-[0-9a-f]{8}$")]
_READERS = 16
_TRIES = 5


@dataclass(frozen=True)
class ArchivePlace:
    """The archive of a platform's warehouse."""

    store: S3Store
    """Its keys are below the prefix of the archive."""
    settings: Archive
    region: str
    warehouse: str

    @property
    def url(self) -> str:
        return self.store.url


def open_place(platform: Platform, connection: ConnectionInfo | None) -> ArchivePlace:
    """:raises ConfigurationError: the platform has no warehouse."""
    redshift, storage = warehouse(platform), platform.storage
    settings = redshift.archive
    store = S3Store(
        settings.bucket or storage.bucket, settings.prefix, connection, storage.region, kms_key=storage.kms_key
    )
    return ArchivePlace(store, settings, storage.region, redshift.name)


def warehouse(platform: Platform) -> Redshift:
    if platform.redshift is None:
        raise ConfigurationError(f"platform {platform.name} has no redshift: describe the warehouse there")
    return platform.redshift


# --- documents ----------------------------------------------------------------------------------------------


class Attempt(Document):
    """A day that somebody began to archive."""

    dataset: str
    day: date
    table: str
    attempt: AttemptName
    started_at: Utc
    holder: str


class ArchivedFile(Document):
    name: str
    size: Count
    rows: Count
    sha256: Sha256


class ArchivedPart(Document):
    """Rows of a day that were verified, and lie in the dataset.

    Written once, before their deletion from the warehouse; then `deleted_at` is set, and `attached_at` whenever they
    are brought back. Which of them the warehouse holds too is decided by its own table of marks, not by this document.
    """

    schema_version: Literal[1] = 1
    warehouse: str
    dataset: str
    table: str
    """Where the rows were: another table than the dataset's name says, where each day has one."""
    column: str
    day: date
    part: Annotated[int, Field(ge=1)]
    attempt: AttemptName
    started_at: Utc
    archived_at: Utc
    columns: tuple[Column, ...]
    files: tuple[ArchivedFile, ...]
    rows: Count
    bytes: Count
    checks: Checks
    manifest_sha256: Sha256 | None
    """Of the manifest that UNLOAD wrote; None: there were no rows."""
    deleted_at: Utc | None = None
    attached_at: Utc | None = None

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.day} part {self.part}"


# --- keys ---------------------------------------------------------------------------------------------------


def new_attempt(now: datetime) -> str:
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def folder(dataset: str) -> str:
    """A dataset's name as a part of a key."""
    return quote(dataset, safe=" ")


def day_prefix(dataset: str, day: date) -> str:
    return f"{folder(dataset)}/dt={day:%Y-%m-%d}/"


def file_key(dataset: str, day: date, name: str) -> str:
    return day_prefix(dataset, day) + name


def part_key(dataset: str, day: date, attempt: str) -> str:
    return f"{PARTS}/{day_prefix(dataset, day)}{attempt}.json"


def manifest_key(dataset: str, day: date, attempt: str) -> str:
    return f"{PARTS}/{day_prefix(dataset, day)}{attempt}.manifest"


def attempt_key(dataset: str, day: date, attempt: str) -> str:
    return f"{ATTEMPTS}/{day_prefix(dataset, day)}{attempt}.json"


def attempt_prefix(dataset: str, day: date, attempt: str) -> str:
    return f"{ATTEMPTS}/{day_prefix(dataset, day)}{attempt}/"


def lease_key(dataset: str, day: date) -> str:
    return f"{LEASES}/{folder(dataset)}/dt={day:%Y-%m-%d}.json"


def attempt_of(name: str) -> str:
    """The attempt that a file of the dataset, a document or a folder of attempts belongs to."""
    return name.partition("/")[0].partition(".")[0].partition("_")[0]


# --- reading ------------------------------------------------------------------------------------------------


def days_below(store: S3Store, prefix: str) -> dict[date, list[str]]:
    """The days that have anything below a prefix, and the names of what they have there."""
    found: dict[date, list[str]] = {}
    for item in store.list(prefix):
        folder_name, slash, rest = item.key[len(prefix) :].partition("/")
        try:
            day = date.fromisoformat(folder_name.removeprefix("dt="))
        except ValueError:
            continue
        if slash and folder_name.startswith("dt="):
            found.setdefault(day, []).append(rest)
    return found


def unfinished_days(store: S3Store, dataset: str) -> list[date]:
    """Days that somebody began to archive and did not end."""
    return sorted(days_below(store, f"{ATTEMPTS}/{folder(dataset)}/"))


def parts_of_day(store: S3Store, dataset: str, day: date) -> list[ArchivedPart]:
    """The committed parts of a day, in the order in which they were made."""
    prefix = f"{PARTS}/{day_prefix(dataset, day)}"
    return _read(store, [item.key for item in store.list(prefix) if item.key.endswith(".json")])


def update_part(
    store: S3Store, part: ArchivedPart, *, attached_at: datetime | None, deleted_at: datetime | None = None
) -> ArchivedPart:
    """Write down that rows were deleted, or brought back; what somebody else has written of it meanwhile stays.

    :raises PreconditionFailed: it is written again and again.
    """
    key = part_key(part.dataset, part.day, part.attempt)
    for left in reversed(range(_TRIES)):
        there = store.head(key)
        part = ArchivedPart.from_json(store.get(key), f"{store.url}/{key}")
        if deleted_at and part.deleted_at and part.attached_at is None and attached_at is None:
            return part
        part = part.model_copy(update={"deleted_at": deleted_at or part.deleted_at, "attached_at": attached_at})
        try:
            store.put(key, part.to_json(), if_match=there.etag if there else "")
            break
        except PreconditionFailed:
            if not left:
                raise
    return part


def parts_of(store: S3Store, dataset: str, first: date | None = None, last: date | None = None) -> list[ArchivedPart]:
    """The committed parts of a dataset, ordered by day; of these days, both included."""
    prefix = f"{PARTS}/{folder(dataset)}/"
    keys = [
        f"{prefix}dt={day}/{name}"
        for day, names in days_below(store, prefix).items()
        if (first is None or first <= day) and (last is None or day <= last)
        for name in names
        if name.endswith(".json")
    ]
    return _read(store, keys)


def datasets(store: S3Store) -> list[str]:
    """Every dataset that has an archived day, also of tables that nobody archives any more."""
    return [unquote(found.split("/")[1]) for found in store.list_prefixes(f"{PARTS}/")]


def _read(store: S3Store, keys: Sequence[str]) -> list[ArchivedPart]:
    def read(key: str) -> ArchivedPart:
        return ArchivedPart.from_json(store.get(key), f"{store.url}/{key}")

    with ThreadPoolExecutor(_READERS, thread_name_prefix="parts") as pool:
        found = list(pool.map(read, keys))
    return sorted(found, key=lambda part: (part.day, part.part, part.attempt))


def files_of(parts: Iterable[ArchivedPart]) -> list[tuple[ArchivedPart, ArchivedFile, str]]:
    """Each file of the parts with its key."""
    return [(part, file, file_key(part.dataset, part.day, file.name)) for part in parts for file in part.files]
