"""Glue of the lab: moto's, whose job runs become what a test says, and tell of themselves what the real ones tell.

`POST /lab/glue` takes a list of `{"job": name, "run": id, "state": "FAILED", "started_on": ..., "completed_on": ...,
"error": "...", "arguments": {...}}` (times in ISO 8601, everything but `job` optional). With `run` that run is changed,
else one is made; `"remove": true` removes it, or without `run` all of the job. Answers the ids. A run that was told its
state keeps it. As in the real service the newest run comes first, and one that has not ended has no CompletedOn.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

ACCOUNT = "123456789012"  # what moto takes for any credentials
STATES = frozenset({"STARTING", "RUNNING", "STOPPING", "STOPPED", "SUCCEEDED", "FAILED", "TIMEOUT", "ERROR", "WAITING",
                    "EXPIRED"})  # fmt: skip
_UNFINISHED = frozenset({"STARTING", "RUNNING", "STOPPING", "WAITING"})


def install() -> None:
    """Teach moto, in this process, what is said above."""
    from moto.glue import models

    as_dict = models.FakeJobRun.as_dict

    def told(run: Any) -> dict[str, Any]:
        found = as_dict(run)
        ended = found.pop("CompletedOn")
        if found["JobRunState"] in _UNFINISHED:
            ended = datetime.now(UTC).replace(tzinfo=None)
        else:
            found["CompletedOn"] = ended
        found["ExecutionTime"] = max(0, round((ended - found["StartedOn"]).total_seconds()))
        found["LogGroupName"], found["GlueVersion"] = "/aws-glue/jobs", "5.0"
        if error := getattr(run, "error_message", None):
            found["ErrorMessage"] = error
        return found

    def newest_first(job: Any) -> list[Any]:
        for run in job.job_runs:
            run.advance()
        return sorted(job.job_runs, key=lambda run: run.started_on, reverse=True)

    models.FakeJobRun.as_dict = told
    models.FakeJob.get_job_runs = newest_first


def arrange(orders: list[dict[str, Any]], region: str) -> list[str]:
    """Make, change and remove runs as ordered; their ids.

    :raises ValueError: an order is not of the form above, or names what does not exist.
    """
    from moto.glue.models import FakeJobRun, glue_backends

    ids = []
    for order in orders:
        job = glue_backends[ACCOUNT][region].jobs.get(order["job"])
        if job is None:
            raise ValueError(f"there is no job {order['job']!r}")
        chosen = [run for run in job.job_runs if order.get("run") in (None, run.job_run_id)]
        if order.get("remove"):
            job.job_runs = [run for run in job.job_runs if run not in chosen]
            continue
        if "run" not in order:
            run = FakeJobRun(job_name=job.name, arguments={**job.default_arguments, **order.get("arguments", {})})
            job.job_runs.append(run)
        elif not chosen:
            raise ValueError(f"job {job.name} has no run {order['run']!r}")
        else:
            run = chosen[0]
        _tell(run, order)
        ids.append(run.job_run_id)
    return ids


def _tell(run: Any, order: dict[str, Any]) -> None:
    if "state" in order:
        if order["state"] not in STATES:
            raise ValueError(f"{order['state']!r} is no state: {', '.join(sorted(STATES))}")
        run.status, run._transitions = order["state"], []
    for name, attribute in (("started_on", "started_on"), ("completed_on", "completed_on")):
        if name in order:
            setattr(run, attribute, datetime.fromisoformat(order[name]).astimezone(UTC).replace(tzinfo=None))
    run.completed_on = max(run.completed_on, run.started_on)
    run.modified_on = run.completed_on
    run.error_message = order.get("error", getattr(run, "error_message", None))
