"""The RPO proof is right: it names the worst case, and no simulated run of the schedules is ever worse."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from typing import Any

import pytest
from dbops.platform.cron import starts
from dbops.platform.load import DIRECTORY, load_platform
from dbops.platform.model import AerospikeCluster, Objective
from dbops.platform.rpo import RpoProof, prove, prove_cluster
from hypothesis import given, settings
from hypothesis import strategies as st

H, MIN = timedelta(hours=1), timedelta(minutes=1)


def cluster(
    full: str | None,
    incremental: str | None = None,
    durations: tuple[str, str] = ("2h", "30m"),
    rpo: timedelta = 7 * H,
    guide: timedelta | None = 6 * H,
    overlap: str = "60s",
) -> AerospikeCluster:
    data: dict[str, Any] = {
        "name": "eu",
        "connection": "aerospike_eu",
        "schedules": {"full": full, "incremental": incremental},
        "max_duration": {"full": durations[0], "incremental": durations[1]},
        "clock_skew_overlap": overlap,
        "objectives": Objective(rpo=rpo, rto=H, guide_rpo=guide),
        "namespaces": [{"name": "bidder", "track_deletes": True}],
    }
    return AerospikeCluster.model_validate(data)


def span(proof: RpoProof) -> str:
    return f"{proof.gap_from:%a %H:%M} {proof.gap_to:%a %H:%M} {proof.ends_with}"


def test_production_meets_seven_hours_and_says_that_six_cannot_be_proven() -> None:
    for proof in prove(load_platform(DIRECTORY / "production.yaml")):
        assert (proof.worst, proof.gap, proof.duration, proof.overlap) == (6 * H + 31 * MIN, 6 * H, H / 2, MIN)
        assert proof.ok
        assert span(proof) == "Mon 06:00 Mon 12:00 incremental"
        assert proof.namespaces == ("bidder", "dmp", "spend")
        assert proof.note == ("guide asks 6 h: not provable with these schedules (6 h 31 min); provable: >= 6 h 31 min")
        assert proof.warnings == ()


@pytest.mark.parametrize("name", sorted(file.stem for file in DIRECTORY.glob("*.yaml")))
def test_every_file_of_the_project_keeps_its_own_rpo(name: str) -> None:
    assert all(proof.ok for proof in prove(load_platform(DIRECTORY / f"{name}.yaml")))


@pytest.mark.parametrize(("hours", "worst"), [("*/5", 5 * H + 31 * MIN), ("*/4", 4 * H + 31 * MIN)])
def test_what_the_file_advises_for_a_strict_six_hours_is_provable(hours: str, worst: timedelta) -> None:
    proof = prove_cluster(cluster("0 2 * * *", f"0 {hours} * * *", rpo=6 * H))
    assert proof.worst == worst
    assert proof.ok
    assert proof.note is None


@pytest.mark.parametrize(
    ("full", "incremental", "gap", "where"),
    [
        ("0 2 * * 0", "0 8,14,20 * * *", 12 * H, "Mon 20:00 Tue 08:00 incremental"),
        ("0 9 * * 0", "0 9,15 * * *", 18 * H, "Sat 15:00 Sun 09:00 full"),
        ("0 2 * * *", "0 8,14 * * 1-5", 24 * H, "Sat 02:00 Sun 02:00 full"),
        ("0 6 * * 1", "0 6,12,18 * * 1-5", 60 * H, "Fri 18:00 Mon 06:00 full"),
    ],
)
def test_the_guides_business_hours_miss_its_own_rpo_by_far(
    full: str, incremental: str, gap: timedelta, where: str
) -> None:
    proof = prove_cluster(cluster(full, incremental, rpo=6 * H))
    assert (proof.gap, span(proof)) == (gap, where)
    assert proof.worst >= gap + 31 * MIN
    assert not proof.ok


def test_business_hours_without_a_night_lose_fourteen_hours_and_more() -> None:
    proof = prove_cluster(cluster("0 8 * * *", "0 12,18 * * *", rpo=6 * H))
    assert proof.gap == 14 * H
    assert proof.worst == 14 * H + 2 * H + MIN  # the run that ends it is the full one
    assert not proof.ok


def test_exactly_the_objective_is_met_and_a_second_more_is_not() -> None:
    kept = 6 * H + 31 * MIN
    assert prove_cluster(cluster("0 2 * * *", "0 */6 * * *", rpo=kept)).ok
    assert not prove_cluster(cluster("0 2 * * *", "0 */6 * * *", rpo=kept - timedelta(seconds=1))).ok


def test_a_long_run_counts_where_it_ends_a_gap_even_when_another_gap_is_longer() -> None:
    proof = prove_cluster(cluster("0 4 * * *", "0 */6 * * *", durations=("5h", "10m")))
    assert span(proof) == "Mon 00:00 Mon 04:00 full"
    assert proof.worst == 4 * H + 5 * H + MIN


def test_full_backups_alone_are_proven_too() -> None:
    proof = prove_cluster(cluster("30 1 * * *", rpo=25 * H))
    assert (proof.gap, proof.worst) == (24 * H, 26 * H + MIN)
    assert not proof.ok


def test_a_run_that_may_last_into_the_next_one_is_warned_of_and_counted() -> None:
    proof = prove_cluster(cluster("0 2 * * *", "0 * * * *", durations=("150m", "30m"), rpo=3 * H))
    assert proof.warnings == (
        "full and incremental both start at 02:00: one waits for the other",
        "full of 02:00 may take 2 h 30 min, but the next run (incremental, 03:00) is due after 1 h: it waits",
    )
    assert proof.worst == H + 150 * MIN + MIN  # until the full one of 02:00 is committed
    late = prove_cluster(cluster("0 2 * * *", "30 2-20 * * *", durations=("2h", "1h"), rpo=3 * H))
    assert late.warnings[0].startswith("full of 02:00 may take 2 h, but the next run (incremental, 02:30)")


def test_runs_on_days_of_the_month_are_not_counted_beside_weekly_ones() -> None:
    proof = prove_cluster(cluster("0 2 1 * *", "0 */6 * * *"))
    assert proof.gap == 6 * H
    assert proof.warnings == ("full runs on some days of the month only: the proof does not count it",)


@pytest.mark.parametrize(("cron", "days"), [("0 2 1 * *", 31), ("0 2 1 1 *", 366), ("0 2 29 2 *", 1461)])
def test_monthly_and_yearly_schedules_have_their_longest_gap(cron: str, days: int) -> None:
    assert prove_cluster(cluster(cron)).gap == timedelta(days=days)


HOURS = st.sets(st.integers(0, 23), min_size=1, max_size=8).map(lambda hours: ",".join(map(str, sorted(hours))))
DAYS = st.just("*") | st.sets(st.integers(0, 6), min_size=1).map(lambda days: ",".join(map(str, sorted(days))))
CRONS = st.builds(lambda minute, hours, days: f"{minute} {hours} * * {days}", st.integers(0, 59), HOURS, DAYS)


@settings(max_examples=50)
@given(full=CRONS, incremental=CRONS, long=st.integers(1, 400), short=st.integers(1, 90), seed=st.integers())
def test_no_history_of_runs_loses_more_than_was_proven(
    full: str, incremental: str, long: int, short: int, seed: int
) -> None:
    """Four simulated weeks: each run takes any time up to its bound, and starts when the one before it is done."""
    mine = cluster(full, incremental, durations=(f"{long}m", f"{short}m"))
    proof = prove_cluster(mine)
    dice, begin = random.Random(seed), datetime(2026, 11, 2, tzinfo=UTC)
    end = begin + timedelta(days=28)
    runs = sorted(
        (at, dice.random(), kind.max_duration)
        for kind in mine.backup_kinds
        for at in takewhile(lambda at: at < end, starts(kind.schedule, begin))
    )
    free, newest, worst = begin, None, timedelta(0)
    for at, _, longest in runs:
        began = max(at, free)
        if began + longest > at + timedelta(days=7):
            return  # runs pile up without end: nothing to prove
        free = began + longest * dice.choice([0.1, 0.5, 1, 1])
        if newest is not None:
            worst = max(worst, free - newest)
        newest = began
    assert worst + proof.overlap <= proof.worst


@settings(max_examples=50)
@given(full=CRONS, incremental=CRONS)
def test_the_worst_case_can_really_happen(full: str, incremental: str) -> None:
    """With runs that do not delay each other, the two starts that the proof names are neighbours, and no more apart."""
    mine = cluster(full, incremental, durations=("1m", "1m"))
    proof = prove_cluster(mine)
    times = sorted({
        at
        for kind in mine.backup_kinds
        for at in takewhile(
            lambda at: at <= proof.gap_to + timedelta(days=14), starts(kind.schedule, proof.gap_from - MIN)
        )
    })
    assert times[:2] == [proof.gap_from, proof.gap_to]
    assert max(later - earlier for earlier, later in pairwise(times)) == proof.gap
