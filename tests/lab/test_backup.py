"""Backups of a whole namespace, read back without the engine.

With AEROSPIKE_HOST (and AEROSPIKE_PORT, AEROSPIKE_NAMESPACE) what needs no stand-in runs against that server. Its
namespace must be empty at the start, and is emptied after each test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import aerospike
import pytest
from backup_world import (
    FULL,
    INCREMENTAL,
    LOOPBACK,
    World,
    connect,
    digest_of,
    partition_of,
    rows,
    s3_store,
    settle,
    tally,
    world,
)
from dbops.aerospike import asb, backup
from dbops.aerospike.cluster import Access, ClusterUnreachable, UnknownNamespace
from dbops.aerospike.wire import Refused, Tls
from dbops.backups.lease import current
from dbops.backups.store import LocalStore
from dbops_lab.aerospike.process import StandIn
from dbops_lab.certificates import certificate
from dbops_lab.testing import LabS3

HOST = os.environ.get("AEROSPIKE_HOST")
PORT = int(os.environ.get("AEROSPIKE_PORT", "3000"))
NAMESPACE = os.environ.get("AEROSPIKE_NAMESPACE", "bidder")
NAMESPACES = [f"space{number}" for number in range(30)]
_next = count()


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=NAMESPACES) as stand_in:
        yield stand_in


@pytest.fixture
def lab(server: StandIn, lab_s3: LabS3) -> World:
    """A namespace of the stand-in that nobody has used, and S3."""
    return world(server, s3_store(lab_s3), NAMESPACES[next(_next)])


@pytest.fixture
def any_server(request: pytest.FixtureRequest, lab_s3: LabS3) -> Iterator[World]:
    """An empty namespace of the real server, if there is one, else of the stand-in."""
    if HOST is None:
        yield request.getfixturevalue("lab")
        return
    with closing(connect(PORT, HOST)) as client:
        if client.query(NAMESPACE).results():
            pytest.fail(f"namespace {NAMESPACE} of {HOST}:{PORT} holds records: name one that tests may empty")
        yield World(Access("eu", ((HOST, PORT),)), s3_store(lab_s3), NAMESPACE)
        time.sleep(0.01)  # a truncate leaves what was written in its very millisecond
        client.truncate(NAMESPACE, None, 0)
        while client.query(NAMESPACE).results():
            time.sleep(0.1)


@pytest.fixture
def client(any_server: World) -> Iterator[aerospike.Client]:
    ((host, port), *_) = any_server.access.seeds
    connected = connect(port, host)
    yield connected
    connected.close()


def digest(client: aerospike.Client, key: tuple[str, str, Any]) -> bytes:
    return bytes(aerospike.calc_digest(*key))


def present(client: aerospike.Client, namespace: str) -> set[bytes]:
    """What the official client finds."""
    return {bytes(key[3]) for key, _, _ in client.query(namespace).results()}


VALUES: dict[str, tuple[Any, str, Any]] = {
    "int": (-7, "I", -7),
    "big": (2**63 - 1, "I", 2**63 - 1),
    "double": (0.1, "D", 0.1),
    "text": ("line\nend, ü", "S", "line\nend, ü".encode()),
    "empty": ("", "S", b""),
    "blob": (b"\x00\n\xff", "B", b"\x00\n\xff"),
    "bool": (True, "Z", True),
    "list": ([1, "a"], "L", b"\x92\x01\xa2\x03a"),
    "map": ({"k": 7}, "M", b"\x81\xa2\x03k\x07"),
    "odd na\\me": (1, "I", 1),
}


# ---------------------------------------------------------------- whole


@pytest.mark.parametrize("track_deletes", [False, True])
def test_full_backup_holds_every_record_of_every_set_as_it_was_written(
    any_server: World, client: aerospike.Client, track_deletes: bool
) -> None:
    names, expected = list(VALUES), {}
    for number in range(600):
        set_name = ("lineitems", "creatives", "odd set")[number % 3]
        key = (any_server.namespace, set_name, f"key {number}" if number % 2 else number)
        values = {"number": number, names[number % len(names)]: VALUES[names[number % len(names)]][0]}
        policy = {"key": aerospike.POLICY_KEY_SEND} if number % 5 == 0 else {}
        for _ in range(1 + number % 2):
            client.put(key, values, policy=policy)
        expected[digest(client, key)] = (set_name, 1 + number % 2, number, key[2] if policy else None)
    manifest = any_server.backup(track_deletes=track_deletes)
    assert (manifest.kind, manifest.records, manifest.parent) == (FULL, 600, None)
    records, others = any_server.read(manifest)
    assert not others
    assert {record.digest for record in records} == present(client, any_server.namespace) == set(expected)
    for record in records:
        set_name, generation, number, user_key = expected[record.digest]
        name = names[number % len(names)]
        assert (record.set, record.generation, record.void_time) == (set_name, generation, 0)
        assert {bin_.name: (bin_.type, bin_.value) for bin_ in record.bins} == {
            "number": ("I", number),
            name: VALUES[name][1:],
        }
        found = record.key and record.key.value
        assert (found.decode() if isinstance(found, bytes) else found) == user_key
    if track_deletes:
        assert any_server.digests(manifest, "digests") == set(expected)
    assert any_server.listed == [manifest.id]
    assert not [name for name in any_server.objects() if "slice_" in name and name.endswith(".json")]


def test_expiry_stands_in_the_record(any_server: World, client: aerospike.Client) -> None:
    client.put((any_server.namespace, "s", 1), {"n": 1}, policy={"ttl": 5000})
    ((record,), _) = any_server.read(any_server.backup())
    left = record.void_time + 1_262_304_000 - time.time()
    assert 4900 < left <= 5001


@pytest.mark.parametrize("slices", [1, 3, 64, 256])
def test_the_number_of_slices_changes_nothing_in_the_manifest(server: StandIn, tmp_path: Path, slices: int) -> None:
    lab = world(server, LocalStore(tmp_path), NAMESPACES[29])
    if not lab.backup(slices=1).records:
        server.load(NAMESPACES[29], "s", rows(range(5000)))
    manifest = lab.backup(slices=slices)
    assert len(manifest.objects) == slices
    assert (manifest.partition_counts, manifest.fingerprints) == tally([digest_of(number) for number in range(5000)])
    assert lab.digests(manifest) == {digest_of(number) for number in range(5000)}


@pytest.mark.parametrize("track_deletes", [False, True])
def test_an_empty_namespace_gives_an_empty_restore_point(any_server: World, track_deletes: bool) -> None:
    manifest = any_server.backup(track_deletes=track_deletes)
    assert any_server.read(manifest) == ([], [])
    assert any_server.listed == [manifest.id]
    later = any_server.backup(INCREMENTAL, track_deletes=track_deletes)
    assert (later.kind, later.records, later.deleted) == (INCREMENTAL, 0, 0)
    assert any_server.listed == [manifest.id, later.id]


# ---------------------------------------------------------------- incremental


@pytest.mark.parametrize("track_deletes", [False, True])
def test_incremental_holds_exactly_what_changed_since_the_last_snapshot(
    any_server: World, client: aerospike.Client, track_deletes: bool
) -> None:
    space = any_server.namespace
    for number in range(300):
        client.put((space, "s", number), {"n": number})
    settle()
    full = any_server.backup(track_deletes=track_deletes)
    for number in range(280, 330):  # 20 changed, 30 new
        client.put((space, "s", number), {"n": -number})
    settle()
    first = any_server.backup(INCREMENTAL, track_deletes=track_deletes)
    assert (first.parent, first.base, first.modified_after) == (full.id, full.id, full.snapshot_at)
    records, _ = any_server.read(first)
    assert {record.digest: record.bins[0].value for record in records} == {
        digest(client, (space, "s", number)): -number for number in range(280, 330)
    }
    client.put((space, "s", 5), {"n": 0})
    settle()
    second = any_server.backup(INCREMENTAL, track_deletes=track_deletes)
    assert (second.parent, second.base) == (first.id, full.id)
    assert any_server.digests(second) == {digest(client, (space, "s", 5))}
    nothing = any_server.backup(INCREMENTAL, track_deletes=track_deletes)
    assert (nothing.kind, nothing.records) == (INCREMENTAL, 0)
    assert any_server.listed == [full.id, first.id, second.id, nothing.id]


def test_incremental_reaches_back_by_the_overlap_and_no_further(server: StandIn, lab: World) -> None:
    now = datetime.now(UTC)
    for age, numbers in ((120, range(50)), (40, range(50, 80)), (10, range(80, 100))):
        server.load(lab.namespace, "s", rows(numbers), now - timedelta(seconds=age))
    full = lab.backup()
    lab.overlap = timedelta(seconds=60)
    manifest = lab.backup(INCREMENTAL)
    assert manifest.modified_after == full.snapshot_at - timedelta(seconds=60)
    assert lab.digests(manifest) == {digest_of(number) for number in range(50, 100)}


def test_incremental_without_a_full_one_is_full_and_says_so(any_server: World, client: aerospike.Client) -> None:
    client.put((any_server.namespace, "s", 1), {"n": 1})
    manifest = any_server.backup(INCREMENTAL)
    assert (manifest.kind, manifest.records, manifest.modified_after) == (FULL, 1, None)


# ---------------------------------------------------------------- deletes


def test_deleted_and_expired_records_are_named(any_server: World, client: aerospike.Client) -> None:
    space = any_server.namespace
    keys = [(space, "s", number) for number in range(400)]
    for key in keys:
        client.put(key, {"n": 1})
    for key in keys[380:]:
        client.put(key, {"n": 1}, policy={"ttl": 8})
    settle()
    full = any_server.backup(track_deletes=True)
    assert any_server.digests(full, "digests") == {digest(client, key) for key in keys}
    for key in keys[:30]:
        client.remove(key)
    client.remove(keys[40])
    client.put(keys[40], {"n": 2})  # deleted and there again: not deleted
    passing = (space, "s", "passing")
    client.put(passing, {"n": 1})
    client.remove(passing)  # no restore point has ever held it
    while len(present(client, space)) > 350:
        time.sleep(0.1)
    first = any_server.backup(INCREMENTAL, track_deletes=True)
    gone = {digest(client, key) for key in [*keys[:30], *keys[380:]]}
    assert any_server.digests(first, "deleted") == gone
    assert any_server.digests(first) == {digest(client, keys[40])}
    assert any_server.digests(first, "digests") == present(client, space) == {digest(client, k) for k in keys} - gone
    client.remove(keys[50])
    second = any_server.backup(INCREMENTAL, track_deletes=True)
    assert any_server.digests(second, "deleted") == {digest(client, keys[50])}  # and no longer the 50 of before


def test_record_that_came_after_the_snapshot_and_went_is_named(any_server: World, client: aerospike.Client) -> None:
    key = (any_server.namespace, "s", 1)
    plan = any_server.plan(track_deletes=True)
    client.put(key, {"n": 1})
    full = any_server.run(plan)
    assert any_server.digests(full) == {digest(client, key)}
    client.remove(key)
    settle()
    manifest = any_server.backup(INCREMENTAL, track_deletes=True)
    assert any_server.digests(manifest, "deleted") == {digest(client, key)}


def test_record_that_is_read_and_deleted_before_the_inventory_is_named(
    any_server: World, client: aerospike.Client
) -> None:
    key = (any_server.namespace, "s", 1)
    full = any_server.backup(track_deletes=True)
    client.put(key, {"n": 1})
    plan = any_server.plan(INCREMENTAL, slices=1, track_deletes=True)

    def remove(progress: backup.Progress) -> None:
        if progress.records and client.exists(key)[1]:
            client.remove(key)

    backup.backup_slice(any_server.access, any_server.store, plan, 0, 4095, on_progress=remove)
    manifest = backup.commit_backup(any_server.access, any_server.store, plan)
    one = {digest(client, key)}
    assert any_server.digests(full, "digests") == any_server.digests(manifest, "digests") == set()
    assert any_server.digests(manifest) == any_server.digests(manifest, "deleted") == one


def test_a_chain_without_digests_is_begun_anew_when_deletes_are_to_be_tracked(lab: World) -> None:
    lab.backup()
    manifest = lab.backup(INCREMENTAL, track_deletes=True)
    assert (manifest.kind, manifest.inventory_counts) == (FULL, [0] * 4096)


# ---------------------------------------------------------------- indexes and UDFs


def test_indexes_and_udfs_are_in_the_object_of_partition_0_alone(
    any_server: World, client: aerospike.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the client keeps a copy of the file in its working folder
    space, lua = any_server.namespace, b"function one(record)\n  return 1\nend\n"
    (tmp_path / "udf").mkdir()
    file = tmp_path / "udf" / "backup_facts.lua"
    file.write_bytes(lua)
    client.put((space, "s", 1), {"n": 1})
    client.index_single_value_create(space, "s", "n", aerospike.INDEX_NUMERIC, "backup_n_idx")
    client.udf_put(str(file), aerospike.UDF_TYPE_LUA)
    time.sleep(0.3)
    try:
        manifest = any_server.backup(slices=4)
    finally:
        client.index_remove(space, "backup_n_idx")
        client.udf_remove(file.name)
    assert manifest.indexes == ["backup_n_idx"]
    assert file.name in manifest.udfs
    for first, text in any_server.texts(manifest):
        assert (b"\n# first-file\n" in text) == (b"\n* i " in text) == (b"\n* u " in text) == (first == 0)
    _, others = any_server.read(manifest)
    (index,) = [item for item in others if isinstance(item, asb.Index)]
    assert (index.namespace, index.set, index.name, index.bin, index.data) == (space, "s", "backup_n_idx", "n", "N")
    assert [item.content for item in others if isinstance(item, asb.Udf) and item.name == file.name] == [lua]


# ---------------------------------------------------------------- limits, logins, refusals


def test_records_per_second_are_obeyed(server: StandIn, lab: World) -> None:
    server.load(lab.namespace, "s", rows(range(3000)))

    def seconds(limit: int) -> float:
        started = time.monotonic()
        assert lab.backup(slices=1, records_per_second=limit).records == 3000
        return time.monotonic() - started

    seconds(0)
    assert 1.5 < seconds(1500) < 5.0


def test_user_and_password_over_several_nodes_and_a_wrong_password_is_refused_at_once(lab_s3: LabS3) -> None:
    with StandIn(namespaces=["dmp"], nodes=2, users={"backup": "right one"}) as server:
        server.load("dmp", "s", rows(range(500)))
        seeds = ((LOOPBACK, server.ports[0]),)
        lab = World(Access("eu", seeds, "backup", "right one"), s3_store(lab_s3), "dmp")
        assert lab.backup().records == 500
        lab.access = Access("eu", seeds, "backup", "wrong one")
        started = time.monotonic()
        with pytest.raises(Refused, match="as backup") as refused:
            lab.backup()
        assert time.monotonic() - started < 3
        assert "wrong one" not in str(refused.value) + repr(lab.access)
        lab.access = Access("eu", seeds)
        with pytest.raises(Refused, match="wants a login"):
            lab.backup()
        assert len(lab.listed) == 1


def test_backup_over_tls_and_an_unknown_certificate_is_not_trusted(
    lab_s3: LabS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "READY_SECONDS", 0.5)
    cert, key = certificate(tmp_path)
    with StandIn(namespaces=["dmp"], nodes=2, tls=(cert, key), tls_name=LOOPBACK) as server:
        server.load("dmp", "s", rows(range(20_000), 200))
        lab = world(server, s3_store(lab_s3), "dmp")
        lab.access = Access("eu", lab.access.seeds[:1], tls=Tls(LOOPBACK, str(cert)))
        assert lab.digests(lab.backup()) == {digest_of(number) for number in range(20_000)}
        for tls in (Tls(LOOPBACK), Tls("another.example.com", str(cert)), None):
            lab.access = Access("eu", lab.access.seeds[:1], tls=tls)
            with pytest.raises(ClusterUnreachable):
                lab.backup()
        assert len(lab.listed) == 1


def test_unknown_namespace_is_named_with_those_that_exist(any_server: World) -> None:
    unknown = World(any_server.access, any_server.store, "nowhere")
    with pytest.raises(UnknownNamespace, match=f"no namespace nowhere; it has .*{any_server.namespace}"):
        unknown.plan()
    assert unknown.objects() == []


def test_nobody_listening_is_said_with_the_address(lab: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "READY_SECONDS", 0.2)
    lab.access = Access("eu", ((LOOPBACK, 1),))
    with pytest.raises(ClusterUnreachable, match=r"cluster eu.*127\.0\.0\.1:1.*refused"):
        lab.plan()
    assert lab.objects() == []


@pytest.mark.parametrize("slices", [-1, 0, 4097])
def test_impossible_numbers_of_slices_are_refused_and_the_namespace_is_free(lab: World, slices: int) -> None:
    with pytest.raises(backup.FinalError, match=f"{slices} slices"):
        lab.plan(slices=slices)
    assert current(lab.store, f"aerospike/eu/{lab.namespace}/_lease.json") is None
    assert lab.backup(holder="another").records == 0


# ---------------------------------------------------------------- memory

PEAK = r"""
import re, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from backup_world import World, Access
from dbops.aerospike import backup
from dbops.backups.store import LocalStore
def most():  # not ru_maxrss: that begins with what the parent had
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
world = World(Access("eu", (("127.0.0.1", {port}),)), LocalStore(Path({folder!r})), {namespace!r})
plan = world.plan(slices=1, track_deletes={track_deletes})
before = most()
result = backup.backup_slice(world.access, world.store, plan, 0, 4095)
print(sum(result.counts), before, most() - before)
"""


def peak(lab: World, folder: Path, *, track_deletes: bool) -> tuple[int, float]:
    """Records, and MiB that a slice of them took over interpreter and imports."""
    script = PEAK.format(
        tests=str(Path(__file__).parents[1]),
        port=lab.access.seeds[0][1],
        folder=str(folder),
        namespace=lab.namespace,
        track_deletes=track_deletes,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records, _, more = map(int, done.stdout.split())
    return records, more / 1024


@pytest.mark.parametrize("track_deletes", [False, True])
def test_memory_of_a_slice_does_not_grow_with_its_records(
    server: StandIn, lab: World, tmp_path: Path, track_deletes: bool
) -> None:
    server.load(lab.namespace, "s", rows(range(20_000), 150))
    few, of_few = peak(lab, tmp_path / "few", track_deletes=track_deletes)
    server.load(lab.namespace, "s", rows(range(20_000, 200_000), 150))
    many, of_many = peak(lab, tmp_path / "many", track_deletes=track_deletes)
    assert (few, many) == (20_000, 200_000)
    print(f"{of_few:.1f} MiB for {few:,} records, {of_many:.1f} MiB for {many:,}")
    assert of_many < 64
    assert of_many - of_few < 8


def test_partitions_of_the_tests_are_those_of_the_server(any_server: World, client: aerospike.Client) -> None:
    key = (any_server.namespace, "s", "any")
    client.put(key, {"n": 1})
    manifest = any_server.backup()
    assert manifest.partition_counts.index(1) == partition_of(digest(client, key))
