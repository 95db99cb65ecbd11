"""The callbacks with the little that Airflow may give them. tests/dags/test_alerts.py has them in a real scheduler."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, SyncCallback
from dbops.alerts.airflow import (
    alert_on_failure,
    deadline_missed,
    notify,
    remember_error,
    report,
    resolve,
    resolve_on_success,
)
from dbops.alerts.alert import Alert
from dbops.ledger.models import Incident
from dbops.platform import Severity
from dbops_lab.testing import LabReceivers

Incidents = Callable[[], list[Incident]]
FAILED = alert_on_failure(Severity.CRITICAL, "aerospike_backup_failed")


def minimal(**more: Any) -> Any:
    """A context without a task instance: what a run gives whose tasks are all skipped, or older than an upgrade."""
    return {"dag": DAG("nightly", schedule=None), "run_id": "manual__1", "reason": "timed_out", **more}


def test_importing_it_for_a_dag_file_imports_no_client_and_no_database(root: Path) -> None:
    heavy = ("sqlalchemy", "alembic", "slack_sdk", "pagerduty", "aiosmtplib", "boto3", "numba", "airflow.providers")
    code = f"import sys, dbops.alerts.airflow; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_callbacks_can_be_named_and_pickled_as_airflow_needs() -> None:
    again = pickle.loads(pickle.dumps(FAILED))  # noqa: S301
    assert (again.func, again.keywords) == (FAILED.func, FAILED.keywords)  # type: ignore[attr-defined]
    assert SyncCallback(deadline_missed).path == "dbops.alerts.airflow.deadline_missed"


@pytest.mark.usefixtures("ledger")
def test_a_failure_without_any_task_is_told_and_resolved(receivers: LabReceivers, incidents: Incidents) -> None:
    FAILED(minimal())
    (incident,) = incidents()
    assert incident.key == "failed/nightly"
    assert incident.details["what"] == "Run manual__1: timed out."
    assert incident.details["run_url"].endswith("/dags/nightly/runs/manual__1")
    resolve_on_success(minimal())
    assert incidents()[0].resolved_at is not None
    assert len(receivers.inbox()) == 4


@pytest.mark.usefixtures("ledger")
def test_the_same_run_failing_twice_is_counted_once(incidents: Incidents) -> None:
    for _ in range(2):
        FAILED(minimal())
    FAILED(minimal(run_id="manual__2"))
    assert incidents()[0].times_seen == 2


@pytest.mark.usefixtures("ledger")
def test_a_check_of_many_things_raises_and_ends_the_incident_of_each(
    receivers: LabReceivers, incidents: Incidents
) -> None:
    def alert(key: str) -> Alert:
        return Alert(Severity.CRITICAL, key, f"{key} is broken", "what it means", runbook="backup_rpo_exceeded")

    report(minimal(), [alert("check/a"), alert("check/b")], [])
    report(minimal(), [alert("check/b"), alert("check/c")], ["check/a", "check/none"])
    found = {incident.key: incident for incident in incidents()}
    assert {key: one.resolved_at is None for key, one in found.items()} == {
        "check/a": False,
        "check/b": True,
        "check/c": True,
    }
    assert found["check/b"].details["run_url"].endswith("/dags/nightly/runs/manual__1")
    assert found["check/b"].times_seen == 1, "the same run again"
    assert len(receivers.inbox("slack")) == 4


def late(state: str) -> dict[str, Any]:
    """As `Deadline.handle_miss` makes it."""
    queued = datetime.now(UTC) - timedelta(hours=2)
    run = {
        "dag_id": "nightly",
        "dag_run_id": "scheduled__2026-11-23T02:00:00+00:00",
        "state": state,
        "queued_at": queued.isoformat().replace("+00:00", "Z"),
        "run_after": queued.isoformat(),
    }
    return {"dag_run": run, "deadline": {"id": "x", "deadline_time": queued + timedelta(hours=1)}}


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("state", ["success", "failed"])
def test_a_run_that_is_over_is_not_late(state: str, incidents: Incidents) -> None:
    deadline_missed("aerospike_backup_late", context=late(state))
    assert incidents() == []


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_that_is_not_over_is_late(state: str, incidents: Incidents) -> None:
    deadline_missed("aerospike_backup_late", context=late(state))
    (incident,) = incidents()
    assert (incident.key, incident.severity) == ("late/nightly", "critical")
    assert incident.details["limit"] == "1 h"
    assert incident.details["value"] == "2 h since it was queued"
    assert state in incident.details["what"]


@pytest.mark.parametrize("broken", ["platform", "context"])
def test_nothing_that_goes_wrong_in_an_alert_is_raised(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if broken == "platform":
        monkeypatch.setenv("DBOPS_PLATFORM", "/nowhere/password=hunter2.yaml")
    context = minimal() if broken == "platform" else {}
    FAILED(context)
    resolve_on_success(context)
    remember_error({"ti": SimpleNamespace()} if broken == "platform" else context)  # type: ignore[arg-type]
    deadline_missed("aerospike_backup_late", context={} if broken == "context" else late("running"))
    report(context, [], ["k"])
    if broken == "platform":
        notify(Alert(Severity.WARNING, "k", "t", "w"))
        resolve("k")
    lost = [record.getMessage() for record in caplog.records if "was lost" in record.getMessage()]
    assert len(lost) == (7 if broken == "platform" else 5)
    assert "hunter2" not in json.dumps(lost)
