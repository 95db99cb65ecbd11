"""What every DAG of the project must keep, whatever it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dbops.tags import Tag

PROJECT = Path(__file__).resolve().parents[2]

PARSE = """
import json, os, sys
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)
calls = []
watched = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, args: calls.append(event) if event in watched else None)
bag = DagBag(sys.argv[1], collect_dags=False)
bag.collect_dags(sys.argv[1])
new = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print("RESULT" + json.dumps({"dags": sorted(bag.dags), "errors": bag.import_errors, "calls": calls, "new": new}))
"""


@pytest.fixture(scope="module")
def parsed() -> dict[str, Any]:
    """What a fresh process sees that parses the DAG folder without any connection, variable or database."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")}
    answer = subprocess.run(
        [sys.executable, "-c", PARSE, str(PROJECT / "dags")],
        env=environment | {"DBOPS_PLATFORM": "production"},
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in answer.stdout.splitlines() if line.startswith("RESULT"))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
    return result


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    return dict(DagBag(str(PROJECT / "dags")).dags)


def test_dags_of_production_parse_without_errors(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["dags"] == [
        "aerospike_backup_full_apac",
        "aerospike_backup_full_eu",
        "aerospike_backup_incremental_apac",
        "aerospike_backup_incremental_eu",
        "aerospike_backup_verify",
        "aerospike_restore",
        "aerospike_restore_drill",
        "backup_retention_apac",
        "backup_retention_eu",
        "backup_rpo",
        "postgres_backup",
        "postgres_backup_drill",
        "postgres_health",
        "postgres_maintenance",
        "postgres_recovery",
        "postgres_report",
        "postgres_rpo",
        "redshift_archive",
        "redshift_archive_restore",
        "redshift_maintenance_daily",
        "redshift_maintenance_monthly",
        "redshift_maintenance_weekly",
        "redshift_restore",
        "redshift_snapshots",
        "sync_validation",
    ]


def test_parsing_opens_no_connection(parsed: dict[str, Any]) -> None:
    assert parsed["calls"] == []


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    heavy = {"numba", "boto3", "botocore", "pyarrow", "pandas", "numpy", "aerospike", "moto", "zstandard"}
    assert heavy.isdisjoint(parsed["new"])


def test_every_dag_says_who_owns_it_what_it_does_and_what_to_do_when_it_fails(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        assert dag.description, dag.dag_id
        for part in ("**What happens**", "**When it fails**", "**By hand**", "include/runbooks/"):
            assert part in dag.doc_md, (dag.dag_id, part)
        assert {task.owner for task in dag.tasks} == {"database-operations"}


def test_every_runbook_that_a_dag_names_exists(dags: dict[str, Any]) -> None:
    named = {dag.on_failure_callback.keywords["runbook"] for dag in dags.values()}
    named |= {deadline.callback.kwargs["runbook"] for dag in dags.values() for deadline in dag.deadline or ()}
    assert named
    for name in named:
        assert (PROJECT / "include" / "runbooks" / f"{name}.md").is_file(), name


def test_every_dag_has_tags_of_the_enum_only_and_one_urgency(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        assert set(dag.tags) <= set(Tag), dag.dag_id
        assert len(set(dag.tags) & {Tag.CRITICAL, Tag.WARNING}) == 1, dag.dag_id


def test_every_dag_alerts_retries_and_does_not_catch_up(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        assert dag.on_failure_callback, dag.dag_id
        assert dag.on_success_callback, dag.dag_id
        assert (dag.catchup, dag.max_active_runs) == (False, 1), dag.dag_id
        for task in dag.tasks:
            assert task.retries >= 1, task
            assert task.retry_policy is not None, task


def test_scheduled_backups_have_windows_and_deadlines(dags: dict[str, Any]) -> None:
    for name, dag in dags.items():
        if name.startswith(("aerospike_backup_full_", "aerospike_backup_incremental_")):
            assert dag.deadline, name
            assert type(dag.timetable).__name__ == "CronDataIntervalTimetable", name


def test_trigger_forms_have_titles_defaults_and_descriptions(dags: dict[str, Any]) -> None:
    for dag in dags.values():
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema.get("title"), (dag.dag_id, name)
            assert param.description, (dag.dag_id, name)
            param.resolve()  # the default is valid
