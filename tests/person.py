"""A person who answers what a task asks, as Airflow's API does it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def answering(answer: str) -> Iterator[None]:
    """Answer `Approve` or `Reject` each time somebody is asked: Airflow may ask again when it was answered at once."""
    gone = threading.Event()
    person = threading.Thread(target=_respond, args=(answer, gone), daemon=True)
    person.start()
    try:
        yield
    finally:
        gone.set()
        person.join(5)


@contextmanager
def silent() -> Iterator[None]:
    """Nobody answers. `dag.test` has no scheduler, so its look at what has waited for too long is made here."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    gone, scheduler = threading.Event(), SchedulerJobRunner(job=Job())

    def sweep() -> None:
        while not gone.wait(0.5):
            scheduler.check_awaiting_input_timeouts()

    clock = threading.Thread(target=sweep, daemon=True)
    clock.start()
    try:
        yield
    finally:
        gone.set()
        clock.join(5)


def _respond(answer: str, gone: threading.Event) -> None:
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import handle_event_submit
    from airflow.sdk.timezone import utcnow
    from airflow.triggers.base import TriggerEvent
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import select

    while not gone.wait(0.2):
        with create_session() as session:
            waiting = select(TaskInstance).where(TaskInstance.state == TaskInstanceState.AWAITING_INPUT)
            for ti in session.scalars(waiting):
                detail = session.get(HITLDetail, ti.id)
                assert detail is not None
                if detail.responded_at is not None:
                    continue
                detail.responded_by = {"id": "1", "name": "ann"}
                detail.responded_at = utcnow()
                detail.chosen_options = [answer]
                detail.params_input = {}
                handle_event_submit(TriggerEvent(detail.as_resume_event_payload()), task_instance=ti, session=session)
