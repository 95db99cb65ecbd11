"""The RPO watchdog, executed: a real bucket, ledger and receivers, and restore points as old as a test wants them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops import ledger
from dbops.backups.store import Store, open_store
from dbops.platform import load_platform
from dbops_lab import connections
from dbops_lab.supervisor import free_port
from dbops_lab.testing import LabPostgres, LabReceivers, LabS3
from points_world import HOUR, NOW, mark, take
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
PLACES = [(cluster, namespace) for cluster in ("eu", "apac") for namespace in ("bidder", "dmp", "spend")]
KEY = "aerospike_rpo/eu/bidder"


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class World:
    def __init__(self, store: Store, engine: Engine, receivers: LabReceivers) -> None:
        self.store, self.engine, self.receivers = store, engine, receivers

    def run(self) -> str:
        """How the run ended."""
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags["backup_rpo"]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
        return str(dag.test().state)

    def take(self, hours: float, *but: tuple[str, str]) -> None:
        """A verified full of so many hours ago everywhere, but there."""
        for cluster, namespace in PLACES:
            if (cluster, namespace) not in but:
                take(self.store, NOW - hours * HOUR, cluster=cluster, namespace=namespace)

    def rows(self, query: str) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.execute(text(query)))

    def checks(self) -> dict[str, Any]:
        """The newest row of each place."""
        query = "SELECT * FROM check_result WHERE name = 'aerospike_rpo' ORDER BY id"
        return {row.target: row for row in self.rows(query)}

    def incidents(self) -> list[Any]:
        return self.rows("SELECT * FROM incident ORDER BY id")


@pytest.fixture
def world(
    database: None,
    lab_s3: LabS3,
    lab_postgres: LabPostgres,
    receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    uris = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
    }
    monkeypatch.setenv("DBOPS_PLATFORM", "lab")
    for name, value in {**connections.variables(uris), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    store = open_store(load_platform().storage, lab_s3.connection)
    store.delete([item.key for item in store.list("aerospike/")])
    yield World(store, engine, receivers)
    lab_s3.faults()
    store.delete([item.key for item in store.list("aerospike/")])  # other tests use the same bucket


def test_an_exceeded_rpo_is_one_incident_that_a_fresh_verified_backup_ends(world: World) -> None:
    world.take(1, ("eu", "bidder"))
    old = take(world.store, NOW - 9 * HOUR)
    assert world.run() == "success", "it has looked, which is its job"
    checks = world.checks()
    assert set(checks) == {"/".join(place) for place in PLACES}
    row = checks["eu/bidder"]
    assert (row.ok, row.limit, row.unit, row.details) == (False, 7 * 3600, "s", {"state": "exceeded", "point": old.id})
    assert 9 * 3600 <= row.value < 9.5 * 3600
    assert all(row.ok for target, row in checks.items() if target != "eu/bidder")
    (incident,) = world.incidents()
    assert (incident.key, incident.severity, incident.times_seen, incident.resolved_at) == (KEY, "critical", 1, None)
    (told,) = world.receivers.inbox("slack")
    shown = json.dumps(told["message"])
    for said in ("CRITICAL lab: The RPO of eu/bidder is exceeded", old.id, "Limit: 7 h", "backup_rpo_exceeded.md"):
        assert said in shown
    assert [one["state"] for one in world.receivers.incidents()] == ["triggered"]

    fresh = take(world.store, NOW - HOUR, ok=None)
    assert world.run() == "success"
    (incident,) = world.incidents()
    assert (incident.times_seen, incident.resolved_at) == (2, None)
    assert f"{fresh.id} (was never read back)" in incident.details["what"]
    assert len(world.receivers.inbox()) == 2, "it is told once"

    mark(world.store, fresh, ok=True)
    assert world.run() == "success"
    (incident,) = world.incidents()
    assert incident.resolved_at is not None
    assert [one["state"] for one in world.receivers.incidents()] == ["resolved"]
    assert world.checks()["eu/bidder"].ok
    assert len(world.rows("SELECT * FROM check_result")) == 18
    assert world.run() == "success"
    assert len(world.receivers.inbox()) == 4


def test_a_new_installation_has_one_rpo_of_time_for_its_first_backup(world: World) -> None:
    for _ in range(2):
        assert world.run() == "success"
    assert world.incidents() == world.receivers.inbox() == []
    assert {(row.ok, row.value, row.details["state"]) for row in world.checks().values()} == {(False, None, "never")}

    world.rows("UPDATE check_result SET at = at - interval '8 hours' WHERE target = 'apac/dmp' RETURNING 1")
    assert world.run() == "success"
    (incident,) = world.incidents()
    assert incident.key == "aerospike_rpo/apac/dmp"
    assert "apac/dmp has no restorable point: were it lost now, all of it would be lost." in incident.details["what"]

    take(world.store, NOW, cluster="apac", namespace="dmp")
    assert world.run() == "success"
    assert world.incidents()[0].resolved_at is not None


def test_what_cannot_be_looked_at_fails_the_run_hides_no_other_and_ends_no_incident(
    world: World, lab_s3: LabS3
) -> None:
    world.take(1, ("eu", "bidder"))
    take(world.store, NOW - 9 * HOUR)
    assert world.run() == "success"
    take(world.store, NOW - HOUR)
    take(world.store, NOW, cluster="apac", namespace="spend")
    world.rows("INSERT INTO incident (key, severity, title, opened_at, last_seen_at) VALUES "
               "('aerospike_rpo/eu/gone', 'critical', 'gone', now(), now()) RETURNING 1")  # fmt: skip
    lab_s3.faults({"method": "GET", "key": "aerospike(/|%2F)eu(/|%2F)bidder", "status": 403, "times": 99})
    assert world.run() == "failed"
    checks = world.checks()
    assert (checks["eu/bidder"].ok, checks["eu/bidder"].value) == (False, None)
    assert "AccessDenied" in checks["eu/bidder"].message
    assert all(row.ok for target, row in checks.items() if target != "eu/bidder")
    open_ = [row.key for row in world.incidents() if row.resolved_at is None]
    assert open_ == [KEY, "failed/backup_rpo"], "a namespace that left the platform is nobody's problem"
    assert "eu/bidder: " in json.dumps(world.receivers.inbox("slack")[-1]["message"])

    lab_s3.faults()
    assert world.run() == "success"
    assert [row.key for row in world.incidents() if row.resolved_at is None] == []


def test_without_the_ledger_what_is_exceeded_is_told_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.take(1, ("eu", "bidder"))
    take(world.store, NOW - 9 * HOUR)
    nowhere = connections.postgres(free_port(), "dbops_ledger", "x", "dbops_ledger")
    for name, value in connections.variables({"dbops_ledger": nowhere}).items():
        monkeypatch.setenv(name, value)
    assert world.run() == "failed"
    told = [json.dumps(entry["message"]) for entry in world.receivers.inbox("slack")]
    assert any("The RPO of eu/bidder is exceeded" in text and "ledger was unreachable" in text for text in told)
    assert any("backup_rpo failed" in text for text in told)
