"""Restores of a namespace to another cluster, compared with the source through the official client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import chdir, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import aerospike
import pytest
from aerospike_helpers.operations import map_operations
from backup_world import FULL, INCREMENTAL, World, connect, digest_of, rows, settle, world
from dbops.aerospike import restore
from dbops.aerospike.backup import Progress
from dbops.backups import restores
from dbops.backups.catalog import BrokenChain, manifest_key
from dbops.backups.restores import Policy
from dbops.backups.store import LocalStore
from dbops_lab.aerospike.process import StandIn
from restore_world import NEVER, Held, access_to, held, planned, restored, run, scratch

SPACES = [f"source{number}" for number in range(20)]
DRILLS = [f"drill{number}" for number in range(30)]  # the client takes 32
_next = count()
_next_drill = count()


@pytest.fixture(scope="module")
def source() -> Iterator[StandIn]:
    with StandIn(namespaces=SPACES) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def target() -> Iterator[StandIn]:
    with StandIn(namespaces=DRILLS, nodes=3, name="scratch") as stand_in:
        yield stand_in


@pytest.fixture
def lab(source: StandIn, tmp_path: Path) -> World:
    """A namespace that nobody has used."""
    return world(source, LocalStore(tmp_path / "store"), SPACES[next(_next)])


@pytest.fixture
def drill() -> str:
    """An empty namespace of the target."""
    return new_drill()


def new_drill() -> str:
    return DRILLS[next(_next_drill)]


@pytest.fixture
def client(source: StandIn) -> Iterator[aerospike.Client]:
    with closing(connect(source.ports[0])) as connected:
        yield connected


@pytest.fixture
def there(target: StandIn) -> Iterator[aerospike.Client]:
    with closing(connect(target.ports[0])) as connected:
        yield connected


def bins_of(records: dict[bytes, Held]) -> dict[object, object]:
    return {record.key: dict(record.bins) for record in records.values()}


def put(client: aerospike.Client, space: str, key: object, bins: dict[str, object], ttl: int = 0) -> None:
    client.put((space, "s", key), bins, policy={"key": aerospike.POLICY_KEY_SEND, "ttl": ttl})


# ---------------------------------------------------------------- everything comes back


def fill(client: aerospike.Client, space: str) -> None:
    """A record of every type of value and of every type of key."""
    values: dict[str, object] = {
        "int": -(2**63),
        "float": -0.1,
        "str": "zwölf \n\\ \0 bids",
        "bytes": bytes(range(256)),
        "list": [1, "two", [3.5, {"four": b"\x04"}], None],
        "geo": aerospike.GeoJSON({"type": "Point", "coordinates": [-122.4, 37.8]}),
        "yes": True,
        "no": False,
        "empty": "",
        "map": {"a": [1], "b": 2},
    }
    for key in (1, "a key", bytearray(b"\x00\nkey\\")):
        put(client, space, key, values)
    client.operate((space, "other set", "ordered"), [
        map_operations.map_put("m", name, len(name), {"map_order": aerospike.MAP_KEY_ORDERED})
        for name in ("zebra", "ant", "mule")
    ])  # fmt: skip
    for name, value in values.items():
        client.put((space, f"set of {name}", name), {name: value})
    put(client, space, "expires", {"n": 1}, ttl=5000)


@dataclass(frozen=True)
class Filled:
    lab: World
    udf: str
    lua: bytes
    deleted: set[bytes]


@pytest.fixture(scope="module")
def filled(source: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A full and an incremental point with deletes of a namespace that holds of everything something."""
    folder = tmp_path_factory.mktemp("filled")
    lab = world(source, LocalStore(folder / "store"), SPACES[next(_next)])
    space, lua = lab.namespace, b"function one(record)\n  return 1\nend\n"
    file = folder / "restore_facts.lua"
    file.write_bytes(lua)
    (folder / "udf").mkdir()
    deleted = {digest_of(number) for number in range(40)}
    with closing(connect(source.ports[0])) as client, chdir(folder):  # the client keeps a copy of the file there
        fill(client, space)
        source.load(space, "many", rows(range(3000)), datetime.now(UTC) - timedelta(hours=1))
        client.index_single_value_create(space, "s", "n", aerospike.INDEX_NUMERIC, "restored_n_idx")
        client.udf_put(str(file), aerospike.UDF_TYPE_LUA)
        settle()
        lab.backup(track_deletes=True)
        settle()
        source.load(space, "many", rows(range(100, 300), 90))
        source.load(space, "many", rows(range(3000, 3050)))
        for digest in deleted:
            client.remove((space, "many", None, bytearray(digest)))
        put(client, space, 1, {"changed": "after the full"})
        put(client, space, "new", {"n": 7}, ttl=70_000)
    settle()
    lab.backup(INCREMENTAL, track_deletes=True)
    return Filled(lab, file.name, lua, deleted)


def test_full_and_incremental_with_deletes_come_back_record_by_record(
    source: StandIn, target: StandIn, filled: Filled, drill: str, there: aerospike.Client
) -> None:
    lab = filled.lab
    plan = planned(lab, target, drill)
    assert not plan.warnings
    report = restore.require_ok(run(lab, target, plan))

    wanted, found = held(source, lab.namespace), held(target, drill)
    assert len(wanted) > 3000
    assert found == wanted
    assert not found.keys() & filled.deleted
    for digest, record in wanted.items():
        ttl = found[digest].ttl
        assert ttl == record.ttl if record.ttl == NEVER else abs(ttl - record.ttl) < 30
    assert report.target_records == len(wanted)
    assert (report.outcomes.inserted, report.outcomes.deleted) == (len(wanted), 40)
    assert report.outcomes.superseded == 201
    assert report.compared > 0
    assert (report.indexes, filled.udf in report.udfs) == (["restored_n_idx"], True)
    assert "restored_n_idx" in "".join(str(answer) for answer in there.info_all("sindex-list").values())
    assert restores.read_report(lab.store, plan.id) == report
    with chdir(Path(str(lab.store.url).removeprefix("file://")).parent):
        assert there.udf_get(filled.udf).encode().strip() == filled.lua.strip()

    again = restored(lab, target, drill)
    assert (again.inserted, again.updated) == (0, len(wanted))
    assert held(target, drill) == wanted


@pytest.mark.parametrize("definitions", ["before", "after"])
def test_indexes_are_made_before_or_after_the_records_as_asked(
    target: StandIn, filled: Filled, drill: str, there: aerospike.Client, definitions: restores.When
) -> None:
    plan = planned(filled.lab, target, drill, definitions=definitions)
    assert ("made before the records" in plan.describe()) == (definitions == "before")
    seen: list[bool] = []

    def look(progress: Progress) -> None:
        listed = there.info_all(f"sindex-list:namespace={drill}").values()
        seen.append("restored_n_idx" in "".join(str(answer) for answer in listed))

    report = restore.run_restore(access_to(target), filled.lab.store, plan, workers=1, on_progress=look)
    assert (report.ok, report.indexes) == (True, ["restored_n_idx"])
    assert set(seen) == {definitions == "before"}
    look(Progress())
    assert seen[-1]


def test_a_slice_is_read_in_ranges_of_bounded_digests_with_the_same_result(
    target: StandIn, source: StandIn, filled: Filled, drill: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = [point.manifest for point in filled.lab.points]
    sizes = [a + b for a, b in zip(chain[1].partition_counts, chain[1].deleted_counts or [], strict=True)]
    for most in (1, 25, 1000):
        ranges = list(restore.passes(chain, 100, 4000, most))
        assert [first for first, _, _ in ranges] == [100, *(last + 1 for _, last, _ in ranges[:-1])]
        assert ranges[-1][1] == 4000
        for first, last, digests in ranges:
            assert digests == sum(sizes[first : last + 1])
            assert digests <= most or first == last
        assert (len(ranges) == 1) == (most == 1000)
    monkeypatch.setattr(restore.passes, "__defaults__", (25,))
    outcomes = restored(filled.lab, target, drill)
    wanted = held(source, filled.lab.namespace)
    assert held(target, drill) == wanted
    assert (outcomes.inserted, outcomes.superseded, outcomes.deleted) == (len(wanted), 201, 40)


def test_without_track_deletes_the_plan_says_that_deleted_records_come_back(
    source: StandIn, target: StandIn, lab: World, drill: str, client: aerospike.Client
) -> None:
    source.load(lab.namespace, "s", rows(range(50)))
    settle()
    lab.backup()
    client.remove((lab.namespace, "s", None, bytearray(digest_of(7))))
    settle()
    lab.backup(INCREMENTAL)
    plan = planned(lab, target, drill)
    (warning,) = plan.warnings
    assert "does not track deletes" in warning
    assert warning.endswith("come back")
    assert warning in plan.describe()
    report = run(lab, target, plan)
    assert warning in report.warnings
    assert digest_of(7) in held(target, drill)


# ---------------------------------------------------------------- policies


@pytest.fixture(scope="module")
def chain(source: StandIn, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A full and an incremental point: `changed` is newer in the incremental, `gone` is deleted there."""
    lab = world(source, LocalStore(tmp_path_factory.mktemp("chain")), SPACES[next(_next)])
    with closing(connect(source.ports[0])) as client:
        _take_chain(lab, client)
    return lab


def _take_chain(lab: World, client: aerospike.Client) -> None:
    space = lab.namespace
    for key in ("changed", "kept", "gone", "only in backup", "changed, only in backup"):
        put(client, space, key, {"n": 1, "b": "full"})
    settle()
    lab.backup(slices=2, track_deletes=True)
    settle()
    for key in ("changed", "changed, only in backup"):
        put(client, space, key, {"n": 2, "b": "incremental"})
    client.remove((space, "s", "gone"))
    settle()
    lab.backup(INCREMENTAL, slices=2, track_deletes=True)


FULL_FORM, NEWEST = {"n": 1, "b": "full"}, {"n": 2, "b": "incremental"}
MINE = {"mine": 1, "n": 0}


def occupy(there: aerospike.Client, drill: str, generations: int = 1) -> None:
    for key in ("changed", "kept", "gone", "stranger"):
        for _ in range(generations):
            put(there, drill, key, MINE)


ONLY = {"only in backup": FULL_FORM, "changed, only in backup": NEWEST}


def test_replace_makes_the_target_as_the_backup_and_leaves_strangers(
    target: StandIn, chain: World, drill: str, there: aerospike.Client
) -> None:
    occupy(there, drill)
    outcomes = restored(chain, target, drill, policy=Policy.REPLACE)
    assert bins_of(held(target, drill)) == {"changed": NEWEST, "kept": FULL_FORM, "stranger": MINE, **ONLY}
    assert (outcomes.read, outcomes.inserted, outcomes.updated) == (7, 2, 2)
    assert (outcomes.superseded, outcomes.deleted, outcomes.removed) == (2, 1, 1)


def test_update_writes_over_bins_and_other_bins_stay(
    target: StandIn, chain: World, drill: str, there: aerospike.Client
) -> None:
    occupy(there, drill)
    outcomes = restored(chain, target, drill, policy=Policy.UPDATE)
    assert bins_of(held(target, drill)) == {
        "changed": {**MINE, **NEWEST},
        "kept": {**MINE, **FULL_FORM},
        "gone": MINE,
        "stranger": MINE,
        **ONLY,
    }
    assert (outcomes.inserted, outcomes.updated, outcomes.removed) == (2, 2, 0)


def test_missing_writes_only_what_is_not_there_in_its_newest_form(
    target: StandIn, chain: World, drill: str, there: aerospike.Client
) -> None:
    occupy(there, drill)
    outcomes = restored(chain, target, drill, policy=Policy.MISSING)
    assert bins_of(held(target, drill)) == {"changed": MINE, "kept": MINE, "gone": MINE, "stranger": MINE, **ONLY}
    assert (outcomes.inserted, outcomes.updated, outcomes.existing) == (2, 0, 2)


@pytest.mark.parametrize(
    ("generations", "changed", "existing"), [(1, NEWEST, 1), (2, MINE, 2)], ids=["target older", "target as new"]
)
def test_newer_replaces_only_what_has_a_lower_generation(
    target: StandIn,
    chain: World,
    drill: str,
    there: aerospike.Client,
    generations: int,
    changed: object,
    existing: int,
) -> None:
    occupy(there, drill, generations)
    outcomes = restored(chain, target, drill, policy=Policy.NEWER)
    assert bins_of(held(target, drill)) == {"changed": changed, "kept": MINE, "gone": MINE, "stranger": MINE, **ONLY}
    assert (outcomes.inserted, outcomes.updated, outcomes.existing) == (2, 2 - existing, existing)


@pytest.mark.parametrize("policy", list(Policy))
def test_every_policy_restores_all_into_an_empty_target(target: StandIn, chain: World, policy: Policy) -> None:
    drill = new_drill()
    for _ in range(2):
        restored(chain, target, drill, policy=policy)
        assert bins_of(held(target, drill)) == {"changed": NEWEST, "kept": FULL_FORM, **ONLY}


# ---------------------------------------------------------------- choices


def test_only_chosen_sets_and_bins_are_written_and_the_rest_is_counted(
    target: StandIn, lab: World, client: aerospike.Client
) -> None:
    for set_name in ("s", "s t", "t"):
        for number in range(10):
            client.put((lab.namespace, set_name, number), {"n": number, "a b": "x"} if number % 2 else {"n": number})
    lab.backup(slices=2)
    both, one = new_drill(), new_drill()
    outcomes = restored(lab, target, both, sets=["s t", "t"])
    assert (outcomes.inserted, outcomes.other_set) == (20, 10)
    assert {record.set for record in held(target, both).values()} == {"s t", "t"}
    outcomes = restored(lab, target, one, sets=["s t"], bins=["a b"])
    assert (outcomes.inserted, outcomes.other_set, outcomes.no_bin) == (5, 20, 5)
    assert [dict(record.bins) for record in held(target, one).values()] == [{"a b": "x"}] * 5


def test_of_a_chain_a_record_that_lost_the_chosen_bin_does_not_come_back_in_its_older_form(
    target: StandIn, lab: World, drill: str, client: aerospike.Client
) -> None:
    put(client, lab.namespace, 1, {"n": 1, "m": 1})
    settle()
    lab.backup(slices=1)
    settle()
    client.remove_bin((lab.namespace, "s", 1), ["m"])
    settle()
    lab.backup(INCREMENTAL, slices=1)
    outcomes = restored(lab, target, drill, bins=["m"])
    assert held(target, drill) == {}
    assert (outcomes.read, outcomes.no_bin, outcomes.superseded) == (2, 1, 1)


def test_records_that_expire_live_longer_when_asked_and_others_forever(
    target: StandIn, lab: World, drill: str, client: aerospike.Client
) -> None:
    put(client, lab.namespace, "expires", {"n": 1}, ttl=1000)
    put(client, lab.namespace, "stays", {"n": 1}, ttl=aerospike.TTL_NEVER_EXPIRE)
    lab.backup(slices=1)
    restored(lab, target, drill, extra_ttl=timedelta(hours=1))
    ttls = {record.key: record.ttl for record in held(target, drill).values()}
    assert ttls["stays"] == NEVER
    assert 4590 <= ttls["expires"] <= 4600


def test_expired_records_are_counted_and_left_out(
    target: StandIn, lab: World, drill: str, client: aerospike.Client
) -> None:
    put(client, lab.namespace, "expires", {"n": 1}, ttl=2)
    put(client, lab.namespace, "stays", {"n": 1})
    lab.backup(slices=1)
    time.sleep(2.1)
    outcomes = restored(lab, target, drill)
    assert (outcomes.read, outcomes.inserted, outcomes.expired) == (2, 1, 1)
    assert bins_of(held(target, drill)) == {"stays": {"n": 1}}


def test_dry_run_writes_nothing_and_counts_what_it_would(
    target: StandIn, chain: World, drill: str, there: aerospike.Client
) -> None:
    occupy(there, drill)
    before = held(target, drill)
    plan = planned(chain, target, drill, dry_run=True)
    assert not plan.needs_approval
    report = run(chain, target, plan)
    assert report.dry_run
    assert (report.outcomes.planned, report.outcomes.superseded, report.outcomes.deleted) == (4, 2, 1)
    assert (report.outcomes.inserted, report.outcomes.updated, report.outcomes.removed) == (0, 0, 0)
    after = held(target, drill)
    assert after == before
    assert {record.generation for record in after.values()} == {1}
    assert planned(chain, target, drill, holder="another")  # it took no lease


# ---------------------------------------------------------------- points


def test_a_point_in_time_is_that_of_the_newest_point_at_or_before(target: StandIn, lab: World, source: StandIn) -> None:
    snapshots = []
    for number in range(3):
        source.load(lab.namespace, "s", rows([number]))
        settle()
        manifest = lab.backup(INCREMENTAL if number else FULL, slices=1)
        snapshots.append((manifest.id, manifest.snapshot_at))
    settle()
    ids = [id for id, _ in snapshots]
    for number, (_, at) in enumerate(snapshots):
        for moment in (at, at + timedelta(milliseconds=900)):
            plan = planned(lab, target, DRILLS[-1], at=moment, dry_run=True)
            assert plan.points == ids[: number + 1]
            assert (plan.wanted_at, plan.snapshot_at) == (moment, at)
            assert any("is in no restore point" in warning for warning in plan.warnings)
    assert planned(lab, target, DRILLS[-1], dry_run=True).points == ids
    assert planned(lab, target, DRILLS[-1], id=ids[1], dry_run=True).points == ids[:2]
    first = snapshots[0][1]
    with pytest.raises(restore.NotRestorable, match=rf"at or before .*the oldest one .* is of {first:%FT%TZ}"):
        planned(lab, target, DRILLS[-1], at=first - timedelta(seconds=1))
    with pytest.raises(restore.NotRestorable, match="in the future"):
        planned(lab, target, DRILLS[-1], at=datetime.now(UTC) + timedelta(hours=1))
    drill = new_drill()
    restored(lab, target, drill, at=snapshots[1][1])
    assert set(held(target, drill)) == {digest_of(0), digest_of(1)}

    lab.store.delete([manifest_key(lab.cluster_name, lab.namespace, ids[1])])
    with pytest.raises(BrokenChain, match=ids[1]):
        planned(lab, target, DRILLS[-1], id=ids[2])
    assert planned(lab, target, DRILLS[-1], dry_run=True).points == ids[:1]


def test_no_point_at_all_says_what_takes_one(target: StandIn, lab: World, drill: str) -> None:
    with pytest.raises(restore.NotRestorable, match="no restore point at all; `dbops backup run`"):
        planned(lab, target, drill)


def test_points_that_were_never_read_back_are_refused_unless_allowed(
    target: StandIn, lab: World, source: StandIn, drill: str
) -> None:
    source.load(lab.namespace, "s", rows(range(10)))
    id = lab.backup(slices=1).id
    arguments = (lab.store, lab.cluster_name, lab.namespace, access_to(target), scratch(drill))
    with pytest.raises(restore.NotRestorable, match=f"{id} were never read back; run `dbops backup verify"):
        restore.plan_restore(*arguments, holder="restore-1")
    plan = restore.plan_restore(*arguments, holder="restore-1", allow_unverified=True)
    assert plan.warnings == (f"{id} were never read back",)
    restore.require_ok(run(lab, target, plan))
    assert len(held(target, drill)) == 10
