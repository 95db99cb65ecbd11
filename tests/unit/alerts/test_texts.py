"""The words of an alert: complete, within each service's limits, and harmless."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from dbops.alerts import Alert, Notice, Severity, texts

BEGAN = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
ALERT = Alert(
    severity=Severity.CRITICAL,
    key="k",
    title="t",
    what="w",
    run_url="https://a/r",
    runbook="r",
    value="9 h",
    limit="6 h",
)
NOTICE = Notice("problem", "lab", ALERT, BEGAN, "https://docs/r.md")


def test_markup_in_an_error_is_shown_and_not_obeyed() -> None:
    evil = "<!channel> <script>alert(1)</script> & more"
    notice = replace(NOTICE, alert=replace(ALERT, title=evil, what=evil))
    assert "<!channel>" not in json.dumps(texts.slack(notice))
    assert "&lt;!channel&gt;" in json.dumps(texts.slack(notice))
    subject, html = texts.email(notice)
    assert "<script>" not in html
    assert "\n" not in subject


def test_a_title_of_several_lines_makes_no_header_of_its_own_in_a_mail() -> None:
    notice = replace(NOTICE, alert=replace(ALERT, title="a\r\nBcc: all@example.com"))
    subject, _ = texts.email(notice)
    assert subject == "CRITICAL lab: a Bcc: all@example.com"


def test_long_texts_keep_within_the_limits_of_the_services() -> None:
    notice = replace(NOTICE, alert=replace(ALERT, title="t" * 5000, what="<" * 50_000, value="v" * 9000))
    message = texts.slack(notice)
    assert all(len(block["text"]["text"]) <= 3000 for block in message["blocks"])
    assert "https://a/r" in json.dumps(message)
    assert "https://docs/r.md" in json.dumps(message)
    event = texts.pagerduty(notice)
    assert len(event["summary"]) <= 1024
    assert len(json.dumps(event)) < 512_000


def test_the_dedup_key_stays_within_its_limit_and_stays_apart() -> None:
    keys = {replace(NOTICE, alert=replace(ALERT, key="k" * 300 + end)).dedup_key for end in "ab"}
    assert len(keys) == 2
    assert all(len(key) <= 255 for key in keys)
    assert NOTICE.dedup_key == "dbops/lab/k"


def test_two_platforms_never_share_a_dedup_key() -> None:
    assert replace(NOTICE, platform="staging").dedup_key != NOTICE.dedup_key


def test_a_resolved_notice_says_how_long_it_lasted() -> None:
    until = BEGAN + timedelta(hours=2, minutes=5)
    notice = replace(NOTICE, state="resolved", until=until, times_seen=3)
    shown = json.dumps(texts.slack(notice))
    assert "RESOLVED lab: t" in shown
    assert "2 h 5 min, seen 3 times" in shown
    assert texts.pagerduty(notice)["action"] == "resolve"


@pytest.mark.parametrize("address", [None, "include/runbooks/r.md"])
def test_a_runbook_without_an_address_is_no_broken_link(address: str | None) -> None:
    notice = replace(NOTICE, runbook_url=address)
    assert f"<{address}|" not in json.dumps(texts.slack(notice))
    links = texts.pagerduty(notice)["links"]
    assert [link["href"] for link in links] == ["https://a/r"]
    assert (address in json.dumps(texts.pagerduty(notice))) if address else True
    assert 'href="include' not in texts.email(notice)[1]


def test_an_alert_without_run_and_runbook_has_no_links() -> None:
    bare = replace(NOTICE, alert=replace(ALERT, run_url=None, runbook=None), runbook_url=None)
    assert "links" not in texts.pagerduty(bare)
