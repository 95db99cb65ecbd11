"""The backup DAGs, executed: real tasks, a real bucket, ledger and receivers, and the Aerospike stand-in."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aerospike
import pytest
import yaml
from cipher_samples import KEY, OTHER_PEM, PEM, leaks
from dbops import ledger
from dbops.backups import catalog
from dbops.backups.lease import Lease
from dbops.backups.manifest import Kind
from dbops.backups.store import Store, open_store
from dbops.platform import load_platform
from dbops.platform.load import DIRECTORY
from dbops_lab import connections
from dbops_lab.aerospike.process import StandIn
from dbops_lab.testing import LabPostgres, LabReceivers, LabS3
from fake_program import Fake
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
NAMESPACES = ("bidder", "dmp", "spend")
RECORDS = 300
FULL, INCREMENTAL, VERIFY = "aerospike_backup_full_eu", "aerospike_backup_incremental_eu", "aerospike_backup_verify"
DRILL, RESTORE = "aerospike_restore_drill", "aerospike_restore"
PASSWORD = f"planted-{secrets.token_hex(12)}"
WRONG = f"planted-{secrets.token_hex(12)}"


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[str, StandIn]]:
    with StandIn(name="eu", nodes=2, users={"dbops": PASSWORD}) as eu, StandIn(name="apac") as apac:
        for place, login in ((eu, {"user": "dbops", "password": PASSWORD}), (apac, {})):
            client = aerospike.client({"hosts": [("127.0.0.1", place.ports[0])], **login}).connect()
            for namespace in NAMESPACES:
                for number in range(RECORDS):
                    client.put((namespace, "things", number), {"n": number, "s": f"text {number}"})
            client.close()
        yield {"eu": eu, "apac": apac}


class World:
    """What a test may do: run DAGs, change data, look at what they left."""

    def __init__(
        self, eu: StandIn, store: Store, engine: Engine, receivers: LabReceivers, patch: pytest.MonkeyPatch
    ) -> None:
        self.eu, self.store, self.engine, self.receivers, self._patch = eu, store, engine, receivers, patch

    def login(self, password: str) -> None:
        connection = connections.aerospike(self.eu.ports, "dbops", password)
        self._patch.setenv("AIRFLOW_CONN_AEROSPIKE_EU", json.dumps(connection))

    def run(self, dag_id: str, **conf: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags[dag_id]
        dag.deadline = None  # dag.test() of 3.3.2 cannot store one; the scheduler can, and the demonstration does
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
        return dag.test(run_conf={"slices": 3, **conf} if dag_id in (FULL, INCREMENTAL) else conf)

    def connect(self, conn_id: str, connection: connections.Connection) -> None:
        for name, value in connections.variables({conn_id: connection}).items():
            self._patch.setenv(name, value)

    def setenv(self, name: str, value: str) -> None:
        self._patch.setenv(name, value)

    def points(self, namespace: str) -> list[catalog.RestorePoint]:
        return catalog.restore_points(self.store, "eu", namespace)

    def client(self) -> aerospike.Client:
        config = {"hosts": [("127.0.0.1", self.eu.ports[0])], "user": "dbops", "password": PASSWORD}
        return aerospike.client(config).connect()


@pytest.fixture
def world(
    database: None,
    clusters: dict[str, StandIn],
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
        "aerospike_apac": connections.aerospike(clusters["apac"].ports),
    }
    monkeypatch.setenv("DBOPS_PLATFORM", "lab")
    for name, value in {**connections.variables(uris), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    store = open_store(load_platform().storage, lab_s3.connection)
    store.delete([item.key for item in store.list("aerospike/")])
    place = World(clusters["eu"], store, engine, receivers, monkeypatch)
    place.login(PASSWORD)
    yield place
    store.delete([item.key for item in store.list("aerospike/")])  # other tests use the same bucket


def test_full_incremental_and_verify_make_whole_restore_points(world: World) -> None:
    assert world.run(FULL).state == "success"
    for namespace in NAMESPACES:
        (point,) = world.points(namespace)
        assert (point.kind, point.manifest.records) == (Kind.FULL, RECORDS)

    client = world.client()
    client.put(("bidder", "things", "new"), {"n": 1})
    client.remove(("bidder", "things", 7))
    client.close()
    assert world.run(INCREMENTAL).state == "success"
    full, incremental = world.points("bidder")
    assert (incremental.manifest.parent, incremental.manifest.base) == (full.id, full.id)
    assert incremental.manifest.deleted == 1
    assert incremental.manifest.records >= 1

    assert world.run(VERIFY).state == "success"
    assert all(point.verified and point.verified.ok for namespace in NAMESPACES for point in world.points(namespace))
    with world.engine.connect() as connection:
        rows = connection.execute(text("SELECT namespace, kind, records, verified_ok FROM restore_point")).all()
    assert len(rows) == 6
    assert {row.verified_ok for row in rows} == {True}
    assert world.receivers.inbox() == []


def test_encrypted_backups_are_taken_and_verified_and_a_wrong_key_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load((DIRECTORY / "lab.yaml").read_text())
    document["storage"]["encryption"] = {"mode": "aes256", "connection": "backup_key"}
    file = tmp_path / "encrypted.yaml"
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))

    def key(pem: bytes) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_BACKUP_KEY", json.dumps({"conn_type": "generic", "password": pem.decode()}))

    key(PEM[:-30])
    assert world.run(FULL, namespaces=["spend"]).state == "failed"
    assert list(world.store.list("aerospike/eu/spend/")) == []
    key(PEM)
    assert world.run(FULL, namespaces=["spend"], slices=1).state == "success"
    (point,) = world.points("spend")
    assert (point.manifest.encryption, point.manifest.records) == (KEY.encryption, RECORDS)
    key(OTHER_PEM)
    assert world.run(VERIFY).state == "failed"
    (point,) = world.points("spend")
    assert point.verified is None
    key(PEM)
    assert world.run(VERIFY).state == "success"
    (point,) = world.points("spend")
    assert point.verified
    assert point.verified.ok

    shown = json.dumps(world.receivers.inbox())
    assert f"wrong key: restore point {point.id} of eu/spend is encrypted with {KEY}" in shown
    home = Path(os.environ["AIRFLOW_HOME"])
    captured = capfd.readouterr()
    shown += captured.out + captured.err + "".join(path.read_text(errors="replace") for path in home.rglob("*.log"))
    with sqlite3.connect(home / "airflow.db") as connection:
        shown += "\n".join(connection.iterdump())
    assert not leaks(shown)


def test_form_narrows_a_run_to_namespaces_and_changes_its_kind(world: World) -> None:
    assert world.run(INCREMENTAL, namespaces=["dmp"], kind="full", slices=1).state == "success"
    assert [str(point.kind) for point in world.points("dmp")] == ["full"]
    assert world.points("bidder") == world.points("spend") == []


def test_dry_run_stores_nothing_and_leaves_no_lease(world: World) -> None:
    assert world.run(FULL, dry_run=True).state == "success"
    assert {item.key.rpartition("/")[2] for item in world.store.list("aerospike/")} <= {"_lease.json"}
    for namespace in NAMESPACES:
        key = catalog.lease_key("eu", namespace)
        Lease.acquire(world.store, key, "somebody else", timedelta(seconds=1)).release()


def test_covered_window_is_skipped_and_named_and_an_open_one_is_not(world: World) -> None:
    from dbops.aerospike.operators import PlanSlices

    world.run(FULL, namespaces=["dmp"])
    (point,) = world.points("dmp")
    plan = PlanSlices(task_id="plan", cluster="eu", kind="incremental")

    def covered(end: datetime | None, run_type: str = "backfill") -> dict[str, str]:
        run = SimpleNamespace(run_type=run_type, data_interval_end=end)
        return plan._covered({"dag_run": run}, world.store, Kind.INCREMENTAL)  # type: ignore[typeddict-item]

    assert covered(point.snapshot_at) == {"dmp": point.id}
    assert covered(point.snapshot_at - timedelta(hours=6), "scheduled") == {"dmp": point.id}
    assert covered(point.snapshot_at + timedelta(seconds=1)) == {}
    assert covered(point.snapshot_at, "manual") == {}
    assert covered(None) == {}


def test_failing_run_opens_one_incident_and_the_next_success_resolves_it(world: World) -> None:
    world.login(WRONG)
    for _ in range(2):
        assert world.run(FULL).state == "failed"
    slack = world.receivers.inbox("slack")
    assert len(slack) == 1
    assert "aerospike_backup_full_eu" in json.dumps(slack[0]["message"])
    (incident,) = world.receivers.incidents()
    assert incident["state"] == "triggered"

    world.login(PASSWORD)
    assert world.run(FULL).state == "success"
    (incident,) = world.receivers.incidents()
    assert incident["state"] == "resolved"
    assert len(world.receivers.inbox("slack")) == 2
    with world.engine.connect() as connection:
        rows = connection.execute(text("SELECT key, resolved_at, times_seen FROM incident")).all()
    assert len(rows) == 1
    assert rows[0].resolved_at is not None


def test_no_secret_reaches_log_xcom_ledger_or_alert(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    world.login(WRONG)
    world.run(FULL)
    world.login(PASSWORD)
    world.run(FULL)
    world.run(VERIFY)
    captured = capfd.readouterr()
    places = {"output": captured.out + captured.err, "inbox": json.dumps(world.receivers.inbox())}
    home = Path(os.environ["AIRFLOW_HOME"])
    places["logs"] = "".join(path.read_text(errors="replace") for path in home.rglob("*.log"))
    with sqlite3.connect(home / "airflow.db") as connection:
        places["airflow database"] = "\n".join(connection.iterdump())
    with world.engine.connect() as connection:
        for table in ("restore_point", "check_result", "action", "incident"):
            places[table] = str(connection.execute(text(f"SELECT * FROM {table}")).all())
    assert "aerospike_backup_full_eu" in places["airflow database"]  # it is the right one
    assert len(places["output"]) > 1000
    database = json.loads(os.environ["AIRFLOW_CONN_DBOPS_LEDGER"])
    slack = json.loads(os.environ["AIRFLOW_CONN_DBOPS_SLACK"])
    planted = {"password": PASSWORD, "wrong": WRONG, "ledger": database["password"], "slack": slack["password"]}
    found = [
        (name, place) for name, secret in planted.items() for place, content in places.items() if secret in content
    ]
    assert found == []


def test_planted_damage_turns_the_drill_red_with_one_incident(world: World) -> None:
    with StandIn(name="scratch", namespaces=["drill"]) as scratch:
        world.connect("aerospike_scratch", connections.aerospike(scratch.ports))
        assert world.run(FULL, namespaces=["bidder"]).state == "success"
        assert world.run(VERIFY).state == "success"
        assert world.run(DRILL).state == "success"
        assert world.receivers.incidents() == []
        (point,) = world.points("bidder")
        key = catalog.object_key(point.manifest, next(o.name for o in point.manifest.objects if o.role == "records"))
        whole = world.store.get(key)
        world.store.put(key, whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        assert world.run(DRILL).state == "failed"
        (incident,) = world.receivers.incidents()
        assert incident["state"] == "triggered"
        world.store.put(key, whole)
        assert world.run(DRILL).state == "success"
        assert [one["state"] for one in world.receivers.incidents()] == ["resolved"]
    with world.engine.connect() as connection:
        drills = list(connection.execute(text("SELECT outcome FROM action WHERE name = 'aerospike_restore_drill'")))
        checks = list(connection.execute(text("SELECT ok, unit FROM check_result WHERE name = 'aerospike_rto'")))
    assert [row[0] for row in drills] == ["done", "failed", "done"]
    assert checks == [(True, "s"), (True, "s")]


def test_fulls_that_are_whole_are_told_to_the_drills_in_one_event_and_a_damaged_one_fails_the_run(world: World) -> None:
    assert world.run(FULL).state == "success"
    (damaged,) = world.points("bidder")
    key = catalog.object_key(damaged.manifest, damaged.manifest.objects[0].name)
    world.store.put(key, world.store.get(key)[:-1])
    run = world.run(VERIFY)
    assert run.state == "failed"
    states = {(task.task_id, str(task.state)) for task in run.get_task_instances()}
    assert states >= {("verify", "failed"), ("verify", "success"), ("tell_drills", "success")}
    with sqlite3.connect(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db") as connection:
        (extra,) = connection.execute(
            "SELECT e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id "
            "WHERE a.name = 'aerospike_verified_full' AND e.source_run_id = ?", (run.run_id,),
        ).fetchone()  # fmt: skip
    told = {(point["cluster"], point["namespace"], point["id"]) for point in json.loads(extra)["points"]}
    assert told == {("eu", name, world.points(name)[0].id) for name in NAMESPACES if name != "bidder"}
    assert world.run(VERIFY).state == "success", "there is nothing left to read"


def test_restore_does_what_its_form_says_of_indexes_bins_and_engine(world: World, tmp_path: Path) -> None:
    client = world.client()
    client.info_all("sindex-create:namespace=spend;set=things;indexname=by_n;bin=n;type=numeric")
    try:
        assert world.run(FULL, namespaces=["spend"], slices=1).state == "success"
    finally:
        client.index_remove("spend", "by_n")
        client.close()
    assert world.run(VERIFY).state == "success"
    with StandIn(name="scratch", namespaces=["drill"]) as scratch:
        world.connect("aerospike_scratch", connections.aerospike(scratch.ports))
        form = {"cluster": "eu", "namespace": "spend", "target_cluster": "scratch"}
        liar = Fake(
            tmp_path, "asrestore",
            stderr=f"0 UDF file(s), 0 secondary index(es), {RECORDS} record(s) (1 rec/s)\nExpired 0 : skipped 0 : "
            f"err_ignored 0 : inserted {RECORDS}: failed 0 (existed 0 , fresher 0)\n",
        )  # fmt: skip
        world.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert world.run(RESTORE, **form, engine="asrestore").state == "failed"
        assert "--namespace=spend,drill" in liar.seen["argv"]
        run = world.run(RESTORE, **form, indexes="before", bins=["n"])
        assert run.state == "success"
        states = {task.task_id: task.state for task in run.get_task_instances()}
        assert (states["indexes_before"], states["indexes"], states["approve"]) == ("success", "skipped", "skipped")
        there = aerospike.client({"hosts": [("127.0.0.1", scratch.ports[0])]}).connect()
        found = [bins for _, _, bins in there.query("drill").results()]
        there.close()
        assert sorted(bins["n"] for bins in found) == list(range(RECORDS))
        assert {tuple(bins) for bins in found} == {("n",)}
    with world.engine.connect() as connection:
        query = "SELECT outcome, message, details FROM action WHERE name = 'aerospike_restore' ORDER BY started_at"
        lied, done = connection.execute(text(query)).all()
    assert (lied.outcome, done.outcome, done.details["indexes"]) == ("failed", "done", ["by_n"])
    assert f"the target lacks {RECORDS} records" in lied.message
