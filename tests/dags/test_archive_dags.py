"""The archive DAGs, executed: a real warehouse, bucket, ledger and receivers, and a person who answers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from archive_world import World
from dbops import ledger
from dbops.platform import load_platform
from dbops_lab import connections
from dbops_lab.testing import LabPostgres, LabReceivers, LabRedshift, LabS3
from person import answering
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
TODAY = datetime.now(UTC).date()
ARCHIVE, RESTORE = "redshift_archive", "redshift_archive_restore"


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class Airflow:
    """Both DAGs, with two small tables."""

    def __init__(self, engine: Engine, receivers: LabReceivers, worlds: list[World]) -> None:
        self.engine, self.receivers, self.worlds = engine, receivers, worlds

    def dag(self, dag_id: str) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags[dag_id]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
        return dag

    def run(self, dag_id: str = ARCHIVE, *, answer: str | None = None, **conf: Any) -> Any:
        with answering(answer) if answer else nullcontext():
            return self.dag(dag_id).test(run_conf=conf)

    def states(self, run: Any) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for ti in run.get_task_instances():
            found.setdefault(ti.task_id, set()).add(str(ti.state))
        return found

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(text(query)))


@pytest.fixture
def airflow(
    database: None,
    lab_s3: LabS3,
    lab_postgres: LabPostgres,
    lab_redshift: LabRedshift,
    receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Airflow]:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    file = tmp_path / "small.yaml"
    lab = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    names = [f"public.{name}_{secrets.token_hex(4)}" for name in ("bids", "wins")]
    lab["redshift"]["archive"] = {
        "prefix": lab_s3.new_prefix(),
        "marks": f"public.marks_{secrets.token_hex(4)}",
        "max_days": 3,
        "tables": [{"table": name, "column": "timestamp", "keep": "30d"} for name in names],
        "storage_classes": [{"after": "90d", "name": "GLACIER_IR"}],
    }
    file.write_text(yaml.safe_dump(lab))
    made = {
        "dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema),
        "dbops_s3": connections.s3(int(lab_s3.endpoint.rpartition(":")[2])),
        "dbops_redshift": lab_redshift.connection,
    }
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    settings = load_platform().redshift.archive  # type: ignore[union-attr]
    worlds = []
    for table in settings.tables:
        own = settings.model_copy(update={"tables": (table,)})
        world = World(lab_redshift.info(), lab_s3.connection, lab_s3.bucket, lab_s3.region, table.table, own)
        world.create()
        worlds.append(world)
    yield Airflow(engine, receivers, worlds)
    lab_s3.client.delete_bucket_lifecycle(Bucket=lab_s3.bucket)


def old(days: int) -> date:
    return TODAY - timedelta(days=days)


def test_expired_days_go_and_the_rest_stays(airflow: Airflow) -> None:
    bids, wins = airflow.worlds
    for world in (bids, wins):
        for days in (29, 30, 31, 32):
            world.load(20, old(days))
    before = len(bids.keys)

    dry = airflow.run(dry_run=True)
    assert airflow.states(dry)["plan"] == {"skipped"}
    assert len(bids.in_table()) == before
    assert bids.published() == []

    run = airflow.run()
    assert run.state == "success"
    assert airflow.states(run) == {
        "plan": {"success"},
        "approve": {"skipped"},
        "archive": {"success"},
        "vacuum": {"success"},
        "report": {"success"},
        "lifecycle": {"success"},
    }
    for world in (bids, wins):
        world.check()
        assert [part.day for part in world.archived()] == [old(32), old(31)]
        assert world.sql(f'select min("timestamp")::date from {world.table}')[0][0] == old(30)
    kept = airflow.rows("SELECT dataset, day, part, rows, deleted_at FROM archived_partition ORDER BY dataset, day")
    tables = sorted(world.table for world in airflow.worlds)
    assert [tuple(row)[:4] for row in kept] == [(table, old(days), 1, 20) for table in tables for days in (32, 31)]
    actions = airflow.rows("SELECT name, target, outcome, details FROM action ORDER BY id")
    assert [action.name for action in actions] == ["archive"] * 4 + ["vacuum"] * 2
    assert actions[-1].details["before"]["deleted_rows"] == 40
    assert actions[-1].details["after"]["deleted_rows"] == 0
    (mail,) = airflow.receivers.inbox("smtp")
    assert f"{bids.table}: 2 days, 40 rows" in json.dumps(mail)
    store = bids.place.store
    assert {rule["ID"] for rule in store.lifecycle()["Rules"]} >= {f"dbops {store.prefix}{bids.table} storage classes"}


def test_a_plan_of_many_days_waits_for_a_person(airflow: Airflow) -> None:
    bids, wins = airflow.worlds
    for days in range(31, 35):
        bids.load(5, old(days))
    wins.load(5, old(31))
    run = airflow.run(answer="Reject")
    assert run.state == "failed"
    assert airflow.states(run)["approve"] == {"failed"}
    for world in (bids, wins):
        assert world.in_table() == world.keys
        assert world.published() == []
    told = json.dumps(airflow.receivers.inbox("slack"))
    assert f"4 days of {bids.table} would be deleted" in told
    assert f"{wins.table}: 1 days" in told

    run = airflow.run(answer="Approve")
    assert run.state == "success"
    for world in (bids, wins):
        world.check()
        assert world.in_table() == []


def test_a_day_that_cannot_be_archived_fails_the_run_and_holds_back_no_other(
    airflow: Airflow, lab_redshift: LabRedshift
) -> None:
    bids, wins = airflow.worlds
    for world in (bids, wins):
        world.load(5, old(31))
        world.load(5, old(32))
    refused = f"unload.*{wins.table.partition('.')[2]}.*{old(31)} 00:00:00''::timestamp and"
    lab_redshift.standin.faults({"match": refused, "error": "42501", "message": "permission denied", "times": 9})
    run = airflow.run()
    assert run.state == "failed"
    states = airflow.states(run)
    assert (states["archive"], states["vacuum"], states["report"]) == (
        {"success", "failed"},
        {"success"},
        {"upstream_failed"},
    )
    assert bids.in_table() == []
    assert len(wins.in_table()) == 5
    for world in (bids, wins):
        world.check()
    (alert,) = airflow.receivers.inbox("slack")
    assert "permission denied" in json.dumps(alert)
    lab_redshift.standin.faults()
    assert airflow.run().state == "success"
    wins.check()
    assert wins.in_table() == []


def test_a_backfill_archives_the_days_of_its_range_and_no_other(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.cli.cli_parser import get_parser
    from airflow.models.backfill import BackfillDagRun
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    bids, wins = airflow.worlds
    first, last = old(75), old(46)  # thirty days
    for days in (76, 75, 60, 46, 45, 10):
        bids.load(5, old(days))
    airflow.run(dry_run=True)  # so that Airflow knows the DAG
    words = ["backfill", "create", "--dag-id", ARCHIVE, "--from-date", str(first), "--to-date", str(last)]
    arguments = get_parser().parse_args(words)
    arguments.func(arguments)
    with create_session() as session:
        runs = list(session.scalars(
            select(DagRun).join(BackfillDagRun, BackfillDagRun.dag_run_id == DagRun.id).order_by(DagRun.logical_date)
        ))  # fmt: skip
        session.expunge_all()
    days = [run.data_interval_start.date() for run in runs]
    assert days == [first + timedelta(days=number) for number in range(30)]

    for day in (first, old(60), last):
        assert execute(airflow, runs[days.index(day)], monkeypatch).state == "success"
    assert [part.day for part in bids.archived()] == [first, old(60), last]
    assert [part.rows for part in wins.archived()] == [0, 0, 0], "looked at, and empty"
    bids.check()
    assert {row[0] for row in bids.sql(f'select "timestamp"::date from {bids.table}')} == {old(76), old(45), old(10)}
    fresh = execute(airflow, runs[1], monkeypatch)
    assert fresh.state == "success"
    assert len(bids.archived()) == 4, "a day without rows is written down"


def execute(airflow: Airflow, run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
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
        return airflow.dag(ARCHIVE).test()


def test_archived_days_come_back_beside_their_table_and_into_it_after_an_approval(airflow: Airflow) -> None:
    bids, _ = airflow.worlds
    for days in (31, 32):
        bids.load(10, old(days))
    airflow.run()
    assert bids.in_table() == []

    run = airflow.run(RESTORE, table=bids.table, first_day=str(old(32)), last_day=str(old(31)))
    assert run.state == "success"
    assert airflow.states(run)["attach"] == {"skipped"}
    side = f"{bids.table}_restored_{old(32):%Y%m%d}"
    assert bids.in_table(side) == bids.keys[10:]
    assert bids.in_table() == []

    run = airflow.run(RESTORE, answer="Approve", table=bids.table, first_day=str(old(32)), mode="attach", keep_days=3)
    assert run.state == "success"
    assert bids.in_table() == bids.keys[10:]
    attached = airflow.rows("SELECT day, attached_at FROM archived_partition WHERE attached_at IS NOT NULL")
    assert [row.day for row in attached] == [old(32)]
    run = airflow.run()
    assert run.state == "success"
    assert bids.in_table() == bids.keys[10:], "for three days"

    run = airflow.run(RESTORE, table=bids.table, first_day=str(old(99)))
    assert run.state == "failed"
