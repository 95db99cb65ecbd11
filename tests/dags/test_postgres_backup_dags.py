"""PostgreSQL's backup DAGs, executed: a real instance of the lab's RDS, exported, drilled on another server."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops import ledger
from dbops.aws import PLATFORM_TAG, RUN_TAG
from dbops.backups.store import open_store
from dbops.postgres.exports import exports
from dbops_lab import connections
from dbops_lab.postgres import ADMIN
from dbops_lab.testing import LabPostgres, LabRds, LabReceivers
from sqlalchemy import Engine, text

PROJECT = Path(__file__).resolve().parents[2]
OTHER = "eu-central-1"


@pytest.fixture(scope="module", autouse=True)
def _airflow() -> None:
    from airflow.utils.db import resetdb

    resetdb()


class Place:
    def __init__(self, rds: LabRds, engine: Engine, receivers: LabReceivers, prefix: str) -> None:
        self.rds, self.engine, self.receivers = rds, engine, receivers
        self.store = open_store(f"s3://{rds.s3.bucket}/{prefix}", rds.s3.connection)

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
            if hasattr(task, "poke_interval"):
                task.poke_interval = 0.3
        return str(dag.test(run_conf=conf).state)

    def rows(self, query: str) -> list[Any]:
        with self.engine.begin() as connection:
            return list(connection.execute(text(query)))

    def open_incidents(self) -> set[str]:
        return {row.key for row in self.rows("select key from incident where resolved_at is null")}

    def manual(self, region: str) -> list[str]:
        found = self.rds.client("rds", region).describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
        return [item["DBSnapshotIdentifier"] for item in found if item["DBInstanceIdentifier"] == self.rds.name]


@pytest.fixture
def place(
    lab_rds: LabRds,
    lab_postgres: LabPostgres,
    receivers: LabReceivers,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Any:
    info = lab_postgres.new_database()
    engine = ledger.connect(info)
    ledger.migrate(engine)
    source = lab_rds.info()
    own = connections.postgres(
        source.port or 0, source.login or "", source.password or "", source.schema, host=source.host
    )
    made = {
        "dbops_ledger": connections.postgres(info.port or 0, info.login or "", info.password or "", info.schema),
        "dbops_s3": connections.s3(int(lab_rds.endpoint.rpartition(":")[2])),
        "dbops_postgres": own,
        "dbops_postgres_export": own,
        "dbops_postgres_scratch": connections.postgres(
            lab_postgres.port, ADMIN, lab_postgres.server.passwords[ADMIN], ADMIN
        ),
    }
    for name, value in {**connections.variables(made), **receivers.environment}.items():
        monkeypatch.setenv(name, value)
    prefix = lab_rds.s3.new_prefix()
    document = yaml.safe_load((PROJECT / "include/platform/lab.yaml").read_text())
    document["storage"]["prefix"] = prefix
    sets = [
        {"name": "all", "database": "exchange", "jobs": 2},
        {"name": "some", "database": "exchange", "tables": ["public.backed_up"]},
    ]
    document["postgres"] |= {
        "name": lab_rds.name,
        "rds": {"copy_region": OTHER},
        "exports": {
            "programs": str(lab_rds.server.binaries),
            "work_folder": str(tmp_path),
            "scratch": {},
            "sets": sets,
        },
    }
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("DBOPS_PLATFORM", str(file))
    lab_rds.rows("drop table if exists backed_up")
    lab_rds.rows("create table backed_up as select n, md5(n::text) as t from generate_series(1, 500) n")
    yield Place(lab_rds, engine, receivers, prefix)
    lab_rds.s3.faults()


def test_a_day_of_backups_exports_verifies_snapshots_copies_and_a_drill_gives_all_back(place: Place) -> None:
    assert place.trigger("postgres_backup") == "success"
    made = {name: exports(place.store, place.rds.name, name) for name in ("all", "some")}
    for found in made.values():
        (one,) = found
        assert one.verified is not None
        assert one.verified.ok
    (snapshot,) = place.manual(place.rds.region)
    assert place.manual(OTHER) == [snapshot]
    actions = place.rows("select name, target, outcome, details from action order by id")
    assert {row.outcome for row in actions} == {"done"}
    assert sorted({row.name for row in actions}) == [
        "postgres_export", "postgres_export_verify", "postgres_snapshot", "postgres_snapshot_copy",
    ]  # fmt: skip

    assert place.trigger("postgres_backup_drill") == "success"
    drills = place.rows("select * from action where name = 'postgres_export_drill' order by target")
    assert [(row.target, row.outcome) for row in drills] == [
        (f"{place.rds.name}/all", "done"),
        (f"{place.rds.name}/some", "done"),
    ]
    times = place.rows("select ok, value, \"limit\" from check_result where name = 'postgres_export_rto'")
    assert [(row.ok, row.value > 0, row.limit > 0) for row in times] == [(True, True, True)] * 2
    assert place.open_incidents() == set()


def test_only_what_is_asked_for_is_exported_and_a_dry_run_deletes_nothing(place: Place) -> None:
    place.rds.plant("dbops-old", age=40 * 86400.0, tags={PLATFORM_TAG: "lab", RUN_TAG: "x"})
    place.rds.plant("dbops-older", age=50 * 86400.0, tags={PLATFORM_TAG: "lab", RUN_TAG: "y"})
    assert place.trigger("postgres_backup", exports=["some"], dry_run=True) == "success"
    assert exports(place.store, place.rds.name, "all") == []
    assert len(exports(place.store, place.rds.name, "some")) == 1
    assert {"dbops-old", "dbops-older"} <= set(place.manual(place.rds.region))


def test_an_export_that_fails_raises_an_alert_expires_nothing_and_the_next_run_ends_it(place: Place) -> None:
    place.rds.plant("dbops-older", age=50 * 86400.0, tags={PLATFORM_TAG: "lab", RUN_TAG: "y"})
    place.rds.plant("dbops-old", age=40 * 86400.0, tags={PLATFORM_TAG: "lab", RUN_TAG: "x"})
    place.rds.rows("drop table backed_up")
    assert place.trigger("postgres_backup") == "failed"
    assert place.open_incidents() == {"failed/postgres_backup"}
    told = str(place.receivers.inbox("slack")[-1]["message"])
    assert "has no table public.backed_up" in told
    assert "postgres_backup_failed.md" in told
    assert "dbops-older" in place.manual(place.rds.region), "nothing expires when backups fail"
    assert len(exports(place.store, place.rds.name, "all")) == 1, "the others are made"
    place.rds.rows("create table backed_up as select 1 as n")
    assert place.trigger("postgres_backup") == "success"
    assert place.open_incidents() == set()
    assert "dbops-older" not in place.manual(place.rds.region)
    expired = place.rows("select target, outcome from action where name = 'expire'")
    assert [(row.target.rpartition("/")[2], row.outcome) for row in expired] == [("dbops-older", "done")]


def test_a_damaged_export_fails_the_run_and_the_drill_says_what_differs(place: Place) -> None:
    assert place.trigger("postgres_backup", exports=["some"]) == "success"
    (one,) = exports(place.store, place.rds.name, "some")
    key = f"{one.manifest.prefix}database.dump"
    data = place.store.get(key)
    place.store.put(key, data[:-50] + bytes(50))
    assert place.trigger("postgres_backup_drill", exports=["some"]) == "failed"
    assert place.open_incidents() == {"failed/postgres_backup_drill"}
    (row,) = place.rows("select * from action where name = 'postgres_export_drill'")
    assert row.outcome == "failed"
    assert "SHA-256" in row.message


def test_the_rpo_is_written_down_and_one_that_is_not_kept_is_an_incident(place: Place) -> None:
    place.rds.settle()
    window = place.rds.describe()["PreferredBackupWindow"]
    assert place.trigger("postgres_rpo") == "success"
    checks = {row.name: row for row in place.rows("select * from check_result")}
    assert {name: row.ok for name, row in checks.items()} == {
        "postgres_rpo": True, "postgres_snapshot_age": True, "postgres_rds_settings": True,
    }  # fmt: skip
    assert checks["postgres_rpo"].limit == 300
    assert window
    place.rds.s3.faults({"key": "Action=DescribeDBInstances", "status": 403, "times": 99})
    assert place.trigger("postgres_rpo") == "failed"
    assert place.open_incidents() == {"failed/postgres_rpo"}
    rows = place.rows("select ok, message from check_result order by id desc limit 3")
    assert all(not row.ok and "could not look" in row.message for row in rows)
    place.rds.s3.faults()
    assert place.trigger("postgres_rpo") == "success"
    assert place.open_incidents() == set()
