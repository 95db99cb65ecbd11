"""The maintenance DAGs, executed: the lab's Redshift, a real ledger, real receivers, moto for CloudWatch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dbops import ledger
from dbops.platform.load import DIRECTORY
from dbops.redshift.maintenance_operators import RUNBOOKS, RunMaintenance, _begin
from dbops.redshift.session import ConnectorSession
from dbops.redshift.snapshots import Snapshot, open_snapshots
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabReceivers, LabRedshiftApi, LabS3
from maintenance_world import ROWS, OwnRedshift, own_redshift
from sqlalchemy import Engine, text
from warehouse_world import aws_info, lab_warehouse

PROJECT = Path(__file__).resolve().parents[2]
DAILY, WEEKLY, MONTHLY = (f"redshift_maintenance_{kind}" for kind in ("daily", "weekly", "monthly"))
HOUR = timedelta(hours=1)
SORTS = {"sort_benefit": 0}


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


@pytest.fixture(scope="module")
def warehouse(lab_postgres: LabPostgres, lab_s3: LabS3) -> Iterator[OwnRedshift]:
    with own_redshift(lab_postgres, lab_s3) as made:
        yield made


class World:
    def __init__(
        self, warehouse: OwnRedshift, engine: Engine, receivers: LabReceivers, api: LabRedshiftApi, file: Path
    ) -> None:
        self.warehouse, self.engine, self.receivers, self.api, self._file = warehouse, engine, receivers, api, file
        self.source = open_snapshots(lab_warehouse(), aws_info(api))

    def change(self, **sections: Any) -> None:
        """Replace sections of `redshift` in the platform file."""
        document = yaml.safe_load(self._file.read_text())
        for name, values in sections.items():
            document["redshift"][name] = values
        self._file.write_text(yaml.safe_dump(document))

    def run(self, dag_id: str, **conf: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / f"dags/{dag_id}.py")).dags[dag_id]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
            if hasattr(task, "poke_interval"):
                task.poke_interval = 0.1
        return dag.test(run_conf=conf)

    def states(self, run: Any) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))

    def incidents(self) -> dict[str, bool]:
        """Keys of incidents, and whether they are over; reports are over at once."""
        found = self.rows("SELECT key, resolved_at FROM incident ORDER BY id")
        return {row.key: row.resolved_at is not None for row in found if not row.key.startswith("report/")}

    def snapshots(self) -> list[Snapshot]:
        """Those that maintenance took of the cluster."""
        return [found for found in self.source.list() if found.tags.get("dbops-run", "").startswith(WEEKLY)]

    def mails(self) -> list[str]:
        return [json.dumps(entry) for entry in self.receivers.inbox("smtp")]

    def sql(self, *statements: str) -> None:
        with ConnectorSession(self.warehouse.info()) as session:
            session.run("set query_group to 'tests'")
            for statement in statements:
                session.run(statement)


@pytest.fixture
def world(
    database: None, warehouse: OwnRedshift, lab_s3: LabS3, lab_postgres: LabPostgres, receivers: LabReceivers,
    lab_redshift_api: LabRedshiftApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> Iterator[World]:  # fmt: skip
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_redshift": warehouse.connection,
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
    }
    file = tmp_path / "lab.yaml"
    file.write_text((DIRECTORY / "lab.yaml").read_text())
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    place = World(warehouse, engine, receivers, lab_redshift_api, file)
    place.sql("drop schema if exists shop cascade", "create schema shop")
    warehouse.forget()
    yield place
    for found in place.snapshots():
        place.source.delete(found.id)
    warehouse.standin.faults()
    warehouse.standin.serverless(False)


def fill(world: World, table: str = "shop.sales") -> None:
    """A table that is unsorted, with deleted rows and without statistics."""
    world.sql(
        f"create table {table} (id int, day date) diststyle even sortkey (day)", *[ROWS.format(table)] * 2,
        f"delete from {table} where id = 1",
    )  # fmt: skip


# --- daily --------------------------------------------------------------------------------------------------


def test_daily_tells_a_passed_limit_once_and_its_end(world: World) -> None:
    fill(world)
    started = datetime.now(UTC).replace(tzinfo=None) - HOUR
    slow = {"started": started, "ended": started + timedelta(seconds=400), "querytxt": "select the slow one", "cpu": 1}
    world.warehouse.plant("query", *[slow] * 50)
    for _ in range(2):
        assert world.run(DAILY).state == "success"
    rows = world.rows("SELECT name, ok, value, unit FROM check_result WHERE target = 'bedrock'")
    assert len(rows) == 18
    assert {row.name for row in rows if not row.ok} == {"redshift_queries"}
    assert world.incidents() == {"redshift_queries/bedrock": False}
    assert len(world.receivers.inbox("slack")) == 1
    (event,) = world.receivers.inbox("pagerduty")
    assert "Redshift bedrock: queries are slow" in json.dumps(event)
    assert "redshift_slow_queries.md" in json.dumps(world.receivers.inbox("slack"))
    world.warehouse.forget()
    assert world.run(DAILY).state == "success"
    assert world.incidents() == {"redshift_queries/bedrock": True}


def test_daily_fails_when_a_check_could_not_look_and_does_the_others(world: World) -> None:
    fill(world)
    world.warehouse.standin.faults({"match": "sys_load_history", "error": "42501", "message": "denied", "times": 9})
    assert world.run(DAILY).state == "failed"
    rows = {row.name: row.ok for row in world.rows("SELECT name, ok FROM check_result")}
    assert len(rows) == 9
    assert [name for name, ok in rows.items() if not ok] == ["redshift_loads"]
    assert world.incidents() == {f"failed/{DAILY}": False}
    world.warehouse.standin.faults()
    assert world.run(DAILY).state == "success"
    assert world.incidents() == {f"failed/{DAILY}": True}


# --- weekly -------------------------------------------------------------------------------------------------


def test_weekly_maintains_what_needs_it_and_mails_what_it_did(world: World) -> None:
    fill(world)
    world.sql("select count(*) from shop.sales where day > '2026-01-02'")  # sorting gains something
    world.run(DAILY)
    dry = world.run(WEEKLY, dry_run=True)
    assert set(world.states(dry).values()) == {"skipped"}
    assert world.mails() == []
    assert world.snapshots() == []
    run = world.run(WEEKLY)
    assert run.state == "success"
    (taken,) = world.snapshots()
    assert taken.tags["dbops-run"] == f"{WEEKLY}/{run.run_id}"
    rows = world.rows("SELECT name, target, outcome, details FROM action WHERE run LIKE '%weekly%' ORDER BY id")
    assert [(row.name, row.target, row.outcome) for row in rows] == [
        ("redshift_plan", "bedrock", "done"),
        ("redshift_snapshot", f"bedrock/{taken.id}", "done"),
        ("redshift_maintenance", "bedrock", "done"),
        ("redshift_vacuum_full", "bedrock/shop.sales", "done"),
        ("redshift_analyze", "bedrock/shop.sales", "done"),
        ("redshift_report", "bedrock", "done"),
    ]
    assert rows[3].details["before"]["deleted_rows"] == 2
    assert rows[3].details["after"]["deleted_rows"] == 0
    (mail,) = world.mails()
    assert "Redshift bedrock: weekly maintenance: 2 done, 0 skipped, 0 failed" in mail
    assert "unsorted 50 % -&gt; 0 %" in mail
    assert "storage: 1 MB; the trend needs two days of measurements" in mail
    assert world.receivers.inbox("slack") == []
    assert world.incidents() == {}


def test_weekly_tells_what_a_person_has_to_do_until_it_is_done(world: World) -> None:
    world.change(health={"old_transaction": "1s"})
    fill(world)
    world.sql("vacuum sort only shop.sales to 100 percent")
    with ConnectorSession(world.warehouse.info()) as blocker:
        blocker.run("begin")
        blocker.rows("select count(*) from shop.sales")
        run = world.run(WEEKLY)
    assert run.state == "success"
    (mail,) = world.mails()
    assert "1 done, 1 skipped, 0 failed" in mail
    assert world.incidents() == {"redshift_maintenance/bedrock": False}
    told = json.dumps(world.receivers.inbox("slack"))
    assert "Redshift bedrock: tables cannot be maintained" in told
    assert "rows deleted since an open transaction began cannot be removed" in told
    assert "redshift_maintenance_blocked.md" in told
    assert world.run(WEEKLY).state == "success"
    assert world.incidents() == {"redshift_maintenance/bedrock": True}


def test_weekly_fails_with_a_mail_when_a_statement_fails(world: World) -> None:
    fill(world)
    world.warehouse.standin.faults({"match": "^vacuum", "error": "XX000", "message": "disk full", "times": 9})
    run = world.run(WEEKLY, tables=["shop.sales"])
    assert run.state == "failed"
    assert world.states(run) == {
        "plan": "success", "snapshot": "success", "maintain": "failed", "report": "failed",
    }  # fmt: skip
    (mail,) = world.mails()
    assert "1 done, 0 skipped, 1 failed" in mail
    assert "disk full" in mail
    assert world.incidents()[f"failed/{WEEKLY}"] is False
    world.warehouse.standin.faults()
    world.run(WEEKLY, tables=["shop.sales"])
    assert world.incidents()[f"failed/{WEEKLY}"] is False, "a run of some tables says nothing of the others"
    world.run(WEEKLY)
    assert world.incidents()[f"failed/{WEEKLY}"] is True


@pytest.mark.parametrize(
    "given",
    [
        {"snapshots": {"before_maintenance": "never"}, "vacuum": SORTS},
        {"aws_connection": "nobody_has_it", "vacuum": SORTS},
        {"vacuum": SORTS | {"min_unsorted": 100}},  # only deleted rows and statistics are left to do
    ],
)
def test_weekly_goes_on_without_a_snapshot_where_none_is_wanted_or_can_be_taken(
    world: World, given: dict[str, Any]
) -> None:
    world.change(**given)
    fill(world)
    run = world.run(WEEKLY)
    assert set(world.states(run).values()) == {"success"}
    assert world.snapshots() == []
    assert world.rows("SELECT * FROM action WHERE name LIKE 'redshift_vacuum_%' AND outcome = 'done'")


def test_weekly_touches_no_table_when_the_snapshot_before_it_cannot_be_taken(world: World) -> None:
    world.change(name="no-such-cluster", vacuum=SORTS)
    fill(world)
    run = world.run(WEEKLY)
    assert world.states(run)["maintain"] == "upstream_failed"
    assert not world.rows("SELECT * FROM action WHERE name LIKE 'redshift_vacuum_%'")
    world.change(name="bedrock", aws_connection="nobody_has_it", snapshots={"before_maintenance": "always"})
    assert world.run(WEEKLY).state == "failed"
    assert world.incidents() == {f"failed/{WEEKLY}": False}


def test_weekly_takes_the_snapshot_of_a_serverless_namespace(world: World) -> None:
    world.change(serverless=True, vacuum=SORTS)
    world.source = open_snapshots(lab_warehouse(serverless=True), aws_info(world.api))
    world.warehouse.standin.serverless(True)
    fill(world)
    run = world.run(WEEKLY)
    assert run.state == "success"
    (taken,) = world.snapshots()
    assert taken.source == world.api.namespace


def test_the_window_counts_from_the_scheduled_time_and_by_hand_from_the_start() -> None:
    planned, started = datetime(2026, 11, 22, 3, tzinfo=UTC), datetime(2026, 11, 22, 5, tzinfo=UTC)
    for kind, begin in (("scheduled", planned), ("manual", started), ("backfill", started)):
        run = SimpleNamespace(run_type=kind, run_after=planned, start_date=started)
        assert _begin({"dag_run": run}) == begin  # type: ignore[typeddict-item]


def test_a_killed_task_cancels_what_it_runs() -> None:
    cancelled = []
    task = RunMaintenance(task_id="maintain")
    task.on_kill()
    task._maintainer = SimpleNamespace(cancel=lambda: cancelled.append(True))  # type: ignore[assignment]
    task.on_kill()
    assert cancelled == [True]


# --- monthly ------------------------------------------------------------------------------------------------


def test_monthly_mails_advice_unused_tables_and_cold_data(world: World) -> None:
    world.change(review={"min_size_mb": 1, "unused_after": "1d", "cold_after": "30d"}, archive={})
    fill(world)
    world.sql(
        "create table shop.keyless (k int) diststyle even", "alter table shop.keyless alter sortkey none",
        "insert into shop.keyless values (1)",
    )  # fmt: skip
    world.warehouse.admin(
        "update rs.table_note set created = created - interval '9 days'",
        "select rs.recommend('shop.sales', 'diststyle', 'alter table shop.sales alter diststyle key distkey id', true)",
    )
    world.run(DAILY)
    run = world.run(MONTHLY)
    assert run.state == "success"
    assert set(world.states(run)) == {"tables", "cold_data", "access", "report"}
    (mail,) = world.mails()
    assert "Redshift bedrock: monthly review" in mail
    for told in (
        "alter table &quot;shop&quot;.&quot;keyless&quot; alter sortkey auto;",
        "Redshift&#x27;s Advisor recommends another diststyle, and may do it by itself",
        "alter table shop.sales alter diststyle key distkey id;",
        "Unused tables (2): not read for 1 days",
        "shop.sales, 1 MB",
        "Cold data (1): rows before",
        "shop.sales: 4 rows by day, the oldest of 2026-01-02",
    ):
        assert told in mail.replace("\\&quot;", "&quot;"), told
    rows = {
        row.name: row.value for row in world.rows("SELECT name, value FROM check_result WHERE run LIKE '%monthly%'")
    }
    counts = {"redshift_table_advice": 3, "redshift_unused_tables": 2, "redshift_cold_data": 1}
    assert {name: rows.get(name) for name in counts} == counts


def test_monthly_reports_the_parts_that_could_look_and_fails(world: World) -> None:
    fill(world)
    fault = {"match": "svv_alter_table_recommendations", "error": "42501", "message": "denied", "times": 9}
    world.warehouse.standin.faults(fault)
    run = world.run(MONTHLY)
    assert run.state == "failed"
    (mail,) = world.mails()
    assert "Unused tables: could not be looked at" in mail
    assert "Cold data (0)" in mail
    assert world.incidents() == {f"failed/{MONTHLY}": False}


# --- without a warehouse, and documents ---------------------------------------------------------------------


def test_a_platform_without_a_warehouse_has_no_such_dags(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("DBOPS_PLATFORM", "staging")
    bag = DagBag(str(PROJECT / "dags"))
    assert bag.import_errors == {}
    assert not [name for name in bag.dags if name.startswith("redshift")]


def test_every_incident_of_the_maintenance_has_a_runbook() -> None:
    for name in {*RUNBOOKS.values(), "redshift_maintenance_blocked"}:
        page = PROJECT / f"include/runbooks/{name}.md"
        assert page.is_file(), name
        assert "**Alert**" in page.read_text(), name
