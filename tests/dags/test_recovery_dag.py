"""The recovery DAG, executed: real instances, names, deployments, a bucket, a ledger, receivers, and a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops import ledger
from dbops_lab import connections
from dbops_lab.testing import LabKubernetes, LabPostgres, LabRds, LabReceivers
from person import answering, silent
from recovery_world import API, NAMESPACE, SYNCER, RecoveryWorld
from sqlalchemy import text

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class World:
    def __init__(self, recovery: RecoveryWorld, engine: Any, receivers: LabReceivers) -> None:
        self.recovery, self.engine, self.receivers = recovery, engine, receivers

    def run(self, answer: str | None, **conf: Any) -> dict[str, str]:
        """Task -> how it ended; "run" is how the run did. None: nobody answers within a second."""
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags["postgres_recovery"]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
            if hasattr(task, "poke_interval"):
                task.poke_interval = 0.2
        if answer is None:
            dag.get_task("approve").response_timeout = timedelta(seconds=1)
        with answering(answer) if answer else silent():
            run = dag.test(run_conf={"reason": "a test", **conf})
        self.id = f"{run.dag_id}/{run.run_id}"
        states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
        return states | {"run": str(run.state)}

    def actions(self) -> dict[str, Any]:
        """Step -> its row in the ledger."""
        with self.engine.connect() as connection:
            found = connection.execute(text("select * from action where run = :run"), {"run": self.id})
            return {row.target.rpartition("/")[2]: row for row in found}

    def checks(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text("select * from check_result where run = :run"), {"run": self.id}))


@pytest.fixture
def world(
    database: None,
    lab_rds: LabRds,
    lab_kubernetes: LabKubernetes,
    lab_postgres: LabPostgres,
    receivers: LabReceivers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    recovery = RecoveryWorld(lab_rds, lab_kubernetes, tmp_path, engine)
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        **recovery.connections,
    }
    monkeypatch.setenv("DBOPS_PLATFORM", str(recovery.file))
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    yield World(recovery, engine, receivers)
    lab_kubernetes.api.close()


def test_an_approved_recovery_leads_everybody_to_the_rows_of_that_second(world: World) -> None:
    before = world.recovery.checksums()
    good = world.recovery.damage()
    states = world.run("Approve", point_in_time=good.isoformat(), source=world.recovery.rds.name)
    assert states == {
        **dict.fromkeys(
            ("plan", "restore", "terraform", "validate", "approve", "switch", "dns", "restart", "rollout", "sessions",
             "report", "run"),
            "success",
        ),
        **dict.fromkeys(("keep", "roll_back_dns", "roll_back_deployments"), "skipped"),
    }  # fmt: skip
    actions = world.actions()
    target = actions["plan"].details["after"]["target"]
    assert world.recovery.checksums(target) == before
    assert world.recovery.kubernetes.sessions(target) == {API: 2, SYNCER: 2}
    assert {step: row.outcome for step, row in actions.items()} == dict.fromkeys(
        ("plan", "restore", "terraform", "validate", "approve", "switch", "dns", "restart", "rollout", "sessions",
         "report"),
        "done",
    )  # fmt: skip
    assert "ann" in actions["approve"].message
    assert actions["switch"].details["before"]["value"] == world.recovery.rds.describe()["Endpoint"]["Address"]
    assert actions["switch"].details["after"]["value"] == world.recovery.rds.target()
    (check,) = world.checks()
    assert (check.name, check.ok, check.unit, check.limit) == ("postgres_rto", True, "s", 1800)
    assert set(check.details) == {"plan", "restore", "validate", "approve", "dns", "restart", "sessions"}
    asked = world.receivers.inbox("slack")
    assert "postgres_recovery waits for an approval" in str(asked)
    password = world.recovery.rds.server.passwords["exchange"]
    told = repr(asked) + repr([(row.message, row.details) for row in actions.values()])
    assert password not in told
    assert world.recovery.kubernetes.token not in told


@pytest.mark.parametrize("answer", ["Reject", None], ids=["rejected", "not answered in time"])
def test_without_an_approval_nothing_is_switched_and_the_instance_that_is_kept_is_named(
    world: World, answer: str | None
) -> None:
    states = world.run(answer, source=world.recovery.rds.name)
    assert {name: state for name, state in states.items() if state != "upstream_failed"} == {
        "plan": "success",
        "restore": "success",
        "terraform": "success",
        "validate": "success",
        "approve": "failed",
        "keep": "success",
        "roll_back_dns": "skipped",
        "roll_back_deployments": "skipped",
        "run": "failed",
    }
    actions = world.actions()
    target = actions["plan"].details["after"]["target"]
    assert actions["approve"].outcome == "failed"
    assert f"delete-db-instance --db-instance-identifier {target}" in actions["approve"].message
    assert world.recovery.rds.target() == world.recovery.rds.describe()["Endpoint"]["Address"]
    assert world.recovery.kubernetes.sessions() == {API: 2, SYNCER: 2}


def test_when_new_pods_crash_the_record_and_the_deployments_are_rolled_back(world: World) -> None:
    kubernetes = world.recovery.kubernetes
    kubernetes.fail(NAMESPACE, API)
    # The crash is of the new data: the pods that are started again for the old instance come up.
    original = world.recovery.rds.describe()["Endpoint"]["Address"]
    heal_when(world, lambda: world.recovery.rds.target() == original)
    states = world.run("Approve", source=world.recovery.rds.name)
    assert states["rollout"] == "failed"
    assert (states["roll_back_dns"], states["roll_back_deployments"]) == ("success", "success")
    assert (states["sessions"], states["keep"], states["run"]) == ("upstream_failed", "skipped", "failed")
    assert world.recovery.rds.target() == original
    assert kubernetes.sessions() == {API: 2, SYNCER: 2}
    target = world.actions()["plan"].details["after"]["target"]
    assert target in world.recovery.instances()
    assert kubernetes.sessions(target) == {}
    assert world.actions()["rollout"].outcome == "failed"
    assert "does not roll out" in str(world.receivers.inbox("slack"))


def heal_when(world: World, is_time: Any) -> None:
    """End the faults of Kubernetes once the record was led away and is back."""
    import threading
    import time

    def heal() -> None:
        while is_time():
            time.sleep(0.1)
        while not is_time():
            time.sleep(0.1)
        world.recovery.kubernetes.faults()

    threading.Thread(target=heal, daemon=True).start()
