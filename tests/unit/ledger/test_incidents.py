"""One incident per problem, and one speaker per channel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from dbops.ledger import Sighting, open_incidents, record_delivery, resolve_incident, see_incident, transaction
from dbops.ledger.incidents import CLAIM_LAPSES
from dbops.ledger.models import Incident
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError

BOTH = ("slack", "pagerduty")


def see(ledger: Engine, **changes: Any) -> Sighting:
    values: dict[str, Any] = {"key": "failed/eu", "severity": "critical", "title": "t", "channels": BOTH}
    return see_incident(ledger, **values | changes)


def tell(ledger: Engine, sighting: Sighting, *channels: str, error: str | None = None) -> None:
    for channel in channels or sighting.tell:
        record_delivery(ledger, sighting.id, channel, resolving=False, error=error)


def rows(ledger: Engine) -> list[Incident]:
    with transaction(ledger) as session:
        session.expire_on_commit = False
        return list(session.scalars(select(Incident).order_by(Incident.id)))


def test_two_who_see_a_problem_at_once_open_one_incident_and_one_speaks(ledger: Engine) -> None:
    threads = 8
    for round_ in range(5):
        barrier = Barrier(threads)

        def run(_: int, round_: int = round_, barrier: Barrier = barrier) -> Sighting:
            barrier.wait()
            return see(ledger, key=f"k{round_}")

        with ThreadPoolExecutor(threads) as pool:
            seen = list(pool.map(run, range(threads)))
        assert sum(sighting.opened for sighting in seen) == 1
        assert sorted(sighting.tell for sighting in seen) == [()] * (threads - 1) + [BOTH]
        assert sorted(sighting.times_seen for sighting in seen) == list(range(1, threads + 1))
    assert len(rows(ledger)) == 5


def test_the_database_itself_refuses_a_second_open_incident(ledger: Engine) -> None:
    see(ledger)
    again = text("insert into incident (key, severity, title, opened_at, last_seen_at) "
                 "select key, severity, title, opened_at, last_seen_at from incident")  # fmt: skip
    with pytest.raises(IntegrityError, match="incident_one_open"), ledger.begin() as connection:
        connection.execute(again)


def test_a_problem_that_lasts_is_told_once(ledger: Engine) -> None:
    start = datetime.now(UTC) - timedelta(hours=12)
    tell(ledger, see(ledger, at=start))
    for minute in range(5, 12 * 60, 5):
        sighting = see(ledger, at=start + timedelta(minutes=minute), seen_in=f"run {minute}")
        assert (sighting.opened, sighting.tell) == (False, ())
    (incident,) = rows(ledger)
    assert (incident.times_seen, incident.opened_at) == (144, start)
    assert incident.last_seen_at == start + timedelta(minutes=715)


def test_the_same_run_reporting_again_is_not_counted_again(ledger: Engine) -> None:
    counts = [see(ledger, seen_in=run).times_seen for run in ("a", "a", "b", "b", "a")]
    assert counts == [1, 1, 2, 2, 3]


def test_a_channel_that_failed_is_tried_again_and_counted(ledger: Engine) -> None:
    sighting = see(ledger)
    tell(ledger, sighting, "pagerduty")
    tell(ledger, sighting, "slack", error="429 password=hunter2")
    again = see(ledger)
    assert again.tell == ("slack",)
    tell(ledger, again, error="503")
    (incident,) = rows(ledger)
    assert incident.channels["slack"]["state"] == "failed"
    assert incident.channels["slack"]["failures"] == 2
    assert "hunter2" not in str(incident.channels)
    tell(ledger, see(ledger))
    (incident,) = rows(ledger)
    assert incident.channels["slack"]["state"] == "told"
    assert "error" not in incident.channels["slack"]


def test_only_a_worse_severity_is_told_again(ledger: Engine) -> None:
    tell(ledger, see(ledger, severity="warning", channels=("slack",)))
    worse = see(ledger, severity="critical")
    assert worse.tell == BOTH
    tell(ledger, worse)
    assert see(ledger, severity="warning", channels=("slack",)).tell == ()
    (incident,) = rows(ledger)
    assert incident.severity == "critical"


def test_the_end_is_told_once_to_those_who_know_of_the_problem(ledger: Engine) -> None:
    tell(ledger, see(ledger, channels=("slack",)))
    resolution = resolve_incident(ledger, "failed/eu")
    assert resolution is not None
    assert resolution.tell == ("slack",)
    assert resolve_incident(ledger, "failed/eu") is None
    record_delivery(ledger, resolution.id, "slack", resolving=True, error=None)
    assert resolve_incident(ledger, "failed/eu") is None
    assert resolve_incident(ledger, "never seen") is None


def test_an_end_that_could_not_be_told_is_told_by_the_next(ledger: Engine) -> None:
    tell(ledger, see(ledger))
    first = resolve_incident(ledger, "failed/eu")
    assert first is not None
    record_delivery(ledger, first.id, "slack", resolving=True, error=None)
    record_delivery(ledger, first.id, "pagerduty", resolving=True, error="503")
    second = resolve_incident(ledger, "failed/eu")
    assert second is not None
    assert (second.id, second.tell, second.resolved_at) == (first.id, ("pagerduty",), first.resolved_at)


def test_a_problem_that_comes_back_is_a_new_incident(ledger: Engine) -> None:
    tell(ledger, see(ledger))
    resolve_incident(ledger, "failed/eu")
    again = see(ledger)
    assert again.opened
    assert again.tell == BOTH
    assert [incident.resolved_at is None for incident in rows(ledger)] == [False, True]


def test_a_speaker_that_died_is_replaced(ledger: Engine) -> None:
    sighting = see(ledger)
    assert see(ledger).tell == ()
    age_claims(ledger, sighting.id)
    assert see(ledger).tell == BOTH


def test_one_who_told_after_the_end_hears_of_it(ledger: Engine) -> None:
    sighting = see(ledger, channels=("pagerduty",))
    assert resolve_incident(ledger, "failed/eu") is not None
    assert record_delivery(ledger, sighting.id, "pagerduty", resolving=False, error=None)
    late = resolve_incident(ledger, "failed/eu")
    assert late is not None
    assert late.tell == ("pagerduty",)


def test_seeing_and_resolving_at_once_never_loses_or_doubles_an_incident(ledger: Engine) -> None:
    def run(number: int) -> bool:
        if number % 2:
            return resolve_incident(ledger, "failed/eu") is not None
        return see(ledger).opened

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(run, range(120)))
    found = rows(ledger)
    assert len(found) == sum(outcomes[::2])
    assert sum(incident.resolved_at is None for incident in found) <= 1
    assert sum(incident.times_seen for incident in found) == 60


def age_claims(ledger: Engine, id: int) -> None:
    past = (datetime.now(UTC) - CLAIM_LAPSES - timedelta(seconds=1)).isoformat()
    with transaction(ledger) as session:
        incident = session.get_one(Incident, id)
        incident.channels = {name: entry | {"at": past} for name, entry in incident.channels.items()}


def test_open_are_those_that_resolving_has_something_to_do_for(ledger: Engine) -> None:
    for key in ("rpo/a", "rpo/b", "rpo/c", "rpo_d", "other"):
        tell(ledger, see(ledger, key=key))
    assert open_incidents(ledger, "rpo/") == {"rpo/a", "rpo/b", "rpo/c"}
    assert open_incidents(ledger, "rpo_") == {"rpo_d"}, "an underscore stands for itself"
    for key in ("rpo/a", "rpo/b"):
        resolution = resolve_incident(ledger, key)
        assert resolution is not None
        for channel in resolution.tell:
            error = "down" if (key, channel) == ("rpo/b", "slack") else None
            record_delivery(ledger, resolution.id, channel, resolving=True, error=error)
    assert open_incidents(ledger, "rpo/") == {"rpo/b", "rpo/c"}, "the end of b is not known in Slack"
    assert open_incidents(ledger, "none") == set()
