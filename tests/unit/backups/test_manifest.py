"""Documents that contradict themselves are not accepted, and what is written reads back as the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from backup_samples import HOUR, START, make_plan, store_slice, take_backup
from dbops.backups.manifest import (
    PARTITIONS,
    BackupPlan,
    Kind,
    Manifest,
    ManifestError,
    ObjectEntry,
    SliceResult,
    Verified,
    backup_id,
    backup_prefix,
    pack_fingerprints,
    unpack_fingerprints,
)
from dbops.backups.store import LocalStore
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def full(local: LocalStore) -> Manifest:
    return take_backup(local, make_plan(track_deletes=True))


@pytest.fixture
def incremental(local: LocalStore, full: Manifest) -> Manifest:
    return take_backup(local, make_plan(START + HOUR, full, track_deletes=True))


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest.from_json(json.dumps(json.loads(manifest.to_json()) | changes), "m.json")


def test_reads_back_as_the_same_and_writes_the_same_bytes(full: Manifest, incremental: Manifest) -> None:
    for manifest in (full, incremental):
        again = Manifest.from_json(manifest.to_json(), "m.json")
        assert again == manifest
        assert again.to_json() == manifest.to_json()


def test_times_are_utc_whatever_they_were_given_in() -> None:
    east = timezone(timedelta(hours=5, minutes=30))
    plan = make_plan(START.astimezone(east))
    assert plan.snapshot_at == START
    assert plan.snapshot_at.utcoffset() == timedelta(0)
    assert plan.id == "20261123T020000Z-full"
    assert json.loads(plan.to_json())["snapshot_at"] == "2026-11-23T02:00:00Z"


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="timezone"):
        make_plan(modified_after=datetime(2026, 1, 1))  # noqa: DTZ001


def test_another_schema_version_is_named(full: Manifest) -> None:
    document = json.loads(full.to_json()) | {"schema_version": 2, "something_new": 1}
    with pytest.raises(ManifestError, match=r"^m\.json: schema_version is 2, this package reads 1; use the version"):
        Manifest.from_json(json.dumps(document), "m.json")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": 1}', b"null"])
def test_what_is_no_manifest_is_refused_with_its_place(data: bytes) -> None:
    with pytest.raises(ManifestError, match=r"^m\.json: "):
        Manifest.from_json(data, "m.json")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"records": 1}, "records is not the sum"),
        ({"partition_counts": [1] * PARTITIONS}, "objects hold 3510 records, the partitions count 4096"),
        ({"partition_counts": [1]}, "partition_counts: List should have at least 4096 items"),
        ({"inventory_counts": [0] * PARTITIONS}, "objects hold 3510 digests, the partitions count 0"),
        ({"inventory_counts": None}, "objects hold 3510 digests, the partitions count 0"),
        ({"deleted": 1}, "deleted is not the sum of deleted_counts"),
        ({"stored_bytes": 1}, r"stored_bytes is 1, the objects have \d+"),
        ({"text_bytes": 1}, r"text_bytes is 1, the objects have \d+"),
        ({"partition_fingerprints": pack_fingerprints([1] * 4095)}, "are not 4096 base64 numbers"),
        ({"partition_fingerprints": "?"}, "are not 4096 base64 numbers"),
        ({"partition_fingerprints": pack_fingerprints([1] * 4096)[:-4]}, "are not 4096 base64 numbers"),
        ({"objects": []}, "objects hold 0 records"),
        ({"parent": "20261122T020000Z-full"}, "a full backup has no parent"),
        ({"modified_after": "2026-11-22T02:00:00Z"}, "a full backup has no modified_after"),
        ({"kind": "incremental"}, "is not that of its snapshot time and kind, 20261123T020000Z-incremental"),
        ({"snapshot_at": "2026-11-23T03:00:00Z"}, "is not that of its snapshot time and kind"),
        ({"finished_at": "2026-11-23T01:00:00Z"}, "finished_at is before started_at"),
        ({"namespace": "../dmp"}, "namespace: String should match"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
    ],
)
def test_contradictions_are_refused(full: Manifest, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        changed(full, **changes)


@pytest.mark.parametrize("engine", ["native", "asbackup"])
def test_a_missing_range_of_partitions_is_refused(full: Manifest, engine: str) -> None:
    """Zero records in a slice do not make its object dispensable: it must be seen to be empty."""
    objects = json.loads(full.to_json())["objects"]
    for entry in objects:
        entry["records"] = entry["size"] = entry["text_bytes"] = 0
    empty = {
        "engine": engine,
        "records": 0,
        "stored_bytes": 0,
        "text_bytes": 0,
        "partition_counts": [0] * PARTITIONS,
        "inventory_counts": [0] * PARTITIONS,
    }
    assert changed(full, objects=objects, **empty).records == 0
    for left_out in range(len(objects)):
        with pytest.raises(ManifestError, match=r"do not cover each partition 0-4095 exactly once"):
            changed(full, objects=objects[:left_out] + objects[left_out + 1 :], **empty)
    with pytest.raises(ManifestError, match="two objects have the same name"):
        changed(full, objects=[*objects, objects[0]], **empty)


@pytest.mark.parametrize("link", ["base", "parent", "modified_after"])
def test_an_incremental_needs_what_it_builds_on(incremental: Manifest, link: str) -> None:
    with pytest.raises(ManifestError, match=f"an incremental backup needs {link}"):
        changed(incremental, **{link: None})


def test_nobody_is_its_own_parent(incremental: Manifest) -> None:
    with pytest.raises(ManifestError, match="is its own base or parent"):
        changed(incremental, parent=incremental.id)


@pytest.mark.parametrize(
    "slices",
    [[], [(0, 4094)], [(1, 4095)], [(0, 100), (102, 4095)], [(0, 100), (100, 4095)], [(0, 4095), (5, 4)]],
)
def test_a_plan_reads_each_partition_once(slices: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="slices do not cover each partition 0-4095 exactly once"):
        make_plan(slices=slices)


def test_the_engine_stands_in_plan_and_manifest_and_only_the_native_one_tracks_deletes(local: LocalStore) -> None:
    plan = make_plan(engine="asbackup", engine_version="4.5.8", engine_path="/opt/asbackup")
    manifest = take_backup(local, plan)
    assert (manifest.engine, manifest.engine_version) == ("asbackup", "4.5.8")
    with pytest.raises(ValueError, match="the engine absctl does not track deletes"):
        make_plan(engine="absctl", track_deletes=True)


def test_slices_may_stand_in_any_order() -> None:
    assert make_plan(slices=[(2000, 4095), (0, 1999)]).slices == [(2000, 4095), (0, 1999)]


def test_a_plan_survives_xcom(full: Manifest) -> None:
    plan = make_plan(START + HOUR, full)
    assert BackupPlan.model_validate(plan.model_dump(mode="json")) == plan
    assert BackupPlan.from_json(plan.to_json(), "xcom") == plan


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counts": [1]}, "counts has 1 entries for 1024 partitions"),
        ({"fingerprints": ["0" * 16]}, "fingerprints has 1 entries for 1024 partitions"),
        ({"deleted": [0]}, "deleted has 1 entries for 1024 partitions"),
        ({"counts": [1] * 1024}, r"slice 0-1023: objects hold 877 records, the partitions count 1024"),
        ({"first": 1, "last": 1024}, "slice 1-1024: holds object slice_0000_1023.asb"),
        ({"first": 9, "last": 8}, "slice 9-8: first is after last"),
    ],
)
def test_slice_results_that_contradict_themselves(local: LocalStore, changes: dict[str, Any], reason: str) -> None:
    result = store_slice(local, make_plan(), 0, 1023)
    with pytest.raises(ManifestError, match=reason):
        SliceResult.from_json(json.dumps(json.loads(result.to_json()) | changes), "slice.json")


def test_digest_objects_are_whole_digests() -> None:
    entry = {"name": "digests_0_1.bin", "role": "digests", "first": 0, "last": 1, "sha256": "ab" * 32}
    assert ObjectEntry(size=40, records=2, **entry).records == 2
    with pytest.raises(ValueError, match=r"2 digests are 40 bytes, not 41"):
        ObjectEntry(size=41, records=2, **entry)


def test_object_names_stay_in_their_folder() -> None:
    for name in ["../x", "a/b", "", ".hidden", "a b"]:
        with pytest.raises(ValueError, match="name"):
            ObjectEntry(name=name, role="records", first=0, last=1, size=1, sha256="ab" * 32, records=0)


@given(st.lists(st.integers(min_value=0, max_value=(1 << 64) - 1), max_size=40))
def test_fingerprints_survive_packing(values: list[int]) -> None:
    assert unpack_fingerprints(pack_fingerprints(values)) == values


def test_fingerprints_are_little_endian(full: Manifest) -> None:
    assert pack_fingerprints([1]) == "AQAAAAAAAAA="
    assert len(full.fingerprints) == PARTITIONS


def test_ids_and_prefixes() -> None:
    assert backup_id(START.replace(microsecond=999999), Kind.INCREMENTAL) == "20261123T020000Z-incremental"
    assert backup_prefix("eu", "bidder") == "aerospike/eu/bidder/"
    assert make_plan().prefix == "aerospike/eu/bidder/20261123T020000Z-full/"


def test_verified_reads_back() -> None:
    verified = Verified(at=datetime.now(UTC), manifest_sha256="ab" * 32, ok=False, problems=["x"])
    assert Verified.from_json(verified.to_json(), "v") == verified
