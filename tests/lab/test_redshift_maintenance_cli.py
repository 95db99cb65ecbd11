"""`dbops redshift plan|maintain|health|review`, without Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from dbops import ledger
from dbops.cli import app
from dbops.redshift.session import ConnectorSession
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabS3
from maintenance_world import ROWS, OwnRedshift, own_redshift
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result


@pytest.fixture(scope="module")
def warehouse(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[OwnRedshift]:
    with own_redshift(lab_postgres, lab_s3) as made:
        yield made


@pytest.fixture
def engine(
    warehouse: OwnRedshift, lab_postgres: LabPostgres, lab_s3: LabS3, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """A ledger; the warehouse has one table that needs work."""
    info = lab_postgres.new_database()
    made = ledger.connect(info)
    ledger.migrate(made)
    known = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_redshift": warehouse.connection,
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
    }
    monkeypatch.setenv("DBOPS_PLATFORM", "lab")
    for name, value in connections.variables(known).items():
        monkeypatch.setenv(name, value)
    with ConnectorSession(warehouse.info()) as session:
        session.run("drop schema if exists shop cascade")
        session.run("create schema shop")
        session.run("create table shop.sales (id int, day date) diststyle even sortkey (day)")
        for _ in range(2):
            session.run(ROWS.format("shop.sales"))
        session.run("delete from shop.sales where id = 1")
        warehouse.forget()
        session.rows("select count(*) from shop.sales where day > '2026-01-02'")  # sorting gains something
    yield made
    warehouse.standin.faults()


def dbops(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["redshift", *words])
    assert result.exit_code == code, result.output
    return result


def document(*words: str, code: int = 0) -> Any:
    return json.loads(dbops(*words, "--json", code=code).stdout)


def test_plan_shows_what_would_be_done_and_why_and_changes_nothing(engine: Engine) -> None:
    shown = " ".join(dbops("plan").output.split())
    assert "shop.sales" in shown
    assert "VACUUM FULL + ANALYZE" in shown
    assert "2 of 6 rows are deleted" in shown
    made = document("plan")
    assert [step["form"] for step in made["steps"]] == ["full", None]
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from action")).scalar() == 0


def test_maintain_runs_what_was_confirmed_and_writes_it_down(engine: Engine) -> None:
    assert "not confirmed" in dbops("maintain", code=1).output
    dbops("maintain", "--yes", "run 7 statements", code=2)
    done = document("maintain", "--yes", "run 2 statements")
    assert [(one["table"], one["outcome"]) for one in done] == [("shop.sales", "done")] * 2
    assert (done[0]["before"]["deleted_rows"], done[0]["after"]["deleted_rows"]) == (2, 0)
    with engine.connect() as connection:
        rows = connection.execute(text("select name, run from action order by id")).all()
    assert [row.name for row in rows] == ["redshift_plan", "redshift_vacuum_full", "redshift_analyze"]
    assert rows[0].run.startswith("dbops redshift maintain by ")
    assert "nothing to do" in dbops("maintain").output


def test_maintain_of_one_table_works_without_a_ledger_and_tells_a_failure(
    warehouse: OwnRedshift, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_DBOPS_LEDGER")
    warehouse.standin.faults({"match": "^vacuum", "error": "XX000", "message": "disk full"})
    shown = dbops("maintain", "--table", "shop.sales", "--yes", "run 2 statements", code=1)
    assert "without the ledger" in shown.output
    assert "disk full" in shown.output
    assert "1 done, 0 skipped, 1 failed" in shown.output
    dbops("plan", "--table", "shop.nothing", code=2)


def test_health_tells_what_is_beyond_its_limit_by_its_exit_code(warehouse: OwnRedshift, engine: Engine) -> None:
    checks = document("health")
    assert len(checks) == 9
    warehouse.admin("update rs.node_storage set megabytes = 1")
    shown = dbops("health", code=1)
    assert "CRITICAL" in shown.output
    assert warehouse.password not in shown.output
    warehouse.admin("update rs.node_storage set megabytes = 1000000")


def test_review_shows_advice_and_says_what_it_does_not_know(engine: Engine) -> None:
    found = document("review")
    assert found["unused"] == []
    assert "too little to call one unused" in found["unused_unknown"]
    assert "Cold data" in dbops("review").output


def test_a_platform_without_a_warehouse_is_wrong_usage(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBOPS_PLATFORM", "staging")
    assert "has no redshift" in dbops("plan", code=2).output
