"""What is written down about a backup: the plan of a run, facts of its slices, and the manifest."""

from __future__ import annotations

import base64
import re
import struct
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dbops import __version__
from dbops.errors import FinalError
from dbops.platform import Engine

SCHEMA_VERSION: Final = 1
PARTITIONS = 4096
DIGEST_SIZE = 20
ENCRYPTION_HEADER = 16  # bytes that stand before the text of an encrypted object


class ManifestError(FinalError):
    """A manifest, plan or slice result that cannot be read or that contradicts itself."""


class Kind(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"


Role = Literal["records", "digests", "deleted"]
EncryptionMode = Literal["aes128", "aes256"]
Utc = Annotated[AwareDatetime, AfterValidator(lambda value: value.astimezone(UTC))]
Name = Annotated[str, Field(pattern=r"^[^/\s.][^/\s]*$", max_length=200)]
BackupId = Annotated[str, Field(pattern=r"^\d{8}T\d{6}Z-(full|incremental)$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Partition = Annotated[int, Field(ge=0, lt=PARTITIONS)]
Count = Annotated[int, Field(ge=0)]


def backup_id(snapshot_at: datetime, kind: Kind) -> str:
    """`20261123T020000Z-full`: when the snapshot began, in UTC, and its kind."""
    return f"{snapshot_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{kind}"


def backup_prefix(cluster: str, namespace: str, id: str = "") -> str:
    """Where the backups of a namespace, or the objects of one backup, lie in the store; ends with `/`."""
    return f"aerospike/{cluster}/{namespace}/{id}/" if id else f"aerospike/{cluster}/{namespace}/"


def pack_fingerprints(fingerprints: Sequence[int]) -> str:
    """Base64 of little-endian unsigned 64-bit numbers."""
    return base64.b64encode(struct.pack(f"<{len(fingerprints)}Q", *fingerprints)).decode()


def unpack_fingerprints(text: str) -> list[int]:
    raw = base64.b64decode(text, validate=True)
    return list(struct.unpack(f"<{len(raw) // 8}Q", raw))


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> bytes:
        """UTF-8 JSON; the same document always gives the same bytes."""
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, data: bytes | str, source: str) -> Self:
        """Read and check a document; `source` names it in the error.

        :raises ManifestError: it is no JSON, of an unknown version, or contradicts itself.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise ManifestError(f"{source}: {_reasons(error)}") from None


def _reasons(error: ValidationError) -> str:
    found = [
        f"{'.'.join(map(str, item['loc']))}: {item['msg']}" if item["loc"] else item["msg"]
        for item in error.errors(include_url=False, include_input=False)
    ]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(found[:5]) + more


class Encryption(Document):
    """How the objects of a backup are encrypted (see `backups.cipher`), and which key opens them."""

    mode: EncryptionMode
    key_fingerprint: Fingerprint


# Left out when there is none: what is written about a plain backup of ours stays as it always was, byte for byte.
OptionalEncryption = Annotated[Encryption | None, Field(exclude_if=lambda value: value is None)]
OptionalText = Annotated[str | None, Field(exclude_if=lambda value: value is None)]


class BackupPlan(Document):
    """One run's decision what to back up: made once, handed to every slice, and again to the commit."""

    id: BackupId
    cluster: Name
    namespace: Name
    kind: Kind
    snapshot_at: Utc
    started_at: Utc
    modified_after: Utc | None = None
    base: BackupId | None = None
    parent: BackupId | None = None
    slices: list[tuple[Partition, Partition]]
    track_deletes: bool = False
    holder: str = Field(min_length=1)
    cluster_name: str
    cluster_key: str
    server_build: str
    zstd_level: int
    platform_sha256: str
    records_per_second: Count = 0
    engine: Engine = "native"
    engine_version: str = __version__
    engine_path: str | None = None
    expected_records: Count = 0
    """What the namespace holds when the plan is made, for progress; an incremental reads less."""
    encryption: OptionalEncryption = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_lineage(self)
        _check_tiling(self.slices, "slices")
        _demand(self.engine == "native" or not self.track_deletes, f"the engine {self.engine} does not track deletes")
        return self

    @property
    def prefix(self) -> str:
        return backup_prefix(self.cluster, self.namespace, self.id)


class ObjectEntry(Document):
    """One object of a backup; `records` are digests in the roles `digests` and `deleted`."""

    name: Name
    role: Role
    first: Partition
    last: Partition
    size: Count
    sha256: Sha256
    records: Count
    text_bytes: Count = 0
    source: OptionalText = None
    """Name of the file that was adopted. `first` and `last` are then those of the partitions that it holds records of,
    and other files may hold records of these too."""
    definitions: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Whether a file that was adopted holds the secondary indexes and UDFs; in our own backups, that of partition 0."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _demand(self.first <= self.last, f"object {self.name}: first {self.first} is after last {self.last}")
        if self.role != "records":
            expected = self.records * DIGEST_SIZE
            _demand(  # the manifest knows whether it is encrypted
                self.size in (expected, expected + ENCRYPTION_HEADER) and self.text_bytes == 0,
                f"object {self.name}: {self.records} digests are {expected} bytes, not {self.size}",
            )
        return self


class SliceResult(Document):
    """What one slice stored: small, so that it travels through XCom or a JSON object beside the data."""

    plan_id: BackupId
    first: Partition
    last: Partition
    objects: list[ObjectEntry]
    counts: list[Count]
    fingerprints: list[Fingerprint]
    inventory: list[Count] | None = None
    deleted: list[Count] | None = None
    indexes: list[str] = []
    udfs: list[str] = []
    seconds: float = Field(default=0, ge=0)
    resumed: Count = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        slice_ = f"slice {self.first}-{self.last}"
        partitions = self.last - self.first + 1
        _demand(partitions > 0, f"{slice_}: first is after last")
        for name in ("counts", "fingerprints", "inventory", "deleted"):
            values = getattr(self, name)
            _demand(
                values is None or len(values) == partitions,
                f"{slice_}: {name} has {len(values or ())} entries for {partitions} partitions",
            )
        for entry in self.objects:
            _demand((entry.first, entry.last) == (self.first, self.last), f"{slice_}: holds object {entry.name}")
        _check_counts(self.objects, self.counts, self.inventory, self.deleted, slice_)
        return self


class Manifest(Document):
    """A committed restore point. Without this object there is no backup, whatever else lies in its prefix."""

    schema_version: Literal[1] = SCHEMA_VERSION
    id: BackupId
    kind: Kind
    cluster: Name
    namespace: Name
    snapshot_at: Utc
    started_at: Utc
    finished_at: Utc
    modified_after: Utc | None
    base: BackupId | None
    parent: BackupId | None
    cluster_name: str
    cluster_key_before: str
    cluster_key_after: str
    server_build: str
    engine: Engine | Literal["adopted"] = "native"
    """`adopted`: an official program wrote the files, without this package (`dbops.aerospike.adopt`)."""
    engine_version: str
    source: OptionalText = None
    """Where the files were adopted from."""
    objects: list[ObjectEntry]
    records: Count
    deleted: Count
    stored_bytes: Count
    text_bytes: Count
    partition_counts: list[Count] = Field(min_length=PARTITIONS, max_length=PARTITIONS)
    partition_fingerprints: str
    inventory_counts: list[Count] | None = Field(min_length=PARTITIONS, max_length=PARTITIONS)
    deleted_counts: list[Count] | None = Field(min_length=PARTITIONS, max_length=PARTITIONS)
    indexes: list[str]
    udfs: list[str]
    platform_sha256: str
    encryption: OptionalEncryption = None

    @classmethod
    def from_json(cls, data: bytes | str, source: str) -> Self:
        """As of every document; a manifest of a newer version of this package is named as such."""
        version = _schema_version(data)
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise ManifestError(
                f"{source}: schema_version is {version}, this package reads {SCHEMA_VERSION}; "
                "use the version of the package that wrote it"
            )
        return super().from_json(data, source)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_lineage(self)
        _demand(self.finished_at >= self.started_at, "finished_at is before started_at")
        _check_counts(self.objects, self.partition_counts, self.inventory_counts, self.deleted_counts, "manifest")
        deleted = sum(self.deleted_counts or ())
        _demand(self.records == sum(self.partition_counts), "records is not the sum of partition_counts")
        _demand(self.deleted == deleted, "deleted is not the sum of deleted_counts")
        stored, text = (sum(getattr(entry, name) for entry in self.objects) for name in ("size", "text_bytes"))
        _demand(self.stored_bytes == stored, f"stored_bytes is {self.stored_bytes}, the objects have {stored}")
        _demand(self.text_bytes == text, f"text_bytes is {self.text_bytes}, the objects have {text}")
        _check_headers(self.objects, self.encryption)
        names = Counter(entry.name for entry in self.objects)
        _demand(max(names.values(), default=1) == 1, "two objects have the same name")
        try:
            found = len(self.fingerprints)
        except (ValueError, struct.error):
            found = -1
        _demand(found == PARTITIONS, f"partition_fingerprints are not {PARTITIONS} base64 numbers of 8 bytes")
        for role, counts in (
            ("records", self.partition_counts),
            ("digests", self.inventory_counts),
            ("deleted", self.deleted_counts),
        ):
            ranges = [(entry.first, entry.last) for entry in self.objects if entry.role == role]
            if counts is not None and not self.is_adopted:
                _check_tiling(ranges, f"objects with {role}")
        _demand(not self.is_adopted or self.kind is Kind.FULL, "only a full backup can be adopted")
        named = self.indexes or self.udfs
        _demand(not named or self.defining_object is not None, "no object holds the indexes and UDFs")
        return self

    @property
    def is_adopted(self) -> bool:
        return self.engine == "adopted"

    @property
    def defining_object(self) -> ObjectEntry | None:
        """The object that holds the secondary indexes and UDFs."""
        return next((entry for entry in self.objects if self.may_define(entry)), None)

    def may_define(self, entry: ObjectEntry) -> bool:
        """Whether an object may hold secondary indexes and UDFs: then it holds all of them."""
        return entry.definitions if self.is_adopted else entry.role == "records" and entry.first == 0

    @property
    def fingerprints(self) -> list[int]:
        """Per partition, the sum modulo 2^64 of the little-endian u64 at bytes 12 to 20 of each digest."""
        return unpack_fingerprints(self.partition_fingerprints)

    @property
    def prefix(self) -> str:
        return backup_prefix(self.cluster, self.namespace, self.id)

    @property
    def duration(self) -> timedelta:
        return self.finished_at - self.started_at


class Verified(Document):
    """What the last reading back of a restore point found, which had a manifest of this SHA-256 then."""

    at: Utc
    manifest_sha256: Sha256
    ok: bool
    problems: list[str]
    expiring: Count | None = None
    """Records that expire some day; None when that was not counted."""


def _schema_version(data: bytes | str) -> Any:
    match = re.search(rb'"schema_version"\s*:\s*(\d+)', data.encode() if isinstance(data, str) else data)
    return int(match[1]) if match else None


def _demand(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _check_lineage(document: BackupPlan | Manifest) -> None:
    expected = backup_id(document.snapshot_at, document.kind)
    _demand(document.id == expected, f"id {document.id} is not that of its snapshot time and kind, {expected}")
    links = {name: getattr(document, name) for name in ("base", "parent", "modified_after")}
    for name, value in links.items():
        if document.kind is Kind.FULL:
            _demand(value is None, f"a full backup has no {name}, but {value} is given")
        else:
            _demand(value is not None, f"an incremental backup needs {name}")
    _demand(document.id not in links.values(), f"{document.id} is its own base or parent")


def _check_tiling(ranges: Sequence[tuple[int, int]], what: str) -> None:
    ordered = sorted(ranges)
    whole = (
        bool(ordered)
        and ordered[0][0] == 0
        and ordered[-1][1] == PARTITIONS - 1
        and all(first <= last for first, last in ordered)
        and all(left[1] + 1 == right[0] for left, right in pairwise(ordered))
    )
    _demand(whole, f"{what} do not cover each partition 0-{PARTITIONS - 1} exactly once")


def _check_headers(objects: Sequence[ObjectEntry], encryption: Encryption | None) -> None:
    """An encrypted object is longer than its text by its header; a plain one is not."""
    header = ENCRYPTION_HEADER if encryption else 0
    for entry in objects:
        text = entry.records * DIGEST_SIZE
        _demand(
            entry.size >= header if entry.role == "records" else entry.size == text + header,
            f"object {entry.name}: {entry.size} bytes cannot be {'an encrypted' if encryption else 'a plain'} object "
            f"of {entry.records} {'records' if entry.role == 'records' else 'digests'}",
        )


def _check_counts(
    objects: Sequence[ObjectEntry],
    records: Sequence[int],
    inventory: Sequence[int] | None,
    deleted: Sequence[int] | None,
    what: str,
) -> None:
    for role, counts in (("records", records), ("digests", inventory), ("deleted", deleted)):
        held = sum(entry.records for entry in objects if entry.role == role)
        counted = sum(counts or ())
        _demand(held == counted, f"{what}: objects hold {held} {role}, the partitions count {counted}")
