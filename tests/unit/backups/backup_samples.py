"""Small, true backups: plans, slices whose objects hold what they say, manifests; and the way to moto."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import zstandard
from dbops.backups import catalog
from dbops.backups.cipher import Key, open_writer
from dbops.backups.manifest import BackupPlan, Kind, Manifest, ObjectEntry, Role, SliceResult, backup_id
from dbops.backups.store import Store
from dbops.connections import ConnectionInfo

START = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SLICES = [(0, 1023), (1024, 3000), (3001, 4095)]


def s3_connection(endpoint: str, **extra: Any) -> ConnectionInfo:
    settings = {"endpoint_url": endpoint, "region_name": "us-east-1", **extra}
    return ConnectionInfo("dbops_s3", "aws", login="key", password="secret", extra=settings)


def most_memory() -> int:
    """Most bytes that this process ever had in memory (its ru_maxrss would begin with its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def digest(number: int, partition: int) -> bytes:
    """A digest of a partition: its lowest 12 bits, little-endian, in the first two bytes."""
    tail = hashlib.sha256(b"%d" % number).digest()[:18]
    return struct.pack("<H", partition | (number % 16) << 12) + tail


def digests_of(first: int, last: int, per_partition: int = 1) -> list[bytes]:
    return [
        digest(number, partition)
        for partition in range(first, last + 1)
        for number in range(partition * 10, partition * 10 + (per_partition if partition % 7 else 0))
    ]


def partition_of(value: bytes) -> int:
    return (value[0] | value[1] << 8) & 4095


def record_text(value: bytes) -> bytes:
    number = value[19]
    return (
        b"+ n bidder\n+ d " + base64.b64encode(value) + b"\n+ s lineitems\n+ g 1\n+ t 0\n+ b 2\n"
        b"- I i %d\n- S text %d " % (number, 15 + number) + b"+ n no record\n\n" + b"x" * number + b"\n"
    )


def asb_text(values: Sequence[bytes], *, first_file: bool, namespace: str = "bidder") -> bytes:
    head = b"Version 3.1\n# namespace " + namespace.encode() + b"\n"
    if first_file:
        head += b"# first-file\n* i bidder lineitems by_i N 1 i N\n* u L add.lua 16 function f()\nend\n"
    return head + b"".join(map(record_text, values))


def make_plan(
    at: datetime = START, parent: Manifest | None = None, *, track_deletes: bool = False, **changes: Any
) -> BackupPlan:
    kind = Kind.INCREMENTAL if parent else Kind.FULL
    values = {
        "id": backup_id(at, kind),
        "cluster": "eu",
        "namespace": "bidder",
        "kind": kind,
        "snapshot_at": at,
        "started_at": at,
        "modified_after": parent.snapshot_at - timedelta(seconds=60) if parent else None,
        "base": (parent.base or parent.id) if parent else None,
        "parent": parent.id if parent else None,
        "slices": SLICES,
        "track_deletes": track_deletes,
        "holder": "dag/run",
        "cluster_name": "eu",
        "cluster_key": "KEY1",
        "server_build": "8.1.2.0",
        "zstd_level": 1,
        "platform_sha256": "ab" * 32,
    }
    return BackupPlan.model_validate(values | changes)


def store_slice(
    store: Store, plan: BackupPlan, first: int, last: int, per_partition: int = 1, key: Key | None = None
) -> SliceResult:
    """Write the objects of a slice and its facts, as the engine does."""
    values = digests_of(first, last, per_partition)
    counts, fingerprints = [0] * (last - first + 1), [0] * (last - first + 1)
    for value in values:
        at = partition_of(value) - first
        counts[at] += 1
        fingerprints[at] = (fingerprints[at] + int.from_bytes(value[12:20], "little")) % (1 << 64)
    text = asb_text(values, first_file=first == 0)
    objects = [_write(store, plan, "records", first, last, zstandard.compress(text, 1), len(values), key, len(text))]
    inventory = deleted = None
    if plan.track_deletes:
        ordered = sorted(values, reverse=True)
        run = b"".join(sorted(ordered, key=partition_of))
        objects.append(_write(store, plan, "digests", first, last, run, len(values), key))
        inventory = counts
        if plan.kind is Kind.INCREMENTAL:
            gone = sorted((digest(partition_of(v), partition_of(v)) for v in values[:5]), key=partition_of)
            deleted = [0] * len(counts)
            for value in gone:
                deleted[partition_of(value) - first] += 1
            objects.append(_write(store, plan, "deleted", first, last, b"".join(gone), len(gone), key))
    result = SliceResult(
        plan_id=plan.id,
        first=first,
        last=last,
        objects=objects,
        counts=counts,
        fingerprints=[f"{value:016x}" for value in fingerprints],
        inventory=inventory,
        deleted=deleted,
        indexes=["by_i"] if first == 0 else [],
        udfs=["add.lua"] if first == 0 else [],
        seconds=0.1,
    )
    catalog.put_slice_result(store, plan, result)
    return result


def _write(
    store: Store,
    plan: BackupPlan,
    role: Role,
    first: int,
    last: int,
    data: bytes,
    records: int,
    key: Key | None,
    text: int = 0,
) -> ObjectEntry:
    name = f"slice_{first:04d}_{last:04d}.asb" if role == "records" else f"{role}_{first:04d}_{last:04d}.bin"
    with open_writer(store, catalog.object_key(plan, name), key) as writer:
        writer.write(data)
    stored = writer.close()
    assert stored.sha256
    return ObjectEntry(
        name=name,
        role=role,
        first=first,
        last=last,
        size=stored.size,
        sha256=stored.sha256,
        records=records,
        text_bytes=text,
    )


def take_backup(store: Store, plan: BackupPlan, per_partition: int = 1, key: Key | None = None) -> Manifest:
    """All slices and the commit; with a key, which the plan then must name, encrypted."""
    results = [store_slice(store, plan, first, last, per_partition, key) for first, last in plan.slices]
    manifest = catalog.commit(store, plan, results, plan.started_at + timedelta(minutes=3), "KEY1")
    catalog.delete_slice_results(store, plan)
    return manifest
