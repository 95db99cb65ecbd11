"""A notice in the words and form of each channel."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from dbops.alerts.alert import Notice
from dbops.platform import Severity, duration_text

if TYPE_CHECKING:
    from dbops.ledger.trends import Trend

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
    """Subject and HTML body; `images` are what its charts show."""
    what = escape(notice.alert.what).replace("\n", "<br>")
    rows = [f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts(notice)]
    where = [f'<a href="{escape(address)}">{name}</a>' if "://" in address else f"{name}: {escape(address)}"
             for name, address in links(notice)]  # fmt: skip
    parts = [f"<p>{what}</p>", f"<table>{''.join(rows)}</table>", f"<p>{' | '.join(where)}</p>"]
    if notice.alert.trends:
        parts.insert(1, _trend_table(notice.alert.trends))
    if notice.remark:
        parts.append(f"<p>{escape(notice.remark)}</p>")
    body = "\n".join(parts)
    return headline(notice), f'<div style="font-family:Helvetica,Arial,sans-serif;font-size:14px">\n{body}\n</div>'


def images(notice: Notice) -> dict[str, bytes]:
    """The charts of a mail, by the name that its HTML gives them (`cid:<name>`)."""
    from dbops.alerts.chart import chart

    made = {}
    for number, one in enumerate(notice.alert.trends):
        days = one.each_day()
        values = [None if day is None else one.worst(day) for day in days]
        made[_image(number)] = chart(values, [bool(day and day.failed) for day in days], one.limit)
    return made


def _image(number: int) -> str:
    return f"trend{number}.png"


def _trend_table(trends: tuple[Trend, ...]) -> str:
    """A row for each check: how it is now, how often it failed, and the worst value of each day as a chart."""
    cell = "padding:3px 12px 3px 0;border-bottom:1px solid #ddd;vertical-align:middle"
    head = "".join(
        f'<th align="{side}" style="{cell};color:#666;font-weight:normal">{name}</th>'
        for name, side in (("check", "left"), ("now", "right"), ("limit", "right"), ("failed", "right"), ("", "left"))
    )
    rows = []
    for number, one in enumerate(trends):
        unit = f" {one.unit}" if one.unit else ""
        now = "could not look" if one.value is None and not one.ok else _figure(one.value)
        first, last = one.days[0].day, one.days[-1].day
        span = f"{first:%d %b}" if first == last else f"{first:%d %b} to {last:%d %b}"
        colour = "#222" if one.ok else "#c82626"
        picture = (
            f'<img src="cid:{_image(number)}" width="160" height="32" alt="{one.failed} of {one.seen} failed" '
            f'style="display:block"><span style="color:#888;font-size:11px">{span}, most {_figure(_most(one))}</span>'
        )
        name = f'<span style="color:#888">{escape(one.name)}</span><br><b>{escape(one.target)}</b>'
        rows.append(
            f'<tr style="color:{colour}"><td style="{cell}">{name}</td>'
            f'<td align="right" style="{cell}">{escape(now + (unit if one.value is not None else ""))}</td>'
            f'<td align="right" style="{cell}">{_figure(one.limit)}</td>'
            f'<td align="right" style="{cell}">{one.failed:,} of {one.seen:,}</td>'
            f'<td style="{cell}">{picture}</td></tr>'
        )
    style = "border-collapse:collapse;font-size:13px"
    return f'<table style="{style}"><tr>{head}</tr>{"".join(rows)}</table>'


def _most(trend: Trend) -> float | None:
    return max((one.high for one in trend.days if one.high is not None), default=None)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.4g}"


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
