"""Adoption: backup files that asbackup or absctl wrote without us become a restore point like any other full.

Nothing in `.asb` files says when their backup began, whether it was a full one, how many files there are, or that one
was changed. So a person says when it began; every file is read once, strictly, on its way into the store, and what it
holds is counted and hashed. The manifest, written last, knows all that from then on.

The files share partitions: a program rotates files in the middle of one, and absctl spreads records over all files.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from dbops.aerospike import asb, kernel
from dbops.aerospike.backup import LEASE, BackupStopped, OnProgress, Progress, no_progress
from dbops.aerospike.scan import Records
from dbops.aerospike.wire import PARTITIONS
from dbops.backups import catalog, cipher
from dbops.backups.cipher import NO_KEYS, Key, KeyMissing, Keys, WrongKey
from dbops.backups.lease import Lease
from dbops.backups.manifest import Kind, Manifest, ObjectEntry, backup_id, backup_prefix, pack_fingerprints
from dbops.backups.store import AlreadyExists, LocalStore, ObjectWriter, S3Store, Store, StoredObject
from dbops.backups.stream import Blocks
from dbops.connections import ConnectionInfo
from dbops.errors import DbopsError, FinalError

log = logging.getLogger(__name__)

_RENEW_SECONDS = 240.0
_SKEW = timedelta(minutes=1)  # between the clocks of whoever wrote the files and of whoever says when it began
_ROWS = 4000
_ROOM = 1 << 20
_REMEMBERED = 1 << 20  # digests; 16 bytes each
_HEAD = 64
_SUFFIX = ".asb"
_STATE = ".asb.state"  # asbackup leaves it when it is interrupted
_SERVICE = "metadata.yaml"  # of the Aerospike Backup Service, written last
_WRITES = 0x01

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Longs = NDArray[np.uint64]


class NotAdoptable(FinalError):
    """The files are no whole backup of the namespace, or not one that can be told from others."""


@dataclass(frozen=True)
class Files:
    """The files of one backup, and what lies beside them."""

    store: Store
    names: tuple[str, ...]
    url: str
    modified_at: datetime | None
    """Of the file that was written to first."""
    service: str | None = None
    """Name of the note that the Aerospike Backup Service left."""
    warnings: tuple[str, ...] = ()


def find_files(source: str, connection: ConnectionInfo | None = None, region: str | None = None) -> Files:
    """The backup files in a folder (not in folders below it), or the one file that `source` names.

    :param source: a path, or `s3://bucket/prefix`.
    :param connection: for S3.
    :raises NotAdoptable: there is none; says what there is.
    """
    store, name = _open_source(source, connection, region)
    if name is not None:
        found = store.head(name)
        return Files(store, (name,), f"{store.url}/{name}", found.modified_at if found else None)
    here: list[StoredObject] = []
    below: set[str] = set()
    for item in store.list(""):
        if "/" not in item.key:
            here.append(item)
        elif item.key.endswith(_SUFFIX):
            below.add(item.key.rpartition("/")[0])
    here.sort(key=lambda item: item.key)
    files = [item for item in here if item.key.endswith(_SUFFIX)]
    if not files:
        hint = f"; there are some in {', '.join(sorted(below)[:3])}" if below else ""
        raise NotAdoptable(f"adopt {source}: there is no {_SUFFIX} file in it{hint}; name the folder that holds them")
    return Files(
        store,
        tuple(item.key for item in files),
        store.url,
        min((item.modified_at for item in files if item.modified_at), default=None),
        _SERVICE if any(item.key == _SERVICE for item in here) else None,
        tuple(
            f"{item.key} lies beside the files: asbackup was interrupted; if nobody ended it with --continue, records "
            "are missing"
            for item in here
            if item.key.endswith(_STATE)
        ),
    )


def _open_source(source: str, connection: ConnectionInfo | None, region: str | None) -> tuple[Store, str | None]:
    """Where the files lie, and the name of the one that is meant, if one is."""
    if not source.startswith("s3://"):
        path = Path(source).expanduser().absolute()
        if path.is_file():
            return LocalStore(path.parent), path.name
        if not path.is_dir():
            raise NotAdoptable(f"adopt {source}: there is no such folder or file on this machine")
        return LocalStore(path), None
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    folder, _, name = prefix.rpartition("/")
    if name and (store := S3Store(bucket, folder, connection, region)).head(name):
        return store, name
    return S3Store(bucket, prefix, connection, region), None


@dataclass
class _Found:
    """What the files hold together; filled by several threads."""

    counts: Ints = field(default_factory=lambda: np.zeros(PARTITIONS, np.int64))
    fingerprints: Longs = field(default_factory=lambda: np.zeros(PARTITIONS, np.uint64))
    preambles: dict[str, asb.Preamble] = field(default_factory=dict)
    """Of the files that begin a backup or hold its indexes and UDFs."""
    version: str = ""


def adopt(
    store: Store,
    cluster: str,
    namespace: str,
    files: Files,
    *,
    snapshot_at: datetime,
    holder: str,
    platform_sha256: str,
    workers: int,
    records: int | None = None,
    keys: Keys = NO_KEYS,
    on_progress: OnProgress = no_progress,
) -> Manifest:
    """Copy the files into the store and commit them as a full backup.

    Files that are encrypted stay as they are; plain ones are encrypted when `keys` has a current key.

    :param snapshot_at: when the backup began, aware: the restore point is of this time. Nothing in the files says it.
    :param holder: who takes the lease of the namespace: no backup of it runs meanwhile.
    :param workers: files read at once.
    :param records: how many the log of that backup says; compared, since a file that is missing leaves no other trace.
    :raises NotAdoptable: the files are not a whole, sound full backup of the namespace; nothing is committed.
    :raises KeyMissing, WrongKey: they are encrypted with a key that is not among `keys`; nothing was written.
    :raises LeaseHeld: a backup of the namespace, or a restore to it, runs.
    """
    adoption = _Adoption(store, cluster, namespace, files, snapshot_at, records, keys, on_progress)
    adoption.check_time()
    adoption.check_service()
    key = adoption.find_key()
    lease = Lease.acquire(store, catalog.lease_key(cluster, namespace), holder, LEASE)
    try:
        return adoption.run(lease, key, workers, platform_sha256)
    finally:
        lease.release()


class _Adoption:
    def __init__(
        self,
        store: Store,
        cluster: str,
        namespace: str,
        files: Files,
        snapshot_at: datetime,
        records: int | None,
        keys: Keys,
        on_progress: OnProgress,
    ) -> None:
        self.store, self.cluster, self.namespace, self.files, self.keys = store, cluster, namespace, files, keys
        self.snapshot_at = snapshot_at.astimezone(UTC).replace(microsecond=0)
        self.id = backup_id(self.snapshot_at, Kind.FULL)
        self.prefix = backup_prefix(cluster, namespace, self.id)
        self.what = f"adopt {files.url} as {cluster}/{namespace} {self.id}"
        self.found, self.twice = _Found(), _Twice()
        self.progress = Progress()
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._renewed = time.monotonic()
        self.expected: dict[str, int] = {} if records is None else {"its log": records}
        """How many records there are, and who says so."""

    # ------------------------------------------------------------------ before anything is written

    def check_time(self) -> None:
        now = datetime.now(UTC)
        if self.snapshot_at > now:
            raise NotAdoptable(f"{self.what}: the backup cannot have begun in the future")
        written = self.files.modified_at
        if written is not None and self.snapshot_at > written + _SKEW:
            raise NotAdoptable(
                f"{self.what}: a file was written for the last time at {written:%FT%TZ}, so the backup began before "
                "that; name the time when it began, with its time zone"
            )

    def check_service(self) -> None:
        """What the Aerospike Backup Service says of its backup."""
        if self.files.service is None:
            return
        where = f"{self.what}: {self.files.service}"
        try:
            note = yaml.safe_load(self.files.store.get(self.files.service))
        except yaml.YAMLError:
            note = None
        if not isinstance(note, dict):
            raise NotAdoptable(f"{where}: is not the note of an Aerospike Backup Service: move it elsewhere")
        if note.get("from") and _utc(note["from"]).year > 1:
            raise NotAdoptable(
                f"{where}: this is an incremental backup, of what changed since {note['from']}: without the one before "
                "it it is none; restore both with absctl, then take a full backup"
            )
        if note.get("namespace") not in (None, self.namespace):
            raise NotAdoptable(f"{where}: this is a backup of namespace {note['namespace']}")
        if note.get("created") and self.snapshot_at > _utc(note["created"]):
            raise NotAdoptable(
                f"{where}: the backup is of {note['created']}; name that time, or the earlier one when it began"
            )
        if isinstance(count := note.get("record-count"), int):
            self.expected[self.files.service] = count

    def find_key(self) -> Key | None:
        """The key that the files are encrypted with, the same one for all; None when they are not."""
        with ThreadPoolExecutor(16, thread_name_prefix="look") as pool:
            keys = list(pool.map(self._key_of, self.files.names))
        for name, key in zip(self.files.names, keys, strict=True):
            if key != keys[0]:
                kinds = [
                    "is not encrypted" if one is None else f"is encrypted with the {one}" for one in (keys[0], key)
                ]
                raise NotAdoptable(
                    f"{self.what}: {self.files.names[0]} {kinds[0]} and {name} {kinds[1]}: they are of two backups; "
                    "put each into a folder of its own"
                )
        return keys[0]

    def _key_of(self, name: str) -> Key | None:
        head = b"".join(self.files.store.read(name, 0, _HEAD))
        where = f"{self.what}: {name}"
        if cipher.is_backup(head):
            return None
        if len(head) < _HEAD // 2:
            raise NotAdoptable(f"{where}: has {len(head)} bytes, which is no backup file: it was cut off")
        for key in self.keys.known:
            if cipher.is_backup(b"".join(cipher.decrypt(iter([head]), key))):
                return key
        found = f"{where}: begins neither as .asb text nor as zstd"
        if not self.keys.known:
            raise KeyMissing(
                f"{found}: it is encrypted, and no key is known here (name the connection that holds it in "
                "`storage.encryption`), or it is no backup file, or compressed in a way that asbackup does not know"
            )
        raise WrongKey(
            f"{found}, also after decryption with each key known here ({', '.join(map(str, self.keys.known))}): it is "
            "encrypted with another one (add its connection to `storage.encryption.older_keys`), or is no backup file"
        )

    # ------------------------------------------------------------------ reading and writing

    def run(self, lease: Lease, key: Key | None, workers: int, platform_sha256: str) -> Manifest:
        self._check_free()
        started = datetime.now(UTC)
        try:
            entries = self._take_all(lease, key, workers)
            manifest = self._manifest(entries, key, started, platform_sha256)
            try:
                catalog.put_manifest(self.store, manifest)
            except AlreadyExists:
                raise self._taken() from None
        except BaseException:
            try:
                self._remove()
            except DbopsError as problem:  # what the adoption failed for is what its reader must see
                log.warning("%s: what was stored could not be removed: %s", self.what, problem)
            raise
        return manifest

    def _taken(self) -> NotAdoptable:
        return NotAdoptable(
            f"{self.what}: there is a restore point of this time already; `dbops backup show {self.cluster} "
            f"{self.namespace} {self.id}` says what it holds"
        )

    def _check_free(self) -> None:
        if self.store.head(catalog.manifest_key(self.cluster, self.namespace, self.id)):
            raise self._taken()
        if self.store.head(catalog.expired_key(self.cluster, self.namespace, self.id)):
            raise NotAdoptable(
                f"{self.what}: a restore point of this time is being deleted; let `dbops backup retention` end that"
            )
        self._remove()  # what an adoption that was killed has left: under the lease nobody else writes there

    def _remove(self) -> None:
        if self.store.head(catalog.manifest_key(self.cluster, self.namespace, self.id)):
            return
        self.store.abort_uploads(self.prefix)
        self.store.delete([item.key for item in self.store.list(self.prefix)])

    def _take_all(self, lease: Lease, key: Key | None, workers: int) -> list[ObjectEntry]:
        with ThreadPoolExecutor(workers, thread_name_prefix="adopt") as pool:
            tasks = [pool.submit(self._take, number, name, lease, key) for number, name in enumerate(self.files.names)]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [task.result() for task in tasks]

    def _take(self, number: int, name: str, lease: Lease, key: Key | None) -> ObjectEntry:
        """Read a file to its end, and store it on the way."""
        where = f"{self.what}: {name}"
        stored_as = f"file_{number:05d}.asb"
        with cipher.open_writer(self.store, self.prefix + stored_as, None if key else self.keys.current) as writer:
            blocks = self._blocks(name, writer, lease)
            if key is not None:
                blocks = cipher.decrypt(blocks, key, where)
            try:
                text = asb.open_asb(cast(BinaryIO, Blocks(blocks)))
                preamble = asb.read_header(text, self.namespace)
                counts, fingerprints, text_bytes = self._count(text, preamble)
            except asb.AsbError as problem:
                raise NotAdoptable(f"{where}: is no whole backup file: {problem}") from None
        stored = writer.close()
        if stored.sha256 is None:
            raise DbopsError(f"{stored.key} was stored without a SHA-256")
        holds = np.flatnonzero(counts)
        defines = bool(preamble.indexes or preamble.udfs)
        with self._lock:
            self.found.counts += counts
            self.found.fingerprints += fingerprints
            self.found.version = max(self.found.version, preamble.header.version)
            if preamble.header.first_file or defines:
                self.found.preambles[name] = preamble
        return ObjectEntry(
            name=stored_as,
            role="records",
            first=int(holds[0]) if holds.size else 0,
            last=int(holds[-1]) if holds.size else 0,
            size=stored.size,
            sha256=stored.sha256,
            records=int(counts.sum()),
            text_bytes=text_bytes,
            source=name,
            definitions=defines,
        )

    def _blocks(self, name: str, writer: ObjectWriter, lease: Lease) -> Iterator[bytes]:
        for block in self.files.store.read(name):
            if self._stop.is_set():
                raise BackupStopped(f"{self.what} was stopped: another file failed")
            writer.write(block)
            with self._lock:
                self.progress.stored_bytes += len(block)
                self._on_progress(self.progress)
                if time.monotonic() - self._renewed > _RENEW_SECONDS:
                    lease.renew()
                    self._renewed = time.monotonic()
            yield block

    def _count(self, text: BinaryIO, preamble: asb.Preamble) -> tuple[Ints, Longs, int]:
        """Counts and fingerprints of all records, as a restore would write them, and the size of the text."""
        counts, fingerprints = np.zeros(PARTITIONS, np.int64), np.zeros(PARTITIONS, np.uint64)
        expiring: Ints = np.zeros(PARTITIONS, np.int64)  # stays so: `verify` counts what expires
        records, seen = Records(text, preamble), 0
        out: Bytes = np.empty(_ROOM, np.uint8)
        rows: Ints = np.zeros((_ROWS, 2), np.int64)
        written: Bytes = np.zeros(_ROWS, np.uint8)
        state = records.state
        while True:
            state[kernel.ROWS] = 0
            records.pos, _, status = kernel.decode(
                records.data, records.pos, records.end, records.final, out, 0, state, _NONE, _WRITES, 0, 0, rows,
                0, PARTITIONS - 1, 0, _NONE, _ENDS, _NONE, _ENDS, np.zeros((0, 2), np.uint64), np.zeros(0, np.uint8),
                False,
            )  # fmt: skip
            count = int(state[kernel.ROWS])
            kernel.add_present(out, rows, written, count, 0, counts, fingerprints, expiring)
            self.twice.add(out[rows[:count, :1] + _DIGEST_END])
            now = int(state[kernel.RECORDS])
            with self._lock:
                self.progress.records += now - seen
            seen = now
            if status == kernel.DONE:
                break
            if status != kernel.OUT_FULL:
                records.more(status)
            elif count == 0:
                out = np.empty(max(2 * out.size, int(state[kernel.ROOM_NEEDED]) + kernel.SLACK), np.uint8)
        if int(counts.sum()) != seen:
            raise AssertionError(f"{self.what}: {seen} records were read and {int(counts.sum())} counted")
        return counts, fingerprints, records.offset

    # ------------------------------------------------------------------ what it comes to

    def _manifest(
        self, entries: Sequence[ObjectEntry], key: Key | None, started: datetime, platform_sha256: str
    ) -> Manifest:
        definitions = self._definitions()
        records = int(self.found.counts.sum())
        twice, looked_at = self.twice.count()
        if twice:
            raise NotAdoptable(
                f"{self.what}: {twice:,} of {looked_at:,} records that were looked at stand in the files twice: the "
                "folder holds more than one backup; put each into a folder of its own"
            )
        for who, count in self.expected.items():
            if count != records:
                raise NotAdoptable(
                    f"{self.what}: {who} says {count:,} records, the files hold {records:,}: files are missing, or are "
                    "of another backup"
                )
        encrypted = key or self.keys.current
        return Manifest(
            id=self.id,
            kind=Kind.FULL,
            cluster=self.cluster,
            namespace=self.namespace,
            snapshot_at=self.snapshot_at,
            started_at=started,
            finished_at=datetime.now(UTC),
            modified_after=None,
            base=None,
            parent=None,
            cluster_name="",
            cluster_key_before="",
            cluster_key_after="",
            server_build="",
            engine="adopted",
            engine_version=f".asb {self.found.version}",
            source=self.files.url,
            objects=list(entries),
            records=records,
            deleted=0,
            stored_bytes=sum(entry.size for entry in entries),
            text_bytes=sum(entry.text_bytes for entry in entries),
            partition_counts=self.found.counts.tolist(),
            partition_fingerprints=pack_fingerprints(self.found.fingerprints.tolist()),
            inventory_counts=None,
            deleted_counts=None,
            indexes=[index.name for index in definitions.indexes] if definitions else [],
            udfs=[udf.name for udf in definitions.udfs] if definitions else [],
            platform_sha256=platform_sha256,
            encryption=encrypted.encryption if encrypted else None,
        )

    def _definitions(self) -> asb.Preamble | None:
        """The indexes and UDFs of the backup: those of the one file that holds them, or of files that hold the same."""
        names = sorted(name for name, preamble in self.found.preambles.items() if preamble.indexes or preamble.udfs)
        first = self.found.preambles[names[0]] if names else None
        for name in names[1:]:
            other = self.found.preambles[name]
            if first and (other.indexes, other.udfs) != (first.indexes, first.udfs):
                raise NotAdoptable(
                    f"{self.what}: {names[0]} and {name} hold different indexes or UDFs: they are of two backups; put "
                    "each into a folder of its own"
                )
        if not any(preamble.header.first_file for preamble in self.found.preambles.values()):
            raise NotAdoptable(
                f"{self.what}: none of {len(self.files.names)} files is marked as the first one of its backup "
                "(`# first-file`), as asbackup and absctl mark it: files are missing"
            )
        return first


_NONE: Bytes = np.frombuffer(b"", np.uint8)  # no namespace: each record's own; no set, no bin: all
_ENDS: Ints = np.zeros(0, np.int64)
_DIGEST_END = np.arange(8, 24)  # where a row has the last 16 bytes of its digest


def _utc(found: Any) -> datetime:
    """A time of a YAML document."""
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    if not isinstance(found, datetime):
        raise NotAdoptable(f"{found!r} in {_SERVICE} is no time")
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


class _Twice:
    """Notices records that stand in the files twice: all of up to a million, beyond that those of a sample of digests.

    Two backups in one folder have many in common, so a sample finds them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Longs] = []
        self._size = 0
        self._below = np.uint64(2**64 - 1)

    def add(self, digests: Bytes) -> None:
        """:param digests: their last 16 bytes, one a row."""
        found = digests.view("<u8")
        with self._lock:
            chosen = found[found[:, 1] <= self._below]
            self._kept.append(chosen)
            self._size += len(chosen)
            if self._size > _REMEMBERED:
                self._thin()

    def _thin(self) -> None:
        kept = np.concatenate(self._kept)
        while len(kept) > _REMEMBERED // 2:
            self._below >>= np.uint64(1)
            kept = kept[kept[:, 1] <= self._below]
        self._kept, self._size = [kept], len(kept)

    def count(self) -> tuple[int, int]:
        """Records that were there before, and how many were looked at."""
        if not self._size:
            return 0, 0
        kept = np.concatenate(self._kept)
        kept = kept[np.lexsort((kept[:, 0], kept[:, 1]))]
        return int((kept[1:] == kept[:-1]).all(axis=1).sum()), len(kept)
