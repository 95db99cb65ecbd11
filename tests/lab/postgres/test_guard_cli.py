"""`dbops postgres guard`, `migrations`, `audit` and `access` without Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dbops.cli import app
from dbops_lab import connections
from dbops_lab.testing import LabRds
from guard_world import NEW, NOW, GuardWorld
from postgres_world import MONITOR, OWNER, World
from typer.testing import CliRunner, Result

PROJECT = Path(__file__).resolve().parents[3]
ASKED = (
    "guard",
    "--change",
    "adds a column",
    "--ticket",
    "OPS-1",
    "--rollback",
    "goose down",
    "--new-version",
    str(NEW),
)


def dbops(*words: str) -> Result:
    return CliRunner().invoke(app, ["postgres", *words])


@pytest.fixture
def guarded(lab_rds: LabRds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GuardWorld]:
    lab_rds.settle()
    world = GuardWorld(lab_rds, tmp_path)
    monkeypatch.setenv("DBOPS_PLATFORM", str(world.file))
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    yield world
    world.end()


def test_a_go_takes_a_snapshot_and_a_no_go_says_why_by_its_exit_code_too(guarded: GuardWorld) -> None:
    told = dbops(*ASKED)
    assert told.exit_code == 0, told.output
    assert "GO: OPS-1 adds a column" in told.output
    (snapshot,) = guarded.rds.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    assert f"ok, snapshot: snapshot {snapshot['DBSnapshotIdentifier']} was taken at" in told.output
    told = dbops(*ASKED, "--no-snapshot", "--expected-version", str(NOW - 1), "--json")
    assert told.exit_code == 1
    document = json.loads(told.stdout)
    assert document["go"] is False
    assert [row["check"] for row in document["checks"] if row["state"] != "ok"] == ["postgres_guard_version"]
    assert dbops("guard", "-d", "nowhere").exit_code == 2
    assert dbops("guard").exit_code == 1


def test_migrations_are_told_by_exit_codes(guarded: GuardWorld) -> None:
    told = dbops("migrations")
    assert (told.exit_code, "OK        postgres_migrations" in told.output) == (0, True)
    guarded.apply(guarded.shop, NEW)
    told = dbops("migrations")
    assert told.exit_code == 1
    assert f"WARNING   postgres_migrations {guarded.rds.name}/{guarded.shop}: ahead: {NOW} is expected" in told.output
    guarded.run(guarded.shop, "drop table goose_db_version")
    assert dbops("migrations", "--json").exit_code == 1
    guarded.document["postgres"]["migrations"][0]["name"] = guarded.shop
    guarded.admin("postgres", f'alter database "{guarded.shop}" allow_connections false')
    assert dbops("migrations").exit_code == 2


@pytest.fixture
def database(world17: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    name = world17.new_database()
    document = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    document["postgres"] = {
        "name": "shop",
        "databases": [name],
        "audit": {"log": "server", "settings": {"log_statement": "ddl"}, "ddl_roles": ["postgres"]},
        "access": [{"name": OWNER}, {"name": MONITOR, "member_of": ["pg_monitor"]}],
    }
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("DBOPS_PLATFORM", str(tmp_path / "lab.yaml"))
    login = {"dbops_postgres": connections.postgres(world17.port, MONITOR, world17.passwords[MONITOR])}
    for key, value in connections.variables(login).items():
        monkeypatch.setenv(key, value)
    return name


def test_the_log_is_looked_through_from_a_moment_on(database: str, world17: World) -> None:
    world17.run(database, "create table told (id int)")
    world17.settle(database)
    told = dbops("audit", "--json")
    assert told.exit_code == 1, told.output
    (changes,) = [row for row in json.loads(told.stdout) if row["check"] == "postgres_ddl"]
    assert "changes of schema or rights by roles that should make none" in changes["message"]
    assert dbops("audit", "--since", "2099-01-01T00:00Z").exit_code == 0
    for wrong in ("yesterday", "2026-11-25T04:00"):
        assert dbops("audit", "--since", wrong).exit_code == 2


def test_differences_of_rights_are_told_with_their_statements(database: str) -> None:
    told = dbops("access")
    assert told.exit_code == 1
    fix = f'REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC;'
    assert f"shop/{database}: PUBLIC may connect to database {database}: {fix}" in told.output
    rows = json.loads(dbops("access", "--json").stdout)
    assert [row["target"] for row in rows] == ["shop", f"shop/{database}"]
