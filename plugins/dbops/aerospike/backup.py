"""Backups of one namespace: plan, read slices, commit.

A *slice* is a range of partitions, read by one task: queried at the owners, turned from wire bytes into `.asb` text by
the kernel, compressed, hashed and stored, all streaming, so that its memory does not depend on the namespace's size.
A backup exists when its manifest does; the manifest is written last.

What a restore point holds: every record as it was at some moment at or after `snapshot_at`. An incremental reads what
changed since the snapshot of its parent minus an overlap for clock skew. Both times are of the cluster's own clock, so
a worker whose clock is off leaves no hole.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import IO, Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from dbops import __version__
from dbops.aerospike import asb, kernel, official
from dbops.aerospike.cluster import Access, Cluster, NamespaceState
from dbops.aerospike.digests import BLOCK, DIGEST, Bytes, Inventory, Vanished, union
from dbops.aerospike.drain import Drain, Output, Tally
from dbops.aerospike.wire import PARTITIONS, modified_since
from dbops.backups import catalog, cipher
from dbops.backups.catalog import RestorePoint
from dbops.backups.cipher import NO_KEYS, Key, KeyMissing, Keys, WrongKey
from dbops.backups.lease import Lease
from dbops.backups.manifest import BackupPlan, Kind, Manifest, ObjectEntry, Role, SliceResult, backup_id
from dbops.backups.restores import restored_at
from dbops.backups.store import ObjectWriter, Store, StoredObject
from dbops.errors import DbopsError, FinalError, RetryableError
from dbops.platform import AerospikeCluster, Namespace, Platform

log = logging.getLogger(__name__)

ZSTD_LEVEL = 1  # level 3 costs twice the CPU for a few percent of size (bench/README.md)
READY_SECONDS = 120.0
LEASE = timedelta(minutes=15)
_RENEW_SECONDS = 240.0
_CLOCK_WARNING_SECONDS = 30


class ClockWentBack(FinalError):
    """A new restore point would be older than the newest one."""


class BackupStopped(RetryableError):
    """Another slice of the same process failed, or a person stopped the command."""


class AlreadyCommitted(FinalError):
    """The backup that a slice belongs to is committed: writing the slice again would damage it."""


class DeletesUnknown(FinalError):
    """The plan tracks deletes, and its parent kept no digests."""


@dataclass
class Progress:
    """How far a slice or a backup is. `total` is what the server says that the namespace holds, an estimate."""

    records: int = 0
    text_bytes: int = 0
    stored_bytes: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """Nobody is watching."""


# ---------------------------------------------------------------------------- plan


def plan_backup(
    platform: Platform,
    cluster: AerospikeCluster,
    namespace: Namespace,
    kind: Kind,
    access: Access,
    store: Store,
    *,
    holder: str,
    slices: int | None = None,
    keys: Keys = NO_KEYS,
) -> BackupPlan:
    """Decide what a backup reads, and take the lease of the namespace.

    An incremental without a usable full becomes a full, and says so in its kind: there is nothing to add to.

    :param holder: who takes the lease; the same text in a retry takes it over from its earlier try.
    :param slices: overrides the cluster's number of slices.
    :param keys: its current one encrypts the backup.
    :raises LeaseHeld: another backup of the namespace runs.
    :raises UnknownNamespace, ClusterUnreachable, ClusterNotReady, Refused, ProgramUnusable: nothing was touched.
    """
    version = __version__
    if cluster.engine != "native":
        version = official.find_program(cluster.engine, cluster.engine_path).version
    with Cluster(access) as reader:
        reader.wait_ready(namespace.name, READY_SECONDS, lambda reason: log.info("waiting: %s", reason))
        key = reader.key()
        lease = Lease.acquire(store, catalog.lease_key(cluster.name, namespace.name), holder, LEASE)
        try:
            points = catalog.restore_points(store, cluster.name, namespace.name)
            parent = None
            if kind is Kind.INCREMENTAL:
                parent = _parent(
                    points, namespace, cluster.name, keys, restored_at(store, cluster.name, namespace.name)
                )
            snapshot, state = _snapshot(reader, namespace.name, max((p.snapshot_at for p in points), default=None))
            overlap = max(cluster.clock_skew_overlap, 2 * reader.clock_skew())
            kind = Kind.INCREMENTAL if parent else Kind.FULL
            return BackupPlan(
                id=backup_id(snapshot, kind),
                cluster=cluster.name,
                namespace=namespace.name,
                kind=kind,
                snapshot_at=snapshot,
                started_at=datetime.now(UTC),
                modified_after=parent.snapshot_at - overlap if parent else None,
                base=(parent.manifest.base or parent.id) if parent else None,
                parent=parent.id if parent else None,
                slices=partition_slices(cluster.slices if slices is None else slices),
                track_deletes=namespace.track_deletes,
                holder=holder,
                cluster_name=reader.name(),
                cluster_key=key,
                server_build=reader.build(),
                zstd_level=ZSTD_LEVEL,
                platform_sha256=platform.sha256,
                records_per_second=cluster.records_per_second,
                engine=cluster.engine,
                engine_version=version,
                engine_path=cluster.engine_path,
                expected_records=state.master_objects,
                encryption=keys.encryption,
            )
        except BaseException:
            lease.release()
            raise


def _parent(
    points: Sequence[RestorePoint], namespace: Namespace, cluster: str, keys: Keys, restored: datetime | None
) -> RestorePoint | None:
    parent = catalog.latest(points)
    if parent is None:
        log.warning("%s/%s has no full backup to build on: this one is full", cluster, namespace.name)
        return None
    if parent.manifest.is_adopted:
        # When it began is what a person said: were that too late, what changed before would be in neither.
        log.warning("%s of %s/%s was adopted: this backup is full", parent.id, cluster, namespace.name)
        return None
    if restored is not None and restored >= parent.snapshot_at:
        log.warning("%s/%s was restored to at %s: this backup is full", cluster, namespace.name, f"{restored:%FT%TZ}")
        return None
    try:
        for point in catalog.chain(points, parent.id):
            keys.find(point.manifest.encryption, f"restore point {point.id} of {cluster}/{namespace.name}")
    except (KeyMissing, WrongKey) as problem:
        log.warning("%s. This backup is full: nobody here could restore one that builds on it", problem)
        return None
    if namespace.track_deletes and parent.manifest.inventory_counts is None:
        log.warning("%s kept no digests: this backup is full, so that deletes are known from now on", parent.id)
        return None
    return parent


def _snapshot(reader: Cluster, namespace: str, newest: datetime | None) -> tuple[datetime, NamespaceState]:
    """The cluster's time now, in whole seconds, later than the newest restore point's.

    :raises ClockWentBack: the cluster's clock is behind its own last backup by more than a moment.
    """
    for _ in range(10):
        state = reader.namespace_state(namespace)
        now = datetime.now(UTC)
        snapshot = (
            datetime.fromtimestamp(min(state.node_times), UTC) if state.node_times else now.replace(microsecond=0)
        )
        if newest is None or snapshot > newest:
            break
        time.sleep(0.3)
    else:
        raise ClockWentBack(
            f"plan a backup of {namespace}: the cluster's clock says {snapshot:%FT%TZ}, its newest restore point is of "
            f"{newest:%FT%TZ}; a point may not be older than its parent: check the clocks of the nodes"
        )
    if abs((now - snapshot).total_seconds()) > _CLOCK_WARNING_SECONDS:
        log.warning(
            "the clocks of the cluster and of this worker differ by %.0f s; restore points carry the cluster's time",
            (snapshot - now).total_seconds(),
        )
    return snapshot, state


def partition_slices(count: int) -> list[tuple[int, int]]:
    """`count` ranges (first, last inclusive) that cover all partitions evenly.

    :raises FinalError: there are not so many partitions.
    """
    if not 1 <= count <= PARTITIONS:
        raise FinalError(f"cut the partitions into {count} slices: name a number of 1 to {PARTITIONS}")
    cuts = [number * PARTITIONS // count for number in range(count + 1)]
    return [(first, last - 1) for first, last in pairwise(cuts)]


# --------------------------------------------------------------------------- slice


class _Text:
    """`.asb` text on its way into one stored object: compressed, counted."""

    def __init__(self, writer: ObjectWriter, level: int, on_block: Callable[[int, int], None]) -> None:
        self._writer, self._on_block = writer, on_block
        # A window of 128 KiB: as small, and a tenth cheaper than the level's own 512 KiB, which leave the cache.
        parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=17, write_content_size=False)
        self._compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        self.bytes = 0

    def write(self, block: bytes | memoryview) -> None:
        self.bytes += len(block)
        data = self._compressor.compress(block)
        if data:
            self._writer.write(data)
        self._on_block(len(block), len(data))

    def close(self) -> None:
        self._writer.write(self._compressor.flush())


def backup_slice(
    access: Access,
    store: Store,
    plan: BackupPlan,
    first: int,
    last: int,
    *,
    parent: Manifest | None = None,
    keys: Keys = NO_KEYS,
    on_progress: OnProgress = no_progress,
) -> SliceResult:
    """Read partitions `first` to `last` (inclusive) and store them; a retry overwrites what an earlier try left.

    :param parent: manifest of the plan's parent; needed by an incremental that tracks deletes (read when None).
    :param keys: that of the plan, when it is encrypted, and that of its parent.
    :param on_progress: called after each block that was received.
    :raises KeyMissing, WrongKey: the plan was made, or its parent was written, with a key that is not among `keys`.
    :raises PartitionsIncomplete, ProgramFailed: partitions could not be read to their end.
    :raises StoreError: the storage refused; nothing of this slice is visible then.
    """
    started = time.monotonic()
    key = keys.find(plan.encryption, f"backup {plan.id} of {plan.cluster}/{plan.namespace}")
    if store.head(catalog.manifest_key(plan.cluster, plan.namespace, plan.id)):
        raise AlreadyCommitted(
            f"slice {first}-{last} of {plan.cluster}/{plan.namespace} {plan.id}: that backup is committed and is not "
            "written again; clear the task `plan` too, or trigger a new run"
        )
    Lease.acquire(store, catalog.lease_key(plan.cluster, plan.namespace), plan.holder, LEASE)
    with Cluster(access) as cluster:
        cluster.wait_ready(plan.namespace, READY_SECONDS, lambda reason: log.info("waiting: %s", reason))
        reader = _SliceReader(cluster, store, plan, first, last, key, on_progress)
        if plan.engine != "native":
            result = reader.read_by_program(official.find_program(plan.engine, plan.engine_path))
        elif plan.track_deletes:
            if plan.parent and parent is None:
                parent = catalog.read_manifest(store, plan.cluster, plan.namespace, plan.parent)
            result = reader.read_with_deletes(parent, keys)
        else:
            result = reader.read()
    result = result.model_copy(update={"seconds": time.monotonic() - started})
    catalog.put_slice_result(store, plan, result)
    return result


class _SliceReader:
    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        plan: BackupPlan,
        first: int,
        last: int,
        key: Key | None,
        on_progress: OnProgress,
    ) -> None:
        self.cluster, self.store, self.plan, self.first, self.last = cluster, store, plan, first, last
        self.key = key
        self.tally = Tally()
        self.progress = Progress(total=plan.expected_records * (last - first + 1) // PARTITIONS)
        self.on_progress = on_progress
        self.lease_renewed = time.monotonic()
        self.indexes: list[str] = []
        self.udfs: list[str] = []

    def _on_text(self, text: int, stored_bytes: int) -> None:
        self.progress.text_bytes += text
        self.progress.stored_bytes += stored_bytes

    def _on_block(self) -> None:
        self.progress.records = self.tally.records
        self.on_progress(self.progress)
        if time.monotonic() - self.lease_renewed > _RENEW_SECONDS:
            Lease.acquire(
                self.store, catalog.lease_key(self.plan.cluster, self.plan.namespace), self.plan.holder, LEASE
            )
            self.lease_renewed = time.monotonic()

    def _drain(self, output: Output, tally: Tally, parse: Callable[..., tuple[int, int, int]], no_bins: bool) -> Drain:
        expression = b""
        if self.plan.modified_after and not no_bins:
            expression = modified_since(int(self.plan.modified_after.timestamp()) * 1_000_000_000)
        return Drain(
            self.cluster,
            self.plan.namespace,
            parse,
            tally,
            output,
            filter_expression=expression,
            no_bins=no_bins,
            records_per_second=self.plan.records_per_second,
            on_block=self._on_block,
        )

    def _open(self, role: str, suffix: str) -> ObjectWriter:
        name = f"{role}_{self.first:04d}_{self.last:04d}.{suffix}"
        return cipher.open_writer(self.store, catalog.object_key(self.plan, name), self.key)

    def _open_if(self, wanted: bool, role: str, suffix: str) -> AbstractContextManager[ObjectWriter | None]:
        return self._open(role, suffix) if wanted else nullcontext()

    def _begin(self, text: _Text) -> None:
        """Header, and in the slice of partition 0 the secondary indexes and UDFs, as asrestore expects them."""
        if self.first:
            text.write(asb.header(self.plan.namespace))
            return
        node = next(iter(self.cluster.nodes))
        indexes, udf_names = self._indexes_and_udfs()
        version = asb.version_for(indexes)
        text.write(asb.header(self.plan.namespace, first_file=True, version=version))
        for line, name in asb.index_lines(indexes, version):
            text.write(line)
            self.indexes.append(name)
        for name in udf_names:
            command = f"udf-get:filename={name}"
            text.write(asb.udf_line(name, self.cluster.ask(node, command)[command]))
            self.udfs.append(name)

    def _indexes_and_udfs(self) -> tuple[str, list[str]]:
        """The listing of the secondary indexes, and the names of the UDFs, as the cluster says them."""
        listing = f"sindex-list:namespace={self.plan.namespace};b64=true"
        answer = self.cluster.ask(next(iter(self.cluster.nodes)), listing, "udf-list")
        return answer.get(listing, ""), asb.udf_names(answer.get("udf-list", ""))

    # ------------------------------------------------------------------ without deletes

    def read(self) -> SliceResult:
        """All partitions of the slice in one query a node."""
        with self._open("slice", "asb") as writer:
            text = _Text(writer, self.plan.zstd_level, self._on_text)
            self._begin(text)
            output = Output(text.write)
            drain = self._drain(output, self.tally, kernel.encode, no_bins=False)
            try:
                drain.run(range(self.first, self.last + 1))
            finally:
                drain.close()
            output.flush()
            text.close()
            stored_object = writer.close()
        return self._result([self._entry("records", stored_object, self.tally.records, text.bytes)], drain.resumed)

    def read_by_program(self, program: official.Program) -> SliceResult:
        """All partitions of the slice as an official program reads them."""
        if program.version != self.plan.engine_version:
            log.warning("this worker has %s, the plan was made with %s", program, self.plan.engine_version)
        with self._open("slice", "asb") as writer:
            text = _Text(writer, self.plan.zstd_level, self._on_text)
            taken = official.backup_partitions(
                program,
                self.cluster.access,
                self.plan.namespace,
                self.first,
                self.last,
                text.write,
                self.tally,
                modified_after=self.plan.modified_after,
                records_per_second=self.plan.records_per_second,
                on_tick=self._on_block,
            )
            if not self.first:
                self._check_taken(program, taken)
            text.close()
            stored_object = writer.close()
        self.indexes, self.udfs = taken.indexes, taken.udfs
        return self._result([self._entry("records", stored_object, self.tally.records, text.bytes)], 0)

    def _check_taken(self, program: official.Program, taken: official.Taken) -> None:
        """asbackup leaves out an index of a kind that it does not know, and says nothing of it."""
        indexes, udfs = self._indexes_and_udfs()
        names = [name for _, name in asb.index_lines(indexes, asb.version_for(indexes))]
        for what, there, found in (("index", names, taken.indexes), ("UDF", udfs, taken.udfs)):
            if missing := sorted(set(there) - set(found)):
                raise official.ProgramFailed(
                    f"{program} left out {what} {', '.join(missing)} of {self.plan.cluster}/{self.plan.namespace}, "
                    "which was created just now or is of a kind that it does not know; the engine native reads all"
                )

    # --------------------------------------------------------------------- with deletes

    def read_with_deletes(self, parent: Manifest | None, keys: Keys) -> SliceResult:
        """One query a partition, so that digests arrive in order, beside the data its inventory, and what vanished.

        In a full the inventory is what was read. In an incremental the changed records are read first and the
        inventory after them: a record that was created, read and deleted in between is then known as vanished, because
        it is among the changed ones and not in the inventory.
        """
        incremental = self.plan.kind is Kind.INCREMENTAL
        if incremental and (parent is None or parent.inventory_counts is None):
            raise DeletesUnknown(f"{self.plan.id}: tracks deletes, but its parent {self.plan.parent} kept no digests")
        older_digests = self._inventory(parent, keys) if incremental and parent else None
        inventory = [0] * (self.last - self.first + 1)
        deleted = [0] * len(inventory)
        objects: list[ObjectEntry] = []
        with (
            self._open("slice", "asb") as data_writer,
            self._open("digests", "bin") as digest_writer,
            self._open_if(incremental, "deleted", "bin") as deleted_writer,
            tempfile.SpooledTemporaryFile(max_size=8 << 20) as changed,
        ):
            text = _Text(data_writer, self.plan.zstd_level, self._on_text)
            self._begin(text)
            output = Output(text.write)
            write_digests = digest_writer.write
            changed_output = Output(changed.write if incremental else write_digests, 1 << 20)
            both = _EncodeAndDigest(changed_output)
            drain = self._drain(output, self.tally, both, no_bins=False)
            present_tally = Tally()
            present_output = Output(write_digests, 1 << 20)
            present = self._drain(present_output, present_tally, kernel.digests, no_bins=True)
            try:
                for partition in range(self.first, self.last + 1):
                    drain.run([partition])
                    changed_output.flush()
                    at = partition - self.first
                    if not incremental:
                        inventory[at] = int(self.tally.counts[partition])
                        continue
                    assert older_digests is not None
                    assert deleted_writer is not None
                    older = union(older_digests.partition(partition), _spooled(changed))
                    vanished = Vanished(older, deleted_writer.write)

                    def keep(block: memoryview, vanished: Vanished = vanished) -> None:
                        write_digests(block)
                        vanished.feed(np.frombuffer(block, np.uint8))

                    present_output.take = keep
                    present.run([partition])
                    present_output.flush()
                    vanished.finish()
                    inventory[at], deleted[at] = int(present_tally.counts[partition]), vanished.count
                    changed.seek(0)
                    changed.truncate()
            finally:
                drain.close()
                present.close()
            output.flush()
            text.close()
            objects.append(self._entry("records", data_writer.close(), self.tally.records, text.bytes))
            objects.append(self._entry("digests", digest_writer.close(), sum(inventory), 0))
            if deleted_writer:
                objects.append(self._entry("deleted", deleted_writer.close(), sum(deleted), 0))
        return self._result(objects, drain.resumed + present.resumed, inventory, deleted if incremental else None)

    def _inventory(self, parent: Manifest, keys: Keys) -> Inventory:
        assert parent.inventory_counts is not None
        objects = [
            (catalog.object_key(parent, entry.name), entry.first, entry.last)
            for entry in parent.objects
            if entry.role == "digests"
        ]
        key = keys.find(parent.encryption, f"restore point {parent.id} of {parent.cluster}/{parent.namespace}")
        return Inventory(cipher.ranges(self.store, key), objects, parent.inventory_counts)

    # --------------------------------------------------------------------------- result

    def _entry(self, role: Role, stored_object: StoredObject, records: int, text_bytes: int) -> ObjectEntry:
        if stored_object.sha256 is None:
            raise DbopsError(f"{stored_object.key} was stored without a SHA-256")
        return ObjectEntry(
            name=stored_object.key.rpartition("/")[2],
            role=role,
            first=self.first,
            last=self.last,
            size=stored_object.size,
            sha256=stored_object.sha256,
            records=records,
            text_bytes=text_bytes,
        )

    def _result(
        self,
        objects: list[ObjectEntry],
        resumed: int,
        inventory: list[int] | None = None,
        deleted: list[int] | None = None,
    ) -> SliceResult:
        span = slice(self.first, self.last + 1)
        return SliceResult(
            plan_id=self.plan.id,
            first=self.first,
            last=self.last,
            objects=objects,
            counts=self.tally.counts[span].tolist(),
            fingerprints=[f"{value:016x}" for value in self.tally.fingerprints[span].tolist()],
            inventory=inventory,
            deleted=deleted,
            indexes=self.indexes,
            udfs=self.udfs,
            seconds=0.0,
            resumed=resumed,
        )


class _EncodeAndDigest:
    """`kernel.encode` that also puts each record's digest into an output of its own."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._tally = Tally()

    def __call__(
        self, src: Bytes, pos: int, end: int, out: Bytes, w: int, state: NDArray[np.int64], *tally: Any
    ) -> tuple[int, int, int]:
        again = state.copy()
        until, w, status = kernel.encode(src, pos, end, out, w, state, *tally)
        while pos < until:
            output = self.output
            pos, output.used, found = kernel.digests(
                src, pos, until, output.buffer, output.used, again, *self._tally.arrays
            )
            if found == kernel.OUT_FULL:
                output.make_room()
        return until, w, status


def _spooled(changed: IO[bytes]) -> Iterator[Bytes]:
    changed.seek(0)
    while block := changed.read(BLOCK // DIGEST * DIGEST):
        yield np.frombuffer(block, np.uint8)


# -------------------------------------------------------------------------- commit


def commit_backup(access: Access, store: Store, plan: BackupPlan) -> Manifest:
    """Write the manifest, after which the backup exists, and give the lease back. Again = the same manifest.

    :raises IncompleteBackup: a slice has no result; names the missing ones.
    """
    try:
        with Cluster(access) as cluster:
            cluster.refresh()
            key_after = cluster.key()
    except RetryableError as problem:
        # The data is whole whatever the cluster does now: each partition was part of an answer that ended well.
        log.warning("the cluster key after the backup is not known: %s", problem)
        key_after = ""
    results = catalog.slice_results(store, plan)
    manifest = catalog.commit(store, plan, results, datetime.now(UTC), key_after)
    catalog.delete_slice_results(store, plan)
    release_lease(store, plan)
    return manifest


def release_lease(store: Store, plan: BackupPlan) -> None:
    """Give the namespace free, if this backup still holds it."""
    Lease.release_holder(store, catalog.lease_key(plan.cluster, plan.namespace), plan.holder)


def abandon_backup(store: Store, plan: BackupPlan) -> None:
    """Remove what an uncommitted backup stored, and give the lease back. A committed one is left alone."""
    if store.head(catalog.manifest_key(plan.cluster, plan.namespace, plan.id)):
        return
    prefix = catalog.object_key(plan, "")
    store.abort_uploads(prefix)
    store.delete([item.key for item in store.list(prefix)])
    release_lease(store, plan)


def run_backup(
    access: Access,
    store: Store,
    plan: BackupPlan,
    *,
    workers: int,
    keys: Keys = NO_KEYS,
    on_progress: OnProgress = no_progress,
) -> Manifest:
    """All slices of a plan in this process, then the commit. For the command line; Airflow maps slices to tasks.

    :param workers: slices read at once.
    :param keys: as in `backup_slice`.
    :raises DbopsError: nothing is listed and what was stored is removed.
    """
    parts = [Progress() for _ in plan.slices]
    parent = (
        catalog.read_manifest(store, plan.cluster, plan.namespace, plan.parent)
        if plan.parent and plan.track_deletes
        else None
    )

    stop = threading.Event()

    def read(number: int) -> None:
        def show(progress: Progress) -> None:
            if stop.is_set():
                raise BackupStopped(f"backup {plan.id} of {plan.namespace} was stopped: another slice failed")
            parts[number] = replace(progress)
            on_progress(
                Progress(
                    sum(part.records for part in parts),
                    sum(part.text_bytes for part in parts),
                    sum(part.stored_bytes for part in parts),
                    plan.expected_records,
                )
            )

        first, last = plan.slices[number]
        backup_slice(access, store, plan, first, last, parent=parent, keys=keys, on_progress=show)

    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="slice") as pool:
            tasks = [pool.submit(read, number) for number in range(len(plan.slices))]
            try:
                done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
                for task in done:
                    task.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return commit_backup(access, store, plan)
    except BaseException:
        try:
            abandon_backup(store, plan)
        except DbopsError as problem:  # what the backup failed for is what its reader must see
            log.warning("what %s of %s stored could not be removed: %s", plan.id, plan.namespace, problem)
        raise
