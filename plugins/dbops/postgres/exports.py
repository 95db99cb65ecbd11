"""Exports of PostgreSQL in the store: what is written down about one, those that there are, and which may go.

One lies in `postgres/<instance>/<export>/<id>/`. It exists once its `manifest.json` does, which is written last and
once; what was read back stands in `verified.json` beside it. Its deletion goes as that of every backup
(`dbops.backups.expire`): `expired.json`, then the manifest, then the objects, then `expired.json`.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from dbops.backups.bucket import upkeep_rules
from dbops.backups.lease import Lease
from dbops.backups.manifest import Count, Document, ManifestError, Name, OptionalEncryption, Sha256, Utc, Verified
from dbops.backups.retention import Point, Policy, RetentionPlan, plan_retention
from dbops.backups.store import NotFound, Store
from dbops.errors import FinalError
from dbops.platform import Retention

log = logging.getLogger(__name__)

ROOT: Final = "postgres/"
LEASE = timedelta(minutes=15)
_ID = r"\d{8}T\d{6}Z-[0-9a-f]{6}"
_READERS = 16

ExportId = Annotated[str, Field(pattern=f"^{_ID}$")]
Checksum = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class IncompleteExport(FinalError):
    """Something that a manifest names is not in the store as it was written."""


class ExportedTable(Document):
    """Rows of one table, as of the snapshot. `checksum`: include/sql/postgres/export_checksum.sql; None: not wanted."""

    namespace: Annotated[str, Field(min_length=1)]
    """Its schema, which is no name for a field of a document."""
    name: Annotated[str, Field(min_length=1)]
    rows: Count
    checksum: Checksum | None

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"


class StoredFile(Document):
    """One object of an export: a file as pg_dump wrote it. Size and SHA-256 are those of the stored bytes."""

    name: Name
    size: Count
    sha256: Sha256


class ExportManifest(Document):
    """A committed export. Without this object there is none, whatever else lies in its prefix."""

    schema_version: Literal[1] = 1
    id: ExportId
    instance: Name
    export: Name
    database: str
    run: str
    """What made it: the same in each try of one run."""
    snapshot_at: Utc
    """The moment whose rows it holds."""
    started_at: Utc
    finished_at: Utc
    server_version: str
    system: str
    """The server's own identifier: a restore elsewhere must not end up on the same one."""
    program_version: str
    format: Literal["custom", "directory"]
    jobs: Annotated[int, Field(ge=1)]
    """Tables that were read at once, and are restored at once."""
    whole: bool
    """Whether it holds the rows of every table; always the definition of the whole database."""
    encoding: str
    collation: str
    ctype: str
    tables: list[ExportedTable]
    without_rows: list[str]
    """Foreign keys, as `schema table constraint`, to tables whose rows are not in it."""
    objects: list[StoredFile] = Field(min_length=1)
    stored_bytes: Count
    platform_sha256: str
    encryption: OptionalEncryption = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.finished_at < self.started_at:
            raise ValueError("finished_at is before started_at")
        if self.stored_bytes != sum(item.size for item in self.objects):
            raise ValueError("stored_bytes is not the sum of the objects' sizes")
        names = [item.name for item in self.objects]
        if len(set(names)) < len(names):
            raise ValueError("two objects have the same name")
        if (names == [CUSTOM]) != (self.format == "custom") or (self.format == "directory" and TOC not in names):
            raise ValueError(f"the objects are not those of the format {self.format}")
        return self

    @property
    def prefix(self) -> str:
        return export_prefix(self.instance, self.export, self.id)

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def server_major(self) -> int:
        return int(self.server_version.partition(".")[0])

    @property
    def program_major(self) -> int:
        return int(self.program_version.partition(".")[0])


CUSTOM, TOC = "database.dump", "toc.dat"
"""Names of objects: the whole archive, or the table of contents of one in files."""


@dataclass(frozen=True)
class Export:
    """A committed export, as it is found. `damage`: why its manifest cannot be used."""

    instance: str
    export: str
    id: str
    snapshot_at: datetime
    manifest_sha256: str
    verified: Verified | None
    damage: str | None
    document: ExportManifest | None

    @property
    def manifest(self) -> ExportManifest:
        """:raises ManifestError: it is damaged."""
        if self.document is None:
            raise ManifestError(f"{self.damage}; take another export")
        return self.document

    @property
    def problem(self) -> str | None:
        """What is known to be wrong with it."""
        if self.damage:
            return self.damage
        if self.verified and not self.verified.ok:
            return f"was read back at {self.verified.at:%FT%TZ} and is damaged: {'; '.join(self.verified.problems[:3])}"
        return None


# --- keys ---------------------------------------------------------------------------------------------------


def export_prefix(instance: str, export: str, id: str = "") -> str:
    """Where the exports of one name, or the objects of one, lie in the store; ends with `/`."""
    return f"{ROOT}{instance}/{export}/{id}/" if id else f"{ROOT}{instance}/{export}/"


def lease_key(instance: str, export: str) -> str:
    return f"{export_prefix(instance, export)}_lease.json"


def manifest_key(instance: str, export: str, id: str) -> str:
    return f"{export_prefix(instance, export, id)}manifest.json"


def verified_key(instance: str, export: str, id: str) -> str:
    return f"{export_prefix(instance, export, id)}verified.json"


def expired_key(instance: str, export: str, id: str) -> str:
    return f"{export_prefix(instance, export, id)}expired.json"


def lifecycle_rules(prefix: str) -> list[dict[str, Any]]:
    """What the bucket does by itself for exports below a prefix of it; for `backups.bucket.ensure_lifecycle`."""
    return upkeep_rules(f"{prefix}{ROOT}")


# --- reading ------------------------------------------------------------------------------------------------


def exports(store: Store, instance: str, export: str) -> list[Export]:
    """All committed ones of a name, the oldest snapshot first; damaged ones are among them."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="exports") as pool:
        found = pool.map(lambda id: _export(store, instance, export, id), list(_ids(store, instance, export)))
        return sorted((item for item in found if item), key=lambda item: (item.snapshot_at, item.id))


def find_export(store: Store, instance: str, export: str, id: str) -> Export:
    """:raises NotFound: there is none, or it was never committed."""
    found = _export(store, instance, export, id) if re.fullmatch(_ID, id) else None
    if found is None:
        raise NotFound(
            f"{store.url}/{export_prefix(instance, export, id)}: no such export; "
            "`dbops postgres backup list` shows those that exist"
        )
    return found


def newest_verified(store: Store, instance: str, export: str) -> Export:
    """The newest one that was read back and is whole.

    :raises NotFound: there is none.
    """
    for id in sorted(_ids(store, instance, export), reverse=True):
        found = _export(store, instance, export, id)
        if found is not None and found.problem is None and found.verified is not None:
            return found
    raise NotFound(
        f"{store.url}/{export_prefix(instance, export)}: no export was read back and found whole; "
        "`dbops postgres backup list` shows what there is"
    )


def export_of(store: Store, instance: str, export: str, run: str) -> Export | None:
    """The one that this run has committed already."""
    # A retry comes within hours: what is older than the newest few is of other runs.
    for id in sorted(_ids(store, instance, export), reverse=True)[:5]:
        found = _export(store, instance, export, id)
        if found is not None and found.document is not None and found.document.run == run:
            return found
    return None


def _ids(store: Store, instance: str, export: str) -> Iterator[str]:
    for prefix in store.list_prefixes(export_prefix(instance, export)):
        name = prefix.rstrip("/").rpartition("/")[2]
        if re.fullmatch(_ID, name):
            yield name


def _export(store: Store, instance: str, export: str, id: str) -> Export | None:
    key = manifest_key(instance, export, id)
    try:
        data = store.get(key)
    except NotFound:
        return None
    document, damage = None, None
    try:
        document = ExportManifest.from_json(data, f"{store.url}/{key}")
        if (document.instance, document.export, document.id) != (instance, export, id):
            damage = f"{store.url}/{key}: is the manifest of {document.prefix}, not of the place where it lies"
            document = None
    except ManifestError as error:
        damage = str(error)
    sha256 = hashlib.sha256(data).hexdigest()
    at = document.snapshot_at if document else datetime.strptime(id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    verified = _verified(store, verified_key(instance, export, id), sha256)
    return Export(instance, export, id, at, sha256, verified, damage, document)


def _verified(store: Store, key: str, manifest_sha256: str) -> Verified | None:
    try:
        found = Verified.from_json(store.get(key), f"{store.url}/{key}")
    except NotFound:
        return None
    except ManifestError as error:
        log.warning("%s; the export counts as not verified", error)
        return None
    return found if found.manifest_sha256 == manifest_sha256 else None


# --- writing ------------------------------------------------------------------------------------------------


def commit_export(store: Store, manifest: ExportManifest) -> None:
    """Write the manifest, after which the export exists.

    :raises IncompleteExport: one of its objects is not in the store as it was written.
    :raises AlreadyExists: there is one of this id.
    """
    key = manifest_key(manifest.instance, manifest.export, manifest.id)
    there = {item.key: item.size for item in store.list(manifest.prefix)}
    for item in manifest.objects:
        if (size := there.get(manifest.prefix + item.name)) != item.size:
            found = "is not there" if size is None else f"has {size} bytes"
            raise IncompleteExport(
                f"commit {store.url}/{key}: {item.name} {found}, {item.size} bytes were stored; export again"
            )
    store.put(key, manifest.to_json(), if_absent=True)


def remember_verified(store: Store, export: Export, at: datetime, problems: Sequence[str]) -> Verified:
    """Write down beside the manifest what was found."""
    found = Verified(at=at, manifest_sha256=export.manifest_sha256, ok=not problems, problems=list(problems))
    store.put(verified_key(export.instance, export.export, export.id), found.to_json())
    return found


# --- letting go ---------------------------------------------------------------------------------------------


def plan_export_expiry(
    store: Store, instance: str, export: str, keep: timedelta, policy: Retention, now: datetime
) -> tuple[RetentionPlan, dict[str, Export]]:
    """Which exports may go: the rules of `backups.retention`, with each as a full backup; and all of them by id.

    :param keep: how long they are kept.
    :param policy: floor of newest verified ones, largest share that goes at once, grace; the platform's.
    """
    found = exports(store, instance, export)
    kept: Policy = policy.model_copy(update={"full": keep, "incremental": keep})
    points = [
        Point(
            id=item.id,
            snapshot_at=item.snapshot_at,
            full=True,
            verified=bool(item.verified and item.verified.ok),
            problem=item.problem,
            changed_at=(
                item.verified.at
                if item.verified and not item.verified.ok
                else (item.document.finished_at if item.document else None)
            ),
        )
        for item in found
    ]
    return plan_retention(points, kept, now), {item.id: item for item in found}


def expire_export(store: Store, instance: str, export: str, id: str, manifest_sha256: str, holder: str) -> str | None:
    """Delete an export that a plan names; why it was left, or None when it is gone. Safe to repeat.

    :param manifest_sha256: of the manifest that the plan saw.
    :raises LeaseHeld: an export of the name runs.
    """
    lease = Lease.acquire(store, lease_key(instance, export), holder, LEASE)
    with lease.kept():
        found = _export(store, instance, export, id)
        if found is not None:
            if found.manifest_sha256 != manifest_sha256:
                return "its manifest has changed since the plan was made"
            key = manifest_key(instance, export, id)
            store.put(expired_key(instance, export, id), store.get(key))
            store.delete([key])
        _delete_objects(store, instance, export, id)
    return None


def sweep_exports(
    store: Store, instance: str, export: str, grace: timedelta, holder: str, now: datetime | None = None
) -> list[str]:
    """Remove what nobody will finish: interrupted deletions, and what was never committed and is older than `grace`.

    :raises LeaseHeld: an export of the name runs.
    """
    before, swept = (now or datetime.now(UTC)) - grace, []
    lease = Lease.acquire(store, lease_key(instance, export), holder, LEASE)
    with lease.kept():
        for id in list(_ids(store, instance, export)):
            if store.head(manifest_key(instance, export, id)) is not None:
                continue
            times = [item.modified_at for item in store.list(export_prefix(instance, export, id)) if item.modified_at]
            begun = store.head(expired_key(instance, export, id)) is not None
            if begun or max(times, default=before) <= before:
                _delete_objects(store, instance, export, id)
                swept.append(id)
        store.abort_uploads(export_prefix(instance, export), before)
    return swept


def _delete_objects(store: Store, instance: str, export: str, id: str) -> None:
    """All objects of an export that has no manifest any more, the marker last."""
    prefix, marker = export_prefix(instance, export, id), expired_key(instance, export, id)
    store.delete([item.key for item in store.list(prefix) if item.key != marker])
    store.abort_uploads(prefix)
    store.delete([marker])


OnBytes = Callable[[int], None]
"""Told how many bytes were stored, or read, since the last call."""


def unwatched(size: int) -> None:
    """Nobody is watching."""
