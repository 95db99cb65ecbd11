"""Alerts as a real Airflow raises them: scheduler, dag-processor and LocalExecutor, with a DAG that fails on demand."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dbops import ledger
from dbops.ledger.models import Action, Incident
from dbops_lab import connections
from dbops_lab.airflow import Airflow, Client
from dbops_lab.lab import Lab
from dbops_lab.supervisor import direct
from sqlalchemy import Engine, select, text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROBE, LATE, BROKEN = "alert_probe", "alert_probe_late", "alert_probe_broken_callback"


class ProbingAirflow(Airflow):
    """The lab's Airflow with the probe's DAGs in place of the project's."""

    def environment(self) -> dict[str, str]:
        folder = {"AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent / "alert_probe")}
        return super().environment() | folder


class World:
    """A lab with its Airflow, and what arrived there."""

    def __init__(self, lab: Lab, airflow: Airflow) -> None:
        self.lab = lab
        self.state = lab.state
        self.client: Client = airflow.client()
        self.engine: Engine = ledger.connect(connections.info("dbops_ledger", lab.connections()["dbops_ledger"]))

    def run(self, dag_id: str = PROBE, **conf: Any) -> str:
        run_id = self.client.trigger(dag_id, conf)
        self.client.wait(dag_id, run_id, seconds=120)
        return run_id

    def inbox(self) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.lab.settings.receivers.http}/lab/inbox"
        found: list[dict[str, Any]] = json.load(direct.open(url, timeout=5))
        return found

    def clear(self) -> None:
        url = f"http://127.0.0.1:{self.lab.settings.receivers.http}/lab/clear"
        direct.open(urllib.request.Request(url, data=b"{}", method="POST"), timeout=5).close()

    def arrived(self) -> list[str]:
        return [
            entry["event"]["event_action"] if entry["channel"] == "pagerduty" else entry["channel"]
            for entry in self.inbox()
        ]

    def incidents(self, key: str) -> list[Incident]:
        with ledger.transaction(self.engine) as session:
            session.expire_on_commit = False
            return list(session.scalars(select(Incident).where(Incident.key == key).order_by(Incident.id)))

    def logs(self) -> str:
        servers = {"postgres", "rds"}  # whose own logs are not ours
        files = [path for path in self.state.rglob("*.log") if path.is_file() and not servers & set(path.parts)]
        return "\n".join(path.read_text(errors="replace") for path in files)


@pytest.fixture(scope="module")
def lab_with_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    lab = Lab(tmp_path_factory.mktemp("alerts"), guarded=True)
    lab.up()
    airflow = ProbingAirflow(lab)
    try:
        airflow.up()
        world = World(lab, airflow)
        dag_ids = [PROBE, LATE, BROKEN]
        world.client.wait_for_dags(dag_ids, seconds=120)
        for dag_id in dag_ids:
            world.client.unpause(dag_id)
        yield world
    finally:
        airflow.down()
        lab.down()


@pytest.fixture
def world(lab_with_airflow: World) -> World:
    """No incident is open, nothing has arrived."""
    lab_with_airflow.clear()
    with lab_with_airflow.engine.begin() as connection:
        connection.execute(text("delete from incident"))
        connection.execute(text("delete from action"))
    return lab_with_airflow


def eventually(check: Callable[[], bool], seconds: float = 60) -> None:
    """Callbacks run a little after the run's end."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)


def test_a_failing_run_opens_one_incident_and_the_next_success_resolves_it(world: World) -> None:
    key = f"failed/{PROBE}"
    first = world.run(how="raise")
    eventually(lambda: sorted(world.arrived()) == ["slack", "trigger"])
    (incident,) = world.incidents(key)
    shown = json.dumps(world.inbox(), ensure_ascii=False)
    assert "alert_probe failed: Does what a test says" in shown
    assert f"Run {first}" in shown
    assert "task failure" in shown
    assert "Failed: work[1]." in shown
    assert "work[1]: ConnectionError: node 10.0.0.7 is lost" in shown
    assert f"/dags/{PROBE}/runs/{first.replace(':', '%3A').replace('+', '%2B')}" in shown
    assert "/tasks/work/mapped/1?try_number=1" in shown
    assert "1 of 3 tasks failed" in shown
    assert "include/runbooks/aerospike_backup_failed.md" in shown

    world.run(how="killed")
    eventually(lambda: world.incidents(key)[0].times_seen == 2)
    assert len(world.inbox()) == 2

    world.run(how="well", dry_run=True)
    world.run(how="well", namespaces=["a"])
    world.run(how="well")
    eventually(lambda: len(world.inbox()) == 4)
    assert sorted(world.arrived()) == ["resolve", "slack", "slack", "trigger"]
    (incident,) = world.incidents(key)
    assert incident.resolved_at is not None
    assert incident.times_seen == 2
    logs = world.logs()
    assert logs.count("did not do all that the DAG does") == 2

    world.run(how="well")
    time.sleep(3)
    assert len(world.inbox()) == 4


def test_a_run_that_is_not_done_in_time_is_an_incident_that_its_end_resolves(world: World) -> None:
    key = f"late/{LATE}"
    world.run(LATE, how="late")
    eventually(lambda: len(world.incidents(key)) == 1 and world.incidents(key)[0].resolved_at is not None)
    eventually(lambda: len(world.inbox()) == 4)
    assert world.arrived()[:2] == ["slack", "trigger"]
    assert sorted(world.arrived()[2:]) == ["resolve", "slack"]
    said = json.dumps(world.inbox()[0])
    assert "alert_probe_late is late" in said
    assert "Limit: 4 s" in said
    assert "aerospike_backup_late.md" in said


def test_a_secret_in_an_error_is_in_no_alert_and_not_in_the_ledger(world: World) -> None:
    world.run(how="raise")
    eventually(lambda: len(world.inbox()) == 2)
    with ledger.transaction(world.engine) as session:
        assert "ops:***@db/exchange" in session.scalars(select(Action.message)).one()
    arrived = json.dumps(world.inbox())
    assert "ops:***@db/exchange" in arrived
    with world.engine.connect() as connection:
        stored = str(connection.execute(text("select incident::text, action::text from incident, action")).all())
    passwords = [value for value in world.lab.settings.secrets.values() if len(value) > 8]
    for secret in ("hunter2", *passwords):
        assert secret not in arrived
        assert secret not in stored


def test_alert_code_that_breaks_leaves_the_error_of_the_task_as_it_is(world: World) -> None:
    run_id = world.run(BROKEN, how="raise")
    eventually(lambda: "the alert of a failed run was lost" in world.logs())
    (task,) = world.client.tasks(BROKEN, run_id)
    assert task["state"] == "failed"
    path = f"/api/v2/dags/{BROKEN}/dagRuns/{run_id}/taskInstances/work/logs/1?map_index=0"
    assert "node 10.0.0.7 is lost" in json.dumps(world.client.call("GET", path))
    assert world.inbox() == []
