"""`dbops archive` against the stand-in, by a person or a script."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from archive_world import World
from dbops import ledger
from dbops.cli import app
from dbops.platform import load_platform
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabRedshift, LabS3
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

PROJECT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]


def old(days: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days)


@pytest.fixture
def engine(lab_postgres: LabPostgres) -> Engine:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    engine.info = info  # type: ignore[attr-defined]
    return engine


@pytest.fixture
def lab(
    lab_redshift: LabRedshift, lab_s3: LabS3, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> World:
    """The lab's platform with one small table."""
    platform = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    table = f"public.bids_{secrets.token_hex(4)}"
    platform["redshift"]["archive"] = {
        "prefix": lab_s3.new_prefix(),
        "marks": f"public.marks_{secrets.token_hex(4)}",
        "max_days": 3,
        "tables": [{"table": table, "column": "timestamp", "keep": "30d"}],
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(platform))
    info = engine.info  # type: ignore[attr-defined]
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
        "dbops_redshift": lab_redshift.connection,
    }
    for name, value in {**connections.variables(made), "DBOPS_PLATFORM": str(file), "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)
    redshift = load_platform().redshift
    assert redshift is not None
    world = World(lab_redshift.info(), lab_s3.connection, lab_s3.bucket, lab_s3.region, table, redshift.archive)
    world.create()
    return world


def dbops(*args: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["archive", *args], input=typed)


def parsed(*args: str) -> Any:
    result = dbops(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_days_are_archived_after_a_typed_confirmation(lab: World, engine: Engine) -> None:
    for days in (29, 31, 32):
        lab.load(10, old(days))
    plan = parsed("plan")
    assert [(day["day"], day["rows"]) for day in plan["days"]] == [(str(old(32)), 10), (str(old(31)), 10)]
    assert "GOES" in dbops("plan").stdout

    refused = dbops("run", typed="yes\n")
    assert (refused.exit_code, lab.published()) == (1, [])
    assert "nothing was archived" in refused.stderr
    wrong = dbops("run", "--yes", "archive 3 days")
    assert (wrong.exit_code, lab.published()) == (2, [])

    done = dbops("run", typed="archive 2 days\n")
    assert done.exit_code == 0, done.output
    assert len(lab.in_table()) == 10
    lab.check()
    rows = parsed("list")
    assert [(row["day"], row["rows"], row["deleted"]) for row in rows] == [
        (str(old(32)), 10, True), (str(old(31)), 10, True),
    ]  # fmt: skip
    assert ledger.archived_days(engine, lab.table) == [(old(32), 1, 10), (old(31), 1, 10)]
    assert dbops("run").exit_code == 0, "nothing is left to do, and nothing is asked"


def test_many_days_at_once_need_to_be_said_so(lab: World) -> None:
    for days in range(31, 36):
        lab.load(2, old(days))
    assert dbops("run", "--yes", "archive 5 days").exit_code == 2
    assert parsed("run", "--yes", "mass archive 5 days")[0]["archived"] == 2
    lab.check()


def test_one_day_of_one_table_can_be_named(lab: World) -> None:
    for days in (31, 32):
        lab.load(2, old(days))
    (row,) = parsed("run", "--table", lab.table, "--first", str(old(32)), "--yes", "archive 1 day")
    assert row == {
        "table": lab.table, "day": str(old(32)), "archived": 2, "deleted": 2, "bytes": row["bytes"], "stays": None,
    }  # fmt: skip
    assert dbops("plan", "--table", "public.nope").exit_code == 2
    assert dbops("plan", "--first", "yesterday").exit_code == 2


def test_a_day_that_fails_is_told_and_does_not_stop_the_others(lab: World, lab_redshift: LabRedshift) -> None:
    for days in (31, 32):
        lab.load(2, old(days))
    match = f"unload.*{old(32)} 00:00:00''::timestamp and"
    lab_redshift.standin.faults({"match": match, "error": "42501", "message": "permission denied"})
    result = dbops("run", "--yes", "archive 2 days", "--json")
    assert result.exit_code == 1
    failed, fine = json.loads(result.stdout)
    assert "permission denied" in failed["error"]
    assert fine["archived"] == 2
    lab.check()


def test_archived_days_are_asked_verified_and_brought_back(lab: World, engine: Engine) -> None:
    for days in (31, 32):
        lab.load(10, old(days))
    parsed("run", "--yes", "archive 2 days")
    assert parsed("query", lab.table, "-a", "count", "-a", "max(id)") == [{"count": 20, "max(id)": 20}]
    grouped = parsed("query", lab.table, "-a", "count", "-g", "dt", "-w", "won = true")
    assert [row["count"] for row in grouped] == [5, 5]
    assert len(parsed("query", lab.table, "-c", "id", "--first", str(old(31)), "--limit", "3")) == 3
    assert dbops("query", lab.table, "-g", "dt").exit_code == 2
    assert dbops("query", "public.nope").exit_code == 2
    assert {row["problems"] == [] for row in parsed("verify", lab.table)} == {True}

    (row,) = parsed("restore", lab.table, "--first", str(old(32)))
    assert (row["rows"], row["attached"]) == (10, None)
    assert lab.in_table(row["side_table"][0]) == list(range(11, 21))
    assert dbops("restore", lab.table, "--first", str(old(32)), "--attach", typed="no\n").exit_code == 1
    (row,) = parsed("restore", lab.table, "--first", str(old(32)), "--attach", "--yes", "attach 1 days")
    assert row["attached"] == 10
    assert lab.in_table() == list(range(11, 21))
    with engine.connect() as connection:
        query = text("SELECT day FROM archived_partition WHERE attached_at IS NOT NULL")
        assert [found.day for found in connection.execute(query)] == [old(32)]

    store = lab.place.store
    store.put(lab.published()[0], b"damaged")
    damaged = dbops("verify")
    assert damaged.exit_code == 1
    assert "bytes, was written with" in damaged.stdout


def test_the_ledger_is_made_again_from_the_bucket(lab: World, engine: Engine) -> None:
    lab.load(4, old(31))
    parsed("run", "--yes", "archive 1 day")
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM archived_partition"))
    result = CliRunner().invoke(app, ["ledger", "rebuild", "--json"])
    assert json.loads(result.stdout)["archived"] == 1
    assert ledger.archived_days(engine, lab.table) == [(old(31), 1, 4)]


def test_a_platform_without_a_warehouse_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBOPS_PLATFORM", "staging")
    result = dbops("plan")
    assert result.exit_code == 2
    assert "has no redshift" in result.stderr
