"""The receivers answer as the real services do, keep what arrives, and fail when told."""

from __future__ import annotations

import json
import smtplib
import urllib.error
import urllib.request
from email.message import EmailMessage
from typing import Any

import pytest
from dbops_lab.supervisor import direct
from dbops_lab.testing import LabReceivers


def post(url: str, body: Any) -> tuple[int, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method="POST")  # noqa: S310
    try:
        with direct.open(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def slack_url(receivers: LabReceivers) -> str:
    connection = receivers.info("dbops_slack")
    return f"{connection.host}/{connection.password}"


def event(receivers: LabReceivers, action: str, key: str | None, **payload: str) -> dict[str, Any]:
    body: dict[str, Any] = {"routing_key": receivers.info("dbops_pagerduty").password, "event_action": action}
    if key:
        body["dedup_key"] = key
    if action == "trigger":
        body["payload"] = {"summary": "backup failed", "source": "airflow", "severity": "critical", **payload}
    return body


def test_slack_message_is_kept(receivers: LabReceivers) -> None:
    assert post(slack_url(receivers), {"text": "Sicherung läuft"}) == (200, "ok")
    (kept,) = receivers.inbox("slack")
    assert kept["message"] == {"text": "Sicherung läuft"}
    assert kept["answered"] == 200


@pytest.mark.parametrize(
    ("body", "answer"),
    [(b"{", (400, "invalid_payload")), ({}, (400, "no_text")), ([], (400, "invalid_payload"))],
)
def test_slack_refuses_what_slack_refuses(receivers: LabReceivers, body: Any, answer: tuple[int, str]) -> None:
    assert post(slack_url(receivers), body) == answer


def test_slack_refuses_a_wrong_token_and_keeps_no_secret(receivers: LabReceivers) -> None:
    connection = receivers.info("dbops_slack")
    assert post(f"{connection.host}/wrong", {"text": "x"}) == (403, "invalid_token")
    assert post(slack_url(receivers), {"text": "x"})[0] == 200
    assert str(connection.password) not in json.dumps(receivers.inbox())


def test_pagerduty_incident_lives_from_trigger_to_resolve(receivers: LabReceivers) -> None:
    url = f"{receivers.url}/v2/enqueue"
    status, answer = post(url, event(receivers, "trigger", None))
    assert status == 202
    key = json.loads(answer)["dedup_key"]
    assert post(url, event(receivers, "trigger", key, summary="still failing"))[0] == 202
    assert [(i["state"], i["triggers"], i["summary"]) for i in receivers.incidents()] == [
        ("triggered", 2, "still failing")
    ]
    post(url, event(receivers, "acknowledge", key))
    assert receivers.incidents()[0]["state"] == "acknowledged"
    post(url, event(receivers, "resolve", key))
    assert receivers.incidents()[0]["state"] == "resolved"
    post(url, event(receivers, "trigger", key))
    assert (receivers.incidents()[0]["state"], receivers.incidents()[0]["triggers"]) == ("triggered", 1)
    routing_key = str(receivers.info("dbops_pagerduty").password)
    assert routing_key not in json.dumps(receivers.inbox())


def test_resolving_an_unknown_key_is_accepted_and_opens_nothing(receivers: LabReceivers) -> None:
    assert post(f"{receivers.url}/v2/enqueue", event(receivers, "resolve", "never-seen"))[0] == 202
    assert receivers.incidents() == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"routing_key": "short"}, "routing_key"),
        ({"event_action": "shout"}, "event_action"),
        ({"payload": {"source": "x", "severity": "critical"}}, "payload.summary"),
        ({"payload": {"summary": "x", "source": "x", "severity": "fatal"}}, "payload.severity"),
        ({"payload": {"summary": "x" * 1025, "source": "x", "severity": "info"}}, "1024"),
        ({"event_action": "resolve"}, "dedup_key"),
    ],
)
def test_pagerduty_refuses_a_bad_event(receivers: LabReceivers, change: dict[str, Any], complaint: str) -> None:
    status, answer = post(f"{receivers.url}/v2/enqueue", event(receivers, "trigger", None) | change)
    assert status == 400
    assert complaint in " ".join(json.loads(answer)["errors"])
    assert receivers.incidents() == []


def mail(receivers: LabReceivers, password: str | None) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = (
        "Wöchentlich",
        "dbops@lab.localhost",
        "dba@example.com",
    )
    message.set_content("alles gut")
    message.add_alternative("<b>alles gut</b>", subtype="html")
    with smtplib.SMTP("127.0.0.1", receivers.smtp_port, timeout=5) as client:
        if password:
            client.login(str(receivers.info("dbops_smtp").login), password)
        client.send_message(message)


def test_mail_is_kept_decoded(receivers: LabReceivers) -> None:
    mail(receivers, receivers.info("dbops_smtp").password)
    (kept,) = receivers.inbox("smtp")
    assert (kept["subject"], kept["to"]) == ("Wöchentlich", ["dba@example.com"])
    assert (kept["body"].strip(), kept["html"].strip()) == ("alles gut", "<b>alles gut</b>")


def test_mail_needs_the_right_password(receivers: LabReceivers) -> None:
    with pytest.raises(smtplib.SMTPAuthenticationError):
        mail(receivers, "wrong")
    with pytest.raises(smtplib.SMTPResponseException, match="530"):
        mail(receivers, None)
    assert receivers.inbox() == []


def test_ordered_failures_hit_their_channel_and_end(receivers: LabReceivers) -> None:
    receivers.fail("slack", status=500, times=2)
    receivers.fail("smtp", status=451)
    assert [post(slack_url(receivers), {"text": "x"})[0] for _ in range(3)] == [500, 500, 200]
    with pytest.raises(smtplib.SMTPDataError):
        mail(receivers, receivers.info("dbops_smtp").password)
    mail(receivers, receivers.info("dbops_smtp").password)
    assert post(f"{receivers.url}/v2/enqueue", event(receivers, "trigger", "k"))[0] == 202
    assert [entry["answered"] for entry in receivers.inbox("slack")] == [500, 500, 200]


def test_a_failed_trigger_opens_no_incident(receivers: LabReceivers) -> None:
    receivers.fail("pagerduty", status=500)
    assert post(f"{receivers.url}/v2/enqueue", event(receivers, "trigger", "k"))[0] == 500
    assert receivers.incidents() == []
