"""Maintenance does what is needed, leaves what somebody else is at, and cleans up after what was interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dbops.platform import PostgresMaintenance
from dbops.postgres.maintain import Outcome, Plan, Step, Work, carry_out, plan, summary
from dbops.postgres.reports import text_for
from dbops.postgres.session import LockHeld, PostgresUnreachable, RightsMissing, StatementCancelled
from postgres_world import MONITOR, OWNER, World
from psycopg2 import OperationalError

SETTINGS = PostgresMaintenance(
    dead_rows=1000,
    index_waste_mb=0.3,
    lock_timeout=timedelta(milliseconds=300),
    reindex_tables=("public.Mixed",),
    freeze_percent=75,
)
TABLES = (
    'create table "Mixed" (id int primary key, text text)',
    """insert into "Mixed" select n, md5(n::text) from generate_series(1, 30000) n""",
    "create table quiet (id int primary key)",
    "insert into quiet select generate_series(1, 5000)",
)
GROWN = "insert into quiet select generate_series(5001, 8000)"
HALF = 'delete from "Mixed" where id % 2 = 0'
MOST = ('delete from "Mixed" where id > 6000', 'vacuum analyze "Mixed"')
VALID = "select indisvalid from pg_index where indexrelid = 'killed'::regclass"
LIKE_AUTOVACUUM = 'lock table "Mixed" in share update exclusive mode'


def make(world: World, *statements: str) -> str:
    database = world.new_database()
    world.run(database, *TABLES)
    for statement in ("analyze", *statements):
        world.settle(database, to_read=False)
        world.run(database, statement)
    world.settle(database)
    return database


def planned(world: World, database: str, settings: PostgresMaintenance = SETTINGS, role: str = OWNER) -> Plan:
    with world.session(database, role) as session:
        found = plan(session, settings)
    assert Plan.from_document(found.document()) == found
    return found


def maintain(
    world: World,
    database: str,
    steps: Any = None,
    settings: PostgresMaintenance = SETTINGS,
    role: str = OWNER,
    hard_end: timedelta = timedelta(hours=1),
    last_start: timedelta = timedelta(hours=1),
    **more: Any,
) -> list[Outcome]:
    steps = planned(world, database, settings).steps if steps is None else steps
    now = datetime.now(UTC)
    with world.session(database, role) as session:
        return carry_out(session, steps, settings, last_start=now + last_start, hard_end=now + hard_end, **more)


def described(found: Plan) -> list[tuple[str, str]]:
    return [(step.work, step.target) for step in found.steps]


@contextmanager
def holding(world: World, database: str, statement: str) -> Iterator[int]:
    connection = world.connect(database)
    with connection.cursor() as cursor:
        cursor.execute("set application_name = 'terminal'")
        cursor.execute(statement)
    yield connection.get_backend_pid()
    connection.close()


def test_dead_rows_are_removed_and_statistics_made_once(world: World) -> None:
    database = make(world, HALF, "insert into quiet select generate_series(5001, 8000)")
    found = planned(world, database)
    assert described(found) == [("vacuum", "public.Mixed"), ("analyze", "public.quiet")]
    assert "15,000 dead rows, 50 %" in found.steps[0].reason
    told: list[str] = []
    vacuum, analyze = maintain(world, database, finished=lambda one: told.append(one.result))
    assert told == ["done", "done"]
    assert (vacuum.before["dead"], vacuum.step.statement) == (15000, 'vacuum (analyze) "public"."Mixed"')
    assert analyze.before["changed"] == 3000
    world.settle(database)
    again = planned(world, database)
    assert [work for work, _ in described(again) if work != "reindex"] == []


def test_a_table_of_dead_rows_only_is_seen(world17: World) -> None:
    database = make(world17, 'delete from "Mixed"')
    assert described(planned(world17, database))[0] == ("vacuum", "public.Mixed")


def test_old_tables_are_frozen_before_autovacuum_is_forced_to(world: World) -> None:
    database = make(world)
    world.run(database, *["select pg_current_xact_id()"] * 60)
    with world.session(database, OWNER) as session:
        ages = {row["name"]: row["xid_age"] for row in session.query(text_for("table_figures", world.major)).dicts()}
    assert ages["quiet"] >= 50
    share = 100 * 50 / 200_000_000
    settings = SETTINGS.model_copy(update={"freeze_percent": share})
    found = planned(world, database, settings)
    assert ("vacuum_freeze", "public.quiet") in described(found)
    (outcome,) = maintain(world, database, [s for s in found.steps if s.table == "quiet"], settings)
    assert outcome.result == "done"
    assert outcome.after["xid_age"] < outcome.before["xid_age"]


def test_a_bloated_index_is_rebuilt_where_configured_and_reported_elsewhere(world: World) -> None:
    database = make(world, *MOST)
    (step,) = planned(world, database).steps
    assert (step.work, step.index) == (Work.REINDEX, "Mixed_pkey")
    elsewhere = planned(world, database, SETTINGS.model_copy(update={"reindex_tables": ()}))
    assert elsewhere.steps == ()
    assert "not among reindex_tables" in elsewhere.left["public.Mixed_pkey"]
    too_large = planned(world, database, SETTINGS.model_copy(update={"largest_index_mb": 0.1}))
    assert "largest_index_mb" in too_large.left["public.Mixed_pkey"]
    (outcome,) = maintain(world, database, [step])
    assert outcome.result == "done"
    assert outcome.after["bytes"] < outcome.before["bytes"] / 2
    assert planned(world, database).steps == ()


def test_a_table_that_somebody_works_on_is_left_with_who_it_is(world: World) -> None:
    database = make(world, HALF)
    (step, *_) = planned(world, database).steps
    with holding(world, database, LIKE_AUTOVACUUM) as pid:
        (outcome,) = maintain(world, database, [step])
    assert outcome.result == "skipped"
    assert f"pid {pid} 'terminal' is at work on the table" in outcome.message
    (outcome,) = maintain(world, database, [step])
    assert outcome.result == "done"


def test_a_lock_that_comes_in_between_is_waited_for_only_so_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    database = make(world, HALF, "insert into quiet select generate_series(5001, 8000)")
    monkeypatch.setattr("dbops.postgres.maintain._must_wait", lambda *_: None)  # it saw nothing yet
    with holding(world, database, LIKE_AUTOVACUUM):
        began = time.monotonic()
        vacuum, analyze = maintain(world, database, planned(world, database).steps[:2])
        assert time.monotonic() - began < 3
    assert (vacuum.result, analyze.result) == ("skipped", "done")
    assert isinstance(vacuum.error, LockHeld)


def test_an_interrupted_reindex_leaves_nothing_and_is_done_the_next_day(world: World) -> None:
    database = make(world, *MOST)
    (step,) = planned(world, database).steps
    with holding(world, database, """update "Mixed" set text = '' where id = 1"""):
        time.sleep(0.4)
        (outcome,) = maintain(world, database, [step])
        assert outcome.result == "skipped"
        assert "CONCURRENTLY would wait for it" in outcome.message

        # The same, seen too late: it waits for that transaction, and gives up with a leftover.
        with (
            world.session(database, OWNER, lock_timeout=timedelta(milliseconds=300)) as session,
            pytest.raises(LockHeld),
        ):
            session.run(step.statement)
        names = [row[0] for row in world.run(database, "select relname from pg_class where relname ~ '_cc(new|old)'")]
        assert names == ["Mixed_pkey_ccnew"]
    found = planned(world, database)
    assert described(found) == [("drop_leftover", "public.Mixed_pkey_ccnew"), ("reindex", "public.Mixed_pkey")]
    assert [one.result for one in maintain(world, database)] == ["done", "done"]
    assert world.run(database, "select 1 from pg_class where relname ~ '_cc(new|old)'") == []
    assert planned(world, database).steps == ()


def test_a_reindex_that_runs_out_of_time_removes_its_own_leftover(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make(world, *MOST)
    (step,) = planned(world, database).steps
    monkeypatch.setattr("dbops.postgres.maintain._must_wait", lambda *_: None)
    reader = world.connect(database)
    reader.cursor().execute('select count(*) from "Mixed"')
    timer = threading.Timer(1.2, reader.close)
    timer.start()  # ends after the time limit, before that of the clean-up
    settings = SETTINGS.model_copy(
        update={"lock_timeout": timedelta(seconds=5), "reindex_timeout": timedelta(milliseconds=700)}
    )
    (outcome,) = maintain(world, database, [step], settings)
    timer.join()
    assert outcome.result == "failed"
    assert isinstance(outcome.error, StatementCancelled)
    assert "what it left was removed: Mixed_pkey_ccold" in outcome.message, "the new one was in place already"
    assert world.run(database, "select 1 from pg_class where relname ~ '_cc(new|old)'") == []


def test_an_invalid_index_is_rebuilt_and_a_unique_one_that_cannot_be_is_told(world: World) -> None:
    database = make(world)
    world.run(database, "create table dup (a int)", "insert into dup values (1), (1)", "analyze dup")
    with pytest.raises(Exception, match="could not create unique index"):
        world.run(database, "create unique index concurrently dup_a on dup (a)")
    (step,) = planned(world, database).steps
    assert (step.work, step.index) == (Work.REINDEX, "dup_a")
    (outcome,) = maintain(world, database, [step])
    assert outcome.result == "failed"
    assert "23505" in outcome.message
    assert world.run(database, "select 1 from pg_class where relname ~ '_cc(new|old)'") == []
    world.run(database, "delete from dup where ctid = '(0,1)'")
    assert maintain(world, database, [step])[0].result == "done"
    off = planned(world, database, SETTINGS.model_copy(update={"reindex_invalid": False}))
    assert off.steps == ()


def test_an_index_whose_concurrent_build_was_killed_is_rebuilt(world: World) -> None:
    database = make(world)

    def build() -> None:
        with suppress(OperationalError):
            world.run(database, 'create index concurrently killed on "Mixed" (text)')

    with holding(world, database, """update "Mixed" set text = '' where id = 1"""):
        thread = threading.Thread(target=build)
        thread.start()
        found = []
        while not found and thread.is_alive():  # it waits for that transaction, with the index in place
            query = """select pid from pg_stat_progress_create_index p join pg_index i on i.indrelid = p.relid
                where not indisvalid and p.phase like 'waiting%'"""
            found = world.run(database, query)
        with world.admin() as cursor:
            cursor.execute("select pg_terminate_backend(%s, 5000)", found[0])
        thread.join()
        assert world.run(database, VALID) == [(False,)]
    (step,) = [one for one in planned(world, database).steps if one.index == "killed"]
    assert step.work is Work.REINDEX
    assert maintain(world, database, [step])[0].result == "done"
    assert world.run(database, VALID) == [(True,)]


@pytest.mark.parametrize("mode", ["access exclusive", "share row exclusive"])
def test_a_lock_on_a_table_to_be_vacuumed_is_told_and_the_rest_is_done(world: World, mode: str) -> None:
    database = make(world, HALF, GROWN)
    with holding(world, database, f'lock table "Mixed" in {mode} mode') as pid:
        began = time.monotonic()
        vacuum, analyze = maintain(world, database)[:2]
        assert time.monotonic() - began < 3
    assert (vacuum.result, analyze.result) == ("skipped", "done")
    assert f"pid {pid} 'terminal' is at work on the table" in vacuum.message


def test_without_rights_nothing_is_taken_for_done(world: World) -> None:
    database = make(world, HALF)
    (step, *_) = planned(world, database).steps
    (outcome,) = maintain(world, database, [step], role=MONITOR)  # VACUUM only warns, and does nothing
    assert outcome.result == "failed"
    assert isinstance(outcome.error, RightsMissing)
    with world.session(database, MONITOR) as session, pytest.raises(RightsMissing, match="may maintain none"):
        plan(session, SETTINGS)


def test_pg_maintain_is_enough_from_17_on(world17: World) -> None:
    database = make(world17, HALF)
    with world17.admin(database) as cursor:
        cursor.execute("create role upkeep login password 'x'")
        cursor.execute("grant pg_maintain, pg_monitor to upkeep")
        cursor.execute("grant usage on schema public to upkeep")
    world17.passwords["upkeep"] = "x"
    (step, *_) = planned(world17, database, role="upkeep").steps
    assert maintain(world17, database, [step], role="upkeep")[0].result == "done"


def test_outside_of_the_window_nothing_starts_and_at_its_end_what_runs_is_cancelled(
    world17: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make(world17, HALF)
    (step, *_) = planned(world17, database).steps
    (outcome,) = maintain(world17, database, [step], last_start=-timedelta(seconds=1))
    assert (outcome.result, "the window ended" in outcome.message) == ("skipped", True)
    monkeypatch.setattr("dbops.postgres.maintain._must_wait", lambda *_: None)
    patient = SETTINGS.model_copy(update={"lock_timeout": timedelta(hours=1)})
    with holding(world17, database, LIKE_AUTOVACUUM):
        (outcome,) = maintain(world17, database, [step], patient, hard_end=timedelta(seconds=1.5))
    assert outcome.result == "failed"
    assert isinstance(outcome.error, StatementCancelled)


def test_a_lost_connection_ends_the_run_and_what_was_done_was_told(world17: World) -> None:
    database = make(world17, HALF, "insert into quiet select generate_series(5001, 8000)")
    steps = planned(world17, database).steps[:2]
    told: list[tuple[Work, str]] = []
    now = datetime.now(UTC)
    with world17.session(database, OWNER) as session:

        def cut(step: Step) -> None:
            if step.work is Work.ANALYZE:
                with world17.admin() as cursor:
                    cursor.execute("select pg_terminate_backend(%s, 5000)", [session.pid])

        with pytest.raises(PostgresUnreachable):
            carry_out(
                session, steps, SETTINGS, last_start=now + timedelta(hours=1), hard_end=now + timedelta(hours=1),
                started=cut, finished=lambda one: told.append((one.step.work, one.result)),
            )  # fmt: skip
    assert told == [(Work.VACUUM, "done"), (Work.ANALYZE, "failed")]
    outcomes = maintain(world17, database, steps)
    assert summary(outcomes) == "2 done, 0 skipped, 0 failed", "it may be repeated"


def test_what_disappeared_since_the_plan_is_no_failure(world17: World) -> None:
    database = make(world17, HALF)
    (step, *_) = planned(world17, database).steps
    world17.run(database, 'drop table "Mixed"')
    (outcome,) = maintain(world17, database, [step])
    assert (outcome.result, outcome.message) == ("skipped", "it does not exist any more")
