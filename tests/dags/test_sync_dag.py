"""The DAG sync_validation, executed against the lab's application: rows, incidents, a repair that a person approves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops import ledger
from dbops.platform import load_platform
from dbops_lab import connections
from dbops_lab.application.drift import plant
from dbops_lab.testing import LabApp, LabPostgres, LabReceivers
from person import answering
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
KEY = "sync_validation/eu/bidder.orders"


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class World:
    def __init__(self, app: LabApp, engine: Engine, receivers: LabReceivers) -> None:
        self.app, self.engine, self.receivers = app, engine, receivers

    def run(self, **conf: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags["sync_validation"]
        for task in dag.tasks:
            task.retries = 0
            task.retry_delay = timedelta(0)
        return dag.test(run_conf={"clusters": ["eu"], **conf})

    def rows(self, query: str) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.execute(text(query)))

    def checks(self, name: str = "sync_validation") -> dict[str, Any]:
        return {row.target: row for row in self.rows(f"SELECT * FROM check_result WHERE name = '{name}' ORDER BY id")}

    def incidents(self) -> dict[str, Any]:
        return {row.key: row for row in self.rows("SELECT * FROM incident ORDER BY id")}


@pytest.fixture
def world(
    database: None, lab_app: LabApp, lab_postgres: LabPostgres, receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Iterator[World]:  # fmt: skip
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "aerospike_eu": lab_app.connections["aerospike_app"],
        "dbops_app": lab_app.connections["dbops_app"],
        "dbops_syncer": lab_app.connections["dbops_syncer"],
    }
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "lab.yaml"
    file.write_text((PROJECT / "include/platform/lab.yaml").read_text().replace("  lag: 5s", "  lag: 0s"))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    load_platform()
    lab_app.reset()
    lab_app.syncer.step()
    yield World(lab_app, engine, receivers)
    lab_app.reset()


def test_drift_is_one_incident_that_an_approved_repair_ends(world: World) -> None:
    planted = plant(world.app.database, world.app.cluster, 3, count=6, tables=["campaigns"])
    assert world.run().state == "success"
    checks = world.checks()
    assert {target: (row.ok, row.value) for target, row in checks.items()} == {
        "eu/bidder.orders": (False, 6), "eu/bidder.lineitems": (True, 0), "eu/bidder.creatives": (True, 0),
        "eu/spend.spend": (True, 0),
    }  # fmt: skip
    details = checks["eu/bidder.orders"].details
    assert {one["key"] for one in details["differences"]} == {one.key for one in planted}
    assert details["counts"]["exact"] is True
    assert details["counts"]["set_objects"] == details["records"]
    (incident,) = [row for row in world.incidents().values() if row.resolved_at is None]
    assert (incident.key, incident.severity) == (KEY, "warning")
    assert all(one.key in incident.details["what"] for one in planted)
    assert {row.ok for row in world.checks("sync_status").values()} == {True}

    assert world.run(pairs=["campaigns"], repair="dry run").state == "success"
    assert world.incidents()[KEY].resolved_at is None
    with answering("Approve"):
        assert world.run(pairs=["campaigns"], repair="repair").state == "success"
    assert world.incidents()[KEY].resolved_at is not None
    assert world.checks()["eu/bidder.orders"].ok
    (action,) = world.rows("SELECT * FROM action WHERE name = 'sync_repair'")
    assert set(action.details["records"]) == {one.key for one in planted}


def test_a_syncer_that_stands_still_is_an_incident_of_its_table(world: World) -> None:
    with world.app.database.session() as cursor:
        cursor.execute(
            "update sync_status set last_sync_time = now() - interval '2 hours' where table_name = 'creatives'"
        )
    assert world.run(pairs=["creatives"]).state == "success"
    row = world.checks("sync_status")["creatives"]
    assert (row.ok, row.limit, row.unit) == (False, 3600, "s")
    assert world.incidents()["sync_status/creatives"].severity == "critical"
    world.app.syncer.resume()
    world.app.syncer.step()
    assert world.run(pairs=["creatives"]).state == "success"
    assert world.incidents()["sync_status/creatives"].resolved_at is not None


def test_what_cannot_be_looked_at_fails_the_run_and_hides_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(world.app.database, world.app.cluster, 4, count=1, tables=["spend_tracking"])
    with world.app.database.session() as cursor:
        cursor.execute("alter table campaigns rename column budget_total to total")
    try:
        assert world.run(pairs=["campaigns", "spend"]).state == "failed"
    finally:
        with world.app.database.session() as cursor:
            cursor.execute("alter table campaigns rename column total to budget_total")
    checks = world.checks()
    assert (checks["eu/spend.spend"].ok, checks["eu/spend.spend"].value) == (False, 1)
    assert "could not look" in checks["eu/bidder.orders"].message
    assert {key for key, row in world.incidents().items() if row.resolved_at is None} == {
        "sync_validation/eu/spend.spend", "failed/sync_validation",
    }  # fmt: skip
    told = json.dumps([entry["message"] for entry in world.receivers.inbox("slack")])
    assert "it has no column budget_total" in told
