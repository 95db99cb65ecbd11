"""Alerts through the real provider hooks to real receivers, with the incidents in a real ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import dbops.alerts.airflow
import pytest
from dbops.alerts import Alert, Notice, Severity
from dbops.alerts.airflow import channels
from dbops.alerts.deliver import LEDGER_DOWN, Delivery, raise_alert, resolve_alert
from dbops.ledger.models import Incident
from dbops.platform import Platform
from dbops_lab.supervisor import free_port
from dbops_lab.testing import LabReceivers
from sqlalchemy import Engine, text

Incidents = Callable[[], list[Incident]]

ALERT = Alert(
    severity=Severity.CRITICAL,
    key="failed/aerospike_backup_full_eu",
    title="aerospike_backup_full_eu failed",
    what="Run scheduled__2026-11-23 failed: backup[3].\nConnectionError: node 10.0.0.7 closed the connection",
    since=datetime(2026, 11, 23, 2, 4, 5, tzinfo=UTC),
    value="1 of 64 tasks failed",
    limit="0",
    run_url="https://airflow.example.com/dags/aerospike_backup_full_eu/runs/scheduled__2026-11-23",
    runbook="aerospike_backup_failed",
)
WARNING = replace(ALERT, severity=Severity.WARNING)
SUMMARY = replace(ALERT, severity=Severity.SUMMARY)


def raise_(platform: Platform, ledger: Engine | None, alert: Alert = ALERT, **changes: Any) -> Delivery:
    return raise_alert(platform, ledger, alert, channels(platform), **changes)


def resolve(platform: Platform, ledger: Engine | None, key: str = ALERT.key) -> Delivery:
    return resolve_alert(platform, ledger, key, channels(platform))


def kinds(receivers: LabReceivers) -> list[str]:
    """What arrived and was taken, in order: `slack`, `trigger`, `resolve`, `smtp`."""
    return [
        entry["event"]["event_action"] if entry["channel"] == "pagerduty" else entry["channel"]
        for entry in receivers.inbox()
        if entry["answered"] < 300
    ]


@pytest.mark.parametrize(
    ("alert", "expected"),
    [(ALERT, ["slack", "trigger"]), (WARNING, ["slack"]), (SUMMARY, ["smtp"])],
    ids=["critical", "warning", "summary"],
)
def test_severity_decides_who_is_told(
    alert: Alert, expected: list[str], platform: Platform, ledger: Engine, receivers: LabReceivers
) -> None:
    delivery = raise_(platform, ledger, alert)
    assert delivery.opened
    assert delivery.failed == {}
    assert kinds(receivers) == expected


@pytest.mark.parametrize("alert", [ALERT, SUMMARY], ids=["slack and pagerduty", "mail"])
def test_every_channel_says_what_since_value_limit_run_and_runbook(
    alert: Alert, platform: Platform, ledger: Engine, receivers: LabReceivers
) -> None:
    raise_(platform, ledger, alert)
    for entry in receivers.inbox():
        shown = json.dumps(entry, ensure_ascii=False)
        for part in (
            "aerospike_backup_full_eu failed",
            "node 10.0.0.7 closed the connection",
            "2026-11-23 02:04:05 UTC",
            "1 of 64 tasks failed",
            "Limit" if entry["channel"] != "pagerduty" else "limit",
            str(alert.run_url),
            "include/runbooks/aerospike_backup_failed.md",
        ):
            assert part in shown, (entry["channel"], part)


def test_a_problem_of_twelve_hours_is_one_incident_one_message_and_one_resolve(
    platform: Platform, ledger: Engine, receivers: LabReceivers, incidents: Incidents
) -> None:
    for run in range(72):
        raise_(platform, ledger, replace(ALERT, run_url=f"http://airflow/{run}"))
    assert kinds(receivers) == ["slack", "trigger"]
    resolve(platform, ledger)
    for _ in range(3):
        resolve(platform, ledger)
    assert kinds(receivers) == ["slack", "trigger", "slack", "resolve"]
    (incident,) = incidents()
    assert incident.times_seen == 72
    assert incident.resolved_at is not None
    (paged,) = receivers.incidents()
    assert (paged["state"], paged["triggers"]) == ("resolved", 1)
    said = receivers.inbox("slack")[-1]["message"]
    assert "RESOLVED" in said["text"]
    assert "seen 72 times" in json.dumps(said)


def test_the_end_of_a_mailed_summary_is_no_mail(
    platform: Platform, ledger: Engine, receivers: LabReceivers, incidents: Incidents
) -> None:
    raise_(platform, ledger, SUMMARY)
    resolve(platform, ledger)
    assert kinds(receivers) == ["smtp"]
    assert incidents()[0].channels["email"]["state"] == "resolved"


def test_two_who_raise_at_once_send_one_message(
    platform: Platform, ledger: Engine, receivers: LabReceivers, incidents: Incidents
) -> None:
    barrier = Barrier(4)

    def run(_: int) -> Delivery:
        barrier.wait()
        return raise_(platform, ledger)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert sorted(kinds(receivers)) == ["slack", "trigger"]
    assert len(incidents()) == 1


def test_a_warning_that_becomes_critical_is_told_again(
    platform: Platform, ledger: Engine, receivers: LabReceivers
) -> None:
    for alert in (WARNING, WARNING, ALERT, ALERT, WARNING):
        raise_(platform, ledger, alert)
    assert kinds(receivers) == ["slack", "slack", "trigger"]


BROKEN = [
    ("slack", 429, 0.0),
    ("slack", 500, 0.0),
    ("slack", 0, 3.0),
    ("pagerduty", 429, 0.0),
    ("pagerduty", 503, 0.0),
    ("pagerduty", 400, 0.0),
    ("pagerduty", 0, 3.0),
]


@pytest.mark.parametrize(("channel", "status", "delay"), BROKEN, ids=lambda value: str(value))
def test_a_broken_channel_is_logged_and_counted_and_stops_nobody(
    channel: str,
    status: int,
    delay: float,
    platform: Platform,
    ledger: Engine,
    receivers: LabReceivers,
    incidents: Incidents,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dbops.alerts.airflow, "ATTEMPT_SECONDS", 1)
    other = {"slack": "pagerduty", "pagerduty": "slack"}[channel]
    receivers.fail(channel, status=status, times=50, delay=delay)
    started = time.monotonic()
    delivery = raise_(platform, ledger)
    assert time.monotonic() - started < 15
    assert delivery.told == [other]
    assert list(delivery.failed) == [channel]
    (incident,) = incidents()
    assert incident.channels[other]["state"] == "told"
    assert incident.channels[channel]["state"] == "failed"
    assert incident.channels[channel]["failures"] == 1
    assert any(f"{channel} was not told" in record.message for record in caplog.records)

    receivers.fail(channel, status=0, times=0)
    assert raise_(platform, ledger).told == [channel]
    assert raise_(platform, ledger).told == []
    assert incidents()[0].channels[channel]["state"] == "told"


@pytest.mark.parametrize("conn_id", ["dbops_slack", "dbops_pagerduty", "dbops_smtp"])
@pytest.mark.parametrize("how", ["nobody listens", "no connection"])
def test_a_channel_that_is_not_there_stops_nobody(
    conn_id: str,
    how: str,
    platform: Platform,
    ledger: Engine,
    receivers: LabReceivers,
    incidents: Incidents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = {"dbops_slack": "slack", "dbops_pagerduty": "pagerduty", "dbops_smtp": "email"}[conn_id]
    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    if how == "no connection":
        monkeypatch.delenv(variable)
    else:
        nowhere = json.loads(receivers.environment[variable])
        old = str(nowhere.get("port") or nowhere["host"].split(":")[2].split("/")[0])
        monkeypatch.setenv(variable, receivers.environment[variable].replace(old, str(free_port())))
    raise_(platform, ledger)
    raise_(platform, ledger, replace(SUMMARY, key="summary/2026-11-23"))
    found = {name: entry["state"] for incident in incidents() for name, entry in incident.channels.items()}
    assert found == {"slack": "told", "pagerduty": "told", "email": "told"} | {broken: "failed"}


def test_smtp_refusing_the_mail_is_a_failure_that_is_told_again(
    platform: Platform, ledger: Engine, receivers: LabReceivers
) -> None:
    receivers.fail("smtp", status=451, times=2)
    assert list(raise_(platform, ledger, SUMMARY).failed) == ["email"]
    assert raise_(platform, ledger, SUMMARY).told == ["email"]


def test_an_end_that_pagerduty_did_not_hear_is_told_by_the_next_success(
    platform: Platform, ledger: Engine, receivers: LabReceivers
) -> None:
    raise_(platform, ledger)
    receivers.fail("pagerduty", status=500, times=50)
    assert list(resolve(platform, ledger).failed) == ["pagerduty"]
    receivers.fail("pagerduty", status=0, times=0)
    assert resolve(platform, ledger).told == ["pagerduty"]
    assert receivers.incidents()[0]["state"] == "resolved"


@pytest.mark.parametrize("connection", ["dead", "none"])
def test_without_the_ledger_everybody_is_told_and_told_so(
    connection: str,
    platform: Platform,
    ledger: Engine,
    dead_ledger: Engine,
    receivers: LabReceivers,
    incidents: Incidents,
) -> None:
    lost = dead_ledger if connection == "dead" else None
    for _ in range(2):
        delivery = raise_(platform, lost)
        assert delivery.ledger_down
        assert delivery.told == ["slack", "pagerduty"]
    for entry in receivers.inbox():
        assert LEDGER_DOWN in json.dumps(entry, ensure_ascii=False)
    (paged,) = receivers.incidents()
    assert (paged["state"], paged["triggers"]) == ("triggered", 2)
    assert resolve(platform, lost).told == ["pagerduty"]
    assert receivers.incidents()[0]["state"] == "resolved"
    assert incidents() == []


def test_a_problem_that_ends_while_it_is_told_does_not_stay_open_anywhere(
    platform: Platform, ledger: Engine, receivers: LabReceivers, incidents: Incidents
) -> None:
    made = channels(platform)

    class EndsMeanwhile:
        def send(self, notice: Notice) -> None:
            if notice.state == "problem":
                resolve_alert(platform, ledger, notice.alert.key, made)
            made["pagerduty"].send(notice)

    raise_alert(platform, ledger, ALERT, {**made, "pagerduty": EndsMeanwhile()})
    assert receivers.incidents()[0]["state"] == "resolved"
    assert {entry["state"] for entry in incidents()[0].channels.values()} == {"resolved"}


def test_a_secret_in_an_error_reaches_nobody(
    platform: Platform,
    ledger: Engine,
    receivers: LabReceivers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    plain = "kuckuck-4711"
    tokens = [str(connection["password"]) for connection in receivers.connections.values()]
    leak = f"postgresql://ops:hunter2@db/exchange password=hunter2 and {plain} and {' '.join(tokens)}"
    given = [plain, *dbops.alerts.airflow.secrets(platform)]
    alert = replace(ALERT, title=f"failed: {leak}", what=leak, value=leak, limit=leak)
    receivers.fail("slack", status=500, times=50)
    raise_(platform, ledger, alert, secrets=given)
    raise_(platform, ledger, replace(alert, key="s", severity=Severity.SUMMARY), secrets=given)
    raise_(platform, None, alert, secrets=given)
    resolve_alert(platform, ledger, ALERT.key, channels(platform), secrets=given)

    with ledger.connect() as connection:
        stored = "\n".join(connection.scalars(text("select incident::text from incident")))
    arrived = json.dumps(receivers.inbox())
    logged = "\n".join(record.getMessage() + str(record.exc_text) for record in caplog.records)
    assert "exchange" in stored
    assert "exchange" in arrived
    assert "was not told" in logged
    for place in (stored, arrived, logged):
        for secret in ("hunter2", plain, *tokens):
            assert secret not in place


def test_a_failing_channel_does_not_give_its_own_secret_away(
    platform: Platform, ledger: Engine, receivers: LabReceivers, incidents: Incidents,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    connection = {"conn_type": "slackwebhook", "host": "nonsense", "schema": "gopher", "password": "T0/B0/kuckuck"}
    monkeypatch.setenv("AIRFLOW_CONN_DBOPS_SLACK", json.dumps(connection))
    raise_(platform, ledger, secrets=dbops.alerts.airflow.secrets(platform))
    assert incidents()[0].channels["slack"]["state"] == "failed"
    assert "kuckuck" not in str(incidents()[0].channels)
    assert not any("kuckuck" in record.getMessage() for record in caplog.records)
