"""What the comparisons of the three databases say to people: check rows, alerts, and which days still differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dbops.alerts import Alert, Severity

if TYPE_CHECKING:
    from dbops.consistency.campaigns import CampaignResult, UnknownCampaign
    from dbops.consistency.spend import SpendDifference, SpendResult
    from dbops.ledger.trends import Trend

SPEND, CAMPAIGNS = "consistency_spend", "consistency_campaigns"
"""Names of the checks in the ledger, and what the keys of their incidents begin with."""
SUMMARY = "data_quality_summary"
"""Name of the action, in the ledger."""
RUNBOOK = "consistency"
MOST_NAMED = 10
MOST_FAILING, MOST_SHOWN = 20, 100
"""Lines and charts of a summary."""
OPEN_DAYS = "open_days"
STALE = timedelta(days=2)
"""Every check of the data is made once a day at least."""


def open_days(details: Mapping[str, Any] | None) -> list[date]:
    """The days that differed, by the details of a check's newest row."""
    return [date.fromisoformat(day) for day in (details or {}).get(OPEN_DAYS, ())]


def spend_in_words(one: SpendDifference) -> str:
    """`2026-11-24 4711: postgres/spend_tracking 10.00, eu/spend.spend 12.50, redshift/public.wins 10.00`."""
    amounts = [f"{name} {value:,.4f}" for name, value in one.amounts.items() if value is not None]
    return f"{one.day} {one.line_item}: {', '.join(amounts)}"


def campaign_in_words(one: UnknownCampaign) -> str:
    """`2026-11-24 4711: 12 events`."""
    return f"{one.day} {one.campaign}: {one.events:,} events"


def spend_alert(found: SpendResult, still_open: Iterable[date]) -> Alert:
    """The alert of a system whose spend is wrong on some day."""
    lines = _lines(map(spend_in_words, found.differences), found.differ, SPEND)
    return Alert(
        severity=Severity.WARNING,
        key=f"{SPEND}/{found.system}",
        title=f"The spend in {found.system} is not what the other databases say",
        what=f"{found.message}.{_also(found.wrong_days, still_open)}\n{lines}",
        value=f"{found.differ:,} line items and days",
        limit="0",
        runbook=RUNBOOK,
    )


def campaign_alert(found: CampaignResult, still_open: Iterable[date]) -> Alert:
    """The alert of a table whose events name campaigns that do not exist."""
    lines = _lines(map(campaign_in_words, found.found), len(found.found), CAMPAIGNS)
    return Alert(
        severity=Severity.WARNING,
        key=f"{CAMPAIGNS}/{found.system}",
        title=f"{found.system} has events of campaigns that do not exist",
        what=f"{found.message}.{_also(found.wrong_days, still_open)}\n{lines}",
        value=f"{found.unknown:,} events",
        limit="0",
        runbook=RUNBOOK,
    )


def summary_alert(run: str, found: Sequence[Trend], now: datetime) -> Alert:
    """The mail about all checks of the data. One that nobody has made for `STALE` is not well."""
    stale = [one for one in found if now - one.at > STALE]
    failing = [one for one in found if not one.ok and one not in stale]
    told = [f"{len(failing)} fail"] if failing else []
    told += [f"{len(stale)} were not looked at"] if stale else []
    if told:
        title = f"Data quality: of {len(found)} checks {', '.join(told)}"
    else:
        title = f"Data quality: all {len(found)} checks are well" if found else "Data quality: nothing was checked"
    lines = [f"{one.name} {one.target}, {one.at:%d %b %H:%M} UTC: {one.message}" for one in failing[:MOST_FAILING]]
    if len(failing) > MOST_FAILING:
        lines.append(f"and {len(failing) - MOST_FAILING} more")
    lines += [
        f"{one.name} {one.target}: not looked at since {one.at:%d %b %H:%M} UTC; is its DAG paused, or was it removed?"
        for one in stale[:MOST_FAILING]
    ]
    if len(stale) > MOST_FAILING:
        lines.append(f"and {len(stale) - MOST_FAILING} more that were not looked at")
    lines.append("Each chart shows the worst value of each day; a red dot is a day on which the check failed.")
    return Alert(
        severity=Severity.SUMMARY,
        key=f"{SUMMARY}/{run}",
        title=title,
        what="\n".join(lines),
        runbook=RUNBOOK,
        trends=tuple(found[:MOST_SHOWN]),
    )


def _lines(named: Iterable[str], count: int, check: str) -> str:
    lines = [f"- {line}" for line in named]
    if count > MOST_NAMED:
        lines[MOST_NAMED:] = [f"- and {count - MOST_NAMED:,} more (check_result {check}, or `dbops consistency check`)"]
    return "\n".join(lines)


def _also(found: Iterable[date], still_open: Iterable[date]) -> str:
    left = sorted(set(still_open) - set(found))
    return f" Not looked at again since they differed: {', '.join(map(str, left))}." if left else ""
