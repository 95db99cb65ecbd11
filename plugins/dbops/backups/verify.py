"""Reading a restore point back from the store, without a database: is every object whole, and does it hold what the
manifest says?
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from dbops.aerospike import asb
from dbops.aerospike.scan import scan_records
from dbops.backups.catalog import RestorePoint, find, verified_key
from dbops.backups.cipher import NO_KEYS, KeyMissing, Keys, NotEncrypted, WrongKey
from dbops.backups.manifest import DIGEST_SIZE, PARTITIONS, Manifest, ObjectEntry, Verified
from dbops.backups.store import NotFound, Store, StoreRefused
from dbops.backups.stream import StoredStream
from dbops.errors import FinalError

log = logging.getLogger(__name__)

_READERS = 4
_BUFFER = 1 << 20
_OWN_NAMES = re.compile(r"(manifest|verified|pin|expired|replicated)\.json|slice_\d{4}_\d{4}\.json")
_DO = "restore from another point, and take a full backup"

Bytes = NDArray[np.uint8]


class Damaged(FinalError):
    """A restore point does not hold what its manifest says."""


@dataclass(frozen=True)
class VerifyProgress:
    """How far reading back is; `total_bytes` is of all objects as they are stored."""

    done_bytes: int = 0
    total_bytes: int = 0
    records: int = 0
    objects: int = 0


@dataclass(frozen=True)
class VerifyReport:
    """What was found. `warnings` do not make a restore point damaged.

    With `unread` the objects are encrypted and their key is not known here: only size and SHA-256 were compared, and
    `ok` says no more than that.
    """

    at: datetime
    ok: bool
    problems: list[str]
    warnings: list[str]
    objects: int
    records: int
    bytes: int
    seconds: float
    unread: KeyMissing | WrongKey | None = None
    expiring: int = 0
    """Records that expire some day."""

    @property
    def conclusive(self) -> bool:
        """Whether more could not be known with the right key; only then is the outcome to be remembered."""
        return self.unread is None or not self.ok


@dataclass
class _Finding:
    """Of one object."""

    problems: list[str] = field(default_factory=list)
    records: int = 0
    bytes: int = 0
    expiring: int = 0
    found: bool = True


OnProgress = Callable[[VerifyProgress], None]


def no_progress(progress: VerifyProgress) -> None:
    """Nobody is watching."""


def verify(
    store: Store, point: RestorePoint, on_progress: OnProgress = no_progress, *, keys: Keys = NO_KEYS
) -> VerifyReport:
    """Read every object of a restore point back: size, SHA-256, structure, counts and fingerprints per partition.

    Memory does not depend on the size of the objects. The outcome is kept in `verified.json` beside the manifest
    and is then `point.verified` for everybody who lists restore points, until the manifest changes. What could not be
    decrypted is only remembered when it is damaged all the same.

    :param on_progress: called after each block, by several threads but never by two at once.
    :param keys: without the right one, the report says so in `unread`.
    :raises StoreUnavailable: the store could not be read; that says nothing about the restore point.
    :raises NotFound: it expired while it was read.
    """
    started = time.monotonic()
    problems: list[str] = []
    warnings: list[str] = []
    findings: list[_Finding] = []
    unread: KeyMissing | WrongKey | None = None
    if point.damage:
        problems.append(f"{point.damage}; {_DO}")
    else:
        manifest = point.manifest
        track = _Track(on_progress, manifest.stored_bytes)
        try:
            keys.find(manifest.encryption, f"restore point {manifest.id} of {point.cluster}/{point.namespace}")
        except (KeyMissing, WrongKey) as problem:
            unread = problem
            warnings.append(f"{problem}. Only sizes and SHA-256 were compared, not what the objects hold")
        with ThreadPoolExecutor(_READERS, thread_name_prefix="verify") as pool:
            readable = None if unread else keys
            tasks = [pool.submit(_check_object, store, manifest, entry, readable, track) for entry in manifest.objects]
            try:
                findings = [task.result() for task in tasks]
            except BaseException:
                track.stopped = True
                pool.shutdown(cancel_futures=True)
                raise
        problems += [problem for finding in findings for problem in finding.problems]
        if manifest.is_adopted and not unread and not problems:
            problems += _compare_all(manifest, track)
        if problems:
            find(store, point.cluster, point.namespace, point.id)  # what retention deletes meanwhile is not damaged
        warnings += _foreign(store, manifest)
    report = VerifyReport(
        at=datetime.now(UTC),
        ok=not problems,
        problems=problems,
        warnings=warnings,
        objects=sum(finding.found for finding in findings),
        records=sum(finding.records for finding in findings),
        bytes=sum(finding.bytes for finding in findings),
        seconds=time.monotonic() - started,
        unread=unread,
        expiring=sum(finding.expiring for finding in findings),
    )
    return _remember(store, point, report) if report.conclusive else report


def _remember(store: Store, point: RestorePoint, report: VerifyReport) -> VerifyReport:
    verified = Verified(
        at=report.at,
        manifest_sha256=point.manifest_sha256,
        ok=report.ok,
        problems=report.problems,
        expiring=None if report.unread else report.expiring,
    )
    try:
        store.put(verified_key(point.cluster, point.namespace, point.id), verified.to_json())
    except StoreRefused as error:
        return replace(report, warnings=[*report.warnings, f"the outcome could not be kept: {error}"])
    return report


def _foreign(store: Store, manifest: Manifest) -> Iterator[str]:
    known = {entry.name for entry in manifest.objects}
    for item in store.list(manifest.prefix):
        name = item.key.removeprefix(manifest.prefix)
        if name not in known and not _OWN_NAMES.fullmatch(name):
            yield (
                f"{name}: {item.size} bytes that the manifest does not know lie among the objects; nothing reads "
                "them: find out who put them there, and delete them"
            )


class _Track:
    """Adds up what the readers did."""

    def __init__(self, on_progress: OnProgress, total_bytes: int) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._progress = VerifyProgress(total_bytes=total_bytes)
        self.counts = np.zeros(PARTITIONS, np.int64)
        self.fingerprints = np.zeros(PARTITIONS, np.uint64)
        self.stopped = False

    def add_tally(self, counts: NDArray[np.int64], fingerprints: NDArray[np.uint64]) -> None:
        """What an object holds of each partition."""
        with self._lock:
            self.counts += counts
            self.fingerprints += fingerprints

    def stored(self, size: int) -> None:
        """So many stored bytes of some object have arrived."""
        if self.stopped:
            raise StopReading
        self.add(done_bytes=size)

    def add(self, done_bytes: int = 0, records: int = 0, objects: int = 0) -> None:
        with self._lock:
            now = self._progress
            self._progress = replace(
                now,
                done_bytes=now.done_bytes + done_bytes,
                records=now.records + records,
                objects=now.objects + objects,
            )
            self._on_progress(self._progress)


class StopReading(Exception):
    """Another object of the restore point could not be read: the store is gone."""


def _check_object(store: Store, manifest: Manifest, entry: ObjectEntry, keys: Keys | None, track: _Track) -> _Finding:
    finding = _Finding()
    source = StoredStream(store, manifest, entry, keys, track.stored)
    counts = np.zeros(PARTITIONS, np.int64)
    try:
        if keys is not None:
            _check_content(manifest, entry, source, counts, finding, track)
        sha256 = source.sha256()
    except NotFound:
        finding.found = False
        finding.problems = [f"{entry.name}: is missing, the manifest says {entry.size} bytes; {_DO}"]
        return finding
    if source.size != entry.size:
        finding.problems.insert(
            0, f"{entry.name}: is {source.size} bytes, the manifest says {entry.size}: it was cut or replaced; {_DO}"
        )
    elif sha256 != entry.sha256:
        finding.problems.insert(
            0, f"{entry.name}: SHA-256 is {sha256}, the manifest says {entry.sha256}: it has changed; {_DO}"
        )
    finding.bytes = source.size
    finding.records = int(counts.sum()) if entry.role == "records" else 0
    track.add(objects=1)
    return finding


def _check_content(
    manifest: Manifest,
    entry: ObjectEntry,
    source: StoredStream,
    counts: NDArray[np.int64],
    finding: _Finding,
    track: _Track,
) -> None:
    check = _check_records if entry.role == "records" else _check_digests
    try:
        check(manifest, entry, source, counts, finding, track)
    except NotEncrypted as error:
        finding.problems.append(f"{entry.name}: is no whole encrypted object: {error}; {_DO}")


# --- records ----------------------------------------------------------------------------------------------


def _check_records(
    manifest: Manifest,
    entry: ObjectEntry,
    source: StoredStream,
    counts: NDArray[np.int64],
    finding: _Finding,
    track: _Track,
) -> None:
    fingerprints = np.zeros(PARTITIONS, np.uint64)
    try:
        text = asb.open_asb(cast(BinaryIO, source))
        preamble = asb.read_header(text, manifest.namespace)
        size, finding.expiring = scan_records(
            text, preamble, counts, fingerprints, lambda records: track.add(records=records)
        )
    except asb.AsbError as error:
        finding.problems.append(f"{entry.name}: is no whole .asb file: {error}; {_DO}")
        return
    if size != entry.text_bytes:
        finding.problems.append(
            f"{entry.name}: holds {size} bytes of text, the manifest says {entry.text_bytes}; {_DO}"
        )
    for what, found, expected in (
        ("indexes", [index.name for index in preamble.indexes], manifest.indexes),
        ("UDFs", [udf.name for udf in preamble.udfs], manifest.udfs),
    ):
        wanted = expected if manifest.may_define(entry) else []
        if found != wanted:
            finding.problems.append(f"{entry.name}: holds {what} {found}, the manifest says {wanted}; {_DO}")
    if manifest.is_adopted:
        track.add_tally(counts, fingerprints)
        if int(counts.sum()) != entry.records:
            finding.problems.append(
                f"{entry.name}: holds {int(counts.sum())} records, the manifest says {entry.records}; {_DO}"
            )
        elif int(counts[entry.first : entry.last + 1].sum()) != entry.records:
            finding.problems.append(
                f"{entry.name}: holds records of other partitions than {entry.first}-{entry.last}, which the manifest "
                f"says; {_DO}"
            )
        return
    _compare_counts(entry, counts, manifest.partition_counts, finding)
    span = slice(entry.first, entry.last + 1)
    differ = np.flatnonzero(fingerprints[span] != np.array(manifest.fingerprints, np.uint64)[span]) + entry.first
    if differ.size and not finding.problems:
        partition = int(differ[0])
        finding.problems.append(
            f"{entry.name}: {differ.size} partitions hold as many records as they should but other ones, the first "
            f"is {partition} (fingerprint {int(fingerprints[partition]):016x}, the manifest says "
            f"{manifest.fingerprints[partition]:016x}); {_DO}"
        )


def _compare_all(manifest: Manifest, track: _Track) -> Iterator[str]:
    """Of an adopted point, whose objects share partitions: what they hold together."""
    counts, fingerprints = track.counts, track.fingerprints
    differ = np.flatnonzero(
        (counts != np.array(manifest.partition_counts, np.int64))
        | (fingerprints != np.array(manifest.fingerprints, np.uint64))
    )
    if differ.size:
        partition = int(differ[0])
        yield (
            f"the objects hold other records in {differ.size} partitions than the manifest says, the first is "
            f"{partition} ({counts[partition]} instead of {manifest.partition_counts[partition]}); {_DO}"
        )


# --- digests ----------------------------------------------------------------------------------------------


def _check_digests(
    manifest: Manifest,
    entry: ObjectEntry,
    source: StoredStream,
    counts: NDArray[np.int64],
    finding: _Finding,
    track: _Track,
) -> None:
    """20 bytes each, partition after partition ascending, from the highest to the lowest within one."""
    block = np.zeros(_BUFFER // DIGEST_SIZE * DIGEST_SIZE, np.uint8)
    view = memoryview(block.data)
    previous: Bytes = np.zeros((0, DIGEST_SIZE), np.uint8)
    number = left = 0
    while True:
        end = left
        while end < block.size and (size := source.readinto(view[end:])):
            end += size
        whole = end // DIGEST_SIZE * DIGEST_SIZE
        rows = np.concatenate([previous, block[:whole].reshape(-1, DIGEST_SIZE)])
        partitions = rows[:, 0].astype(np.int64) | (rows[:, 1].astype(np.int64) & 15) << 8
        wrong = np.flatnonzero(~_in_order(rows, partitions))
        if wrong.size:
            at = number - len(previous) + int(wrong[0]) + 1
            finding.problems.append(
                f"{entry.name}: digest {at} at byte {at * DIGEST_SIZE} is not behind the one before it in order of "
                f"partition and digest; {_DO}"
            )
            return
        counts += np.bincount(partitions[len(previous) :], minlength=PARTITIONS)
        number += whole // DIGEST_SIZE
        previous = rows[-1:].copy()
        left = end - whole
        if end < block.size:
            break
    if left:
        finding.problems.append(
            f"{entry.name}: ends with {left} bytes that are no whole digest of {DIGEST_SIZE}; {_DO}"
        )
    expected = manifest.inventory_counts if entry.role == "digests" else manifest.deleted_counts
    _compare_counts(entry, counts, expected or [0] * PARTITIONS, finding)


def _in_order(rows: Bytes, partitions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each row but the first, whether it may follow the one before it."""
    high, middle = rows[:, :16].copy().view(">u8").reshape(-1, 2).T
    low = rows[:, 16:].copy().view(">u4").ravel()
    lower = (high[1:] < high[:-1]) | (high[1:] == high[:-1]) & (
        (middle[1:] < middle[:-1]) | (middle[1:] == middle[:-1]) & (low[1:] < low[:-1])
    )
    ordered: NDArray[np.bool_] = (partitions[1:] > partitions[:-1]) | ((partitions[1:] == partitions[:-1]) & lower)
    return ordered


def _compare_counts(entry: ObjectEntry, counts: NDArray[np.int64], expected: list[int], finding: _Finding) -> None:
    what = "records" if entry.role == "records" else "digests"
    wanted = np.array(expected, np.int64)
    wanted[: entry.first] = 0
    wanted[entry.last + 1 :] = 0
    differ = np.flatnonzero(counts != wanted)
    if differ.size:
        named = ", ".join(f"{p}: {counts[p]} instead of {wanted[p]}" for p in differ[:3].tolist())
        finding.problems.append(
            f"{entry.name}: holds {int(counts.sum())} {what}, the manifest says {int(wanted.sum())}; "
            f"{differ.size} partitions differ, the first are {named}; {_DO}"
        )
