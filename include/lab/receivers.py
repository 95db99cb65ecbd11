"""Loopback receivers of Slack webhooks, PagerDuty Events v2 and mail: keep what arrives, fail when told.

`python -m dbops_lab.receivers --state DIR --http-port P --https-port P --smtp-port P` runs all three in one
process (PagerDuty's client speaks https only, so there are two). What arrives is one line of
`DIR/inbox.jsonl`. Control, on both: `GET /lab/inbox`, `GET /lab/incidents`, `POST /lab/fail`,
`POST /lab/clear`. Answers and status codes are those of the real services.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import email
import email.policy
import json
import os
import signal
import ssl
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from dbops_lab.certificates import certificate

LOOPBACK = "127.0.0.1"
SLACK_PATH = "/services/T00000000/B00000000/"
ROUTING_KEY_LENGTH = 32  # https://developer.pagerduty.com/docs/events-api-v2-overview
MAX_BODY = 1 << 20
INBOX = "inbox.jsonl"
CHANNELS = ("slack", "pagerduty", "smtp")


@dataclass
class Failure:
    """What the next `times` deliveries of a channel get instead of success; status 0 = only the delay."""

    status: int = 0
    times: int = 0
    delay: float = 0.0


@dataclass
class Inbox:
    """All that arrived, on disk; incidents are what PagerDuty would show."""

    path: Path
    incidents: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for entry in read_inbox(self.path):
            self._follow(entry)

    def keep(self, channel: str, *, answered: int, **content: Any) -> None:
        entry = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "channel": channel,
                 "answered": answered, **content}  # fmt: skip
        self._follow(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.incidents.clear()
        self.failures.clear()

    async def failure(self, channel: str) -> int:
        """Wait as told, and return the status to fail with (0: succeed)."""
        failure = self.failures.get(channel)
        if failure is None or failure.times <= 0:
            return 0
        failure.times -= 1
        if failure.delay:
            await asyncio.sleep(failure.delay)
        return failure.status

    def _follow(self, entry: dict[str, Any]) -> None:
        if entry["channel"] != "pagerduty" or entry["answered"] != 202:
            return
        event, key = entry["event"], entry["dedup_key"]
        action, known = event["event_action"], self.incidents.get(key)
        if action == "trigger":
            if known is None or known["state"] == "resolved":
                known = self.incidents[key] = {
                    "dedup_key": key,
                    "state": "triggered",
                    "triggers": 0,
                    "since": entry["at"],
                }
            payload = event["payload"]
            known.update(triggers=known["triggers"] + 1, summary=payload["summary"], severity=payload["severity"])
        elif known is not None and known["state"] != "resolved":
            known["state"] = "acknowledged" if action == "acknowledge" else "resolved"
            known[f"{known['state']}_at"] = entry["at"]


def read_inbox(path: Path) -> list[dict[str, Any]]:
    """Every delivery so far, oldest first; a line that is being written now is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


class Receivers:
    """One Slack workspace, one PagerDuty account and one mailbox on loopback."""

    def __init__(self, state: Path, slack_token: str, login: str, password: str) -> None:
        self.inbox = Inbox(state / INBOX)
        self._slack_path = SLACK_PATH + slack_token
        self._login, self._password = login, password

    async def start(self, http_port: int, https_port: int, smtp_port: int, tls: ssl.SSLContext) -> None:
        await asyncio.start_server(self._serve, LOOPBACK, http_port)
        await asyncio.start_server(self._serve, LOOPBACK, https_port, ssl=tls)
        await asyncio.get_running_loop().create_server(self._smtp, LOOPBACK, smtp_port)

    # SMTP ---------------------------------------------------------------------------------------------------
    def _smtp(self) -> SMTP:
        return SMTP(self, hostname="lab.localhost", authenticator=self._authenticate, auth_required=True,
                    auth_require_tls=False, enable_SMTPUTF8=True)  # fmt: skip

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        wanted = (self._login.encode(), self._password.encode())
        given = (data.login, data.password) if isinstance(data, LoginPassword) else None
        return AuthResult(success=given == wanted, handled=False)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        status = await self.inbox.failure("smtp")
        message = email.message_from_bytes(envelope.content or b"", policy=email.policy.default)
        bodies = {
            part.get_content_type(): part.get_content()
            for part in message.walk()
            if part.get_content_maintype() == "text"
        }
        self.inbox.keep(
            "smtp",
            answered=status or 250,
            sender=envelope.mail_from,
            to=list(envelope.rcpt_tos),
            subject=str(message["subject"] or ""),
            body=bodies.get("text/plain", ""),
            html=bodies.get("text/html", ""),
            attached={
                part.get_filename(): base64.b64encode(part.get_payload(decode=True)).decode()
                for part in message.walk()
                if part.get_filename()
            },
        )
        return f"{status} the lab was told to fail" if status else "250 Message accepted for delivery"

    # HTTP ---------------------------------------------------------------------------------------------------
    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ValueError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, headers = _parse_head(head)
                length = int(headers.get("content-length", "0"))
                if length > MAX_BODY:
                    writer.write(_answer(413, "too large"))
                    break
                status, body = await self._route(method, path.partition("?")[0], await reader.readexactly(length))
                writer.write(_answer(status, body))
                await writer.drain()
                if headers.get("connection", "").lower() == "close":
                    break
        writer.close()

    async def _route(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "POST" and path.startswith("/services/"):
            return await self._slack(path, body)
        if method == "POST" and path in ("/v2/enqueue", "/v2/change/enqueue"):
            return await self._pagerduty(path, body)
        if method == "GET" and path == "/lab/inbox":
            return 200, read_inbox(self.inbox.path)
        if method == "GET" and path == "/lab/incidents":
            return 200, list(self.inbox.incidents.values())
        if method == "POST" and path == "/lab/clear":
            self.inbox.clear()
            return 200, {}
        if method == "POST" and path == "/lab/fail":
            return self._fail(json.loads(body))
        return 404, "not found"

    def _fail(self, order: dict[str, Any]) -> tuple[int, Any]:
        channel = order.pop("channel", None)
        if channel not in CHANNELS or not order.keys() <= {"status", "times", "delay"}:
            return 400, f"channel must be one of {', '.join(CHANNELS)}; the rest is status, times, delay"
        self.inbox.failures[channel] = Failure(**order)
        return 200, {}

    async def _slack(self, path: str, body: bytes) -> tuple[int, str]:
        status = await self.inbox.failure("slack")
        message = _json_object(body)
        if status:
            answer = status, "the lab was told to fail"
        elif path != self._slack_path:
            answer = 403, "invalid_token"
        elif message is None:
            answer = 400, "invalid_payload"
        elif not any(message.get(name) for name in ("text", "blocks", "attachments")):
            answer = 400, "no_text"
        else:
            answer = 200, "ok"
        self.inbox.keep("slack", answered=answer[0], message=message)
        return answer

    async def _pagerduty(self, path: str, body: bytes) -> tuple[int, Any]:
        status = await self.inbox.failure("pagerduty")
        event = _json_object(body)
        change = path == "/v2/change/enqueue"
        errors = _event_errors(event, change)
        key = str((event or {}).get("dedup_key") or uuid.uuid4().hex)
        kept = {name: value for name, value in (event or {}).items() if name != "routing_key"}
        if status:
            answer: tuple[int, Any] = status, {"status": "error", "message": "the lab was told to fail"}
        elif errors:
            answer = 400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
        elif change:
            answer = 202, {"status": "success", "message": "Change event processed"}
        else:
            answer = 202, {"status": "success", "message": "Event processed", "dedup_key": key}
        if change:
            self.inbox.keep("pagerduty-change", answered=answer[0], event=kept)
        else:
            self.inbox.keep("pagerduty", answered=answer[0], dedup_key=key, event=kept)
        return answer


def _event_errors(event: dict[str, Any] | None, change: bool) -> list[str]:
    if event is None:
        return ["Invalid JSON"]
    errors = []
    if len(str(event.get("routing_key", ""))) != ROUTING_KEY_LENGTH:
        errors.append(f"'routing_key' must be {ROUTING_KEY_LENGTH} characters")
    payload = event.get("payload")
    payload = payload if isinstance(payload, dict) else {}
    if change:
        return errors if payload.get("summary") else [*errors, "'payload.summary' is missing or blank"]
    action = event.get("event_action")
    if action not in ("trigger", "acknowledge", "resolve"):
        errors.append("'event_action' must be one of trigger, acknowledge, resolve")
    if action == "trigger":
        errors += [f"'payload.{name}' is missing or blank" for name in ("summary", "source") if not payload.get(name)]
        if payload.get("severity") not in ("critical", "error", "warning", "info"):
            errors.append("'payload.severity' must be one of critical, error, warning, info")
        if len(str(payload.get("summary", ""))) > 1024:
            errors.append("'payload.summary' is longer than 1024 characters")
    elif not event.get("dedup_key"):
        errors.append("'dedup_key' is missing or blank")
    if len(str(event.get("dedup_key") or "")) > 255:
        errors.append("'dedup_key' is longer than 255 characters")
    return errors


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    return (
        method,
        path,
        {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)},
    )


def _answer(status: int, body: Any) -> bytes:
    kind, data = (
        ("text/html", body.encode()) if isinstance(body, str) else ("application/json", json.dumps(body).encode())
    )
    head = f"HTTP/1.1 {status} Lab\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def _run(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    receivers = Receivers(
        args.state,
        os.environ["LAB_SLACK_TOKEN"],
        os.environ["LAB_SMTP_LOGIN"],
        os.environ["LAB_SMTP_PASSWORD"],
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate(args.state))
    await receivers.start(args.http_port, args.https_port, args.smtp_port, tls)
    await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="receivers of the lab; secrets come in LAB_SLACK_TOKEN, LAB_SMTP_LOGIN, LAB_SMTP_PASSWORD"
    )
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--https-port", type=int, required=True)
    parser.add_argument("--smtp-port", type=int, required=True)
    asyncio.run(_run(parser.parse_args()))
