"""A notice in the words and form of each channel."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Any

from dbops.alerts.alert import Notice
from dbops.platform import Severity, duration_text

SLACK_LONGEST_SECTION = 3000  # https://docs.slack.dev/reference/block-kit/blocks/section-block
SLACK_LONGEST_TITLE = 300
PAGERDUTY_LONGEST_SUMMARY = 1024  # https://developer.pagerduty.com/docs/send-alert-event
PAGERDUTY_SEVERITY = {
    Severity.CRITICAL: "critical",
    Severity.WARNING: "warning",
    Severity.SUMMARY: "info",
}
SLACK_SIGN = {
    Severity.CRITICAL: ":red_circle:",
    Severity.WARNING: ":large_yellow_circle:",
    Severity.SUMMARY: ":memo:",
}


def headline(notice: Notice) -> str:
    """One line that says all to who reads no further."""
    word = "RESOLVED" if notice.state == "resolved" else notice.alert.severity.upper()
    return f"{word} {notice.platform}: {' '.join(notice.alert.title.split())}"


def facts(notice: Notice) -> list[tuple[str, str]]:
    """Name and value of what is known besides title and description."""
    alert = notice.alert
    found: list[tuple[str, str | None]] = [("Since", _time(notice.since))]
    if notice.until is not None:
        lasted = duration_text(notice.until - notice.since)
        found += [("Until", f"{_time(notice.until)} ({lasted}, seen {_times(notice.times_seen)})")]
    else:
        found += [("Value", alert.value), ("Limit", alert.limit)]
    return [(name, value) for name, value in found if value]


def links(notice: Notice) -> list[tuple[str, str]]:
    """Name and address of where to go on."""
    found = [("Run", notice.alert.run_url)]
    if notice.state == "problem":
        found.append(("Runbook", notice.runbook_url))
    return [(name, address) for name, address in found if address]


def slack(notice: Notice) -> dict[str, Any]:
    """Body of an incoming webhook."""
    sign = ":large_green_circle:" if notice.state == "resolved" else SLACK_SIGN[notice.alert.severity]
    title = _slack(headline(notice), SLACK_LONGEST_TITLE)
    sections = [f"{sign} *{title}*"]
    if notice.state == "problem":
        sections.append(_slack(notice.alert.what))
    sections.append(_slack("\n".join(f"{name}: {value}" for name, value in facts(notice))))
    where = [
        f"<{address}|{name}>" if "://" in address else f"{name}: {_slack(address)}" for name, address in links(notice)
    ]
    sections += [" | ".join(where), _slack(notice.remark)]
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": text}} for text in sections if text]
    return {"text": f"{sign} {title}", "blocks": blocks}


def pagerduty(notice: Notice) -> dict[str, Any]:
    """Arguments of `PagerdutyEventsHook.send_event`."""
    details = {name.lower(): value for name, value in facts(notice)}
    if notice.remark:
        details["remark"] = notice.remark
    event: dict[str, Any] = {
        "summary": _shortened(headline(notice), PAGERDUTY_LONGEST_SUMMARY),
        "severity": PAGERDUTY_SEVERITY[notice.alert.severity],
        "source": f"dbops {notice.platform}",
        "component": notice.alert.key,
        "dedup_key": notice.dedup_key,
        "action": "resolve" if notice.state == "resolved" else "trigger",
        "custom_details": details,
    }
    if notice.state == "problem":
        details["what"] = notice.alert.what
    web = [{"href": address, "text": name} for name, address in links(notice) if "://" in address]
    details |= {name.lower(): address for name, address in links(notice) if "://" not in address}
    return event | ({"links": web} if web else {})


def email(notice: Notice) -> tuple[str, str]:
    """Subject and HTML body."""
    what = escape(notice.alert.what).replace("\n", "<br>")
    rows = [f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts(notice)]
    where = [f'<a href="{escape(address)}">{name}</a>' if "://" in address else f"{name}: {escape(address)}"
             for name, address in links(notice)]  # fmt: skip
    parts = [f"<p>{what}</p>", f"<table>{''.join(rows)}</table>", f"<p>{' | '.join(where)}</p>"]
    if notice.remark:
        parts.append(f"<p>{escape(notice.remark)}</p>")
    return headline(notice), "\n".join(parts)


def _slack(text: str, longest: int = SLACK_LONGEST_SECTION) -> str:
    """https://docs.slack.dev/messaging/formatting-message-text: these three, and no others."""
    for kept in (longest, longest * 2 // 3, longest // 5):  # an escaped character takes up to five
        shown = _shortened(text, kept).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        if len(shown) <= longest:
            break
    return shown


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 2].rstrip() + " …"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
