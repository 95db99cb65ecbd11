"""Restore drills: what they promise about the scratch namespace, the objective, and production."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from backup_world import FULL, INCREMENTAL, LOOPBACK, World, connect, rows, settle, world
from dbops.aerospike.cluster import Access, Cluster
from dbops.aerospike.drill import Drill, ProductionTarget, newest_points, run_drill
from dbops.backups import catalog
from dbops.backups.lease import Lease, LeaseHeld
from dbops.backups.store import LocalStore
from dbops.backups.verify import verify
from dbops.errors import DbopsError
from dbops_lab.aerospike.process import StandIn

SPACE = "bidder"
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(namespaces=[SPACE]) as stand_in:
        stand_in.load(SPACE, "s", rows(range(3000)))
        yield stand_in


@pytest.fixture(scope="module")
def scratch() -> Iterator[Access]:
    with StandIn(name="scratch", namespaces=["drill"]) as stand_in:
        yield Access("scratch", ((LOOPBACK, stand_in.ports[0]),))


@pytest.fixture
def lab(server: StandIn, tmp_path: Path) -> World:
    lab = world(server, LocalStore(tmp_path), SPACE)
    settle()
    lab.backup(FULL)
    verify(lab.store, lab.points[0])
    return lab


def drill(lab: World, scratch: Access, rto: timedelta = HOUR, id: str | None = None) -> Drill:
    return run_drill(
        lab.store,
        "eu",
        SPACE,
        id or lab.listed[-1],
        scratch,
        "drill",
        production=[lab.access],
        rto=rto,
        holder="a test",
        workers=2,
    )


def held(scratch: Access) -> int:
    with Cluster(scratch) as cluster:
        cluster.refresh()
        return cluster.namespace_state("drill").master_objects


def test_a_drill_restores_compares_and_leaves_nothing(server: StandIn, lab: World, scratch: Access) -> None:
    client = connect(server.ports[0])
    client.put((SPACE, "s", 1), {"n": 1})
    client.close()
    settle()
    lab.backup(INCREMENTAL)
    verify(lab.store, lab.points[-1])
    found = drill(lab, scratch)
    assert found.problems == ()
    assert found.report.target_records == 3001
    assert 0 < found.seconds < 60
    assert held(scratch) == 0
    assert newest_points(lab.store, [("eu", SPACE), ("eu", "none")]) == [
        {"cluster": "eu", "namespace": SPACE, "id": lab.listed[-1]}
    ]


def test_what_a_killed_drill_has_left_is_removed_first(lab: World, scratch: Access) -> None:
    client = connect(scratch.seeds[0][1])
    client.put(("drill", "left", 1), {"n": 1})
    client.close()
    assert drill(lab, scratch).problems == ()
    assert held(scratch) == 0


def test_a_second_drill_at_once_does_not_empty_what_the_first_restores(lab: World, scratch: Access) -> None:
    client = connect(scratch.seeds[0][1])
    client.put(("drill", "first", 1), {"n": 1})
    lease = Lease.acquire(lab.store, catalog.lease_key("scratch", "drill"), "the first", HOUR)
    with pytest.raises(LeaseHeld, match="the first"):
        drill(lab, scratch)
    assert client.get(("drill", "first", 1))[2] == {"n": 1}
    lease.release()
    client.close()


def test_a_drill_over_its_objective_says_so_although_the_data_is_right(lab: World, scratch: Access) -> None:
    found = drill(lab, scratch, rto=timedelta(milliseconds=1))
    assert found.report.ok
    assert "the objective (RTO)" in found.problems[0]


def test_a_production_cluster_is_refused_as_scratch_whatever_name_leads_there(lab: World) -> None:
    before = {point.id for point in lab.points}
    for host in (LOOPBACK, "localhost"):
        with pytest.raises(ProductionTarget, match="is backed up"):
            drill(lab, replace(lab.access, cluster="scratch", seeds=((host, lab.access.seeds[0][1]),)))
    assert {point.id for point in lab.points} == before


def test_planted_damage_fails_the_drill_and_leaves_nothing(lab: World, scratch: Access) -> None:
    manifest = lab.points[-1].manifest
    key = catalog.object_key(manifest, manifest.objects[1].name)
    data = bytearray(lab.store.get(key))
    data[len(data) // 2] ^= 1
    lab.store.put(key, bytes(data))
    with pytest.raises(DbopsError, match=manifest.objects[1].name):
        drill(lab, scratch)
    assert held(scratch) == 0


def test_the_next_backup_after_a_restore_is_full(server: StandIn, lab: World) -> None:
    from dbops.aerospike.restore import plan_restore, run_restore
    from dbops.backups.restores import RestoreTarget

    target = RestoreTarget(cluster="eu", namespace=SPACE)
    plan = plan_restore(lab.store, "eu", SPACE, lab.access, target, holder="a test")
    assert plan.needs_approval
    assert run_restore(lab.access, lab.store, plan, workers=1).ok
    settle()
    assert lab.plan(INCREMENTAL).kind is FULL
