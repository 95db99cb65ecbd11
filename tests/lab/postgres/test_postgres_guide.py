"""The operations guide's queries on PostgreSQL: what is wrong with them is refused, and what stands here answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dbops import sql
from dbops.postgres.reports import REPORTS, run_report
from dbops.postgres.session import StatementRefused
from postgres_world import World

README = sql.DIRECTORY / "postgres" / "README.md"
PROJECT = sql.DIRECTORY.parents[1]
SIZES = """select schemaname, tablename, pg_size_pretty(pg_total_relation_size(schemaname||'.'||tablename)) as size
from pg_tables where schemaname = 'public' order by pg_total_relation_size(schemaname||'.'||tablename) desc"""
REFUSED = {
    "slow queries": ("select query, calls, total_time, mean_time, rows from pg_stat_statements limit 10", "42703"),
    "index usage": ("select schemaname, tablename, indexname, idx_scan from pg_stat_user_indexes", "42703"),
    "table bloat": ("select schemaname, tablename, n_dead_tup from pg_stat_user_tables", "42703"),
    "sizes of tables in mixed case": (SIZES, "42P01"),
}


@pytest.fixture
def shop(world: World) -> str:
    database = world.new_database()
    world.run(
        database,
        'create table "Campaigns" (id int primary key, name text)',
        """insert into "Campaigns" select n, md5(n::text) from generate_series(1, 3000) n""",
        "create table gone (id int)",
        "insert into gone select generate_series(1, 2000)",
    )
    world.settle(database, to_read=False)
    world.run(database, "analyze")
    world.settle(database, to_read=False)
    world.run(database, "delete from gone")
    world.settle(database)
    return database


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_guide_has_wrong_is_refused(world: World, shop: str, name: str) -> None:
    text, code = REFUSED[name]
    with world.session(shop, read_only=True) as session, pytest.raises(StatementRefused) as caught:
        session.rows(text)
    assert caught.value.code == code


def test_what_stands_here_instead_answers(world: World, shop: str) -> None:
    with world.session(shop, read_only=True) as session:
        assert {row["table"] for row in run_report(session, "table_sizes").dicts()} == {"Campaigns", "gone"}
        assert run_report(session, "database_sizes").rows
        assert {"mean_ms", "calls"} <= set(run_report(session, "slow_queries").columns)
        (index,) = run_report(session, "index_use").dicts()
        assert (index["table"], index["index"]) == ("Campaigns", "Campaigns_pkey")
        dead = {row["table"]: row["dead_percent"] for row in run_report(session, "dead_tuples").dicts()}
        assert dead["gone"] == 100, "the guide's `n_live_tup > 0` hides it"
        names = {row["name"] for row in run_report(session, "settings").dicts()}
        assert {"shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem"} <= names
        idle = world.connect(shop)
        idle.cursor().execute("select 1")
        states = {row["state"] for row in run_report(session, "activity").dicts()}
        idle.close()
        assert "idle in transaction" in states, "the guide's `state = 'active'` hides it"


def test_the_list_names_only_what_there_is() -> None:
    text = README.read_text()
    table = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(table) > 15
    for line in table:
        here = line.split(" | ")[1]
        for name in re.findall(r"`([\w.]+)`", here):
            if name.endswith(".sql"):
                assert (README.parent / name).is_file(), name
            elif name.startswith("dbops."):
                assert Path(PROJECT, "plugins", *name.split(".")).with_suffix(".py").is_file(), name
            else:
                assert name in REPORTS or (PROJECT / "dags" / f"{name}.py").is_file(), name
