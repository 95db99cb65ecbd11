"""The DAG data_quality, executed against the lab's three databases: rows, incidents, days that stay open, the mail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from typing import Any

import pytest
from consistency_world import PROJECT
from consistency_world import World as Databases
from dbops import ledger
from dbops_lab import connections
from dbops_lab.testing import LabApp, LabEtl, LabPostgres, LabReceivers, LabRedshift
from sqlalchemy import Engine, text


@pytest.fixture(scope="module")
def database() -> None:
    from airflow.utils.db import resetdb

    resetdb()


@pytest.fixture(scope="module")
def databases(
    lab_app: LabApp, lab_etl: LabEtl, _redshift: LabRedshift, tmp_path_factory: pytest.TempPathFactory
) -> Databases:
    lab_etl.seed(lab_app.world.days)
    return Databases(lab_app, lab_etl, _redshift, tmp_path_factory.mktemp("platform"))


class World:
    def __init__(self, databases: Databases, engine: Engine, receivers: LabReceivers) -> None:
        self.databases, self.engine, self.receivers = databases, engine, receivers

    def run(self, **conf: Any) -> Any:
        from airflow.dag_processing.dagbag import DagBag

        dag = DagBag(str(PROJECT / "dags")).dags["data_quality"]
        for task in dag.tasks:
            task.retries = 0
            task.retry_delay = timedelta(0)
        return dag.test(run_conf=conf)

    def checks(self, name: str = "consistency_spend") -> dict[str, Any]:
        """The newest row of each target."""
        wanted = text("SELECT * FROM check_result WHERE name = :name ORDER BY id")
        with self.engine.begin() as connection:
            return {row.target: row for row in connection.execute(wanted, {"name": name})}

    def open_incidents(self) -> dict[str, Any]:
        with self.engine.begin() as connection:
            rows = connection.execute(text("SELECT * FROM incident WHERE resolved_at IS NULL AND key NOT LIKE 'data%'"))
            return {row.key: row for row in rows}


@pytest.fixture
def world(
    database: None, databases: Databases, lab_postgres: LabPostgres, receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:  # fmt: skip
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    made = {"dbops_ledger": connections.postgres(info.port, info.login, info.password, info.schema)}
    for name, value in {
        **connections.variables(made), **receivers.environment, **databases.environment(),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    databases.app.reset()
    yield World(databases, engine, receivers)
    databases.app.reset()


def overspend(databases: Databases, day: date) -> tuple[tuple[str, str, str], int]:
    """Let one record of a day say five more; its key, and what it said."""
    with databases.app.database.session() as cursor:
        cursor.execute(
            "select line_item_id || ':' || to_char(day, 'YYYYMMDD') from spend_tracking where day = %s "
            "order by spent desc limit 1",
            [day],
        )
        key = ("spend", "spend", cursor.fetchone()[0])
    with closing(databases.app.cluster.connect()) as client:
        spent = client.get(key)[2]["spent"]
        client.put(key, {"spent": spent + 5_000_000})
    return key, spent


def test_a_difference_is_one_incident_of_its_system_until_its_day_is_the_same(world: World) -> None:
    databases, systems = world.databases, world.databases.systems
    cluster, (older, newest) = systems["aerospike"], databases.days[-2:]
    key, spent = overspend(databases, older)
    assert world.run(first_day=str(older), last_day=str(older)).state == "success"
    rows = world.checks()
    assert {target: row.ok for target, row in rows.items()} == {
        systems["postgres"]: True, cluster: False, systems["warehouse"]: True,
    }  # fmt: skip
    assert (rows[cluster].value, rows[cluster].details["open_days"]) == (1, [str(older)])
    (incident,) = world.open_incidents().values()
    assert (incident.key, incident.severity) == (f"consistency_spend/{cluster}", "warning")
    assert key[2].partition(":")[0] in incident.details["what"]

    # Another day is well, which says nothing of the one that differed.
    assert world.run(first_day=str(newest), last_day=str(newest)).state == "success"
    assert world.checks()[cluster].details["open_days"] == [str(older)]
    assert world.open_incidents()

    # The schedule looks at the newest day only, and at what differed.
    assert world.run().state == "success"
    row = world.checks()[cluster]
    assert (row.details["first_day"], row.details["last_day"], row.ok) == (str(older), str(newest), False)

    with closing(databases.app.cluster.connect()) as client:
        client.put(key, {"spent": spent})
    assert world.run().state == "success"
    assert world.open_incidents() == {}
    row = world.checks()[cluster]
    assert (row.ok, row.details["open_days"]) == (True, [])
    assert world.run().state == "success"
    assert world.checks()[cluster].details["first_day"] == str(newest)

    mails = [mail for mail in world.receivers.inbox("smtp") if "Data quality" in mail["subject"]]
    assert len(mails) == 5
    assert "of 7 checks 1 fail" in mails[0]["subject"]
    assert "all 7 checks are well" in mails[-1]["subject"]
    assert len(mails[-1]["attached"]) == 7


def test_what_cannot_be_looked_at_fails_the_run_and_the_rest_is_checked_and_mailed(world: World) -> None:
    with world.databases.app.database.session() as cursor:
        cursor.execute("alter table spend_tracking rename column spent to paid")
    try:
        assert world.run().state == "failed"
    finally:
        with world.databases.app.database.session() as cursor:
            cursor.execute("alter table spend_tracking rename column paid to spent")
    assert {row.message.partition(":")[0] for row in world.checks().values()} == {"could not look"}
    assert {row.ok for row in world.checks("consistency_campaigns").values()} == {True}
    assert list(world.open_incidents()) == ["failed/data_quality"]
    (mail,) = [mail for mail in world.receivers.inbox("smtp") if "Data quality" in mail["subject"]]
    assert "of 7 checks 3 fail" in mail["subject"]
    assert "has no column spent" in mail["html"]
    day = str(world.databases.days[0])
    assert world.run(first_day=day, last_day=day).state == "success"  # which is not all that the schedule looks at
    assert list(world.open_incidents()) == ["failed/data_quality"]
    assert world.run().state == "success"
    assert world.open_incidents() == {}
