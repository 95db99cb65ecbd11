"""`dbops postgres recovery` against instances that are real, with Airflow and the ledger down."""

from __future__ import annotations

import json

import pytest
from dbops.cli import app
from dbops_lab import connections
from recovery_world import API, SYNCER, RecoveryWorld
from typer.testing import CliRunner, Result


@pytest.fixture(autouse=True)
def _environment(world: RecoveryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBOPS_PLATFORM", str(world.file))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("AIRFLOW_CONN_DBOPS_LEDGER", raising=False)
    for name, value in connections.variables(world.connections).items():
        monkeypatch.setenv(name, value)


def dbops(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["postgres", "recovery", *arguments], input=f"{typed}\n")


def test_a_recovery_by_hand_wants_the_name_typed_goes_on_after_an_interruption_and_can_be_led_back(
    world: RecoveryWorld,
) -> None:
    world.configure(poll="1s")
    before = world.checksums()
    good = world.damage().isoformat()
    source = str(world.rds.describe()["Endpoint"]["Address"])

    naive = dbops("plan", "--at", good.removesuffix("+00:00"), "--reason", "x")
    assert naive.exit_code == 2
    assert "has no time zone" in " ".join(naive.output.split())
    shown = dbops("plan", "--at", good, "--reason", "a test", "--json")
    assert json.loads(shown.stdout)["source"] == world.rds.name
    assert json.loads(dbops("list", "--json").stdout) == []

    refused = dbops("run", "--at", good, "--reason", "a test", typed="no")
    assert refused.exit_code == 1, refused.output
    (row,) = json.loads(dbops("list", "--json").stdout)
    target = row["recovery"]
    told = " ".join(refused.output.split())
    assert f"recovery resume {target}" in told
    assert "2,000 changed" in told
    assert f"delete-db-instance --db-instance-identifier {target}" in told
    assert world.rds.target() == source

    done = dbops("resume", target, "--json", typed=target)
    assert done.exit_code == 0, done.output
    assert '"in_time": true' in done.stdout
    assert world.checksums(target) == before
    assert world.kubernetes.sessions(target) == {API: 2, SYNCER: 2}
    steps = json.loads(dbops("show", target, "--json").stdout)["steps"]
    assert {step["name"]: step["outcome"] for step in steps}["report"] == "done"

    assert dbops("roll-back", target, typed="no").exit_code == 1
    back = dbops("roll-back", target, typed=target)
    assert back.exit_code == 0, back.output
    assert world.rds.target() == source
    assert world.kubernetes.sessions() == {API: 2, SYNCER: 2}
    every = refused.output + done.output + back.output
    assert world.kubernetes.token not in every
    assert world.rds.server.passwords["exchange"] not in every
