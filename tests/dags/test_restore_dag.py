"""The restore DAG, executed: a real bucket, ledger and receivers, the Aerospike stand-in, and a person who decides."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from backup_world import LOOPBACK, connect, rows, settle
from dbops import ledger
from dbops.aerospike.backup import plan_backup, run_backup
from dbops.aerospike.cluster import Access
from dbops.backups import catalog, lease
from dbops.backups.in_use import restoring_prefix
from dbops.backups.manifest import Kind
from dbops.backups.store import Store, open_store
from dbops.backups.verify import verify
from dbops.platform import load_platform
from dbops_lab import connections
from dbops_lab.aerospike.process import StandIn
from dbops_lab.testing import LabPostgres, LabReceivers, LabS3
from person import answering

PROJECT = Path(__file__).resolve().parents[2]
RESTORE = "aerospike_restore"
COUNT, TOUCHED = 200, 7
PREFIXES = ("aerospike/", "restores/")


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(name="eu", namespaces=["bidder"]) as eu:
        eu.load("bidder", "s", rows(range(COUNT)))
        yield eu


class World:
    def __init__(self, server: StandIn, store: Store, receivers: LabReceivers) -> None:
        self.server, self.store, self.receivers = server, store, receivers
        self._touch = secrets.token_hex(4)

    def run(self, answer: str, **conf: Any) -> dict[str, str]:
        """Task -> how it ended; "run" is how the run did."""
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags[RESTORE]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
        with answering(answer):
            run = dag.test(run_conf={"cluster": "eu", "namespace": "bidder", **conf})
        states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
        return states | {"run": str(run.state)}

    def held(self) -> tuple[bool, int]:
        """Whether somebody holds the namespace's lease, and how many restores have marked its points."""
        marks = list(self.store.list(restoring_prefix("eu", "bidder")))
        return lease.current(self.store, catalog.lease_key("eu", "bidder")) is not None, len(marks)

    def touch(self) -> None:
        """Change some records."""
        settle()
        with closing(connect(self.server.ports[0])) as client:
            for (_, set_name, _, digest), _, _ in client.query("bidder").results()[:TOUCHED]:
                client.put(("bidder", set_name, None, bytearray(digest)), {"touch": self._touch})

    def touched(self) -> int:
        with closing(connect(self.server.ports[0])) as client:
            found = client.query("bidder").results()
        assert len(found) == COUNT
        return sum(bins.get("touch") == self._touch for _, _, bins in found)


@pytest.fixture
def world(
    database: None,
    server: StandIn,
    lab_s3: LabS3,
    lab_postgres: LabPostgres,
    receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    info = lab_postgres.new_database()
    ledger.migrate(ledger.connect(info))
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
        "aerospike_eu": connections.aerospike(server.ports),
    }
    monkeypatch.setenv("DBOPS_PLATFORM", "lab")
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    platform = load_platform()
    store = open_store(platform.storage, lab_s3.connection)

    def empty() -> None:
        store.delete([item.key for prefix in PREFIXES for item in store.list(prefix)])

    empty()
    cluster = platform.aerospike.cluster("eu")
    namespace, access = cluster.namespace("bidder"), Access("eu", tuple((LOOPBACK, port) for port in server.ports))
    plan = plan_backup(platform, cluster, namespace, Kind.FULL, access, store, holder="a test", slices=2)
    run_backup(access, store, plan, workers=2)
    assert verify(store, catalog.find(store, "eu", "bidder", plan.id)).ok
    world = World(server, store, receivers)
    world.touch()
    yield world
    empty()  # other tests use the same bucket


def test_a_rejected_restore_writes_nothing_and_holds_nothing(world: World) -> None:
    assert world.run("Reject") == {
        "plan": "success",
        "approve": "failed",
        "release": "success",
        "indexes_before": "upstream_failed",
        "restore": "upstream_failed",
        "indexes": "upstream_failed",
        "check": "upstream_failed",
        "run": "failed",
    }
    assert world.held() == (False, 0)
    assert world.touched() == TOUCHED
    shown = [entry["message"]["text"] for entry in world.receivers.inbox("slack")]
    assert [f"{RESTORE} waits for an approval" in text for text in shown] == [True, True, False]
    assert f"{RESTORE} failed" in shown[-1]


def test_an_approved_restore_writes_and_holds_nothing_after_it(world: World) -> None:
    states = world.run("Approve")
    assert (states["approve"], states["restore"], states["check"], states["run"]) == ("success",) * 4
    assert states["release"] == "skipped"
    assert world.held() == (False, 0)
    assert world.touched() == 0


def test_a_plan_that_fails_holds_nothing(world: World) -> None:
    held = lease.Lease.acquire(world.store, catalog.lease_key("eu", "bidder"), "a backup", timedelta(hours=1))
    states = world.run("Approve")
    assert (states["plan"], states["release"], states["run"]) == ("failed", "skipped", "failed")
    assert world.held() == (True, 0), "the backup's lease, and no mark on what retention may take"
    held.release()
