"""`dbops redshift snapshots|restore|access` against the lab, by a person or a script."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.cli import app
from dbops.connections import ConnectionInfo
from dbops.redshift import snapshot_cli
from dbops.redshift.api import PLATFORM_TAG
from dbops_lab import connections
from dbops_lab.testing import LabPostgres
from typer.testing import CliRunner, Result
from warehouse_world import Warehouse

Run = Callable[..., Result]
DAY = 86400
OURS = {PLATFORM_TAG: "lab"}

pytestmark = pytest.mark.parametrize("redshift", ["cluster"], indirect=True)


@pytest.fixture
def run(warehouse: Warehouse, lab_postgres: LabPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    platform = yaml.safe_load((Path(__file__).parents[3] / "include/platform/lab.yaml").read_text())
    archived = warehouse.redshift.archive.tables
    tables = [{"table": item.table, "column": item.column, "keep": "90d"} for item in archived]
    platform["redshift"]["archive"] = {"tables": tables}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(platform))
    made = {
        "dbops_s3": connections.s3(int(warehouse.api.s3.endpoint.rpartition(":")[2])),
        "dbops_redshift": warehouse.lab.connection,
        "dbops_ledger": connections.postgres(
            9, "nobody", "nothing"
        ),  # a ledger that does not answer stops nothing here
    }
    variables = {**connections.variables(made), "DBOPS_PLATFORM": str(tmp_path / "lab.yaml"), "COLUMNS": "220"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(snapshot_cli, "POLL_SECONDS", 0.1)

    def invoke(*args: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, ["redshift", *args], input=typed)

    return invoke


def rows(result: Result) -> Any:
    return json.loads(result.stdout)


def test_a_snapshot_is_taken_listed_and_checked(run: Run) -> None:
    taken = run("snapshots", "take", "--reason", "before an upgrade", "--json")
    assert taken.exit_code == 0, taken.output
    (made,) = rows(taken)
    assert made["status"] == "available"
    newest = rows(run("snapshots", "list", "--json"))[0]
    assert (newest["snapshot"], newest["kind"], newest["ours"]) == (made["snapshot"], "manual", True)
    checked = run("snapshots", "check", "--json")
    assert (checked.exit_code, rows(checked)[0]["ok"], rows(checked)[0]["newest"]) == (0, True, made["snapshot"])
    assert made["snapshot"] in run("snapshots", "list").stdout


def test_expire_shows_reasons_and_deletes_after_the_right_text_only(run: Run, warehouse: Warehouse) -> None:
    for id, days in (("dbops-old", 20), ("dbops-older", 30), ("dbops-young", 0.5), ("dbops-day", 0.6)):
        warehouse.api.plant(id, age=days * DAY, tags=OURS)
    shown = run("snapshots", "expire", "--plan", "--json")
    goes = {row["snapshot"]: row["goes"] for row in rows(shown)}
    assert (goes["dbops-older"], goes["dbops-old"], goes["dbops-young"]) == (True, False, False)
    for typed in ("\n", "yes\n"):
        refused = run("snapshots", "expire", typed=typed)
        assert (refused.exit_code, "nothing was deleted" in refused.stderr) == (1, True)
    assert warehouse.snapshots.get("dbops-older") is not None
    done = run("snapshots", "expire", typed="bedrock\n")
    assert done.exit_code == 0, done.output
    assert warehouse.snapshots.get("dbops-older") is None
    assert warehouse.snapshots.get("dbops-old") is not None
    assert run("snapshots", "expire").exit_code == 0, "nothing more to do, so nobody is asked"


def test_a_restore_is_planned_made_and_compared_without_airflow_and_ledger(run: Run, warehouse: Warehouse) -> None:
    snapshot = warehouse.snapshot()
    name = f"drill-{secrets.token_hex(3)}"
    warehouse.made.append(name)
    planned = run("restore", "plan", name, "--reason", "a drill")
    assert planned.exit_code == 0, planned.output
    assert snapshot in planned.stdout
    assert run("restore", "run", name, "--reason", "a drill", typed="n\n").exit_code == 1
    done = run("restore", "run", name, "--reason", "a drill", "--yes", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["snapshot"], report["compared_days"], report["problems"]) == (snapshot, 7, [])
    info = warehouse.info
    there = ConnectionInfo(
        "x", "redshift", report["host"], report["port"], info.login, info.password, info.schema, info.extra
    )
    assert warehouse.count(there) == warehouse.count(info)
    again = run("restore", "run", name, "--reason", "a drill", "--yes", "--json")
    assert again.exit_code == 0, "interrupted, the same command goes on"
    refused = run("restore", "plan", "bedrock", "--reason", "oops")
    assert refused.exit_code == 2
    assert "is the name of the platform's warehouse" in refused.stderr


def test_the_review_lists_findings_with_what_ends_them(run: Run, warehouse: Warehouse) -> None:
    name = f"stranger_{secrets.token_hex(3)}"
    warehouse.run(f"create user {name} password 'Secret12345'")
    try:
        found = run("access", "--json")
        assert found.exit_code == 1
        (row,) = [row for row in rows(found) if row["who"] == f"user {name}"]
        assert row["finding"] == "is not in the platform file"
        assert f'DROP USER "{name}"' in row["what_ends_it"]
    finally:
        warehouse.run(f"drop user {name}")
    clean = run("access")  # other tests may have left users of theirs on this server
    assert clean.exit_code == (1 if "is not in the platform file" in clean.stdout else 0), clean.output
    assert name not in clean.output
    assert "user etl is in the platform file (redshift.access) and does not exist" in " ".join(clean.stderr.split())


def test_a_platform_without_a_warehouse_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBOPS_PLATFORM", "staging")
    refused = run("snapshots", "list")
    assert refused.exit_code == 2
    assert "has no section `redshift`" in refused.stderr
