"""`dbops postgres ...` without Airflow, with and without the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from dbops import ledger
from dbops.cli import app
from dbops_lab import connections
from dbops_lab.supervisor import free_port
from dbops_lab.testing import LabPostgres
from postgres_world import MONITOR, OWNER, World
from sqlalchemy import text
from typer.testing import CliRunner, Result

PROJECT = Path(__file__).resolve().parents[3]


def dbops(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["postgres", *words], input=answer)


@pytest.fixture
def database(world17: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    name = world17.new_database()
    world17.run(
        name,
        "create table orders (id int primary key, text text)",
        "insert into orders select n, md5(n::text) from generate_series(1, 20000) n",
    )
    world17.settle(name)
    world17.run(name, "analyze")
    world17.settle(name)
    world17.run(name, "delete from orders where id % 2 = 0")
    world17.settle(name)
    document = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    document["postgres"] |= {"name": "shop", "databases": [name], "storage_gb": 100, "migrations": []}
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("DBOPS_PLATFORM", str(tmp_path / "lab.yaml"))
    made = {
        "dbops_postgres": connections.postgres(world17.port, MONITOR, world17.passwords[MONITOR]),
        "dbops_postgres_maintenance": connections.postgres(world17.port, OWNER, world17.passwords[OWNER]),
        "dbops_ledger": connections.postgres(free_port(), "dbops_ledger", "x"),
    }
    for key, value in connections.variables(made).items():
        monkeypatch.setenv(key, value)
    return name


def test_health_looks_without_the_ledger_and_says_by_its_exit_code(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = dbops("health")
    assert told.exit_code == 0, told.output
    assert "OK        postgres_connections shop" in told.output
    assert "without the ledger" in told.output
    found = json.loads(dbops("health", "--json").stdout)
    assert {row["state"] for row in found} == {"ok"}
    for key, value in connections.variables({"dbops_postgres": connections.postgres(free_port(), "x", "x")}).items():
        monkeypatch.setenv(key, value)
    gone = dbops("health")
    assert gone.exit_code == 1
    assert "CRITICAL  postgres_reachable shop" in gone.output


def test_reports_are_shown_as_words_tables_and_json(database: str) -> None:
    told = dbops("report")
    assert told.exit_code == 0, told.output
    assert f"--- database {database}" in told.output
    assert "dead rows: public.orders 10,000 (50 %)" in told.output
    assert "slow_queries" in dbops("report", "list").output
    shown = dbops("report", "dead_tuples").output
    assert f"Dead rows: shop/{database}" in shown
    exact = json.loads(dbops("report", "table_bloat_exact", "--of", "public.orders", "--json").stdout)
    assert exact[database][0]["dead_rows"] == 10000
    assert dbops("report", "nonsense").exit_code == 2
    assert dbops("report", "dead_tuples", "-d", "elsewhere").exit_code == 2


def test_maintenance_is_shown_confirmed_done_and_written_down(
    database: str, lab_postgres: LabPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = dbops("plan")
    assert 'vacuum (analyze) "public"."orders": 10,000 dead rows, 50 %' in told.output
    assert json.loads(dbops("plan", "--json").stdout)[0]["steps"][0]["work"] == "vacuum"
    assert dbops("maintain", answer="n\n").exit_code == 1
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    there = {"dbops_ledger": connections.postgres(info.port or 0, info.login or "", info.password or "", info.schema)}
    for key, value in connections.variables(there).items():
        monkeypatch.setenv(key, value)
    done = dbops("maintain", "--yes")
    assert done.exit_code == 0, done.output
    assert "1 done, 0 skipped, 0 failed" in done.output
    with engine.begin() as connection:
        ((outcome, target),) = connection.execute(text("select outcome, target from action")).fetchall()
    assert (outcome, target) == ("done", f"shop/{database}/public.orders/vacuum")
