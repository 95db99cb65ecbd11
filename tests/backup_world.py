"""What the tests of the backup engine share: a namespace to back up, and reading back without the engine."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import resource
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import aerospike
from dbops.aerospike import asb, backup
from dbops.aerospike.cluster import Access
from dbops.backups import catalog
from dbops.backups.cipher import NO_KEYS, Keys, open_object
from dbops.backups.manifest import BackupPlan, Kind, Manifest, ObjectEntry
from dbops.backups.store import S3Store, Store
from dbops.platform import AerospikeCluster, Namespace, Platform, load_platform
from dbops.platform.load import DIRECTORY
from dbops_lab.aerospike.process import Row, StandIn, bins
from dbops_lab.testing import LabS3

LOOPBACK = "127.0.0.1"
FULL, INCREMENTAL = Kind.FULL, Kind.INCREMENTAL


@dataclass
class World:
    """One namespace of a cluster, and the store that its backups go to."""

    access: Access
    store: Store
    namespace: str
    overlap: timedelta = timedelta(0)
    engine: str = "native"
    engine_path: str | None = None
    platform: Platform = field(default_factory=lambda: load_platform(DIRECTORY / "lab.yaml"))
    keys: Keys = NO_KEYS

    def configured(self, *, track_deletes: bool, records_per_second: int) -> tuple[AerospikeCluster, Namespace]:
        cluster = self.platform.aerospike.clusters[0]
        namespace = cluster.namespaces[0].model_copy(update={"name": self.namespace, "track_deletes": track_deletes})
        limits = {"clock_skew_overlap": self.overlap, "records_per_second": records_per_second}
        engine = {"engine": self.engine, "engine_path": self.engine_path}
        return cluster.model_copy(update=limits | engine), namespace

    def plan(
        self,
        kind: Kind = FULL,
        *,
        holder: str = "run-1",
        slices: int | None = 4,
        track_deletes: bool = False,
        records_per_second: int = 0,
    ) -> BackupPlan:
        cluster, namespace = self.configured(track_deletes=track_deletes, records_per_second=records_per_second)
        return backup.plan_backup(
            self.platform,
            cluster,
            namespace,
            kind,
            self.access,
            self.store,
            holder=holder,
            slices=slices,
            keys=self.keys,
        )

    def backup(self, kind: Kind = FULL, **options: Any) -> Manifest:
        return self.run(self.plan(kind, **options))

    def run(self, plan: BackupPlan) -> Manifest:
        return backup.run_backup(self.access, self.store, plan, workers=2, keys=self.keys)

    @property
    def points(self) -> list[catalog.RestorePoint]:
        return catalog.restore_points(self.store, self.cluster_name, self.namespace)

    @property
    def listed(self) -> list[str]:
        return [point.id for point in self.points]

    @property
    def cluster_name(self) -> str:
        return self.platform.aerospike.clusters[0].name

    def objects(self) -> list[str]:
        """Names of all that lies below the namespace."""
        prefix = f"aerospike/{self.cluster_name}/{self.namespace}/"
        return [item.key.removeprefix(prefix) for item in self.store.list(prefix)]

    def read(self, manifest: Manifest) -> tuple[list[asb.Record], list[asb.Index | asb.Udf]]:
        """Everything that the objects hold, by the strict reader, after a check against the manifest."""
        records: list[asb.Record] = []
        others: list[asb.Index | asb.Udf] = []
        for _, text in self.texts(manifest):
            header, entries = asb.read(io.BytesIO(text), self.namespace)
            assert header.version == "3.1"
            for entry in entries:
                (records if isinstance(entry, asb.Record) else others).append(entry)  # type: ignore[arg-type]
        digests = [record.digest for record in records]
        assert len(set(digests)) == len(digests), "a record stands there twice"
        assert tally(digests) == (manifest.partition_counts, manifest.fingerprints)
        return records, others

    def texts(self, manifest: Manifest) -> Iterator[tuple[int, bytes]]:
        """First partition and unpacked text of each object with records; sizes and hashes are checked."""
        for entry in manifest.objects:
            data = self.content(manifest, entry)
            if entry.role == "records":
                text = asb.open_asb(io.BytesIO(data)).read()
                assert len(text) == entry.text_bytes
                yield entry.first, text

    def content(self, manifest: Manifest, entry: ObjectEntry) -> bytes:
        """An object, decrypted if it is encrypted; what is stored is checked against the manifest."""
        stored = bytearray()
        data = b"".join(open_object(self.store, manifest, entry, self.keys, stored.extend))
        assert (len(stored), hashlib.sha256(stored).hexdigest()) == (entry.size, entry.sha256)
        return data

    def digests(self, manifest: Manifest, role: str = "records") -> set[bytes]:
        """Digests that the objects of a role hold; each stands there once, in the partition's order."""
        found: list[bytes] = []
        if role == "records":
            for _, text in self.texts(manifest):
                found += [base64.b64decode(item) for item in re.findall(rb"^\+ d (\S{28})$", text, re.MULTILINE)]
            assert tally(found) == (manifest.partition_counts, manifest.fingerprints)
        else:
            for entry in manifest.objects:
                if entry.role == role:
                    data = self.content(manifest, entry)
                    digests = [data[at : at + 20] for at in range(0, len(data), 20)]
                    assert digests == sorted(digests, key=lambda digest: (-partition_of(digest), digest), reverse=True)
                    found += digests
            counts = manifest.inventory_counts if role == "digests" else manifest.deleted_counts
            assert tally(found)[0] == counts
        assert len(set(found)) == len(found), "a digest stands there twice"
        return set(found)


def world(server: StandIn, store: Store, namespace: str = "bidder", **options: Any) -> World:
    access = Access("eu", tuple((LOOPBACK, port) for port in server.ports))
    return World(access, store, namespace, **options)


def s3_store(lab_s3: LabS3) -> S3Store:
    return S3Store(lab_s3.bucket, lab_s3.new_prefix(), lab_s3.connection, lab_s3.region)


def connect(port: int, host: str = LOOPBACK, **config: Any) -> aerospike.Client:
    return aerospike.client({"hosts": [(host, port)], **config}).connect()


def settle() -> None:
    """Wait for the next second: restore points carry whole seconds."""
    time.sleep(1.05 - time.time() % 1)


def digest_of(number: int) -> bytes:
    """Any digest; they spread over all partitions."""
    return hashlib.blake2b(number.to_bytes(8, "big"), digest_size=20).digest()


def partition_of(digest: bytes) -> int:
    return int.from_bytes(digest[:2], "little") & 0xFFF


def rows(numbers: Iterable[int], size: int = 60, *, random: bool = False) -> Iterator[Row]:
    text = b"campaign of many words "
    for number in numbers:
        value = os.urandom(size) if random else (text * (size // len(text) + 1))[:size]
        content = bins({"n": (1, struct.pack(">q", number)), "v": (4 if random else 3, value)})
        yield digest_of(number), 1, 0, None, content


def tally(digests: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Counts and fingerprints per partition, computed apart from the kernel."""
    counts = Counter(map(partition_of, digests))
    sums: Counter[int] = Counter()
    for digest in digests:
        sums[partition_of(digest)] += int.from_bytes(digest[12:20], "little")
    return [counts[number] for number in range(4096)], [sums[number] % 2**64 for number in range(4096)]


# ------------------------------------------------------------------ in a process that may be killed


def run_in_child(pipe: Connection, world: World, kind: Kind, holder: str, mode: str, lease: float = 0.0) -> None:
    """A backup that reports `started`, then its id or its error; `mode` says how it dies, if not by its parent."""
    if mode == "dies before the manifest":
        catalog.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    if mode == "dies after the manifest":
        catalog.delete_slice_results = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    if mode == "disk is full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    if lease:
        backup.LEASE = timedelta(seconds=lease)
    try:
        pipe.send("started")
        pipe.send(world.backup(kind, holder=holder, slices=8).id)
    except Exception as error:  # the parent must see whatever it is
        pipe.send(f"{type(error).__name__}: {error}")
