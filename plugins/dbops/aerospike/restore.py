"""Restores of one namespace: plan, write slices, check.

A *slice* is a range of partitions. Its points are read from the newest to the oldest, and a table of digests says which
records a newer point held or knows as deleted: every record is written at most once, in its newest form, and none that
was deleted comes back even for a moment. So a slice may be repeated, and every policy compares a record with what the
target held before, never with an older form that the restore itself has just written.

The `.asb` text becomes batch writes in the kernel, byte for byte; Python sees batches, not records.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from dbops import __version__
from dbops.aerospike import asb, kernel, official
from dbops.aerospike.backup import OnProgress, Progress, no_progress, partition_slices
from dbops.aerospike.batches import RestoreStopped, Writer
from dbops.aerospike.cluster import Access, Cluster
from dbops.aerospike.digests import BLOCK, DIGEST
from dbops.aerospike.drain import Drain, Output, Tally
from dbops.aerospike.program_writer import ProgramWriter
from dbops.aerospike.scan import Records
from dbops.aerospike.wire import PARTITIONS
from dbops.backups import catalog, restores
from dbops.backups.cipher import NO_KEYS, Keys
from dbops.backups.in_use import mark_in_use, release_in_use
from dbops.backups.lease import Lease
from dbops.backups.manifest import Manifest, ObjectEntry
from dbops.backups.restores import (
    Outcomes,
    Policy,
    RestoreEngine,
    RestorePlan,
    RestoreReport,
    RestoreSliceResult,
    RestoreTarget,
    When,
)
from dbops.backups.store import Store
from dbops.backups.stream import StoredStream
from dbops.errors import DbopsError, FinalError

log = logging.getLogger(__name__)

READY_SECONDS = 120.0
LEASE = timedelta(minutes=15)
CONNECTIONS = 4  # per slice: batches on their way at once
_READINGS = 4  # how often files that share partitions are read at most, for the sake of more slices
_SLICE_BYTES = 32 << 20  # of their text, in a slice at least
_SLICES = 256  # of them at most
_KEPT = timedelta(hours=24)  # from the last renewal: a person may have to approve the plan first
_RENEW_SECONDS = 240.0
_REMEMBERED = 1 << 20  # digests of newer points in memory at once; 32 bytes each
_NAMED = 100  # failures of a slice that are named

_FLAGS = {  # info2 and info3 of each row
    Policy.REPLACE: (0x01, 0x10),
    Policy.UPDATE: (0x01, 0x00),
    Policy.MISSING: (0x21, 0x00),
    Policy.NEWER: (0x09, 0x10),
}
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


class NotRestorable(FinalError):
    """The restore point cannot be restored, or not there."""


class TargetNotUsable(FinalError):
    """The target cannot take the restore: it has no room, takes no writes, or would refuse records."""


class RestoreFailed(FinalError):
    """Records could not be written, or the target does not hold what it should."""


class BackupDamaged(FinalError):
    """An object of a restore point cannot be read as what its manifest says."""


# ---------------------------------------------------------------------------- plan


def choose_point(
    points: Sequence[catalog.RestorePoint], *, id: str | None = None, at: datetime | None = None
) -> list[catalog.RestorePoint]:
    """The chain to restore, the full first: of the point named, of the newest one at or before `at`, or of the newest.

    :raises NotRestorable: there is none; says what there is.
    :raises BrokenChain: the named point lacks something.
    """
    if id is not None:
        return catalog.chain(points, id)
    if at is not None and at > datetime.now(UTC):
        raise NotRestorable(f"restore as of {at:%FT%TZ}: that is in the future")
    fitting = [point for point in points if at is None or point.snapshot_at <= at]
    if newest := catalog.latest(fitting):
        return catalog.chain(points, newest.id)
    if not points:
        raise NotRestorable("there is no restore point at all; `dbops backup run` takes one")
    whole = [point.snapshot_at for point in points if catalog.why_not_restorable(points, point.id) is None]
    there = f"the oldest one that can be restored is of {min(whole):%FT%TZ}" if whole else "none can be restored"
    when = f" at or before {at:%FT%TZ}" if at else ""
    raise NotRestorable(f"there is no restorable point{when}: {there}; `dbops backup list` says why")


def plan_restore(
    store: Store,
    cluster: str,
    namespace: str,
    access: Access,
    target: RestoreTarget,
    *,
    holder: str,
    id: str | None = None,
    at: datetime | None = None,
    policy: Policy = Policy.REPLACE,
    sets: Sequence[str] = (),
    bins: Sequence[str] = (),
    extra_ttl: timedelta = timedelta(0),
    dry_run: bool = False,
    allow_unverified: bool = False,
    definitions: When = "after",
    engine: RestoreEngine = "native",
    engine_path: str | None = None,
    keys: Keys = NO_KEYS,
) -> RestorePlan:
    """Decide what a restore writes, check that the target can take it, and lease the target.

    When it fails it holds nothing. Whoever does not go through with the plan gives it back: `release_target`.

    :param access: of the target.
    :param id: the restore point; else `at`, a point in time; else the newest.
    :param holder: who takes the lease of the target; the same text in a retry takes it over.
    :param definitions: when indexes and UDFs are made, before or after the records are written.
    :param engine: what writes the records; `engine_path` is where the workers have that program, None: on their PATH.
    :raises NotRestorable, BrokenChain: nothing fits, or it was never verified, or the engine cannot restore it.
    :raises ProgramUnusable: the engine is a program that is not there, or too old.
    :raises KeyMissing, WrongKey: a point is encrypted with a key that is not among `keys`.
    :raises TargetNotUsable, UnknownNamespace, ClusterUnreachable, ClusterNotReady: nothing was touched.
    :raises LeaseHeld: a backup of the target or another restore runs.
    """
    points = catalog.restore_points(store, cluster, namespace)
    chain = choose_point(points, id=id, at=at)
    newest = chain[-1]
    what = f"restore {cluster}/{namespace} {newest.id} to {target.text}"
    unverified = [point.id for point in chain if point.verified is None]
    warnings = []
    version = __version__
    if engine != "native":
        if len(chain) > 1:
            raise NotRestorable(
                f"{what}: with {engine} only a full point can be restored, this one is a chain of {len(chain)}: the "
                "program writes older forms of records over newer ones, and cannot delete; use the engine native"
            )
        version = official.find_program(engine, engine_path).version
        if policy is Policy.NEWER:
            warnings.append(f"{engine} leaves the bins that the backup does not have in records that it replaces")
    if unverified and not allow_unverified:
        raise NotRestorable(
            f"{what}: {', '.join(unverified)} were never read back; run `dbops backup verify {cluster}`, or allow "
            "unverified points"
        )
    if unverified:
        warnings.append(f"{', '.join(unverified)} were never read back")
    manifests = [point.manifest for point in chain]
    for manifest in manifests:
        keys.find(manifest.encryption, f"{manifest.cluster}/{manifest.namespace} {manifest.id}")
    if len(manifests) > 1 and manifests[-1].deleted_counts is None:
        warnings.append(
            "this namespace does not track deletes: records that were deleted after the full backup of "
            f"{chain[0].snapshot_at:%F %T} UTC and before {newest.snapshot_at:%F %T} UTC come back"
        )
    if at is not None:
        warnings.append(
            f"what changed between {newest.snapshot_at:%F %T} UTC and {at:%F %T} UTC is in no restore point at or "
            "before the time asked for"
        )
    with Cluster(access) as reader:
        reader.wait_ready(target.namespace, READY_SECONDS, lambda reason: log.info("waiting: %s", reason))
        reader.key()
        state = reader.namespace_state(target.namespace)
    text_bytes = sum(manifest.text_bytes for manifest in manifests)
    expiring = [point.verified.expiring if point.verified else None for point in chain]
    if state.stops_writes:
        raise TargetNotUsable(f"{what}: the target takes no writes now (stop_writes); make room, or look at its clocks")
    if any(count is None or count for count in expiring) and not state.takes_ttl:
        unknown = "may hold" if None in expiring else "holds"
        reason = (
            f"the backup {unknown} records that expire, and the target removes none (nsup-period 0, "
            "allow-ttl-without-nsup false): it would refuse them; set nsup-period"
        )
        if None not in expiring:
            raise TargetNotUsable(f"{what}: {reason}")
        warnings.append(reason)
    room = state.capacity_bytes - state.data_bytes
    if state.capacity_bytes and room < text_bytes * state.replication_factor // 2 and not dry_run:
        raise TargetNotUsable(
            f"{what}: the target has room for {room / 1e6:,.0f} MB, the backup's {text_bytes / 1e6:,.0f} MB of text "
            f"times {state.replication_factor} replicas do not fit even if half of it were overhead"
        )
    now = datetime.now(UTC)
    plan = RestorePlan(
        id=restores.restore_id(now, dry_run=dry_run),
        cluster=cluster,
        namespace=namespace,
        points=[point.id for point in chain],
        snapshot_at=newest.snapshot_at,
        wanted_at=at,
        target=target,
        policy=policy,
        sets=tuple(sets),
        bins=tuple(bins),
        extra_ttl=round(extra_ttl.total_seconds()),
        dry_run=dry_run,
        definitions=definitions,
        engine=engine,
        engine_version=version,
        engine_path=engine_path,
        slices=restore_slices(manifests[0], whole_files=engine != "native"),
        holder=holder,
        started_at=now,
        records=sum(manifest.records for manifest in manifests),
        text_bytes=text_bytes,
        target_records=state.master_objects,
        indexes=tuple(manifests[-1].indexes),
        udfs=tuple(manifests[-1].udfs),
        warnings=tuple(warnings),
    )
    try:
        if not dry_run:
            lease_target(store, plan)
        restores.put_plan(store, plan)
    except BaseException:
        with suppress(DbopsError):  # the first error counts; what cannot be released now ends by itself
            release_target(store, plan)
        raise
    return plan


def restore_slices(manifest: Manifest, *, whole_files: bool = False) -> list[tuple[int, int]]:
    """Ranges of partitions that cover all and have none in common; each is restored by itself.

    Those of our own objects. Adopted files share partitions: a slice reads every file that has some of its own, so more
    slices are more tasks at once and more reading.

    :param whole_files: no file has records of two slices, as a program needs it, which cannot leave out partitions.
    """
    files = [entry for entry in manifest.objects if entry.role == "records"]
    if not manifest.is_adopted:
        return sorted({(entry.first, entry.last) for entry in files})
    if whole_files:
        starts, reached = [0], -1
        for entry in sorted((entry for entry in files if entry.records), key=lambda entry: entry.first):
            if entry.first > reached >= 0:
                starts.append(entry.first)
            reached = max(reached, entry.last)
        starts = starts[:: -(-len(starts) // _SLICES)]
        return list(zip(starts, [start - 1 for start in starts[1:]] + [PARTITIONS - 1], strict=True))
    count = _SLICES
    while count > 1:
        found = partition_slices(count)
        read = sum(entry.size for first, last in found for entry in files if _holds(entry, first, last))
        if count * _SLICE_BYTES <= manifest.text_bytes and read <= _READINGS * manifest.stored_bytes:
            return found
        count //= 2
    return [(0, PARTITIONS - 1)]


def _holds(entry: ObjectEntry, first: int, last: int) -> bool:
    return entry.first <= last and first <= entry.last


def lease_target(store: Store, plan: RestorePlan) -> None:
    """Take or renew the lease of the target: no backup of it and no other restore to it meanwhile. Retention keeps the
    points for as long.

    :raises LeaseHeld: says by whom.
    :raises NotFound: a point has expired.
    """
    until = datetime.now(UTC) + _KEPT
    mark_in_use(store, plan.cluster, plan.namespace, plan.points, plan.holder, until)
    Lease.acquire(store, catalog.lease_key(plan.target.cluster, plan.target.namespace), plan.holder, LEASE)


def release_target(store: Store, plan: RestorePlan) -> None:
    """Give the target free, if this restore still holds it, and let retention have the points."""
    release_in_use(store, plan.cluster, plan.namespace, plan.holder)
    Lease.release_holder(store, catalog.lease_key(plan.target.cluster, plan.target.namespace), plan.holder)


# --------------------------------------------------------------------------- slice


def restore_slice(
    access: Access,
    store: Store,
    plan: RestorePlan,
    first: int,
    last: int,
    *,
    keys: Keys = NO_KEYS,
    on_progress: OnProgress = no_progress,
    connections: int = CONNECTIONS,
) -> RestoreSliceResult:
    """Write partitions `first` to `last` (inclusive) to the target. Safe to repeat.

    What the target refuses is named and the rest is written; the caller looks at `outcomes.failed`.

    :raises BackupDamaged: an object is not what its manifest says.
    :raises WritesIncomplete: the target could not be reached for too long.
    """
    started = time.monotonic()
    chain = [catalog.read_manifest(store, plan.cluster, plan.namespace, id) for id in plan.points]
    if not plan.dry_run:
        lease_target(store, plan)
        if not plan.target.is_scratch:
            restores.mark_restored(store, plan)
    with _writer(access, plan, first, last, connections) as writer:
        reader = _SliceReader(store, plan, chain, first, last, writer, keys, on_progress)
        reader.run()
        writer.finish()
        if isinstance(writer, ProgramWriter):
            writer.settle(reader.outcomes)
        compared, differing = writer.compare_samples()
    span = slice(first, last + 1)
    outcomes = Outcomes(**reader.outcomes, **writer.outcomes)
    if not outcomes.accounted():
        raise AssertionError(f"restore of partitions {first}-{last}: {outcomes} do not add up")
    result = RestoreSliceResult(
        restore_id=plan.id,
        first=first,
        last=last,
        outcomes=outcomes,
        failures=writer.failures,
        present=writer.counts[span].tolist(),
        fingerprints=[f"{value:016x}" for value in writer.fingerprints[span].tolist()],
        expiring=writer.expiring[span].tolist(),
        compared=compared,
        differing=differing,
        seconds=time.monotonic() - started,
        again=writer.again,
    )
    restores.put_slice(store, result)
    return result


def _writer(access: Access, plan: RestorePlan, first: int, last: int, connections: int) -> Writer:
    if plan.dry_run:
        return Writer(access, plan, first, last, 0)
    if plan.engine == "native":
        return Writer(access, plan, first, last, connections)
    return ProgramWriter(access, plan, first, last)


def passes(chain: Sequence[Manifest], first: int, last: int, most: int = _REMEMBERED) -> Iterator[tuple[int, int, int]]:
    """Cut a slice into ranges of partitions whose newer points hold at most `most` digests: (first, last, digests).

    So the table of digests has a bound, and the objects are read once a range. A partition alone may exceed it.
    """
    newer = np.zeros(PARTITIONS, np.int64)
    for manifest in chain[1:]:
        newer += np.array(manifest.partition_counts, np.int64)
        if manifest.deleted_counts is not None:
            newer += np.array(manifest.deleted_counts, np.int64)
    start, total = first, 0
    for partition in range(first, last + 1):
        size = int(newer[partition])
        if total + size > most and partition > start:
            yield start, partition - 1, total
            start, total = partition, 0
        total += size
    yield start, last, total


class _SliceReader:
    """Reads the objects of the chain, the newest point first, and hands their records to the writer."""

    def __init__(
        self,
        store: Store,
        plan: RestorePlan,
        chain: Sequence[Manifest],
        first: int,
        last: int,
        writer: Writer,
        keys: Keys,
        on_progress: OnProgress,
    ) -> None:
        self.store, self.plan, self.chain, self.writer, self.keys = store, plan, chain, writer, keys
        self.first, self.last = first, last
        self.on_progress = on_progress
        self.outcomes = dict.fromkeys(("read", "superseded", "deleted", "other_set", "no_bin", "expired"), 0)
        self.progress = Progress(total=sum(sum(manifest.partition_counts[first : last + 1]) for manifest in chain))
        self._renewed = time.monotonic()
        self._namespace = np.frombuffer(plan.target.namespace.encode(), np.uint8)

    def run(self) -> None:
        for first, last, newer in passes(self.chain, self.first, self.last):
            places = 1 << max(4, (2 * newer).bit_length()) if len(self.chain) > 1 else 0
            keys, marks = np.zeros((places, 2), np.uint64), np.zeros(places, np.uint8)
            for manifest in reversed(self.chain):
                for role, read in (("deleted", self._deleted), ("records", self._records)):
                    for entry in manifest.objects:
                        if entry.role == role and _holds(entry, first, last):
                            read(manifest, entry, first, last, keys, marks)

    def _open(self, manifest: Manifest, entry: ObjectEntry) -> StoredStream:
        return StoredStream(self.store, manifest, entry, self.keys, self._on_stored)

    def _on_stored(self, size: int) -> None:
        self.progress.stored_bytes += size
        self._tick()

    def _tick(self) -> None:
        self.writer.check()
        self.on_progress(self.progress)
        if time.monotonic() - self._renewed > _RENEW_SECONDS and not self.plan.dry_run:
            lease_target(self.store, self.plan)
            self._renewed = time.monotonic()

    def _whole(self, manifest: Manifest, entry: ObjectEntry, source: StoredStream) -> None:
        sha256 = source.sha256()
        if sha256 != entry.sha256:
            raise BackupDamaged(
                f"restore {self.plan.id}: {manifest.id} {entry.name} has SHA-256 {sha256}, its manifest says "
                f"{entry.sha256}: it has changed, and what it held is partly in {self.plan.target.text} now; restore "
                "from another point"
            )

    def _deleted(
        self, manifest: Manifest, entry: ObjectEntry, first: int, last: int, keys: NDArray[np.uint64], marks: Bytes
    ) -> None:
        """What the point knows as deleted: never written from older points, and removed from the target."""
        source = self._open(manifest, entry)
        write = self.plan.policy is Policy.REPLACE and not self.plan.sets and not self.plan.dry_run
        state = np.zeros(kernel.STATE_SIZE, np.int64)
        blocks = io.BufferedReader(source, BLOCK)
        while block := blocks.read(BLOCK // DIGEST * DIGEST):
            digests, pos = np.frombuffer(block, np.uint8), 0
            while True:
                batch = self.writer.batch
                state[kernel.ROWS] = batch.count
                pos, batch.used, status = kernel.delete_rows(
                    digests, pos, len(digests), batch.out, batch.used, state, self._namespace, batch.rows[:-1],
                    first, last, keys, marks, write,
                )  # fmt: skip
                self.writer.filled(batch, int(state[kernel.ROWS]) - batch.count, deletes=True)
                if status == kernel.DONE:
                    break
                self.writer.submit()
        self._whole(manifest, entry, source)

    def _records(
        self, manifest: Manifest, entry: ObjectEntry, first: int, last: int, keys: NDArray[np.uint64], marks: Bytes
    ) -> None:
        source = self._open(manifest, entry)
        try:
            text = asb.open_asb(cast(BinaryIO, source))
            preamble = asb.read_header(text, self.plan.namespace)
            decoded = self._decode(text, preamble, first, last, keys, marks, remember=manifest is not self.chain[0])
            if isinstance(self.writer, ProgramWriter):
                self.writer.write(preamble, entry.records, decoded, self._tick)
            for _ in decoded:
                pass
        except asb.AsbError as error:
            raise BackupDamaged(
                f"restore {self.plan.id}: {manifest.id} {entry.name} cannot be read: {error}; restore from "
                "another point"
            ) from None
        self._whole(manifest, entry, source)

    def _decode(
        self,
        text: BinaryIO,
        preamble: asb.Preamble,
        first: int,
        last: int,
        keys: NDArray[np.uint64],
        marks: Bytes,
        *,
        remember: bool,
    ) -> Iterator[memoryview]:
        """Put the records of a text into batches; the text of what was taken, call by call."""
        plan = self.plan
        legacy = preamble.header.version == "3.0"
        sets, bins = _names(plan.sets, legacy), _names(plan.bins, legacy)
        info2, info3 = _FLAGS[plan.policy]
        records, seen = Records(text, preamble), 0
        state = records.state
        while True:
            batch, start = self.writer.batch, records.pos
            state[kernel.ROWS] = batch.count
            records.pos, batch.used, status = kernel.decode(
                records.data, records.pos, records.end, records.final, batch.out, batch.used, state,
                self._namespace, info2, info3, self.writer.now(), batch.rows[:-1], first, last, plan.extra_ttl,
                *sets, *bins, keys, marks, remember,
            )  # fmt: skip
            self.writer.filled(batch, int(state[kernel.ROWS]) - batch.count)
            mine = int(state[kernel.RECORDS] - state[kernel.ELSEWHERE])
            self.progress.records += mine - seen
            seen = mine
            yield records.data.data[start : records.pos]
            if status == kernel.DONE:
                break
            if status != kernel.OUT_FULL:
                records.more(status)
                continue
            if batch.count:
                self.writer.submit()
            else:
                batch.grow(int(state[kernel.ROOM_NEEDED]))
            self._tick()
        for name, at in (
            ("superseded", kernel.SUPERSEDED),
            ("deleted", kernel.GONE),
            ("other_set", kernel.OTHER_SET),
            ("no_bin", kernel.NO_BIN),
            ("expired", kernel.EXPIRED),
        ):
            self.outcomes[name] += int(state[at])
        self.outcomes["read"] += seen


def _names(names: Sequence[str], legacy: bool) -> tuple[Bytes, Ints]:
    """Names as the kernel compares them with the text: one behind the other, and where each ends."""
    written = [name.encode() if legacy else asb.escape(name) for name in names]
    ends = np.cumsum([len(name) for name in written], dtype=np.int64)
    return np.frombuffer(b"".join(written), np.uint8), ends


# --------------------------------------------------------------------------- finish


def restore_definitions(
    access: Access, store: Store, plan: RestorePlan, keys: Keys = NO_KEYS
) -> tuple[list[str], list[str]]:
    """Make the secondary indexes and register the UDFs of the newest point; again = no change. Their names.

    :raises RestoreFailed: the target refuses one; names it.
    """
    manifest = catalog.read_manifest(store, plan.cluster, plan.namespace, plan.points[-1])
    entry = manifest.defining_object
    if entry is None:
        return [], []
    source = StoredStream(store, manifest, entry, keys)
    preamble = asb.read_header(asb.open_asb(cast(BinaryIO, source)), plan.namespace)
    problems = []
    with Cluster(access) as cluster:
        cluster.refresh()
        node = next(iter(cluster.nodes))
        for udf in preamble.udfs:
            command = asb.udf_command(udf)
            answer = cluster.ask(node, command).get(command, "")
            if answer != "ok":
                problems.append(f"UDF {udf.name}: the server answered {answer[:200]!r}")
        for index in preamble.indexes:
            if plan.sets and index.set not in plan.sets:
                continue
            command = asb.index_command(index, plan.target.namespace)
            answer = cluster.ask(node, command).get(command, "")
            if answer.lower() != "ok":
                problems.append(f"index {index.name}: the server answered {answer[:200]!r}")
    if problems:
        raise RestoreFailed(f"restore {plan.id} to {plan.target.text}: {'; '.join(problems)}")
    return [index.name for index in preamble.indexes], [udf.name for udf in preamble.udfs]


def check_restore(
    access: Access, store: Store, plan: RestorePlan, definitions: tuple[list[str], list[str]] = ([], [])
) -> RestoreReport:
    """Compare what the target holds with what the slices wrote, store the report, and give the target free.

    :raises IncompleteRestore: slices have not ended yet.
    """
    results = restores.slices_done(store, plan)
    missing = [slice_ for slice_ in plan.slices if slice_ not in {(r.first, r.last) for r in results}]
    if missing:
        raise IncompleteRestore(
            f"restore {plan.id} to {plan.target.text}: {len(missing)} of {len(plan.slices)} slices have not ended, the "
            f"first is {missing[0][0]}-{missing[0][1]}; run them again, then the check"
        )
    outcomes = Outcomes.total([result.outcomes for result in results])
    problems: list[str] = []
    warnings = list(plan.warnings)
    failures = [failure for result in results for failure in result.failures][:_NAMED]
    if outcomes.failed:
        problems.append(
            f"{outcomes.failed:,} records were refused, the first: "
            + "; ".join(f"{failure.digest} of set {failure.set!r} ({failure.reason})" for failure in failures[:3])
        )
    differing = [text for result in results for text in result.differing]
    if differing:
        problems.append(f"{len(differing)} of the records that were read back differ: {'; '.join(differing[:3])}")
    held = plan.target_records
    if not plan.dry_run:
        held = _compare(access, plan, results, problems, warnings)
    report = RestoreReport(
        id=plan.id,
        cluster=plan.cluster,
        namespace=plan.namespace,
        target=plan.target.text,
        points=plan.points,
        dry_run=plan.dry_run,
        ok=not problems,
        problems=problems,
        warnings=warnings,
        outcomes=outcomes,
        failures=failures,
        compared=sum(result.compared for result in results),
        target_records=held,
        indexes=definitions[0],
        udfs=definitions[1],
        started_at=plan.started_at,
        finished_at=datetime.now(UTC),
    )
    restores.put_report(store, report)
    release_target(store, plan)
    return report


class IncompleteRestore(FinalError):
    """Slices of the restore have not ended."""


def _compare(
    access: Access,
    plan: RestorePlan,
    results: Sequence[RestoreSliceResult],
    problems: list[str],
    warnings: list[str],
) -> int:
    """Count and fingerprint every partition of the target; how many records it holds."""
    lists = restores.unpacked(results)
    present, expiring = np.array(lists[0], np.int64), np.array(lists[2], np.int64)
    fingerprints = np.array(lists[1], np.uint64)
    tally = Tally()
    with Cluster(access) as cluster:
        cluster.refresh()
        drain = Drain(
            cluster, plan.target.namespace, kernel.digests, tally, Output(lambda block: None, 1 << 20), no_bins=True
        )
        try:
            drain.run(range(PARTITIONS))
        finally:
            drain.close()
    counts = tally.counts
    short = np.flatnonzero(counts < present - expiring)
    if short.size:
        lost = int((present - counts)[short].sum())
        problems.append(
            f"the target lacks {lost:,} records in {short.size} partitions, the first is {int(short[0])} "
            f"({int(counts[short[0]])} instead of {int(present[short[0]])})"
        )
    if plan.target_records == 0:
        extra = int(np.maximum(counts - present, 0).sum())
        if extra:
            warnings.append(f"the target holds {extra:,} records that this restore did not write")
        same = counts == present
        other = np.flatnonzero(same & (tally.fingerprints != fingerprints) & (expiring == 0))
        if other.size:
            problems.append(
                f"{other.size} partitions hold as many records as they should but other ones, the first is "
                f"{int(other[0])}"
            )
    expired = int(np.clip(present - counts, 0, expiring).sum())
    if expired:
        warnings.append(f"{expired:,} records have expired since they were written")
    return int(counts.sum())


def run_restore(
    access: Access,
    store: Store,
    plan: RestorePlan,
    *,
    workers: int,
    keys: Keys = NO_KEYS,
    on_progress: OnProgress = no_progress,
) -> RestoreReport:
    """All slices of a plan in this process, definitions before or after them, then the check. For the command line and
    for drills.

    :param workers: slices written at once.
    """
    stop = threading.Event()
    parts: dict[int, Progress] = {}

    def write(number: int) -> None:
        def show(progress: Progress) -> None:
            if stop.is_set():
                raise RestoreStopped(f"restore {plan.id} was stopped: another slice failed")
            parts[number] = progress
            done = list(parts.values())
            on_progress(
                Progress(
                    records=sum(part.records for part in done),
                    stored_bytes=sum(part.stored_bytes for part in done),
                    total=plan.records,
                )
            )

        restore_slice(access, store, plan, *plan.slices[number], keys=keys, on_progress=show)

    made: tuple[list[str], list[str]] = ([], [])
    try:
        if not plan.dry_run and plan.definitions == "before":
            made = restore_definitions(access, store, plan, keys)
        with ThreadPoolExecutor(workers, thread_name_prefix="slice") as pool:
            tasks = [pool.submit(write, number) for number in range(len(plan.slices))]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if not plan.dry_run and plan.definitions == "after":
            made = restore_definitions(access, store, plan, keys)
        return check_restore(access, store, plan, made)
    finally:
        release_target(store, plan)


def require_ok(report: RestoreReport) -> RestoreReport:
    """:raises RestoreFailed: the report names problems."""
    if not report.ok:
        raise RestoreFailed(f"restore {report.id} to {report.target}: {'; '.join(report.problems)}")
    return report
