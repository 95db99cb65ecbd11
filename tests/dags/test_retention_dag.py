"""The retention DAG, executed: a real bucket, ledger, receivers, and a person who answers as the API would."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbops import ledger
from dbops.backups import catalog, in_use
from dbops.backups.lease import Lease
from dbops.backups.store import S3Store, Store, open_store
from dbops.platform import load_platform
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabReceivers, LabS3
from person import answering
from points_world import DAY, HOUR, NOW, ids, listed, take_chain
from restore_documents import put_restore, restores_left
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
RETENTION = "backup_retention_eu"


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class World:
    def __init__(self, store: Store, engine: Engine, receivers: LabReceivers) -> None:
        self.store, self.engine, self.receivers = store, engine, receivers

    def run(self, *, answer: str | None = None, **conf: Any) -> Any:
        """Run the DAG; with an answer, give it once somebody is asked."""
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags[RETENTION]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)  # a rejected approval would be asked for again, and nobody would answer
        if answer is None:
            return dag.test(run_conf=conf)
        with answering(answer):
            return dag.test(run_conf=conf)

    def states(self, run: Any) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))


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
    prefixes = ("aerospike/", "restores/")
    empty: Callable[[], None] = lambda: store.delete([item.key for name in prefixes for item in store.list(name)])  # noqa: E731
    empty()
    yield World(store, engine, receivers)
    empty()  # other tests use the same bucket
    lab_s3.faults()


def test_old_points_go_with_a_row_each_and_the_bucket_is_kept(world: World) -> None:
    store = world.store
    old = take_chain(store, 20, 2)
    kept = [take_chain(store, age)[0] for age in (9, 3, 2)]
    pinned = take_chain(store, 15)[0]
    in_use.pin(store, "eu", "bidder", pinned.id, by="ann", reason="audit")
    for namespace in ("dmp", "spend"):
        take_chain(store, 1, namespace=namespace)

    dry = world.run(dry_run=True)
    assert set(world.states(dry).values()) == {"skipped"}
    assert listed(store) == sorted(ids([*old, pinned, *kept]))
    assert list(store.list("aerospike/eu/bidder/_retention/")) == []

    run = world.run(namespaces=["bidder", "dmp"])
    assert run.state == "success"
    assert world.states(run) == {
        "plan": "success",
        "approve": "skipped",
        "apply": "success",
        "apply_approved": "skipped",
        "sweep": "success",
        "lifecycle": "success",
        "replication": "skipped",
    }
    assert listed(store) == ids([pinned, *kept])
    rows = world.rows("SELECT target, run, outcome, message, details FROM action WHERE name = 'expire' ORDER BY id")
    assert [row.target for row in rows] == [f"eu/bidder/{point.id}" for point in reversed(old)]
    assert {(row.run, row.outcome) for row in rows} == {(f"{RETENTION}/{run.run_id}", "done")}
    stored = json.loads(store.get(rows[0].details["plan"].removeprefix(f"{store.url}/")))
    assert {item["id"]: item["reason"] for item in stored["items"]}[pinned.id].endswith("audit")
    assert isinstance(store, S3Store)
    kept = [rule["Filter"]["Prefix"] for rule in store.lifecycle()["Rules"]]
    assert sum(prefix.startswith((f"{store.prefix}aerospike/", f"{store.prefix}restores/")) for prefix in kept) == 3
    assert world.receivers.inbox() == []


def test_a_plan_over_the_guard_waits_for_a_person_and_holds_back_no_other_namespace(world: World) -> None:
    store = world.store
    many = [take_chain(store, age)[0] for age in (60, 50, 40, 30)]
    for namespace in ("bidder", "dmp"):
        for age in (9, 3, 2):
            take_chain(store, age, namespace=namespace)
    small = take_chain(store, 20, namespace="dmp")[0]
    before = listed(store)

    run = world.run(answer="Reject")
    assert run.state == "failed"
    assert world.states(run)["approve"] == "failed"
    assert world.states(run)["apply_approved"] == "upstream_failed"
    assert listed(store) == before, "rejected: nothing of it goes"
    assert small.id not in listed(store, namespace="dmp"), "which needed no approval"
    told = [entry["message"]["text"] for entry in world.receivers.inbox("slack")]
    assert len(told) == 3
    assert f"{RETENTION} waits for an approval" in told[0]
    assert "RESOLVED" in told[1]
    assert f"{RETENTION} failed" in told[2]
    assert "would go, 57%" in json.dumps(world.receivers.inbox("slack")[0]["message"])

    run = world.run(answer="Approve")
    assert run.state == "success"
    assert world.states(run)["apply_approved"] == "success"
    assert set(ids(many)).isdisjoint(listed(store))
    assert len(listed(store)) == 3
    keys = {row.key: row.resolved_at for row in world.rows("SELECT key, resolved_at FROM incident ORDER BY id")}
    assert set(keys) == {f"approval/{RETENTION}", f"failed/{RETENTION}"}
    assert None not in keys.values()


def test_a_running_backup_fails_the_run_after_the_others_were_done_and_a_retry_finishes(world: World) -> None:
    store = world.store
    for namespace in ("bidder", "dmp"):
        for age in (20, 9, 3, 2):
            take_chain(store, age, namespace=namespace)
    lease = Lease.acquire(store, catalog.lease_key("eu", "bidder"), "a backup", HOUR)
    run = world.run()
    assert run.state == "failed"
    assert (len(listed(store)), len(listed(store, namespace="dmp"))) == (4, 3)
    lease.release()
    assert world.run().state == "success"
    assert len(listed(store)) == 3


def test_replication_is_asked_for_where_it_is_configured(
    world: World, lab_s3: LabS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "copied.yaml"
    lab = (PROJECT / "include/platform/lab.yaml").read_text()
    file.write_text(lab.replace("  region: eu-west-1\n", "  region: eu-west-1\n  replica_region: eu-central-1\n"))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    point = take_chain(world.store, 2)[0]
    header = {"x-amz-replication-status": "COMPLETED"}
    lab_s3.faults({"method": "HEAD", "key": point.id, "headers": header, "times": 99})
    assert world.states(world.run())["replication"] == "success"
    other = take_chain(world.store, 1)[0]
    run = world.run()
    assert world.states(run)["replication"] == "failed"
    assert other.id in json.dumps(world.receivers.inbox("slack")[0]["message"])


def test_what_dry_runs_of_restores_have_left_is_swept_after_the_grace_period(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dry, real = put_restore(world.store, NOW - 9 * DAY, dry_run=True), put_restore(world.store, NOW - 9 * DAY)
    assert world.run().state == "success"
    assert restores_left(world.store) == {dry, real}, "both were just written"
    file = tmp_path / "impatient.yaml"
    lab = (PROJECT / "include/platform/lab.yaml").read_text()
    file.write_text(lab.replace("  incremental: 7d\n", "  incremental: 7d\n  grace: 1s\n", 1))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    time.sleep(1.1)
    assert world.run().state == "success"
    assert restores_left(world.store) == {real}
