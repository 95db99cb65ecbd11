"""VACUUM and ANALYZE by plan against the lab's Redshift: what ran, what did not, and what the ledger says of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from dbops import ledger
from dbops.errors import ConfigurationError
from dbops.redshift.plan import MaintenancePlan, plan_in_words, plan_maintenance, store_plan, stored_plan
from dbops.redshift.session import ConnectorSession, RedshiftUnreachable
from dbops.redshift.views import NoInsight, running_vacuums
from dbops_lab.testing import LabPostgres, LabRedshift
from maintenance_world import MaintenanceWorld, summary
from sqlalchemy import Engine

NOW, SECOND = timedelta(0), timedelta(seconds=1)
GRANTS = (
    "grant select on svv_table_info to {user}",
    "grant select on svv_interleaved_columns to {user}",
    "grant select on sys_analyze_history to {user}",
)


@pytest.fixture(scope="module")
def engine(lab_postgres: LabPostgres) -> Engine:
    made = ledger.connect(lab_postgres.new_database())
    ledger.migrate(made)
    return made


@pytest.fixture
def world(lab_redshift: LabRedshift, engine: Engine) -> Iterator[MaintenanceWorld]:
    made = MaintenanceWorld(lab_redshift, engine)
    yield made
    made.close()


# --- what it does -------------------------------------------------------------------------------------------


def test_vacuum_and_analyze_lower_the_figures_and_the_ledger_has_them_before_and_after(world: MaintenanceWorld) -> None:
    world.table()
    results = world.carry_out()
    assert summary(results) == [("full", "done"), ("analyze", "done")]
    assert world.figures() == (0, 0, 0)
    vacuum, analyze = world.rows()
    assert (vacuum.name, vacuum.target) == ("redshift_vacuum_full", f"bedrock/{world.schema}.t")
    assert vacuum.details["before"] | vacuum.details["after"] == vacuum.details["after"]
    assert (vacuum.details["before"]["deleted_rows"], vacuum.details["after"]["deleted_rows"]) == (2, 0)
    assert vacuum.details["before"]["unsorted"] > 40
    assert vacuum.details["after"]["unsorted"] == 0
    assert vacuum.message.startswith("unsorted 50 % -> 0 %, deleted rows 2 -> 0, statistics off 100 % -> 100 %")
    assert (analyze.name, analyze.outcome) == ("redshift_analyze", "done")
    assert analyze.details["after"]["stats_off"] == 0
    assert world.plan().steps == ()


def test_each_form_runs_where_it_belongs(world: MaintenanceWorld) -> None:
    world.table("sorts", deleted=False)
    world.table("deletes", times=1)
    world.table("keyless", "sortkey auto")
    world.table("interleaved", "interleaved sortkey (id, day)", times=3)
    world.table("to_all", "diststyle all sortkey (day)", deleted=False)
    results = world.carry_out()
    ran = {(result.step.table, str(result.step.form)) for result in results if result.step.form}
    assert ran == {
        ("sorts", "sort only"),
        ("deletes", "delete only"),
        ("keyless", "delete only"),
        ("interleaved", "reindex"),
        ("to_all", "sort only"),
    }
    assert {result.outcome for result in results} == {"done"}
    world.redshift = world.redshift.model_copy(
        update={"vacuum": world.redshift.vacuum.model_copy(update={"max_size_mb": 0, "max_unsorted": 90})}
    )
    world.table("big", "diststyle even sortkey (day)")
    plan = world.plan(f"{world.schema}.big")
    assert summary(world.carry_out(plan)) == [("delete only", "done"), ("recluster", "done"), ("analyze", "done")]


def test_names_with_quotes_and_reserved_words_are_maintained(world: MaintenanceWorld) -> None:
    world.table('"timestamp"')
    world.table('"it\'s a.b c"')
    assert {result.outcome for result in world.carry_out()} == {"done"}


def test_the_plan_says_why_for_each_table_and_stands_in_the_ledger(world: MaintenanceWorld, engine: Engine) -> None:
    name = world.table()
    plan, decisions = plan_maintenance(world.admin, world.redshift, run=world.run_id, tables=[name])
    first, told = plan_in_words(plan, decisions)
    assert first == "1 tables of bedrock looked at, 2 statements to run"
    assert told.startswith(f"{name}: VACUUM FULL + ANALYZE: 50 % unsorted")
    assert "2 of 6 rows are deleted and not reclaimed (33 %, limit 10 %)" in told
    store_plan(engine, plan)
    assert stored_plan(engine, "bedrock", world.run_id) == plan
    with pytest.raises(ConfigurationError, match="nothing: no such table"):
        world.plan(f"{world.schema}.nothing")


# --- what VACUUM silently does not do -----------------------------------------------------------------------


def test_a_login_without_the_right_is_told_as_skipped_never_as_done(world: MaintenanceWorld) -> None:
    world.table()
    before = world.figures()
    results = world.carry_out(info=world.user(*GRANTS, f"grant usage on schema {world.schema} to {{user}}"))
    assert [(result.outcome, result.needs_person) for result in results] == [("skipped", True), ("skipped", True)]
    assert "neither owns the table nor is a superuser" in results[0].message
    assert world.figures() == before
    assert {row.outcome for row in world.rows()} == {"skipped"}


def test_a_login_that_may_not_look_is_told_which_right_it_lacks(world: MaintenanceWorld) -> None:
    world.table()
    session = world.session(world.user())
    with pytest.raises(NoInsight, match=r"svv_|SVV_TABLE_INFO"):
        plan_maintenance(session, world.redshift, run="r")


def test_an_old_open_transaction_keeps_rows_from_being_removed_and_is_named(world: MaintenanceWorld) -> None:
    world.table("deletes", times=1)
    world.table("mixed")
    blocker = world.session()
    blocker.run("begin")
    blocker.rows(f"select count(*) from {world.schema}.mixed")
    pid = blocker.rows("select pg_backend_pid()")[0][0]
    results = {(result.step.table, result.step.form): result for result in world.carry_out(old_transaction=NOW)}
    skipped, sorted_only = results["deletes", "delete only"], results["mixed", "full"]
    assert (skipped.outcome, skipped.needs_person) == ("skipped", True)
    assert f"process {pid} of {world.lab.user}" in skipped.message
    assert (sorted_only.outcome, sorted_only.needs_person) == ("done", True)
    assert "sorted only: rows deleted since an open transaction began cannot be removed" in sorted_only.message
    assert world.figures("mixed")[:2] == (0, 2)
    assert world.vacuums("deletes") == []


def test_a_young_transaction_is_no_reason_not_to_try_and_what_it_prevented_is_told(world: MaintenanceWorld) -> None:
    world.table("deletes", times=1)
    blocker = world.session()
    blocker.run("begin")
    blocker.rows(f"select count(*) from {world.schema}.deletes")
    result = world.carry_out()[0]
    assert (result.step.form, result.outcome, result.needs_person) == ("delete only", "skipped", True)
    assert result.message.startswith("none of 1 deleted rows was removed: rows deleted since an open transaction began")
    assert world.plan().blockers == ()


# --- the window ---------------------------------------------------------------------------------------------


def test_nothing_starts_when_the_window_is_over(world: MaintenanceWorld) -> None:
    world.table()
    results = world.carry_out(last_start=NOW)
    assert {result.outcome for result in results} == {"skipped"}
    assert results[0].message.startswith("not begun: no statement starts after")
    assert not results[0].needs_person
    assert world.vacuums() == []


def test_what_runs_at_the_hard_end_is_cancelled_and_what_follows_does_not_start(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "delay": 30})
    began = time.monotonic()
    results = world.carry_out(last_start=SECOND, hard_end=2 * SECOND)
    assert time.monotonic() - began < 6
    assert summary(results) == [("full", "failed"), ("analyze", "skipped")]
    assert "cancelled at the hard end of the window" in results[0].message
    assert running_vacuums(world.admin) == []


def test_a_cancelled_statement_that_was_not_ours_to_cancel_is_told_so(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "error": "57014", "message": "Query cancelled by WLM abort action"})
    result = world.carry_out()[0]
    assert (result.outcome, result.needs_person) == ("failed", True)
    assert "cancelled by somebody, or by a rule of a queue" in result.message


# --- one at a time ------------------------------------------------------------------------------------------


def test_it_waits_for_the_vacuum_of_somebody_else(world: MaintenanceWorld) -> None:
    world.table()
    world.table("theirs")
    world.lab.standin.faults({"match": "theirs", "delay": 1.5})
    other = world.session()
    thread = threading.Thread(target=other.run, args=(f"vacuum full {world.schema}.theirs",))
    thread.start()
    wait_until_running(world)
    results = world.carry_out(world.plan(f"{world.schema}.t"))
    thread.join()
    assert {result.outcome for result in results} == {"done"}


def test_a_vacuum_that_it_cannot_see_is_waited_for_without_asking_all_the_time(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "error": "55000", "message": "VACUUM is running", "times": 4})
    began = time.monotonic()
    results = world.carry_out()
    assert summary(results) == [("full", "done"), ("analyze", "done")]
    assert time.monotonic() - began > 4 * 0.1, "as long as between two looks at anything"


def test_a_vacuum_that_it_cannot_see_is_not_waited_for_after_the_window(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "error": "55000", "message": "VACUUM is running", "times": 1000})
    results = world.carry_out(last_start=SECOND)
    assert summary(results) == [("full", "skipped"), ("analyze", "skipped")]


def test_it_gives_up_waiting_when_the_window_is_over(world: MaintenanceWorld) -> None:
    world.table()
    world.table("theirs")
    world.lab.standin.faults({"match": "theirs", "delay": 1.5})
    other = world.session()
    thread = threading.Thread(target=other.run, args=(f"vacuum full {world.schema}.theirs",))
    thread.start()
    wait_until_running(world)
    results = world.carry_out(world.plan(f"{world.schema}.t"), last_start=0.5 * SECOND)
    thread.join()
    assert summary(results) == [("full", "skipped"), ("analyze", "skipped")]
    assert "theirs" in results[0].message


def test_of_two_runs_at_once_each_statement_has_the_cluster_to_itself(
    world: MaintenanceWorld, lab_redshift: LabRedshift, engine: Engine
) -> None:
    for number in range(3):
        world.table(f"t{number}")
    world.lab.standin.faults({"match": "^vacuum", "delay": 0.3, "times": 6})
    plan = world.plan()
    other = plan.model_copy(update={"run": f"{world.run_id}-other"})
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(r.outcome for r in world.maintainer().carry_out(other)))
    thread.start()
    found += [result.outcome for result in world.carry_out(plan)]
    thread.join()
    assert len(found) == 12
    assert "failed" not in found
    spans = world.admin.rows(
        "select start_time, end_time from sys_vacuum_history where schema_name = %s order by start_time", world.schema
    )
    assert len(spans) == 6
    assert all(end <= start for (_, end), (start, _) in pairwise(spans)), "one at a time"


RUNS = "select 1 from sys_query_history where status = 'running' and query_text ilike %s"


def wait_until_running(world: MaintenanceWorld, what: str = "vacuum") -> None:
    deadline = time.monotonic() + 10
    with ConnectorSession(world.lab.info()) as session:
        while not session.rows(RUNS, f"{what}%"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Cut:
    """Sessions of which the last one loses its connection as soon as a VACUUM (or an ANALYZE) runs."""

    def __init__(self, world: MaintenanceWorld, what: str = "vacuum") -> None:
        self.world, self.what = world, what
        self.opened: list[ConnectorSession] = []
        self.thread = threading.Thread(target=self.cut)
        self.thread.start()

    def connect(self) -> ConnectorSession:
        self.opened.append(ConnectorSession(self.world.lab.info()))
        return self.opened[-1]

    def cut(self) -> None:
        wait_until_running(self.world, self.what)
        self.opened[-1]._connection._usock.shutdown(socket.SHUT_RDWR)


# --- lost connections and repeated runs ---------------------------------------------------------------------


def test_a_vacuum_whose_connection_is_lost_before_it_did_anything_runs_again(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "drop": "during"})
    results = world.carry_out()
    assert summary(results) == [("full", "done"), ("analyze", "done")]
    assert [status for _, status in world.vacuums()] == ["Failed", "Complete"]


def test_a_vacuum_that_ended_although_its_connection_was_lost_is_not_run_again(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "drop": "after"})
    results = world.carry_out()
    assert summary(results) == [("full", "done"), ("analyze", "done")]
    assert [status for _, status in world.vacuums()] == ["Complete"]


def test_a_vacuum_that_goes_on_without_its_connection_is_waited_for(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "delay": 1.5})
    cut = Cut(world)
    results = world.carry_out(connect=cut.connect)
    cut.thread.join()
    assert summary(results) == [("full", "done"), ("analyze", "done")]
    assert [status for _, status in world.vacuums()] == ["Complete"]


def test_an_analyze_that_goes_on_without_its_connection_is_waited_for(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^analyze", "delay": 1.5})
    cut = Cut(world, "analyze")
    results = world.carry_out(connect=cut.connect)
    cut.thread.join()
    assert summary(results) == [("full", "done"), ("analyze", "done")]
    ran = world.admin.rows("select count(*) from sys_analyze_history where schema_name = %s", world.schema)
    assert list(ran[0]) == [1], "not once more beside the one that still ran"


def test_a_lost_vacuum_is_cancelled_at_the_hard_end_all_the_same(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "delay": 20})
    cut = Cut(world)
    began = time.monotonic()
    results = world.carry_out(connect=cut.connect, last_start=SECOND, hard_end=1.5 * SECOND)
    cut.thread.join()
    assert time.monotonic() - began < 6
    assert results[0].outcome == "failed"
    assert "cancelled at the hard end" in results[0].message


def test_a_killed_run_is_taken_up_where_it_was(world: MaintenanceWorld) -> None:
    """The process dies while VACUUM runs; the cluster goes on, and the retry waits for its end."""
    world.table()
    plan = world.plan()
    world.lab.standin.faults({"match": "^vacuum", "delay": 2})
    kill_while_it_runs(world, plan)
    assert [row.outcome for row in world.rows()] == ["running"]
    assert summary(world.carry_out(plan)) == [("full", "done"), ("analyze", "done")]
    assert [status for _, status in world.vacuums()] == ["Complete"]


def test_what_a_killed_run_left_running_is_cancelled_at_the_hard_end(world: MaintenanceWorld) -> None:
    world.table()
    plan = world.plan()
    world.lab.standin.faults({"match": "^vacuum", "delay": 30})
    kill_while_it_runs(world, plan)
    results = world.carry_out(plan, last_start=NOW, hard_end=SECOND)
    assert results[0].outcome == "failed"
    assert "cancelled at the hard end" in results[0].message
    assert running_vacuums(world.admin) == []


def kill_while_it_runs(world: MaintenanceWorld, plan: MaintenancePlan) -> None:
    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    cut = Cut(world)
    maintainer = world.maintainer(connect=cut.connect)
    maintainer._adopt = killed  # type: ignore[method-assign, assignment]
    with pytest.raises(Killed):
        maintainer.carry_out(plan)
    cut.thread.join()


def test_a_cluster_that_does_not_come_back_is_an_error_to_retry_and_the_retry_does_the_rest_only(
    world: MaintenanceWorld,
) -> None:
    world.table("a", deleted=False, times=4)
    world.table("b")
    plan = world.plan()
    broken = threading.Event()

    def connect() -> ConnectorSession:
        if broken.is_set():
            raise RedshiftUnreachable("the cluster is paused")
        return ConnectorSession(world.lab.info())

    maintainer = world.maintainer(connect=connect)
    maintainer._on_result = lambda result: broken.set() if result.step == plan.steps[1] else None
    with pytest.raises(RedshiftUnreachable):
        maintainer.carry_out(plan)
    done = [row.finished_at for row in world.rows()][:2]
    assert [row.outcome for row in world.rows()] == ["done", "done", "running"]
    results = world.carry_out(plan)
    assert [result.outcome for result in results] == ["done"] * 4
    assert [row.finished_at for row in world.rows()][:2] == done
    assert all(len(world.vacuums(name)) == 1 for name in ("a", "b"))


def test_a_cluster_that_comes_back_soon_is_no_error(world: MaintenanceWorld) -> None:
    world.table()
    plan = world.plan()
    world.lab.standin.faults({"match": "^set timezone", "drop": "before", "times": 3})
    assert summary(world.carry_out(plan)) == [("full", "done"), ("analyze", "done")]


def test_a_run_that_is_done_does_nothing_again_until_its_plan_is_made_anew(world: MaintenanceWorld) -> None:
    world.table()
    plan = world.plan()
    world.carry_out(plan)
    again = world.carry_out(plan)
    assert summary(again) == [("full", "done"), ("analyze", "done")]
    assert len(world.vacuums()) == 1
    assert again[0].before["deleted_rows"] == 2
    world.admin.run("insert into t select * from t")
    world.admin.run("delete from t where id = 2")
    world.carry_out(world.plan())
    assert len(world.vacuums()) == 2


def test_whoever_stops_it_leaves_no_vacuum_behind(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.faults({"match": "^vacuum", "delay": 20})
    maintainer = world.maintainer()
    thread = threading.Thread(target=maintainer.carry_out, args=(world.plan(),))
    thread.start()
    wait_until_running(world)
    maintainer.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert running_vacuums(world.admin) == []


# --- refusals, and other forms of a cluster -----------------------------------------------------------------


def test_a_statement_that_is_refused_does_not_hold_back_the_others(world: MaintenanceWorld) -> None:
    world.table("a", times=4)
    world.table("b")
    plan = world.plan()
    world.lab.standin.faults({"match": "^vacuum", "error": "XX000", "message": "disk full"})
    results = world.carry_out(plan)
    assert [result.outcome for result in results] == ["failed", "done", "done", "done"]
    assert "disk full" in results[0].message


def test_a_table_that_was_dropped_meanwhile_is_skipped(world: MaintenanceWorld) -> None:
    world.table("gone")
    plan = world.plan()
    world.admin.run("drop table gone")
    results = world.carry_out(plan)
    assert {result.outcome for result in results} == {"skipped"}
    assert "the table is gone" in results[0].message


def test_without_a_ledger_it_works_all_the_same(lab_redshift: LabRedshift) -> None:
    world = MaintenanceWorld(lab_redshift, None)
    try:
        world.table()
        assert summary(world.carry_out()) == [("full", "done"), ("analyze", "done")]
    finally:
        world.close()


def test_serverless_has_no_stl_views_and_the_proof_comes_from_sys(world: MaintenanceWorld) -> None:
    world.table()
    world.lab.standin.serverless()
    assert world.admin.rows("select count(*) from stl_vacuum")[0][0] == 0
    assert summary(world.carry_out()) == [("full", "done"), ("analyze", "done")]
    assert world.rows()[0].message.startswith("unsorted 50 % -> 0 %")


def test_a_statement_may_take_longer_than_the_time_to_connect(world: MaintenanceWorld) -> None:
    """`timeout` is the driver's, of every read of the socket."""
    world.lab.standin.faults({"match": "slow one", "delay": 1.5})
    info = world.lab.info()
    session = world.session(type(info)(**{**info.__dict__, "extra": {**info.extra, "timeout": 1}}))
    assert session.rows("select 'slow one'") == [["slow one"]]
    assert datetime.now(UTC)
