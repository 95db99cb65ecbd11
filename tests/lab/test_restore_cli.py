"""`dbops restore` and `dbops drill` against the lab's bucket, ledger and clusters, without Airflow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from backup_world import connect, rows, settle
from dbops import ledger
from dbops.backups import catalog, lease
from dbops.backups.in_use import restoring_prefix
from dbops.backups.store import S3Store
from dbops.cli import app
from dbops_lab import connections
from dbops_lab.aerospike.process import StandIn
from dbops_lab.testing import LabPostgres, LabS3
from sqlalchemy import text
from typer.testing import CliRunner, Result

Run = Callable[..., Result]
COUNT = 500


@pytest.fixture
def servers() -> Iterator[tuple[StandIn, StandIn]]:
    with (
        StandIn(namespaces=["bidder", "dmp", "spend"]) as eu,
        StandIn(name="scratch", namespaces=["drill"]) as scratch,
    ):
        eu.load("bidder", "s", rows(range(COUNT)))
        yield eu, scratch


@pytest.fixture
def run(
    servers: tuple[StandIn, StandIn], lab_s3: LabS3, lab_postgres: LabPostgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    store = S3Store(lab_s3.bucket, "", lab_s3.connection)
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),  # type: ignore[arg-type]
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
        "aerospike_eu": connections.aerospike(servers[0].ports),
        "aerospike_apac": connections.aerospike([servers[0].ports[0]]),
        "aerospike_scratch": connections.aerospike(servers[1].ports),
    }
    for name, value in {**connections.variables(made), "DBOPS_PLATFORM": "lab", "COLUMNS": "200"}.items():
        monkeypatch.setenv(name, value)

    def invoke(*args: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, [*args], input=typed)

    invoke.engine, invoke.store = engine, store  # type: ignore[attr-defined]
    yield invoke
    store.delete([item.key for prefix in ("aerospike/", "restores/") for item in store.list(prefix)])


def test_a_lost_namespace_comes_back_after_its_name_was_typed(run: Run, servers: tuple[StandIn, StandIn]) -> None:
    taken = run("backup", "run", "eu", "-n", "bidder", "--slices", "2")
    assert taken.exit_code == 0, taken.output
    assert run("restore", "run", "eu", "bidder", "--confirm", "eu/bidder").exit_code == 1  # never read back
    assert run("backup", "verify", "eu", "-n", "bidder").exit_code == 0
    client = connect(servers[0].ports[0])
    settle()
    client.truncate("bidder", None, 0)
    store: S3Store = run.store  # type: ignore[attr-defined]
    for typed, code, said in (("yes\n", 2, "nothing was written"), ("", 1, "Abort")):
        refused = run("restore", "run", "eu", "bidder", typed=typed)
        assert refused.exit_code == code
        assert said in refused.stderr
        assert lease.current(store, catalog.lease_key("eu", "bidder")) is None
        assert list(store.list(restoring_prefix("eu", "bidder"))) == []
    assert not client.query("bidder").results()
    shown = run("restore", "plan", "eu", "bidder", "--json")
    assert json.loads(shown.stdout)["records"] == COUNT
    done = run("restore", "run", "eu", "bidder", "--json", "--confirm", "eu/bidder")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outcomes"]["inserted"] == COUNT
    assert len(client.query("bidder").results()) == COUNT
    client.close()
    for wrong in ("yesterday", "2026-11-24T06:00:00"):
        assert run("restore", "plan", "eu", "bidder", "--at", wrong).exit_code == 2
    for option, wrong in (("--policy", "all"), ("--indexes", "never"), ("--engine", "asbackup")):
        refused = run("restore", "plan", "eu", "bidder", option, wrong)
        assert refused.exit_code == 2
        assert f"{wrong!r} is none of" in refused.stderr
    options = ("--indexes", "before", "--bin", "n", "--set", "s", "--extra-ttl", "60", "--policy", "missing")
    planned = json.loads(run("restore", "plan", "eu", "bidder", *options, "--json").stdout)
    assert (planned["definitions"], planned["policy"], planned["extra_ttl"]) == ("before", "missing", 60)
    assert (planned["bins"], planned["sets"], planned["dry_run"], planned["engine"]) == (["n"], ["s"], True, "native")
    with run.engine.connect() as connection:  # type: ignore[attr-defined]
        found = list(connection.execute(text("SELECT target, outcome FROM action WHERE name = 'aerospike_restore'")))
    assert found == [("eu/bidder", "done")]


def test_drills_of_the_newest_verified_points(run: Run) -> None:
    assert run("drill", "run", "eu").stderr.startswith("no namespace has a verified restore point yet")
    assert run("backup", "run", "eu", "-n", "bidder", "--slices", "2").exit_code == 0
    assert run("backup", "verify", "eu", "-n", "bidder").exit_code == 0
    done = run("drill", "run", "eu", "--json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["ok"], row["records"], row["problems"]) == (True, COUNT, [])
    assert row["seconds"] < row["rto_seconds"]
