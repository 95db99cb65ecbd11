"""Alerts out of Airflow: what DAGs name as callbacks, and the channels over Airflow's own hooks and connections.

Callbacks of a DAG, not of its tasks: a task's own is not called when the task is killed. They run in the dag processor;
a missed deadline runs in an executor. Importing this module opens nothing and loads no provider.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from dbops.alerts.alert import Alert, Channel, Notice
from dbops.platform import Platform, Severity, load_platform

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from dbops.connections import ConnectionInfo

log = logging.getLogger(__name__)

Callback = Callable[[Any], None]

SEND_SECONDS = 10


class SlackChannel:
    """An incoming webhook. It posts to the channel that it was made for in Slack."""

    def __init__(self, connection: str) -> None:
        self.connection = connection

    def send(self, notice: Notice) -> None:
        from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

        from dbops.alerts import texts

        SlackWebhookHook(slack_webhook_conn_id=self.connection, timeout=SEND_SECONDS).send_dict(texts.slack(notice))


class PagerDutyChannel:
    """Events API v2. The connection's host, when it has one, replaces the public service (`https://...`)."""

    def __init__(self, connection: str) -> None:
        self.connection = connection

    def send(self, notice: Notice) -> None:
        import ssl

        from airflow.providers.pagerduty.hooks.pagerduty_events import PagerdutyEventsHook, prepare_event_data
        from pagerduty import EventsApiV2Client

        from dbops.adapter import connection
        from dbops.alerts import texts

        info = connection(self.connection)
        key = PagerdutyEventsHook(pagerduty_events_conn_id=self.connection).integration_key
        # The provider's hook knows one address only; its client takes another, and the retries that it would do
        # (minutes, or for ever) would hold everything behind it.
        options: dict[str, Any] = {"base_url": info.host} if info.host else {}
        if info.extra.get("ca_file"):
            options["verify"] = ssl.create_default_context(cafile=info.extra["ca_file"])
        client = EventsApiV2Client(key, **options)
        client.retry = {429: 1, 500: 1, 502: 1, 503: 1, 504: 1}
        client.max_network_attempts = 1
        client.sleep_timer = 0.5
        client.timeout = SEND_SECONDS
        with client:
            client.send_event(**prepare_event_data(**texts.pagerduty(notice)))


class MailChannel:
    """Mail through an SMTP connection; the sender is the connection's `from_email`."""

    def __init__(self, connection: str, to: tuple[str, ...]) -> None:
        self.connection, self.to = connection, to

    def send(self, notice: Notice) -> None:
        from airflow.providers.smtp.hooks.smtp import SmtpHook

        from dbops.alerts import texts

        subject, body = texts.email(notice)
        with SmtpHook(smtp_conn_id=self.connection) as hook:
            hook.send_email_smtp(to=list(self.to), subject=subject, html_content=body)


def channels(platform: Platform) -> dict[str, Channel]:
    """The channels that the platform file configures, by name."""
    alerts = platform.alerts
    found: dict[str, Channel] = {"slack": SlackChannel(alerts.slack.connection)}
    if alerts.pagerduty:
        found["pagerduty"] = PagerDutyChannel(alerts.pagerduty.connection)
    if alerts.email:
        found["email"] = MailChannel(alerts.email.connection, alerts.email.to)
    return found


def alert_on_failure(severity: Severity, runbook: str) -> Callback:
    """A DAG's `on_failure_callback`: open the DAG's incident, or note that it still lasts.

    :param runbook: name of a page in include/runbooks.
    """

    def failed(context: Any) -> None:
        known = cast(Mapping[str, Any], context)
        dag_id, run_id = known["dag"].dag_id, known.get("run_id") or known["dag_run"].run_id
        task = known.get("ti")
        where = f", last in task {task.task_id}" if task is not None else ""
        _raise(
            Alert(
                severity=severity,
                key=failure_key(dag_id),
                title=f"{dag_id} failed",
                what=f"Run {run_id} failed{where} ({known.get('reason') or 'no reason given'}). "
                f"{getattr(known['dag'], 'description', None) or ''}",
                since=getattr(known.get("dag_run"), "start_date", None),
                run_url=run_url(dag_id, run_id),
                runbook=runbook,
            )
        )

    return failed


def resolve_on_success(context: Any) -> None:
    """A DAG's `on_success_callback`: its incidents, failed and late, are over."""
    known = cast(Mapping[str, Any], context)
    dag_id, run_id = known["dag"].dag_id, known.get("run_id") or known["dag_run"].run_id
    for key in (failure_key(dag_id), late_key(dag_id)):
        _resolve(key, run_url(dag_id, run_id))


def deadline_missed(context: Any = None, *, dag_id: str, limit: str, runbook: str) -> None:
    """Callback of a DAG's deadline: a run is not over although it should be. Resolved by the next success."""
    run = (context or {}).get("dag_run") or {}
    run_id = run.get("dag_run_id") or run.get("run_id") or ""
    _raise(
        Alert(
            severity=Severity.CRITICAL,
            key=late_key(dag_id),
            title=f"{dag_id} is late",
            what=f"Run {run_id} is not done in its window. The newest restore point grows older meanwhile.",
            value=f"not done after {limit}",
            limit=limit,
            run_url=run_url(dag_id, run_id),
            runbook=runbook,
        )
    )


def failure_key(dag_id: str) -> str:
    return f"{dag_id}/failed"


def late_key(dag_id: str) -> str:
    return f"{dag_id}/late"


def run_url(dag_id: str, run_id: str) -> str:
    """The run's page in Airflow's UI."""
    from urllib.parse import quote

    from airflow.configuration import conf

    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id)}" if run_id else f"{base}/dags/{quote(dag_id)}"


def _raise(alert: Alert) -> None:
    from dbops.alerts.deliver import raise_alert

    platform = load_platform()
    ledger, secrets = _ledger(platform)
    raise_alert(platform, ledger, alert, channels(platform), secrets=secrets)


def _resolve(key: str, url: str) -> None:
    from dbops.alerts.deliver import resolve_alert

    platform = load_platform()
    ledger, secrets = _ledger(platform)
    resolve_alert(platform, ledger, key, channels(platform), run_url=url, secrets=secrets)


def _ledger(platform: Platform) -> tuple[Engine | None, tuple[str, ...]]:
    """The ledger, None when it has no connection; and every password that a text could hold by accident."""
    from dbops.adapter import connection
    from dbops.connections import ConnectionMissing
    from dbops.ledger import connect

    names = [platform.ledger_connection, platform.storage.connection, platform.alerts.slack.connection]
    names += [cluster.connection for cluster in platform.aerospike.clusters]
    names += [found.connection for found in (platform.alerts.pagerduty, platform.alerts.email) if found]
    infos: dict[str, ConnectionInfo] = {}
    for name in names:
        try:
            infos[name] = connection(name)
        except ConnectionMissing as problem:
            log.error("alerts: %s", problem)
    secrets = tuple(info.password for info in infos.values() if info.password)
    known = infos.get(platform.ledger_connection)
    return (connect(known) if known else None), secrets
