"""The DAG etl_checks, executed against the lab's ETL: rows, incidents that begin and end, hours of a backfill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pendulum
import pytest
import yaml
from dbops import ledger
from dbops.cli import app
from dbops.etl.check import newest_due
from dbops.etl.jobs import floor_hour
from dbops.platform import load_platform
from dbops_lab import connections
from dbops_lab.testing import LabEtl, LabPostgres, LabReceivers, LabRedshift
from etl_world import document
from sqlalchemy import Engine, text
from typer.testing import CliRunner

PROJECT = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class World:
    def __init__(self, etl: LabEtl, redshift: LabRedshift, engine: Engine, receivers: LabReceivers) -> None:
        self.etl, self.redshift, self.engine, self.receivers = etl, redshift, engine, receivers
        settings = load_platform().etl
        assert settings is not None
        self.hour = newest_due(settings, datetime.now(UTC))

    def run(self, **conf: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags/etl_checks.py")).dags["etl_checks"]
        for task in dag.tasks:
            task.retries = 0
            task.retry_delay = timedelta(0)
        return dag.test(run_conf=conf)

    def rows(self, query: str) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.execute(text(query)))

    def open(self) -> dict[str, Any]:
        return {row.key: row for row in self.rows("SELECT * FROM incident WHERE resolved_at IS NULL")}

    def target(self, pipeline: str, hour: datetime | None = None) -> str:
        return f"{pipeline}/{hour or self.hour:%Y-%m-%dT%H}"


@pytest.fixture
def world(
    database: None, lab_etl: LabEtl, lab_redshift: LabRedshift, lab_postgres: LabPostgres, receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Iterator[World]:  # fmt: skip
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    aws = connections.s3(int(lab_redshift.s3.endpoint.rpartition(":")[2]))
    aws["extra"]["config_kwargs"] = {"retries": {"total_max_attempts": 2}}
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_redshift": lab_redshift.connection,
        "dbops_s3": aws,
    }
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "lab.yaml"
    platform = document(lab_etl)
    # The newest due hour is another one in half an hour, and not within a test.
    platform["etl"] |= {"schedule": "59 * * * *", "due": f"{max(1, (datetime.now(UTC).minute - 30) % 60)}m"}
    wanted = [one for one in platform["etl"]["pipelines"] if one["name"] in ("wins", "impressions")]
    platform["etl"]["pipelines"] = [one | {"freshness": {"warn": "8h", "error": "9h"}} for one in wanted]
    file.write_text(yaml.safe_dump(platform))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    found = World(lab_etl, lab_redshift, engine, receivers)
    yield found
    lab_redshift.s3.faults()
    for back in range(4):
        lab_etl.forget(found.hour - HOUR * back)


def test_a_broken_load_is_one_incident_that_its_repair_ends(world: World) -> None:
    world.etl.run(world.hour - HOUR)
    assert world.run().state == "success"
    world.etl.forget(world.hour)
    world.etl.run(world.hour, {"impressions": "partial"})
    for _ in range(2):
        assert world.run().state == "success"
    (incident,) = world.open().values()
    assert (incident.key, incident.severity, incident.times_seen) == ("etl_load_errors/impressions", "warning", 2)
    assert "are missing" in incident.details["what"]
    (told,) = [entry for entry in world.receivers.inbox("slack") if "missing or doubled" in json.dumps(entry)]
    assert "etl_load_errors.md" in json.dumps(told)
    checks = {
        row.name: row
        for row in world.rows(f"SELECT * FROM check_result WHERE target = '{world.target('impressions')}' ORDER BY id")
    }
    assert checks["etl_reconciliation"].ok is False
    assert checks["etl_reconciliation"].value < 0
    assert checks["etl_reconciliation"].details["outcome"] == "error"
    assert checks["etl_run"].ok
    world.etl.forget(world.hour)
    world.etl.run(world.hour)
    assert world.run().state == "success"
    assert world.open() == {}


def test_a_rule_that_starts_nothing_is_one_incident_of_all_its_pipelines(world: World) -> None:
    world.etl.run(world.hour - HOUR)
    world.etl.schedule(is_enabled=False)
    try:
        assert world.run().state == "success"
    finally:
        world.etl.schedule()
    assert set(world.open()) == {f"etl_schedule/{world.etl.rule}"}, (
        "what follows from it is written down, and told by it"
    )
    bad = world.rows(f"SELECT name FROM check_result WHERE target = '{world.target('wins')}' AND NOT ok")
    assert {"etl_run", "etl_files", "etl_rows"} <= {row.name for row in bad}
    assert world.run().state == "success"
    assert set(world.open()) == {"etl_late/wins", "etl_late/impressions"}, "the hour is still missing"
    world.etl.run(world.hour)
    assert world.run().state == "success"
    assert world.open() == {}


def test_a_failed_run_is_told_with_its_error_and_rows_without_impressions_are_not_told_beside_it(world: World) -> None:
    world.etl.run(world.hour, {"impressions": "glue_failed"})
    assert world.run().state == "success"
    (incident,) = world.open().values()
    assert incident.key == "etl_failed/impressions"
    assert "ended as FAILED: Error Category:" in incident.details["what"]
    (orphans,) = world.rows("SELECT * FROM check_result WHERE name = 'etl_references'")
    assert (orphans.ok, orphans.details["impression_id"]["others"]) == (False, 0)


def test_an_hour_that_is_accepted_ends_its_incident_and_a_worse_kind_opens_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.etl.run(world.hour - HOUR, {"wins": "nulls"})
    world.etl.run(world.hour)
    assert world.run(hour=(world.hour - HOUR).isoformat()).state == "success"
    assert set(world.open()) == {"etl_data/wins"}
    words = ["accept", "-p", "wins", "--hour", (world.hour - HOUR).isoformat(), "--reason", "a test campaign"]
    assert CliRunner().invoke(app, ["etl", *words]).exit_code == 0
    assert world.run().state == "success"
    assert world.open() == {}
    (action,) = world.rows("SELECT * FROM action WHERE name = 'etl_accept'")
    assert (action.target, action.message) == (world.target("wins", world.hour - HOUR), "a test campaign")


def test_what_cannot_be_looked_at_fails_the_run_and_neither_begins_nor_ends_a_problem(world: World) -> None:
    world.etl.run(world.hour, {"wins": "not_loaded"})
    assert world.run().state == "success"
    assert set(world.open()) == {"etl_load_errors/wins"}
    world.redshift.standin.faults({"match": "sys_load_history", "error": "42501", "message": "denied", "times": 99})
    world.redshift.s3.faults({"key": "#AWSGlue.GetJobRuns", "status": 400, "code": "ThrottlingException", "times": 99})
    try:
        assert world.run().state == "failed"
    finally:
        world.redshift.standin.faults()
        world.redshift.s3.faults()
    assert set(world.open()) == {"etl_load_errors/wins", "failed/etl_checks"}
    blind = world.rows(
        "SELECT * FROM check_result WHERE details->>'outcome' = 'could-not-look' AND target LIKE 'wins%'"
    )
    assert {row.name for row in blind} == {
        "etl_run", "etl_load", "etl_loaded_twice", "etl_reconciliation", "etl_success",
    }  # fmt: skip
    assert "ThrottlingException" in next(row.message for row in blind if row.name == "etl_run")
    world.etl.forget(world.hour)
    world.etl.run(world.hour)
    assert world.run(hour=world.hour.isoformat()).state == "success"
    assert set(world.open()) == {"failed/etl_checks"}, "one hour says nothing of the others"
    assert world.run().state == "success"
    assert world.open() == {}


def test_a_warehouse_that_is_down_makes_blind_what_needs_it_and_the_rest_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.etl.run(world.hour, {"wins": "glue_failed"})
    made = world.redshift.connection
    with monkeypatch.context() as down:
        for name, value in connections.variables({"dbops_redshift": made | {"port": 1}}).items():
            down.setenv(name, value)
        assert world.run().state == "failed"
    assert set(world.open()) == {"etl_failed/wins", "failed/etl_checks"}
    found = {
        row.name: row for row in world.rows("SELECT * FROM check_result WHERE target LIKE 'impressions%' ORDER BY id")
    }
    assert {"etl_run", "etl_files", "etl_schedule"} <= {name for name, row in found.items() if row.ok}
    blind = {name for name, row in found.items() if row.details["outcome"] == "could-not-look"}
    assert {"etl_load", "etl_loaded_twice", "etl_reconciliation", "etl_rows", "etl_freshness"} <= blind
    assert "connect to Redshift" in found["etl_rows"].message


def test_hours_that_no_run_has_judged_are_judged_by_the_next(world: World) -> None:
    for back in (3, 2, 1, 0):
        world.etl.run(world.hour - HOUR * back, {"wins": "out_of_range"} if back == 1 else None)
    assert world.run(hour=(world.hour - HOUR * 3).isoformat()).state == "success"
    assert world.run().state == "success"
    judged = world.rows("SELECT target FROM check_result WHERE name = 'etl_run' AND target LIKE 'wins/%'")
    assert {row.target for row in judged} == {world.target("wins", world.hour - HOUR * back) for back in range(4)}
    assert set(world.open()) == {"etl_data/wins"}


def test_a_backfill_judges_the_hours_of_its_range_and_nothing_about_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.cli.cli_parser import get_parser
    from airflow.models.backfill import BackfillDagRun
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    first = world.hour - timedelta(days=40)
    world.etl.run(world.hour)
    world.run()  # so that Airflow knows the DAG, before the pipelines look as if they had stood still
    world.etl.run(first, {"wins": "out_of_range"}, tables=["impressions", "wins"], is_aggregated=False)
    last = first + HOUR * 2
    words = ["backfill", "create", "--dag-id", "etl_checks", "--from-date", first.isoformat(), "--to-date", str(last)]
    arguments = get_parser().parse_args(words)
    arguments.func(arguments)
    with create_session() as session:
        runs = list(session.scalars(
            select(DagRun).join(BackfillDagRun, BackfillDagRun.dag_run_id == DagRun.id).order_by(DagRun.logical_date)
        ))  # fmt: skip
        session.expunge_all()
    assert [floor_hour(run.data_interval_start) for run in runs] == [first, first + HOUR]

    assert execute(world, runs[0], monkeypatch).state == "success"
    made = world.rows("SELECT * FROM check_result WHERE run LIKE '%backfill%'")
    assert {row.target for row in made} == {world.target(name, first) for name in ("wins", "impressions")}
    assert not {"etl_freshness", "etl_schedule", "etl_success", "etl_load"} & {row.name for row in made}, (
        "what is about now, and loads that Redshift has forgotten"
    )
    assert {row.name for row in made if not row.ok} == {"etl_ranges"}
    assert set(world.open()) == {"etl_data/wins"}
    world.etl.forget(first)


def execute(world: World, run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the tasks of a run that Airflow has made."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.state import DagRunState

    def existing(*, dag: Any, session: Any, **_: Any) -> Any:
        found = session.get(DagRun, run.id)
        found.dag, found.state = dag, DagRunState.RUNNING
        session.commit()
        return found

    with monkeypatch.context() as patched:
        patched.setattr("airflow.models.dagrun.get_or_create_dagrun", existing)
        return world.run()


@pytest.mark.parametrize("at", ["2026-10-25T00:30:00", "2026-10-25T01:30:00", "2026-03-29T01:30:00"])
def test_intervals_are_hours_of_utc_when_clocks_change(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Berlin, 02:00 comes twice in the one night and never in the other; an hour of UTC comes once."""
    from airflow.timetables.interval import CronDataIntervalTimetable

    monkeypatch.setenv("TZ", "Europe/Berlin")
    start = datetime.fromisoformat(f"{at}+00:00")
    timetable = CronDataIntervalTimetable("30 * * * *", timezone="UTC")
    interval = timetable.infer_manual_data_interval(run_after=pendulum.instance(start + HOUR))
    assert (interval.start, interval.end) == (start, start + HOUR)
    assert floor_hour(start.astimezone(ZoneInfo("Europe/Berlin"))) == start.replace(minute=0)
