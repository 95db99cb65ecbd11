"""`dbops etl`, run as a person does."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.cli import app
from dbops_lab import connections
from dbops_lab.testing import LabEtl, LabRedshift
from etl_world import document
from typer.testing import CliRunner, Result


@pytest.fixture
def run(lab_etl: LabEtl, lab_redshift: LabRedshift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(document(lab_etl)))
    port = int(lab_redshift.s3.endpoint.rpartition(":")[2])
    made = {"dbops_redshift": lab_redshift.connection, "dbops_s3": connections.s3(port)}
    for name, value in connections.variables(made).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(app, ["etl", *words])

    return invoke


def test_check_names_what_is_wrong_and_passes_when_it_was_repaired(run: Any, lab_etl: LabEtl) -> None:
    hour = lab_etl.world.now - timedelta(hours=3)
    lab_etl.run(hour, {"wins": "partial"})
    words = ("check", "--pipeline", "wins", "--pipeline", "users", "--hour", hour.isoformat(), "--json")
    broken = run(*words)
    assert broken.exit_code == 1, broken.output
    bad = [one for one in json.loads(broken.stdout) if one["outcome"] != "pass"]
    assert [(one["check"], one["pipeline"], one["hour"]) for one in bad] == [
        ("etl_reconciliation", "wins", hour.isoformat())
    ]
    shown = run(*words[:-1])
    assert "etl_reconciliation" in shown.output
    assert "2 pipelines" in shown.output
    lab_etl.forget(hour)
    lab_etl.run(hour)
    assert run(*words).exit_code == 0


def test_check_without_an_hour_looks_at_now_too(run: Any, lab_etl: LabEtl) -> None:
    found = run("check", "-p", "users", "--json")
    names = {one["check"] for one in json.loads(found.stdout)}
    assert {"etl_run", "etl_schedule", "etl_freshness", "etl_success"} <= names


def test_check_judges_what_needs_no_warehouse_while_it_is_down(
    run: Any, lab_etl: LabEtl, lab_redshift: LabRedshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = lab_etl.world.now - timedelta(hours=4)
    lab_etl.run(hour, tables=["users"])
    down = connections.variables({"dbops_redshift": lab_redshift.connection | {"port": 1}})
    monkeypatch.setenv("AIRFLOW_CONN_DBOPS_REDSHIFT", down["AIRFLOW_CONN_DBOPS_REDSHIFT"])
    found = run("check", "-p", "users", "--hour", hour.isoformat(), "--json")
    assert found.exit_code == 2
    outcomes = {one["check"]: one["outcome"] for one in json.loads(found.stdout)}
    assert (outcomes["etl_run"], outcomes["etl_files"]) == ("pass", "pass")
    assert outcomes["etl_load"] == outcomes["etl_rows"] == "could-not-look"
    assert "connect to Redshift" in found.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--hour", "yesterday"), "is no time"),
        (("--hour", "2026-11-22T13:20"), "is no full hour"),
        (("--hour", "2126-11-22T13:00"), "are due at"),
        (("--pipeline", "nonsense"), "is no pipeline"),
    ],
)
def test_wrong_usage_says_what_is_wrong(run: Any, words: tuple[str, ...], told: str) -> None:
    found = run("check", *words)
    assert found.exit_code == 2
    assert told in " ".join(found.output.split())
