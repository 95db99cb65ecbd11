"""`dbops postgres backup ...` without Airflow and without the ledger, on an instance of the lab's RDS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.aws import PLATFORM_TAG, RUN_TAG
from dbops.backups.store import open_store
from dbops.cli import app
from dbops.postgres import backup_cli
from dbops_lab import connections
from dbops_lab.postgres import ADMIN
from dbops_lab.supervisor import free_port
from dbops_lab.testing import LabPostgres, LabRds
from typer.testing import CliRunner, Result

PROJECT = Path(__file__).resolve().parents[3]


def dbops(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["postgres", "backup", *words], input=answer)


def told(*words: str) -> Any:
    result = dbops(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def place(lab_rds: LabRds, lab_postgres: LabPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    source, prefix = lab_rds.info(), lab_rds.s3.new_prefix()
    made = {
        "dbops_ledger": connections.postgres(free_port(), "dbops_ledger", "x"),
        "dbops_s3": connections.s3(int(lab_rds.endpoint.rpartition(":")[2])),
        "dbops_postgres_export": connections.postgres(
            source.port or 0, source.login or "", source.password or "", source.schema, host=source.host
        ),
        "dbops_postgres_scratch": connections.postgres(
            lab_postgres.port, ADMIN, lab_postgres.server.passwords[ADMIN], ADMIN
        ),
    }
    for name, value in connections.variables(made).items():
        monkeypatch.setenv(name, value)
    document = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    document["storage"]["prefix"] = prefix
    document["postgres"] |= {
        "name": lab_rds.name,
        "rds": {"copy_region": "eu-central-1"},
        "exports": {
            "programs": str(lab_rds.server.binaries),
            "work_folder": str(tmp_path),
            "scratch": {},
            "sets": [{"name": "all", "database": "exchange"}],
        },
    }
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("DBOPS_PLATFORM", str(tmp_path / "lab.yaml"))
    monkeypatch.setattr(backup_cli, "POLL_SECONDS", 0.2)
    lab_rds.rows("drop table if exists by_hand")
    lab_rds.rows("create table by_hand as select n from generate_series(1, 10) n")
    return open_store(f"s3://{lab_rds.s3.bucket}/{prefix}", lab_rds.s3.connection)


def test_an_export_is_made_listed_read_back_and_drilled_while_all_else_is_down(place: Any) -> None:
    assert "there is no export all" in dbops("verify", "all").output
    (made,) = told("export", "all")
    assert told("list")[0]["state"] == "not read back"
    assert told("verify", "all")[0]["ok"]
    (listed,) = told("list")
    assert (listed["id"], listed["state"]) == (made["id"], "verified")
    (drilled,) = told("drill", "all")
    assert (drilled["id"], drilled["ok"], drilled["problems"]) == (made["id"], True, [])

    (key,) = [item.key for item in place.list("postgres/") if item.key.endswith("database.dump")]
    place.put(key, place.get(key)[:-9])
    broken = dbops("verify", "all", "--json")
    assert broken.exit_code == 1
    assert "bytes, the manifest says" in json.loads(broken.stdout)[0]["problems"][0]
    assert dbops("drill", "all").exit_code == 1
    unknown = dbops("export", "some")
    assert unknown.exit_code == 2
    assert "'some' is no export; there are all" in unknown.output


def test_snapshots_are_taken_listed_and_let_go_after_a_question(place: Any, lab_rds: LabRds) -> None:
    lab_rds.settle()
    assert [row["ok"] for row in told("rpo")] == [True, True, True]
    (taken,) = told("snapshot", "--reason", "before a change")
    assert taken["status"] == "available"
    assert taken["snapshot"] in [row["snapshot"] for row in told("snapshots") if row["ours"]]
    for age in (40, 50):
        lab_rds.plant(f"dbops-{age}", age=age * 86400.0, tags={PLATFORM_TAG: "lab", RUN_TAG: str(age)})
    planned = dbops("expire", "--plan")
    assert f"snapshot {lab_rds.region}/dbops-50 goes" in planned.output
    assert dbops("expire", answer="yes\n").exit_code == 1, "the instance's name is asked for"
    assert "dbops-50" in [row["snapshot"] for row in told("snapshots")]
    assert dbops("expire", answer=f"{lab_rds.name}\n").exit_code == 0
    assert "dbops-50" not in [row["snapshot"] for row in told("snapshots")]
    assert taken["snapshot"] in [row["snapshot"] for row in told("snapshots")]
