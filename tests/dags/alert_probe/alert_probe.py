"""DAGs that fail, are killed, or are late, as their trigger says: for tests of the alerts."""

from __future__ import annotations

import os
import time
from datetime import timedelta

from airflow.sdk import DAG, DeadlineAlert, DeadlineReference, Param, SyncCallback, get_current_context, task
from dbops.alerts.airflow import alert_on_failure, deadline_missed, remember_error, resolve_on_success
from dbops.platform import Severity

DEADLINE = timedelta(seconds=4)


@task(on_failure_callback=remember_error)
def work(slice: int) -> None:
    how = get_current_context()["params"]["how"]
    if slice == 1 and how == "raise":
        raise ConnectionError("node 10.0.0.7 is lost, dsn postgresql://ops:hunter2@db/exchange")
    if slice == 1 and how == "killed":
        os._exit(9)
    if slice == 1 and how == "late":
        time.sleep(DEADLINE.total_seconds() + 15)


HOW = Param("well", type="string", enum=["well", "raise", "killed", "late"])

with DAG(
    dag_id="alert_probe",
    description="Does what a test says",
    schedule=None,
    on_failure_callback=alert_on_failure(Severity.CRITICAL, "aerospike_backup_failed"),
    on_success_callback=resolve_on_success,
    params={
        "how": HOW,
        "dry_run": Param(False, type="boolean"),
        "namespaces": Param(["a", "b"], type="array"),
    },
):
    work.expand(slice=[0, 1, 2])

with DAG(
    dag_id="alert_probe_late",
    schedule=None,
    on_success_callback=resolve_on_success,
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=DEADLINE,
        callback=SyncCallback(deadline_missed, kwargs={"runbook": "aerospike_backup_late"}),
    ),
    params={"how": HOW},
):
    work.expand(slice=[1])

with DAG(
    dag_id="alert_probe_broken_callback",
    schedule=None,
    on_failure_callback=alert_on_failure("no severity", "aerospike_backup_failed"),  # type: ignore[arg-type]
    params={"how": HOW},
):
    work.expand(slice=[1])
