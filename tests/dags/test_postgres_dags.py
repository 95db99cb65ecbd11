"""PostgreSQL's DAGs, executed: a real server with trouble, a real ledger and receivers."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops import ledger
from dbops_lab import connections
from dbops_lab.supervisor import Supervisor, free_port
from dbops_lab.testing import LabPostgres, LabReceivers
from postgres_world import MONITOR, OWNER, World, grant, world_of
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
HALF = "delete from orders where id % 2 = 0"


@pytest.fixture(scope="module")
def server(lab_supervisor: Supervisor) -> World:
    from airflow.utils.db import resetdb

    resetdb()
    return world_of(lab_supervisor, 17)


class Place:
    """A database on that server, a ledger, and Airflow's view of both."""

    def __init__(self, server: World, engine: Engine, receivers: LabReceivers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server, self.engine, self.receivers, self.monkeypatch = server, engine, receivers, monkeypatch
        self.database = server.new_database()
        self.run(
            "create table orders (id int primary key, text text)",
            "insert into orders select n, md5(n::text) from generate_series(1, 20000) n",
        )
        server.settle(self.database)
        self.run("analyze")

    def run(self, *statements: str) -> None:
        self.server.run(self.database, *statements)

    def connect(self, port: int | None = None) -> None:
        """Say to Airflow where the server is."""
        made = {
            "dbops_postgres": connections.postgres(port or self.server.port, MONITOR, self.server.passwords[MONITOR]),
            "dbops_postgres_maintenance": connections.postgres(
                port or self.server.port, OWNER, self.server.passwords[OWNER]
            ),
        }
        for name, value in connections.variables(made).items():
            self.monkeypatch.setenv(name, value)

    def trigger(self, dag_id: str, **conf: Any) -> str:
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(str(PROJECT / "dags" / f"{dag_id}.py"))
        assert bag.import_errors == {}
        dag = bag.dags[dag_id]
        for task in dag.tasks:
            if hasattr(task, "partial_kwargs"):
                task.partial_kwargs["retry_delay"] = timedelta(0)
            else:
                task.retry_delay = timedelta(0)
        return str(dag.test(run_conf=conf).state)

    def rows(self, query: str) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.execute(text(query)))

    def open_incidents(self) -> set[str]:
        return {row.key for row in self.rows("select key from incident where resolved_at is null")}


@pytest.fixture
def place(
    server: World,
    lab_postgres: LabPostgres,
    receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Place:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    uris = {"dbops_ledger": connections.postgres(info.port or 0, info.login or "", info.password or "", info.schema)}
    for name, value in {**connections.variables(uris), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    made = Place(server, engine, receivers, monkeypatch)
    document = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    document["postgres"] |= {"name": "shop", "databases": [made.database], "storage_gb": 100, "migrations": []}
    document["postgres"]["maintenance"]["reindex_tables"] = ["public.orders"]
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    made.connect()
    return made


def test_health_writes_every_check_and_one_incident_lasts_until_the_trouble_is_over(place: Place) -> None:
    place.run("create table small (id smallserial)", "select setval('small_id_seq', 32000)")
    grant(place.server.server, place.database, MONITOR)
    assert place.trigger("postgres_health") == "success", "it has looked, which is its job"
    checks = {row.name: row for row in place.rows("select * from check_result")}
    assert len(checks) == 13, "twelve, and the counters of statements"
    key = f"postgres_sequences/shop/{place.database}"
    assert (checks["postgres_sequences"].ok, checks["postgres_sequences"].limit) == (False, 90)
    assert all(row.ok for name, row in checks.items() if name != "postgres_sequences")
    assert place.open_incidents() == {key}
    (told,) = place.receivers.inbox("slack")
    shown = json.dumps(told["message"])
    for said in (f"PostgreSQL shop/{place.database}: a sequence is running out", "small_id_seq", "postgres_storage.md"):
        assert said in shown

    assert place.trigger("postgres_health") == "success"
    assert len(place.receivers.inbox("slack")) == 1, "it is told once"
    (queries,) = place.rows("select * from check_result where name = 'postgres_query_p95' order by id desc limit 1")
    assert "nothing to compare" not in queries.message, "the ledger remembers the look before"
    counted = place.rows("select run from check_result where name = 'postgres_statement_counters' order by run")
    assert [row.run for row in counted] == ["latest", "previous"]

    place.run("alter table small alter id type bigint", "alter sequence small_id_seq as bigint")
    assert place.trigger("postgres_health") == "success"
    assert place.open_incidents() == set()


def test_a_server_that_is_gone_is_one_critical_incident_and_ends_no_other(place: Place) -> None:
    place.run("create table small (id smallserial)", "select setval('small_id_seq', 32000)")
    grant(place.server.server, place.database, MONITOR)
    assert place.trigger("postgres_health") == "success"
    place.connect(free_port())
    assert place.trigger("postgres_health") == "failed"
    sequences = f"postgres_sequences/shop/{place.database}"
    assert place.open_incidents() == {sequences, "postgres_reachable/shop", "failed/postgres_health"}
    assert not any(
        row.ok for row in place.rows("select ok from check_result where run like '%' order by id desc limit 3")
    )
    place.rows(
        "insert into incident (key, severity, title, opened_at, last_seen_at) "
        "values ('postgres_sequences/shop/left_the_platform', 'warning', 'gone', now(), now()) returning 1"
    )
    place.connect()
    assert place.trigger("postgres_health") == "success"
    assert place.open_incidents() == {sequences}


def test_the_report_is_sent_once_and_tells_growth_from_the_ledger(place: Place) -> None:
    place.run("create index needless on orders (id)", "create index needless_too on orders (id)")
    assert place.trigger("postgres_report") == "success"
    mails = place.receivers.inbox("smtp")
    assert mails
    shown = json.dumps(mails[0])
    for said in ("PostgreSQL shop:", "needless indexes", "public.needless", "growth is known from the second day on"):
        assert said in shown, said
    place.rows("update check_result set at = at - interval '8 days' where name = 'postgres_size' returning 1")
    place.run("insert into orders select n, repeat(md5(n::text), 20) from generate_series(30000, 60000) n")
    assert place.trigger("postgres_report") == "success"
    shown = json.dumps(place.receivers.inbox("smtp"))
    assert "grew the most in 8 d: public.orders +" in shown
    assert place.open_incidents() == set()


def test_maintenance_does_what_it_planned_and_writes_down_before_and_after(place: Place) -> None:
    place.run(HALF)
    place.server.settle(place.database)
    assert place.trigger("postgres_maintenance", dry_run=True) == "success"
    assert place.rows("select * from action where name = 'postgres_maintenance'") == []
    assert place.trigger("postgres_maintenance") == "success"
    (plan, *_) = place.rows("select * from action where name = 'postgres_plan' order by id desc")
    assert [step["work"] for step in plan.details["steps"]] == ["vacuum"]
    (step,) = place.rows("select * from action where name = 'postgres_maintenance'")
    assert (step.outcome, step.target) == ("done", f"shop/{place.database}/public.orders/vacuum")
    assert step.details["statement"] == 'vacuum (analyze) "public"."orders"'
    assert (step.details["before"]["dead"], step.finished_at is not None) == (10000, True)
    assert step.details["after"]["vacuums"] > step.details["before"]["vacuums"]


def test_a_failed_step_fails_the_run_and_a_retry_repeats_only_that_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbops.postgres import maintain
    from dbops.postgres.session import StatementCancelled

    place.run(HALF, "create table other as select n from generate_series(1, 5000) n")
    place.server.settle(place.database)
    ran: list[str] = []
    real = maintain.figures

    def figures(session: Any, step: Any) -> Any:
        if step.work == "analyze" and ran.count("analyze") == 0:
            ran.append("analyze")
            raise StatementCancelled("canceling statement due to statement timeout")
        ran.append(step.work)
        return real(session, step)

    monkeypatch.setattr(maintain, "figures", figures)
    assert place.trigger("postgres_maintenance") == "success", "the second attempt did what was left"
    assert ran == ["vacuum", "vacuum", "analyze", "analyze", "analyze"]
    done = place.rows("select outcome from action where name = 'postgres_maintenance'")
    assert [row.outcome for row in done] == ["done", "done"]


def test_without_rights_the_plan_fails_in_words(place: Place) -> None:
    made = {"dbops_postgres_maintenance": connections.postgres(
        place.server.port, MONITOR, place.server.passwords[MONITOR])}  # fmt: skip
    for name, value in connections.variables(made).items():
        place.monkeypatch.setenv(name, value)
    assert place.trigger("postgres_maintenance") == "failed"
    assert place.open_incidents() == {"failed/postgres_maintenance"}
    assert "may maintain none of" in json.dumps(place.receivers.inbox("slack")[-1]["message"])
