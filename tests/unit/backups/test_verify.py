"""Whatever happens to a stored backup, reading it back names the object and what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from backup_samples import (
    HOUR,
    START,
    asb_text,
    digests_of,
    make_plan,
    partition_of,
    record_text,
    s3_connection,
    take_backup,
)
from dbops.backups import catalog
from dbops.backups.manifest import Manifest
from dbops.backups.store import LocalStore, S3Store, Store, StoreRefused, StoreUnavailable
from dbops.backups.verify import VerifyProgress, VerifyReport, verify
from dbops_lab.fault_proxy import ALWAYS, Fault, FaultProxy

NAME = "slice_1024_3000.asb"


@pytest.fixture
def full(store: Store) -> Manifest:
    return take_backup(store, make_plan(track_deletes=True), per_partition=3)


def check(store: Store, manifest: Manifest) -> VerifyReport:
    return verify(store, catalog.find(store, "eu", "bidder", manifest.id))


def replace_object(store: Store, manifest: Manifest, name: str, change: Callable[[bytes], bytes]) -> None:
    key = manifest.prefix + name
    store.put(key, change(store.get(key)))


def committed_as(store: Store, manifest: Manifest, name: str, data: bytes, text_bytes: int = 0) -> Manifest:
    """A manifest that agrees with `data` in size and SHA-256: only its content can tell that it is wrong."""
    stored = store.put(manifest.prefix + name, data)
    objects = [
        entry.model_copy(update={"size": stored.size, "sha256": stored.sha256, "text_bytes": text_bytes})
        if entry.name == name
        else entry
        for entry in manifest.objects
    ]
    changed = manifest.model_copy(
        update={
            "objects": objects,
            "stored_bytes": sum(entry.size for entry in objects),
            "text_bytes": sum(entry.text_bytes for entry in objects),
        }
    )
    store.put(catalog.manifest_key("eu", "bidder", manifest.id), changed.to_json())
    return changed


def recommit_text(store: Store, manifest: Manifest, text: bytes) -> Manifest:
    return committed_as(store, manifest, NAME, zstandard.compress(text), len(text))


def the_problem(report: VerifyReport) -> str:
    assert not report.ok
    assert len(report.problems) == 1, report.problems
    assert "take a full backup" in report.problems[0]
    return report.problems[0]


class TestWhole:
    def test_a_whole_backup_passes(self, store: Store, full: Manifest) -> None:
        report = check(store, full)
        assert (report.ok, report.problems, report.warnings) == (True, [], [])
        assert (report.objects, report.records, report.bytes) == (6, full.records, full.stored_bytes)

    def test_so_does_an_incremental_with_deletes(self, store: Store, full: Manifest) -> None:
        plan = make_plan(START + HOUR, full, track_deletes=True)
        report = check(store, take_backup(store, plan))
        assert (report.problems, report.objects) == ([], 9)

    def test_and_one_with_nothing_in_it(self, store: Store, full: Manifest) -> None:
        plan = make_plan(START + HOUR, full, track_deletes=True)
        report = check(store, take_backup(store, plan, per_partition=0))
        assert (report.problems, report.records) == ([], 0)

    def test_the_outcome_is_remembered_for_this_manifest(self, store: Store, full: Manifest) -> None:
        assert catalog.find(store, "eu", "bidder", full.id).verified is None
        report = check(store, full)
        point = catalog.find(store, "eu", "bidder", full.id)
        assert point.verified is not None
        assert (point.verified.at, point.verified.ok) == (report.at, True)
        store.put(catalog.manifest_key("eu", "bidder", full.id), full.to_json() + b" ")
        assert catalog.find(store, "eu", "bidder", full.id).verified is None

    def test_progress_reaches_its_total(self, store: Store, full: Manifest) -> None:
        seen: list[VerifyProgress] = []
        verify(store, catalog.find(store, "eu", "bidder", full.id), seen.append)
        assert [progress.done_bytes for progress in seen] == sorted(progress.done_bytes for progress in seen)
        assert seen[-1] == VerifyProgress(full.stored_bytes, full.stored_bytes, full.records, 6)

    def test_several_frames_are_one_file(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan())
        text = zstandard.decompress(local.get(full.prefix + NAME))
        frames = b"".join(zstandard.compress(text[at : at + 1000]) for at in range(0, len(text), 1000))
        assert check(local, committed_as(local, full, NAME, frames, len(text))).problems == []

    def test_a_record_larger_than_the_buffer(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan())
        values = digests_of(1024, 3000)
        huge = record_text(values[0]).replace(
            b"- I i %d\n" % values[0][19], b"- S i 9000000 " + b"y" * 9_000_000 + b"\n"
        )
        text = asb_text([], first_file=False) + huge + b"".join(map(record_text, values[1:]))
        assert check(local, recommit_text(local, full, text)).problems == []


class TestDamage:
    def test_a_file_cut_at_a_record_boundary(self, store: Store, full: Manifest) -> None:
        """It is a valid file: only the manifest knows that it is short."""
        values = digests_of(1024, 3000, 3)
        shorter = zstandard.compress(asb_text(values[:-1], first_file=False))
        replace_object(store, full, NAME, lambda _: shorter)
        report = check(store, full)
        assert not report.ok
        size = next(entry.size for entry in full.objects if entry.name == NAME)
        assert report.problems[0].startswith(
            f"{NAME}: is {len(shorter)} bytes, the manifest says {size}: it was cut or replaced"
        )
        last = partition_of(values[-1])
        assert f"the first are {last}: 2 instead of 3" in report.problems[-1]

    def test_bytes_cut_off_the_stored_object(self, store: Store, full: Manifest) -> None:
        replace_object(store, full, NAME, lambda data: data[:-7])
        report = check(store, full)
        assert "the manifest says" in report.problems[0]
        assert report.problems[1].startswith(f"{NAME}: is no whole .asb file: compressed data ends")

    @pytest.mark.parametrize("name", [NAME, "slice_0000_1023.asb", "digests_3001_4095.bin"])
    @pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 0.999999])
    def test_one_flipped_bit(self, store: Store, full: Manifest, name: str, where: float) -> None:
        def flip(data: bytes) -> bytes:
            at = int(len(data) * where)
            return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

        replace_object(store, full, name, flip)
        report = check(store, full)
        assert not report.ok
        assert report.problems[0].startswith(f"{name}: SHA-256 is ")
        assert all(problem.startswith(f"{name}: ") for problem in report.problems)

    @pytest.mark.parametrize("name", [NAME, "digests_0000_1023.bin"])
    def test_a_missing_object(self, store: Store, full: Manifest, name: str) -> None:
        store.delete([full.prefix + name])
        report = check(store, full)
        assert the_problem(report).startswith(f"{name}: is missing, the manifest says ")
        assert report.objects == 5

    def test_a_foreign_object_is_named_and_is_no_damage(self, store: Store, full: Manifest) -> None:
        store.put(full.prefix + "notes/old copy.asb", b"hello")
        store.put(full.prefix + "slice_0000_1023.json", b"facts that a commit left")
        report = check(store, full)
        assert report.ok
        (warning,) = report.warnings
        assert warning.startswith("notes/old copy.asb: 5 bytes that the manifest does not know")

    def test_a_damaged_manifest(self, store: Store, full: Manifest) -> None:
        store.put(catalog.manifest_key("eu", "bidder", full.id), b"{")
        assert "manifest.json" in the_problem(check(store, full))

    def test_every_damaged_object_is_named_at_once(self, store: Store, full: Manifest) -> None:
        store.delete([full.prefix + "slice_0000_1023.asb"])
        replace_object(store, full, "digests_3001_4095.bin", lambda data: data[:-20])
        named = {problem.partition(":")[0] for problem in check(store, full).problems}
        assert named == {"slice_0000_1023.asb", "digests_3001_4095.bin"}

    def test_a_damaged_point_is_remembered_and_not_restorable(self, store: Store, full: Manifest) -> None:
        store.delete([full.prefix + NAME])
        check(store, full)
        reason = catalog.why_not_restorable(catalog.restore_points(store, "eu", "bidder"), full.id)
        assert reason is not None
        assert f"{NAME}: is missing" in reason


class TestContent:
    """Sizes and sums agree with the manifest, so what is wrong was wrong when it was written."""

    @pytest.fixture
    def values(self) -> list[bytes]:
        return digests_of(1024, 3000, 3)

    def test_records_that_are_not_there(self, store: Store, full: Manifest, values: list[bytes]) -> None:
        text = asb_text(values[2:], first_file=False)
        problem = the_problem(check(store, recommit_text(store, full, text)))
        count = len(values)
        assert problem.startswith(f"{NAME}: holds {count - 2} records, the manifest says {count}; ")

    def test_other_records_in_the_same_number(self, store: Store, full: Manifest, values: list[bytes]) -> None:
        values[10] = values[10][:14] + b"??????"
        text = asb_text(values, first_file=False)
        problem = the_problem(check(store, recommit_text(store, full, text)))
        assert "1 partitions hold as many records as they should but other ones" in problem
        assert f"the first is {partition_of(values[10])} (fingerprint " in problem

    def test_records_of_another_slice(self, store: Store, full: Manifest, values: list[bytes]) -> None:
        text = asb_text([*values, *digests_of(5, 5)], first_file=False)
        assert "1 partitions differ, the first are 5: 1 instead of 0" in the_problem(
            check(store, recommit_text(store, full, text))
        )

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            (b"+ g 1\n", b"+ g one\n", "not a whole number"),
            (b"+ b 2\n", b"+ b 3\n", "no bin line"),
            (b"+ d ", b"+ e ", "no digest line"),
            (b"# namespace bidder\n", b"# namespace dmp\n", "a backup of namespace bidder"),
            (b"Version 3.1\n", b"Version 9.9\n", "a version that is known"),
            (b"# namespace bidder\n", b"# namespace bidder\n# first-file\n* i bidder s x N 1 b N\n", "indexes"),
        ],
    )
    def test_text_that_is_not_asb(
        self, store: Store, full: Manifest, values: list[bytes], old: bytes, new: bytes, reason: str
    ) -> None:
        text = asb_text(values, first_file=False).replace(old, new, 1)
        problem = the_problem(check(store, recommit_text(store, full, text)))
        assert problem.startswith(f"{NAME}: ")
        assert reason in problem

    @pytest.mark.parametrize("cut", [1, 30, 60])
    def test_text_that_ends_inside_a_record(self, store: Store, full: Manifest, values: list[bytes], cut: int) -> None:
        text = asb_text(values, first_file=False)[:-cut]
        problem = the_problem(check(store, recommit_text(store, full, text)))
        assert f"record {len(values)}, text byte" in problem
        assert "the end of the text inside a record" in problem

    def test_text_of_another_length(self, store: Store, full: Manifest, values: list[bytes]) -> None:
        text = asb_text(values, first_file=False)
        changed = committed_as(store, full, NAME, zstandard.compress(text), len(text) + 1)
        assert f"holds {len(text)} bytes of text, the manifest says {len(text) + 1}" in the_problem(
            check(store, changed)
        )

    def test_indexes_and_udfs_that_were_lost(self, store: Store, full: Manifest) -> None:
        text = asb_text(digests_of(0, 1023, 3), first_file=False)
        changed = committed_as(store, full, "slice_0000_1023.asb", zstandard.compress(text), len(text))
        report = check(store, changed)
        assert any("holds indexes [], the manifest says ['by_i']" in problem for problem in report.problems)
        assert any("holds UDFs [], the manifest says ['add.lua']" in problem for problem in report.problems)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda run: run[20:40] + run[:20] + run[40:], "is not behind the one before it"),
            (lambda run: run[-40:] + run[:-40], "digest 2 at byte 40 is not behind the one before it"),
            (lambda run: run[:20] + run[:20] + run[40:], "digest 1 at byte 20 is not behind the one before it"),
            (lambda run: run[:-19] + b"x", "ends with 2 bytes that are no whole digest of 20"),
            (lambda run: run[:-20], "digests, the manifest says"),
            (lambda run: b"", "holds 0 digests, the manifest says"),
        ],
    )
    def test_digests_out_of_order_or_too_few(
        self, local: LocalStore, change: Callable[[bytes], bytes], reason: str
    ) -> None:
        full = take_backup(local, make_plan(track_deletes=True), per_partition=3)
        name = "digests_1024_3000.bin"
        data = change(local.get(full.prefix + name))
        stored = local.put(full.prefix + name, data)
        changed = full.model_copy(
            update={
                "objects": [
                    entry.model_copy(update={"size": stored.size, "sha256": stored.sha256})
                    if entry.name == name
                    else entry
                    for entry in full.objects
                ]
            }
        )
        # Such a manifest contradicts itself and is refused when it is read: verify must not rely on that.
        point = catalog.find(local, "eu", "bidder", full.id)
        object.__setattr__(point, "_manifest", changed)
        problems = verify(local, point).problems
        assert any(problem.startswith(f"{name}: ") and reason in problem for problem in problems), problems

    def test_order_is_checked_across_blocks(self, local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dbops.backups.verify._BUFFER", 100)
        full = take_backup(local, make_plan(track_deletes=True), per_partition=3)
        assert check(local, full).problems == []
        name = "digests_1024_3000.bin"
        for at in (100, 120, 200, 220, 1000):
            run = local.get(full.prefix + name)
            swapped = run[: at - 20] + run[at : at + 20] + run[at - 20 : at] + run[at + 20 :]
            changed = committed_as(local, full, name, swapped)
            assert "is not behind the one before it" in the_problem(check(local, changed))
            local.put(full.prefix + name, run)


class TestStore:
    def test_a_disk_that_cannot_be_read_says_nothing_about_the_backup(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan())
        point = catalog.find(local, "eu", "bidder", full.id)
        path = local.directory / full.prefix / NAME
        path.rename(path.with_suffix(".away"))
        path.symlink_to(path)  # a loop: opening it fails, and not because it is missing
        with pytest.raises(StoreRefused, match=NAME):
            verify(local, point)
        assert catalog.find(local, "eu", "bidder", full.id).verified is None

    def test_neither_does_a_bucket_that_does_not_answer(self, s3: S3Store, moto_endpoint: str) -> None:
        full = take_backup(s3, make_plan())
        with FaultProxy(int(moto_endpoint.rpartition(":")[2])) as proxy:
            patience = {"retries": {"mode": "standard", "total_max_attempts": 2}}
            store = S3Store(s3.bucket, s3.prefix, s3_connection(proxy.url, config_kwargs=patience))
            point = catalog.find(store, "eu", "bidder", full.id)
            proxy.order(Fault("GET", NAME, times=ALWAYS, status=503))
            with pytest.raises(StoreUnavailable, match=f"read .*{NAME}.*try again"):
                verify(store, point)
            assert catalog.find(s3, "eu", "bidder", full.id).verified is None
            proxy.clear()
            proxy.order(Fault("GET", "asb", times=3, cut_reply_after=5000))
            report = verify(store, point)
        assert (report.problems, report.bytes) == ([], full.stored_bytes)

    def test_an_outcome_that_cannot_be_kept_is_still_told(self, s3: S3Store, moto_endpoint: str) -> None:
        full = take_backup(s3, make_plan())
        with FaultProxy(int(moto_endpoint.rpartition(":")[2])) as proxy:
            store = S3Store(s3.bucket, s3.prefix, s3_connection(proxy.url))
            proxy.order(Fault("PUT", "verified", times=ALWAYS, status=403))
            report = check(store, full)
        assert report.ok
        assert "the outcome could not be kept" in report.warnings[0]


VERIFY = """
import sys
from pathlib import Path
from backup_samples import most_memory
from dbops.backups import catalog
from dbops.backups.store import LocalStore
from dbops.backups.verify import verify
store = LocalStore(Path(sys.argv[1]))
points = catalog.restore_points(store, "eu", "bidder")
assert verify(store, points[0]).ok
before = most_memory()
report = verify(store, points[1])
assert report.ok, report.problems
print(most_memory() - before)
"""


def test_memory_is_bounded(local: LocalStore) -> None:
    """A small one, so that all code is loaded, then one of three objects of 56 MB, read at once."""
    for hours, size in ((0, 1), (1, 48_000)):
        full = take_backup(local, make_plan(START + hours * HOUR))
        for entry in full.objects:
            values = digests_of(entry.first, entry.last)
            records = [record_text(value).replace(b"+ b 2\n", b"+ b 3\n") for value in values]
            big = b"- S big %d " % size + os.urandom(size) + b"\n"
            head = asb_text([], first_file=entry.first == 0)
            text = head + b"".join(record + big for record in records)
            full = committed_as(local, full, entry.name, zstandard.compress(text), len(text))
    done = subprocess.run(
        [sys.executable, "-c", VERIFY, str(local.directory)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    grown = int(done.stdout)
    assert grown < 48 << 20, f"{grown / (1 << 20):.1f} MiB"
