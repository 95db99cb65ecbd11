"""What an adoption that does not end leaves behind, and damage in plain files, which have nothing to tell it by."""

from __future__ import annotations

import io
import multiprocessing
import random
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from asb_files import SPACE, as_asbackup, records
from backup_world import LOOPBACK
from dbops.aerospike import adopt as adoption
from dbops.aerospike import asb, kernel, restore, scan
from dbops.aerospike.adopt import NotAdoptable, adopt, find_files
from dbops.aerospike.backup import Progress
from dbops.aerospike.cluster import Access
from dbops.backups import catalog
from dbops.backups.expire import sweep
from dbops.backups.lease import Lease, LeaseHeld, LeaseLost, current
from dbops.backups.manifest import Manifest
from dbops.backups.restores import RestoreTarget
from dbops.backups.store import LocalStore, Store
from dbops.errors import FinalError
from dbops_lab.aerospike.process import StandIn

AT = datetime(2026, 11, 20, 3, 15, tzinfo=UTC)
CLUSTER = "eu"
LEASE = catalog.lease_key(CLUSTER, SPACE)
forkserver = multiprocessing.get_context("forkserver")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    return tmp_path / "theirs"


def take(store: Store, folder: Path, holder: str = "a person", **options: Any) -> Manifest:
    return adopt(
        store,
        CLUSTER,
        SPACE,
        find_files(str(folder)),
        snapshot_at=AT,
        holder=holder,
        platform_sha256="ab" * 32,
        workers=options.pop("workers", 2),
        **options,
    )


def objects(store: Store) -> list[str]:
    return [item.key for item in store.list(f"aerospike/{CLUSTER}/{SPACE}/") if not item.key.endswith("/_lease.json")]


def adopt_slowly(pipe: Connection, store: Store, folder: Path) -> None:
    """An adoption in a process that may be killed: it stops for its parent in the third file."""

    def show(progress: Progress) -> None:
        if progress.records > 250:
            pipe.send("in the middle")
            time.sleep(600)

    take(store, folder, workers=1, on_progress=show)


def test_a_killed_adoption_is_not_listed_and_is_swept_or_done_again(store: Store, folder: Path) -> None:
    as_asbackup(folder, records(range(600)))
    ours, theirs = forkserver.Pipe()
    child = forkserver.Process(target=adopt_slowly, args=(theirs, store, folder))
    child.start()
    assert ours.recv() == "in the middle"
    child.kill()
    child.join()
    left = objects(store)
    assert left
    assert catalog.restore_points(store, CLUSTER, SPACE) == []
    (attempt,) = catalog.uncommitted(store, CLUSTER, SPACE)
    assert attempt.objects == len(left)
    with pytest.raises(LeaseHeld, match="held by a person"):
        take(store, folder, holder="another person")

    # Its lease runs out; then either the daily sweep takes what it has left, or the same command does it all again.
    Lease.release_holder(store, LEASE, "a person")
    later = datetime.now(UTC) + timedelta(days=2)
    swept = sweep(store, CLUSTER, SPACE, timedelta(days=1), holder="sweeper", now=later)
    assert swept.attempts == [attempt.id]
    assert swept.uploads == 1
    assert objects(store) == []
    store.put(f"{attempt.prefix}file_00099.asb", b"of an adoption of other files")
    manifest = take(store, folder, holder="another person")
    assert manifest.records == 600
    assert sorted(objects(store)) == sorted([
        *(manifest.prefix + entry.name for entry in manifest.objects), f"{manifest.prefix}manifest.json"
    ])  # fmt: skip


def test_one_bad_file_ends_the_reading_of_the_others(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbops.backups.store.CHUNK", 4096)
    paths = as_asbackup(folder, records(range(8000)), workers=1, per_file=7000)
    bad = paths[1]
    bad.write_bytes(bad.read_bytes()[:3000] + b"damage" + bad.read_bytes()[3000:])
    seen = [0]

    def show(progress: Progress) -> None:
        seen.append(progress.stored_bytes)
        time.sleep(0.002)

    with pytest.raises(NotAdoptable, match=f"{bad.name}: is no whole backup file"):
        take(store, folder, on_progress=show)
    assert max(seen) < paths[0].stat().st_size / 2
    assert objects(store) == []
    assert current(store, LEASE) is None


def test_an_interrupted_adoption_leaves_nothing(store: Store, folder: Path) -> None:
    as_asbackup(folder, records(range(600)))

    def interrupt(progress: Progress) -> None:
        if progress.records > 250:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(store, folder, workers=1, on_progress=interrupt)
    assert objects(store) == []
    assert current(store, LEASE) is None


def test_a_long_adoption_keeps_its_lease_and_one_that_lost_it_commits_nothing(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_asbackup(folder, records(range(600)), per_file=50)
    monkeypatch.setattr(adoption, "LEASE", timedelta(seconds=0.6))
    monkeypatch.setattr(adoption, "_RENEW_SECONDS", 0.1)
    refused = []

    def wait(progress: Progress) -> None:
        time.sleep(0.1)
        try:
            Lease.acquire(store, LEASE, "a backup", timedelta(minutes=1)).release()
        except LeaseHeld as problem:
            refused.append(str(problem))

    started = time.monotonic()
    take(store, folder, on_progress=wait)
    assert time.monotonic() - started > 1.2
    assert len(refused) >= 12
    store.delete(objects(store))

    def steal(progress: Progress) -> None:
        time.sleep(0.7)
        Lease.acquire(store, LEASE, "a backup", timedelta(minutes=1))

    with pytest.raises(LeaseLost, match="is now held by a backup"):
        take(store, folder, workers=1, on_progress=steal)
    assert objects(store) == []
    assert current(store, LEASE).holder == "a backup"  # type: ignore[union-attr]


def test_two_backups_are_told_apart_among_more_records_than_are_remembered(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "_REMEMBERED", 500)
    as_asbackup(folder, records(range(6000)), definitions=(), per_file=1000)
    assert take(store, folder).records == 6000
    store.delete(objects(store))
    for path in folder.iterdir():
        path.rename(folder / f"older_{path.name}")
    as_asbackup(folder, records(range(6000)), definitions=(), per_file=1000)
    with pytest.raises(NotAdoptable, match=r"\d+ of \d+ records that were looked at stand in the files twice"):
        take(store, folder)


# ---------------------------------------------------------------- damage in plain text


def decoded(text: bytes) -> list[bytes]:
    """Digests of a whole file, through the kernel and a buffer that one record does not fit in.

    :raises AsbError: as a restore would.
    """
    stream = asb.open_asb(io.BytesIO(text))
    preamble = asb.read_header(stream, SPACE)
    left = io.BytesIO(preamble.rest + stream.read())
    found = scan.Records(cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, left))), replace(preamble, rest=b""))
    out, rows, digests = np.zeros(1 << 16, np.uint8), np.zeros((3, 2), np.int64), []
    for _ in range(len(text) + 100):
        found.state[kernel.ROWS] = 0
        found.pos, _, status = kernel.decode(
            *(found.data, found.pos, found.end, found.final, out, 0, found.state, np.zeros(0, np.uint8), 1, 0, 0, rows),
            *kernel.EVERYTHING,
        )
        digests += [out[at + 4 : at + 24].tobytes() for at in rows[: int(found.state[kernel.ROWS]), 0].tolist()]
        if status == kernel.DONE:
            return digests
        if status != kernel.OUT_FULL:
            found.more(status)
    raise AssertionError("it does not end")


def strictly_read(text: bytes) -> list[bytes] | None:
    """The same by the reader in plain Python; None when it refuses."""
    try:
        _, entries = asb.read(io.BytesIO(text), SPACE)
        return [entry.digest for entry in entries if isinstance(entry, asb.Record)]
    except asb.AsbError as problem:
        if f"namespace {SPACE} of the file" in str(problem):
            raise
        return None


PLACE = re.compile(r"line \d+, byte \d+: found|record \d+, text byte \d+: found")


def outcome(text: bytes) -> tuple[list[bytes] | None, str]:
    try:
        return decoded(text), ""
    except asb.AsbError as problem:
        return None, str(problem)


def small(folder: Path, count: int) -> Path:
    (path,) = as_asbackup(folder, records(range(count)), workers=1, definitions=())
    return path


def damages(whole: bytes, at: int, dice: random.Random) -> list[bytes]:
    """Cut there, a byte lost there, a bit flipped, a byte that means something put in its place."""
    return [
        whole[:at],
        whole[:at] + whole[at + 1 :],
        whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :],
        whole[:at] + bytes([dice.choice(b" \n\\+-0123456789!=.eTF")]) + whole[at + 1 :],
    ]


def test_damaged_plain_text_is_refused_with_its_place_or_read_whole_at_every_byte(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only changes a value is still `.asb`: then nothing is left out, and the SHA-256 of a manifest tells."""
    monkeypatch.setattr(scan, "_BUFFER", 64)
    whole = small(folder, 4).read_bytes()
    assert len(decoded(whole)) == 4
    dice = random.Random(11)
    refused = 0
    for at in range(len(whole)):
        for text in damages(whole, at, dice):
            try:
                wanted = strictly_read(text)
            except asb.AsbError:
                continue  # a record of another namespace: only the plain reader compares it
            found, problem = outcome(text)
            assert bool(PLACE.search(problem)) == (found is None), f"byte {at}: {problem}"
            refused += found is None
            assert found == wanted, f"byte {at}: {text!r}"
    assert refused > len(whole)


def test_damage_at_any_byte_of_an_adopted_plain_file_is_never_silent(store: Store, folder: Path) -> None:
    small(folder, 2)
    manifest = take(store, folder)
    with StandIn(namespaces=["drill"]) as target:
        access = Access("scratch", ((LOOPBACK, target.ports[0]),))
        plan = restore.plan_restore(
            store, CLUSTER, SPACE, access, RestoreTarget(cluster="scratch", namespace="drill", is_scratch=True),
            holder="restore-1", allow_unverified=True, dry_run=True,
        )  # fmt: skip
        key = manifest.prefix + manifest.objects[0].name
        whole, dice = store.get(key), random.Random(12)
        assert restore.restore_slice(access, store, plan, 0, 4095).outcomes.planned == 2
        for at in range(len(whole)):
            cut, lost, flipped, _ = damages(whole, at, dice)
            for text in (flipped, *((cut, lost) if at % 8 == 0 else ())):
                store.put(key, text)
                with pytest.raises(FinalError, match=manifest.id):
                    restore.restore_slice(access, store, plan, 0, 4095)
