"""Every report runs on every version as a role with nothing but pg_monitor, and says what is there."""

from __future__ import annotations

import json
import re
import time
from datetime import timedelta

import pytest
from dbops import sql
from dbops.errors import ConfigurationError
from dbops.postgres.reports import REPORTS, ExtensionMissing, run_report, text_for
from dbops.postgres.session import RightsMissing, StatementCancelled, StatementRefused
from postgres_world import MONITOR, World, grant

FILES = sorted((sql.DIRECTORY / "postgres").glob("*.sql"))
PARAMETERS = {
    "statement_texts": ([],),
    "table_bloat_exact": ("pg_class",),
    "index_bloat_exact": ("pg_class_oid_index",),
    "table_size": (1259,),
    "index_figures": ("pg_catalog", "pg_class_oid_index"),
    "table_there": ("public", "account"),
    "audit_settings": (["log_statement", "pgaudit.log"],),
    "log_part": ("no such file", 0, 10),
    "drill_databases": ("drill_",),
    "primary_key": ("public.account",),
    "row_hashes": (64, [1, 2]),
    "row_sums": (64,),
    "spend_of_day": ("2026-11-25",),
    "unknown_campaigns": (["7"],),
    "access_missing": (json.dumps([{"role": MONITOR, "kind": "table", "schema": "public", "privilege": "select"}]),),
}
# Names of tables and columns, which are quoted when the statement is built.
NAMES = {
    "{table}": "public.goose_db_version", "{line_item}": "id", "{amount}": "version_id", "{key}": "id",
    "{alive}": "is_applied", "{day}": "tstamp::date", "{id}": "id",
}  # fmt: skip

SHOP = """
create table account (id bigint generated always as identity primary key, name text not null);
create table "Order Line" (id serial primary key, account_id bigint references account (id), note text, amount numeric);
create index order_by_account on "Order Line" (account_id);
create index order_again on "Order Line" (account_id);
create index order_longer on "Order Line" (account_id, note);
insert into account (name) select 'account ' || n from generate_series(1, 20000) n;
insert into "Order Line" (account_id, note, amount)
  select n, repeat('x', 100), n from generate_series(1, 20000) n;
analyze;
delete from "Order Line" where id % 10 <> 0;
alter table "Order Line" drop column note;
create table goose_db_version (id serial primary key, version_id bigint, is_applied boolean, tstamp timestamp);
"""


def test_every_file_says_what_it_is_where_it_comes_from_what_it_needs_and_for_which_versions() -> None:
    assert FILES
    for path in FILES:
        head = path.read_text()
        for part in ("-- Purpose:  ", "-- Source:   ", "-- Rights:   ", "-- Versions: "):
            assert part in head, (path.name, part)


def test_every_statement_runs_as_the_monitoring_role(every_world: World) -> None:
    database = every_world.new_database()
    every_world.run(database, *SHOP.strip().split(";\n"))
    grant(every_world.server, database, MONITOR)
    names = {re.sub(r"_\d+$", "", path.stem) for path in FILES if "grants" not in path.stem}
    assert set(REPORTS) <= names
    ran = set()
    with every_world.session(database, read_only=True) as session:
        assert session.version == every_world.major
        assert session.query(text_for("facts", session.version)).dicts()[0]["monitor"]
        for name in sorted(names, key=lambda name: (name == "export_session", name)):  # which changes the session
            text = text_for(name, session.version)
            for part, quoted in NAMES.items():
                text = text.replace(part, quoted)
            table = session.query(text, *PARAMETERS.get(name, ()))
            assert table.columns, name
            ran.add(name)
    assert ran == names


def test_a_least_privileged_role_sees_what_it_must_and_changes_nothing(world: World) -> None:
    database = world.new_database()
    world.run(database, *SHOP.strip().split(";\n"))
    with world.session(database) as session:
        sizes = {row["table"]: row for row in run_report(session, "table_sizes").dicts()}
        assert sizes["Order Line"]["bytes"] > sizes["Order Line"]["heap_bytes"] > 1_000_000
        (dead, *_) = run_report(session, "dead_tuples").dicts()
        assert (dead["table"], dead["dead_rows"]) == ("Order Line", 18000)
        bloat = {row["table"]: row for row in run_report(session, "table_bloat").dicts()}
        assert "no statistics visible" in bloat["account"]["doubt"]
        with pytest.raises(RightsMissing, match=r"grants\.sql"):
            session.run("delete from account")


def test_bloat_is_estimated_near_what_pgstattuple_measures(world: World) -> None:
    database = world.new_database()
    world.run(
        database,
        "create table full_one as select n as id, md5(n::text) as text from generate_series(1, 50000) n",
        "create index on full_one (id)",
        "create table half as select n as id, md5(n::text) as text from generate_series(1, 50000) n",
        "create index half_index on half (id)",
        "analyze half",
        "delete from half where id % 2 = 0",
    )
    world.settle(database, to_read=False)
    world.run(
        database,
        "vacuum analyze",
        f"grant select on all tables in schema public to {MONITOR}",
    )
    world.settle(database)
    with world.session(database) as session:
        found = {row["table"]: row for row in run_report(session, "table_bloat").dicts()}
        assert (found["half"]["doubt"], found["full_one"]["doubt"]) == (None, None)
        exact = run_report(session, "table_bloat_exact", "public.half").dicts()[0]
        assert found["half"]["waste_percent"] == pytest.approx(exact["waste_percent"], abs=8)
        assert found["half"]["waste_percent"] > 40
        assert found["full_one"]["waste_percent"] < 10
        index = next(r for r in run_report(session, "index_bloat").dicts() if r["index"] == "half_index")
        dense = run_report(session, "index_bloat_exact", "half_index").dicts()[0]
        assert index["waste_percent"] == pytest.approx(100 - dense["leaf_density_percent"] / 0.9, abs=10)
        world.run(database, "update half set text = text || text")
        time.sleep(1)
        changed = next(r for r in run_report(session, "table_bloat").dicts() if r["table"] == "half")
        assert "much has changed" in changed["doubt"]
        with pytest.raises(ConfigurationError, match="takes table"):
            run_report(session, "table_bloat_exact")


def test_indexes_that_nobody_needs_are_found_and_those_that_hold_a_rule_are_not(world: World) -> None:
    database = world.new_database()
    world.run(
        database,
        "create table t (a int primary key, b int not null, c text, d int)",
        "create unique index t_unique on t (b)",
        "create index t_same on t (b)",
        "create index t_prefix on t (b)  include (d)",
        "create index t_longer on t (c, d)",
        "create index t_shorter on t (c)",
        "create index t_other_way on t (c desc)",
        "create index t_partial on t (c) where d > 0",
        "create index t_lower on t (lower(c))",
        "create index t_lower_again on t (lower(c))",
        "insert into t select n, n, md5(n::text), n from generate_series(1, 20000) n",
        "create table child (id int, t_a int references t (a))",
        "analyze",
    )
    with world.session(database) as session:
        found = {row["index"]: row["covered_by"] for row in run_report(session, "duplicate_indexes").dicts()}
        assert found == {"t_same": "t_unique", "t_shorter": "t_longer", "t_lower_again": "t_lower"}
        unused = {row["index"] for row in run_report(session, "unused_indexes").dicts()}
        assert {"t_same", "t_shorter", "t_partial"} <= unused
        assert not unused & {"t_pkey", "t_unique"}
        (key,) = run_report(session, "unindexed_foreign_keys").dicts()
        assert (key["table"], key["columns"], key["referenced"]) == ("child", "t_a", "t")
        world.run(database, *["select sum(d) from t"] * 3)
        hints = {row["table"]: row for row in run_report(session, "missing_index_hints").dicts()}
        assert hints["t"]["index_percent"] == 0


def test_a_sequence_ends_where_its_column_does(world: World) -> None:
    database = world.new_database()
    world.run(
        database,
        "create table small (id smallserial)",
        "create table big (id bigserial)",
        "select setval('small_id_seq', 30000)",
        f"grant usage on all sequences in schema public to {MONITOR}",
        "create sequence hidden",
    )
    with world.session(database) as session:
        found = {row["sequence"]: row for row in run_report(session, "sequences").dicts()}
    assert found["small_id_seq"]["used_percent"] == pytest.approx(91.55, abs=0.1)
    assert (found["small_id_seq"]["ends_at"], found["big_id_seq"]["used_percent"]) == (32767, 0)
    assert (found["hidden"]["readable"], found["hidden"]["last_value"]) == (False, None)


def test_slow_queries_say_when_the_extension_is_missing_and_fit_its_own_version(world17: World) -> None:
    database = world17.new_database()
    with world17.admin(database) as cursor:
        cursor.execute("drop extension pg_stat_statements")
    with world17.session(database) as session:
        with pytest.raises(ExtensionMissing, match="CREATE EXTENSION pg_stat_statements"):
            run_report(session, "slow_queries")
        with world17.admin(database) as cursor:  # as after pg_upgrade: the new server's, of the old version
            cursor.execute("create schema stats")
            cursor.execute("create extension pg_stat_statements schema stats version '1.10'")
            cursor.execute(f"grant usage on schema stats to {MONITOR}")
        assert "io_ms" in run_report(session, "slow_queries").columns
        with world17.admin(database) as cursor:
            cursor.execute("alter extension pg_stat_statements update")
        assert "io_ms" in run_report(session, "slow_queries").columns


def test_errors_of_a_session_are_in_words_and_hold_no_password(world17: World) -> None:
    database = world17.new_database()
    with world17.session(database) as session:
        session.limits(timedelta(milliseconds=50), timedelta(milliseconds=50))
        with pytest.raises(StatementCancelled, match="statement timeout"):
            session.rows("select pg_sleep(5)")
        with pytest.raises(StatementRefused, match="42P01"):
            session.rows("select * from nowhere")
        with pytest.raises(ConfigurationError, match="is no report"):
            run_report(session, "nonsense")
    with pytest.raises(ConfigurationError, match="check login and database"):
        world17.session("no_such_database")
