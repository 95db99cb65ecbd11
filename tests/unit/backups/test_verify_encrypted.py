"""Encrypted restore points: read back with the right key, told from damage with a wrong one or none."""

from __future__ import annotations

import json

import pytest
import zstandard
from backup_samples import HOUR, START, make_plan, store_slice, take_backup
from cipher_samples import KEY, OTHER_PEM, PEM, leaks
from dbops.backups import catalog
from dbops.backups.catalog import CommitConflict
from dbops.backups.cipher import NO_KEYS, KeyMissing, Keys, NotEncrypted, WrongKey, open_object, open_writer
from dbops.backups.manifest import Manifest, ManifestError
from dbops.backups.store import LocalStore, NotFound, Store
from dbops.backups.verify import VerifyReport, verify

KEYS = Keys.of("aes256", PEM)
WRONG = Keys.of("aes256", OTHER_PEM)
NAME = "slice_1024_3000.asb"
DIGESTS = "digests_3001_4095.bin"


@pytest.fixture
def full(store: Store) -> Manifest:
    return take_backup(store, make_plan(track_deletes=True, encryption=KEY.encryption), 3, KEY)


def check(store: Store, manifest: Manifest, keys: Keys = KEYS) -> VerifyReport:
    return verify(store, catalog.find(store, "eu", "bidder", manifest.id), keys=keys)


def is_verified(store: Store, manifest: Manifest) -> bool | None:
    found = catalog.find(store, "eu", "bidder", manifest.id).verified
    return found.ok if found else None


def flip(store: Store, manifest: Manifest, name: str, at: int) -> None:
    data = bytearray(store.get(manifest.prefix + name))
    data[at] ^= 4
    store.put(manifest.prefix + name, bytes(data))


class TestWhole:
    def test_it_passes_with_its_key(self, store: Store, full: Manifest) -> None:
        report = check(store, full)
        assert (report.ok, report.problems, report.warnings, report.unread) == (True, [], [], None)
        assert (report.objects, report.records, report.bytes) == (6, full.records, full.stored_bytes)
        assert is_verified(store, full) is True

    def test_so_does_an_incremental_with_nothing_in_it(self, store: Store, full: Manifest) -> None:
        plan = make_plan(START + HOUR, full, track_deletes=True, encryption=KEY.encryption)
        manifest = take_backup(store, plan, 0, KEY)
        assert {entry.size for entry in manifest.objects if entry.role != "records"} == {16}
        report = check(store, manifest)
        assert (report.problems, report.records, report.objects) == ([], 0, 9)

    def test_a_chain_may_mix_keys_and_plain_points(self, store: Store, full: Manifest) -> None:
        plain = take_backup(store, make_plan(START + HOUR, full, track_deletes=True))
        old = WRONG.current
        assert old
        again = take_backup(
            store, make_plan(START + 2 * HOUR, plain, track_deletes=True, encryption=old.encryption), key=old
        )
        keys = Keys.of("aes128", PEM, [OTHER_PEM])
        for manifest in (full, plain, again):
            assert check(store, manifest, keys).problems == []
        points = catalog.chain(catalog.restore_points(store, "eu", "bidder"), again.id)
        assert [point.id for point in points] == [full.id, plain.id, again.id]


class TestWithoutTheKey:
    @pytest.mark.parametrize(("keys", "kind"), [(NO_KEYS, KeyMissing), (WRONG, WrongKey)])
    def test_sizes_and_sums_are_compared_and_it_is_not_called_damaged_or_verified(
        self, store: Store, full: Manifest, keys: Keys, kind: type[Exception]
    ) -> None:
        report = check(store, full, keys)
        assert (report.ok, report.problems, report.conclusive) == (True, [], False)
        assert type(report.unread) is kind
        assert (report.objects, report.bytes) == (6, full.stored_bytes)
        (warning,) = report.warnings
        assert f"restore point {full.id} of eu/bidder is encrypted with {KEY}" in warning
        assert warning.endswith("Only sizes and SHA-256 were compared, not what the objects hold")
        assert ("wrong key" in warning) == (kind is WrongKey)
        assert "damaged" not in warning
        assert not leaks(warning)
        assert is_verified(store, full) is None

    @pytest.mark.parametrize("keys", [NO_KEYS, WRONG])
    def test_damage_is_found_and_remembered_all_the_same(self, store: Store, full: Manifest, keys: Keys) -> None:
        flip(store, full, NAME, 500)
        store.delete([full.prefix + DIGESTS])
        report = check(store, full, keys)
        assert not report.ok
        assert report.conclusive
        assert len(report.problems) == 2
        assert report.problems[0].startswith(f"{NAME}: SHA-256 is ")
        assert report.problems[1].startswith(f"{DIGESTS}: is missing")
        assert is_verified(store, full) is False

    def test_what_is_read_is_refused_before_a_byte_is(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan(encryption=KEY.encryption), key=KEY)
        local.delete([full.prefix + entry.name for entry in full.objects])
        for keys, kind in ((NO_KEYS, KeyMissing), (WRONG, WrongKey)):
            with pytest.raises(kind, match=rf"{full.prefix}slice_0000_1023\.asb is encrypted with {KEY}"):
                open_object(local, full, full.objects[0], keys)
        with pytest.raises(NotFound):
            list(open_object(local, full, full.objects[0], KEYS))


class TestDamage:
    @pytest.mark.parametrize("name", [NAME, DIGESTS])
    @pytest.mark.parametrize("at", [0, 15, 16, 700, -1], ids=["header", "header's end", "first", "middle", "tail"])
    def test_one_flipped_bit(self, store: Store, full: Manifest, name: str, at: int) -> None:
        flip(store, full, name, at)
        report = check(store, full)
        assert not report.ok
        assert report.problems[0].startswith(f"{name}: SHA-256 is ")
        assert all(problem.startswith(f"{name}: ") for problem in report.problems)

    @pytest.mark.parametrize("name", [NAME, DIGESTS])
    @pytest.mark.parametrize("size", [0, 1, 15])
    def test_an_object_shorter_than_its_header(self, store: Store, full: Manifest, name: str, size: int) -> None:
        store.put(full.prefix + name, bytes(size))
        report = check(store, full)
        assert report.problems[0].startswith(f"{name}: is {size} bytes, the manifest says ")
        assert f"{name}: is no whole encrypted object: " in report.problems[1]
        entry = next(entry for entry in full.objects if entry.name == name)
        with pytest.raises(NotEncrypted, match=f"{name}: has {size} bytes"):
            list(open_object(store, full, entry, KEYS))

    @pytest.mark.parametrize("size", [16, 40, 116])
    def test_an_object_that_was_cut(self, store: Store, full: Manifest, size: int) -> None:
        for name in (NAME, DIGESTS):
            store.put(full.prefix + name, store.get(full.prefix + name)[:size])
        report = check(store, full)
        assert {problem.partition(":")[0] for problem in report.problems} == {NAME, DIGESTS}

    def test_a_plain_object_in_the_place_of_an_encrypted_one(self, local: LocalStore) -> None:
        """Its sum may even be right: what does not decrypt to a backup file was written wrongly."""
        plan = make_plan(encryption=KEY.encryption)
        for first, last in plan.slices:
            store_slice(local, plan, first, last, key=None if first == 1024 else KEY)
        manifest = catalog.commit(local, plan, catalog.slice_results(local, plan), START + HOUR, "KEY1")
        (problem,) = check(local, manifest).problems
        assert problem.startswith(f"{NAME}: is no whole .asb file")

    @pytest.mark.parametrize("at", [0, 3, 20, 700, -1])
    @pytest.mark.parametrize("encrypted", [False, True])
    def test_one_flipped_bit_of_an_object_without_compression(
        self, local: LocalStore, encrypted: bool, at: int
    ) -> None:
        key = KEY if encrypted else None
        full = take_backup(local, make_plan(encryption=key and key.encryption), key=key)
        text = zstandard.decompress(b"".join(open_object(local, full, full.objects[1], KEYS)))
        with open_writer(local, full.prefix + NAME, key) as writer:
            writer.write(text)
        done = writer.close()
        entry = full.objects[1].model_copy(update={"size": done.size, "sha256": done.sha256})
        document = json.loads(full.to_json())
        document["stored_bytes"] += done.size - full.objects[1].size
        document["objects"][1] = json.loads(entry.to_json())
        local.put(catalog.manifest_key("eu", "bidder", full.id), json.dumps(document).encode())
        assert check(local, full).problems == []
        flip(local, full, NAME, at)
        assert check(local, full).problems[0].startswith(f"{NAME}: SHA-256 is ")


class TestManifest:
    def test_one_without_encryption_is_written_as_it_always_was(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan())
        assert b"encryption" not in full.to_json()
        assert b"encryption" not in make_plan().to_json()
        assert Manifest.from_json(full.to_json(), "m").encryption is None

    def test_one_with_encryption_names_mode_and_fingerprint_and_nothing_else(self, local: LocalStore) -> None:
        full = take_backup(local, make_plan(encryption=KEY.encryption), key=KEY)
        assert json.loads(full.to_json())["encryption"] == {"mode": "aes256", "key_fingerprint": KEY.fingerprint}
        assert Manifest.from_json(full.to_json(), "m") == full
        assert not leaks(full.to_json().decode())

    def test_sizes_must_fit_to_what_it_says(self, local: LocalStore) -> None:
        plain = take_backup(local, make_plan(track_deletes=True))
        encrypted = take_backup(local, make_plan(START + HOUR, track_deletes=True, encryption=KEY.encryption), key=KEY)
        lies = json.loads(plain.to_json()) | {"encryption": KEY.encryption.model_dump()}
        with pytest.raises(ManifestError, match=r"digests_0000_1023\.bin: \d+ bytes cannot be an encrypted object of "):
            Manifest.from_json(json.dumps(lies), "m")
        del (lies := json.loads(encrypted.to_json()))["encryption"]
        with pytest.raises(ManifestError, match=r"digests_0000_1023\.bin: \d+ bytes cannot be a plain object of "):
            Manifest.from_json(json.dumps(lies), "m")
        lies = json.loads(encrypted.to_json()) | {"encryption": {"mode": "rot13", "key_fingerprint": "0" * 16}}
        with pytest.raises(ManifestError, match="mode"):
            Manifest.from_json(json.dumps(lies), "m")

    def test_a_commit_under_the_same_id_with_another_key_is_refused(self, local: LocalStore) -> None:
        take_backup(local, make_plan(encryption=KEY.encryption), key=KEY)
        with pytest.raises(CommitConflict, match=r"encryption is mode='aes256'"):
            catalog.commit(local, make_plan(), [], START + HOUR, "KEY1")
