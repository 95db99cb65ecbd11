"""What Airflow calls when a run fails, succeeds or is late, and the channels made of the providers' hooks.

Nothing here raises: an alert that cannot be sent is logged, and the error that it was about stays what it is. Light to
import, since DAG files do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dbops.alerts.alert import Alert, Channel, Notice
from dbops.platform import Platform, Severity, duration_text, load_platform
from dbops.redact import redact

if TYPE_CHECKING:
    from airflow.sdk import Context
    from sqlalchemy import Engine

ATTEMPT_SECONDS = 5
"""Of one attempt to reach a channel; there are two at most. All must fit into the 50 s that the dag-processor gives
a callback ([dag_processor] dag_file_processor_timeout)."""

LONGEST_ERROR = 1000
MOST_TASKS_NAMED = 10
FAILED_STATES = frozenset({"failed", "upstream_failed"})

log = logging.getLogger(__name__)


# --- what DAG files use -------------------------------------------------------------------------------------


def alert_on_failure(severity: Severity, runbook: str) -> Callable[[Context], None]:
    """A DAG's `on_failure_callback`: one incident for as long as the DAG's runs fail.

    :param runbook: name of a page in include/runbooks, without `.md`.
    """
    return partial(run_failed, severity=severity, runbook=runbook)


def run_failed(context: Context, *, severity: Severity, runbook: str) -> None:
    """Raise the alert of a failed run; called in the dag-processor."""
    with _unharmed("the alert of a failed run"):
        dag_id, run_id = _run(context)
        states = _task_states(context, dag_id, run_id)
        platform = load_platform()
        ledger = _ledger(platform)
        alert = Alert(
            severity=severity,
            key=_failed(dag_id),
            title=_title(context, dag_id, "failed"),
            what=_what_failed(context, dag_id, run_id, states, ledger),
            value=_failed_count(states),
            run_url=_run_url(dag_id, run_id),
            runbook=runbook,
        )
        _raise(platform, ledger, alert)


def resolve_on_success(context: Context) -> None:
    """A DAG's `on_success_callback`: what failed or was late has ended.

    A run that did less than the schedule would have (a dry run, only some namespaces, tables, pairs, pipelines, days or
    one hour) ends nothing.
    """
    with _unharmed("the end of an alert"):
        dag_id, run_id = _run(context)
        if _narrowed(context):
            log.info("run %s of %s did not do all that the DAG does: it resolves no incident", run_id, dag_id)
            return
        platform = load_platform()
        ledger = _ledger(platform)
        for key in (_failed(dag_id), _late(dag_id)):
            _resolve(platform, ledger, key, _run_url(dag_id, run_id))


def deadline_missed(
    runbook: str, severity: Severity = Severity.CRITICAL, context: Mapping[str, Any] | None = None
) -> None:
    """Callback of a `DeadlineAlert` (`SyncCallback`): the run is not done in its time.

    :param context: given by Airflow: `dag_run` as its REST API shows it, and `deadline`.
    """
    with _unharmed("the alert of a missed deadline"):
        run: Mapping[str, Any] = (context or {})["dag_run"]
        dag_id, run_id, state = run["dag_id"], run["dag_run_id"], str(run["state"])
        if state in {"success", "failed"}:
            log.info("run %s of %s was over before its deadline was looked at: %s", run_id, dag_id, state)
            return
        queued = _moment(run.get("queued_at")) or _moment(run["run_after"]) or datetime.now(UTC)
        deadline = _moment((context or {})["deadline"]["deadline_time"]) or queued
        alert = Alert(
            severity=Severity(severity),
            key=_late(dag_id),
            title=f"{dag_id} is late",
            what=f"Run {run_id} of {dag_id} is {state} and should have been done by {deadline:%Y-%m-%d %H:%M} UTC.",
            value=f"{duration_text(datetime.now(UTC) - queued)} since it was queued",
            limit=duration_text(deadline - queued),
            run_url=_run_url(dag_id, run_id),
            runbook=runbook,
        )
        notify(alert)


def remember_error(context: Context) -> None:
    """A task's `on_failure_callback`: write its error down, so that the alert of the run can show it."""
    with _unharmed("the note of a task's error"):
        from dbops.ledger import record_action

        ti, error = context["ti"], context.get("exception")
        now = datetime.now(UTC)
        platform = load_platform()
        if (ledger := _ledger(platform)) is None:
            return
        record_action(
            ledger,
            name="task",
            target=_task_name(ti.task_id, ti.map_index),
            run=_run_key(ti.dag_id, ti.run_id),
            started_at=ti.start_date or now,
            finished_at=now,
            outcome="failed",
            message=redact(_described(error), secrets(platform)),
        )


def approval_wanted(context: Context, what: str, runbook: str) -> None:
    """Tell that a task of this run waits for a person; `approval_over` ends it.

    :param what: what is to be decided, in words.
    """
    with _unharmed("the alert of an approval that is waited for"):
        dag_id, run_id = _run(context)
        shown = what if len(what) <= LONGEST_ERROR else what[:LONGEST_ERROR] + " …"
        notify(
            Alert(
                severity=Severity.WARNING,
                key=_approval(dag_id),
                title=f"{dag_id} waits for an approval",
                what=f"Approve or reject in Airflow under Required Actions.\n{shown}",
                run_url=_run_url(dag_id, run_id),
                runbook=runbook,
            )
        )


def approval_over(context: Context) -> None:
    """A person has decided, or it was waited for long enough."""
    with _unharmed("the end of the alert of an approval"):
        dag_id, run_id = _run(context)
        resolve(_approval(dag_id), _run_url(dag_id, run_id))


def report(context: Context, problems: Iterable[Alert], well: Iterable[str]) -> None:
    """Of a check of many things, raise the alert of each that is not as it should be, and end incidents.

    :param well: keys of the incidents that end.
    """
    with _unharmed("what a check has found"):
        from dbops.alerts.deliver import raise_alert, resolve_alert

        run_url = _run_url(*_run(context))
        platform = load_platform()
        ledger, told, hidden = _ledger(platform), channels(platform), secrets(platform)
        for alert in problems:
            raise_alert(platform, ledger, replace(alert, run_url=run_url), told, secrets=hidden)
        for key in well:
            resolve_alert(platform, ledger, key, told, run_url=run_url, secrets=hidden)


def notify(alert: Alert) -> None:
    """Raise an alert from a task or callback."""
    with _unharmed(f"alert {alert.key}"):
        platform = load_platform()
        _raise(platform, _ledger(platform), alert)


def resolve(key: str, run_url: str | None = None) -> None:
    """End the incident of a key from a task or callback."""
    with _unharmed(f"the end of alert {key}"):
        platform = load_platform()
        _resolve(platform, _ledger(platform), key, run_url)


# --- channels -----------------------------------------------------------------------------------------------


class SlackChannel:
    """Posts to an incoming webhook, which leads to one room."""

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id

    def send(self, notice: Notice) -> None:
        from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
        from slack_sdk.http_retry.builtin_handlers import ConnectionErrorRetryHandler, ServerErrorRetryHandler

        from dbops.alerts import texts

        hook = SlackWebhookHook(
            slack_webhook_conn_id=self._conn_id,
            timeout=ATTEMPT_SECONDS,
            retry_handlers=[ConnectionErrorRetryHandler(1), ServerErrorRetryHandler(1)],
        )
        hook.send_dict(texts.slack(notice))


class PagerDutyChannel:
    """Sends trigger and resolve events.

    The connection's host, when there is one, is the address of the events API (https://events.eu.pagerduty.com for a
    European account), and `ca_file` of its extra the authority to trust. The hook knows neither, and lets the client
    wait for minutes when PagerDuty is busy (for ever on 429); so it gives the key here, and the client is ours.
    """

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id

    def send(self, notice: Notice) -> None:
        import ssl

        from airflow.providers.pagerduty.hooks.pagerduty_events import PagerdutyEventsHook, prepare_event_data
        from pagerduty import EventsApiV2Client

        from dbops.alerts import texts

        hook = PagerdutyEventsHook(pagerduty_events_conn_id=self._conn_id)
        found = hook.get_connection(self._conn_id)
        trusted = ssl.create_default_context(cafile=found.extra_dejson.get("ca_file"))
        with EventsApiV2Client(hook.integration_key, base_url=found.host or None, verify=trusted) as client:
            client.retry = dict.fromkeys((429, 500, 502, 503, 504), 1)
            client.max_network_attempts = 1
            client.sleep_timer = 0.5
            client.timeout = ATTEMPT_SECONDS
            client.send_event(**prepare_event_data(**texts.pagerduty(notice)))


class MailChannel:
    """Sends a mail when a problem begins; its end is no mail. Charts are parts of it, so that nothing is loaded."""

    def __init__(self, conn_id: str, to: Sequence[str]) -> None:
        self._conn_id, self._to = conn_id, list(to)

    def send(self, notice: Notice) -> None:
        from airflow.providers.smtp.hooks.smtp import SmtpHook

        from dbops.alerts import texts

        if notice.state == "resolved":
            return
        subject, html = texts.email(notice)
        with TemporaryDirectory() as folder, SmtpHook(smtp_conn_id=self._conn_id) as hook:
            files = []
            for name, body in texts.images(notice).items():
                path = Path(folder) / name  # the hook names a part by its file, which is how the HTML refers to it
                path.write_bytes(body)
                files.append(str(path))
            hook.send_email_smtp(
                to=self._to, subject=subject, html_content=html, files=files,
                mime_subtype="related" if files else "mixed",
            )  # fmt: skip


def channels(platform: Platform) -> dict[str, Channel]:
    """The configured channels by the names that `platform.alerts.channels` gives; opens nothing."""
    alerts = platform.alerts
    found: dict[str, Channel] = {"slack": SlackChannel(alerts.slack.connection)}
    if alerts.pagerduty is not None:
        found["pagerduty"] = PagerDutyChannel(alerts.pagerduty.connection)
    if alerts.email is not None:
        found["email"] = MailChannel(alerts.email.connection, alerts.email.to)
    return found


def secrets(platform: Platform) -> list[str]:
    """The passwords of every connection that the platform names: none of them may appear in a text."""
    from dbops.adapter import connection

    alerts = platform.alerts
    used = [channel.connection for channel in (alerts.slack, alerts.pagerduty, alerts.email) if channel]
    used += [platform.storage.connection, platform.ledger_connection]
    used += [cluster.connection for cluster in platform.aerospike.clusters]
    if platform.sync is not None:
        used += [platform.sync.connection] + ([platform.sync.syncer.connection] if platform.sync.syncer else [])
    used += [platform.redshift.connection, platform.redshift.aws_connection] if platform.redshift else []
    if platform.postgres is not None:
        used += [platform.postgres.connection, platform.postgres.maintenance_connection]
    found = []
    for conn_id in dict.fromkeys(used):
        try:
            password = connection(conn_id).password
        except Exception as error:  # whoever needs this connection says so itself
            log.debug("connection %s: %s", conn_id, type(error).__name__)
            continue
        if password:
            found.append(password)
    return found


# --- inside -------------------------------------------------------------------------------------------------


def _raise(platform: Platform, ledger: Engine | None, alert: Alert) -> None:
    from dbops.alerts.deliver import raise_alert

    raise_alert(platform, ledger, alert, channels(platform), secrets=secrets(platform))


def _resolve(platform: Platform, ledger: Engine | None, key: str, run_url: str | None) -> None:
    from dbops.alerts.deliver import resolve_alert

    resolve_alert(platform, ledger, key, channels(platform), run_url=run_url, secrets=secrets(platform))


def _ledger(platform: Platform) -> Engine | None:
    from dbops.adapter import open_ledger

    try:
        return open_ledger(platform)
    except Exception as error:
        log.error("the ledger cannot be opened: %s", redact(_described(error)))
        return None


@contextmanager
def _unharmed(what: str) -> Iterator[None]:
    """Whatever goes wrong in an alert is logged, and hides no other error."""
    try:
        yield
    except Exception as error:
        log.error("%s was lost: %s", what, redact(_described(error)))


def _failed(dag_id: str) -> str:
    return f"failed/{dag_id}"


def _late(dag_id: str) -> str:
    return f"late/{dag_id}"


def _approval(dag_id: str) -> str:
    return f"approval/{dag_id}"


def _run_key(dag_id: str, run_id: str) -> str:
    """What a run is called in the ledger."""
    return f"{dag_id}/{run_id}"


def _run(context: Context) -> tuple[str, str]:
    """Ids of DAG and run; a callback without a task instance only has the DAG and the run's id."""
    return context["dag"].dag_id, str(context["run_id"])


def _title(context: Context, dag_id: str, verb: str) -> str:
    description = getattr(context["dag"], "description", None)
    return f"{dag_id} {verb}" + (f": {description}" if description else "")


def _narrowed(context: Context) -> bool:
    """Whether a person has asked this run for less than the DAG does by itself."""
    dag, conf = context["dag"], getattr(context.get("dag_run"), "conf", None) or {}
    if conf.get("dry_run"):
        return True
    is_scheduled = getattr(getattr(dag, "timetable", None), "can_be_scheduled", False)
    if is_scheduled and any(conf.get(name) for name in ("first_day", "last_day", "hour", "window_hours")):
        return True
    kind = str(getattr(context.get("dag_run"), "run_type", "")).rpartition(".")[2].lower()
    if "hour" in dag.params and kind == "backfill":
        return True
    for name, wanted in conf.items():
        if wanted and isinstance(wanted, list) and (is_scheduled or name in ("namespaces", "tables")):
            offered = set(dag.params.get(name) or ())
            if not offered or set(wanted) < offered:
                return True
    return False


def _task_states(context: Context, dag_id: str, run_id: str) -> dict[str, str]:
    """`task`, or `task[map index]`, to its state; empty when Airflow does not tell."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        found = RuntimeTaskInstance.get_task_states(dag_id=dag_id, run_ids=[run_id])
    except Exception as error:
        log.warning("the states of run %s of %s are unknown: %s", run_id, dag_id, type(error).__name__)
        return {}
    known = set(context["dag"].task_ids)
    return {_unmangled(name, known): str(state) for name, state in found.get(run_id, {}).items()}


def _unmangled(name: str, known: Collection[str]) -> str:
    """Airflow names the third of a mapped task `backup_2` here, as a task of its own might be named."""
    task_id, _, index = name.rpartition("_")
    return f"{task_id}[{index}]" if name not in known and task_id in known and index.isdecimal() else name


def _failed_count(states: Mapping[str, str]) -> str | None:
    failed = sum(state == "failed" for state in states.values())
    return f"{failed} of {len(states)} tasks failed" if failed else None


def _what_failed(context: Context, dag_id: str, run_id: str, states: Mapping[str, str], ledger: Engine | None) -> str:
    """Which run and tasks failed, the first error, and where its log is."""
    dag_run, ti = context.get("dag_run"), context.get("ti")
    logical_date = getattr(dag_run, "logical_date", None)
    when = f", for {logical_date:%Y-%m-%d %H:%M} UTC" if logical_date else ""
    reason = str(context.get("reason") or "failed").replace("_", " ")
    lines = [f"Run {run_id}{when}: {reason}."]
    failed = sorted(task for task, state in states.items() if state == "failed")
    if not failed and ti is not None:
        failed = [_task_name(ti.task_id, ti.map_index)]
    if failed:
        more = f" and {len(failed) - MOST_TASKS_NAMED} more" if len(failed) > MOST_TASKS_NAMED else ""
        lines.append(f"Failed: {', '.join(failed[:MOST_TASKS_NAMED])}{more}.")
    error = _first_error(ledger, _run_key(dag_id, run_id))
    if error:
        lines.append(error)
    if ti is not None:
        lines.append(f"Log: {ti.log_url}")
    return "\n".join(lines)


def _first_error(ledger: Engine | None, run: str) -> str | None:
    if ledger is None:
        return None
    from dbops.ledger import failures_of

    try:
        failures = failures_of(ledger, run, most=1)
    except Exception as error:
        log.warning("the errors of run %s are unknown: %s", run, redact(_described(error)))
        return None
    return f"{failures[0][0]}: {failures[0][1]}" if failures else None


def _task_name(task_id: str, map_index: int | None) -> str:
    return task_id if map_index is None or map_index < 0 else f"{task_id}[{map_index}]"


def _described(error: object) -> str:
    if not isinstance(error, BaseException):
        return str(error or "no exception was given")
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + " …"


def _moment(value: object) -> datetime | None:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    return found.astimezone(UTC) if isinstance(found, datetime) else None


def _run_url(dag_id: str, run_id: str) -> str:
    from airflow.sdk.configuration import conf

    base = str(conf.get("api", "base_url", fallback="") or "http://localhost:8080").rstrip("/")
    return f"{base}/dags/{dag_id}/runs/{quote(run_id)}"
