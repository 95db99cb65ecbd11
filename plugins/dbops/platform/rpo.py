"""Proof, from the schedules alone, of how much data a loss can cost.

Just before a run is committed, the newest restore point is the snapshot of the run before it. So what can be
lost is the time between the two starts, plus the longest that the second run may take, plus the overlap for
skewed clocks. Runs on one cluster take turns, so a run may also wait for the end of the one before it. All
this holds while every run succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise

from dbops.platform.cron import FOUR_YEARS, MONDAY, WEEK, is_weekly, starts
from dbops.platform.fields import duration_text
from dbops.platform.model import AerospikeCluster, BackupKind, Platform


@dataclass(frozen=True)
class RpoProof:
    """The worst case of one cluster; its namespaces are backed up together, so it is that of each of them."""

    cluster: str
    namespaces: tuple[str, ...]
    objective: timedelta
    guide: timedelta | None
    """The guide's objective, when it is another one."""
    gap_from: datetime
    gap_to: datetime
    """The two starts, in a week (or four years) that begins on Monday 2024-01-01."""
    ends_with: str
    """Kind of the run at `gap_to`."""
    waited: timedelta
    """How much later than `gap_to` that run may start, since the one before it may still run."""
    duration: timedelta
    """The longest that that run may take."""
    overlap: timedelta
    warnings: tuple[str, ...]

    @property
    def gap(self) -> timedelta:
        return self.gap_to - self.gap_from

    @property
    def worst(self) -> timedelta:
        return self.gap + self.waited + self.duration + self.overlap

    @property
    def ok(self) -> bool:
        return self.worst <= self.objective

    @property
    def note(self) -> str | None:
        """What the guide promises and these schedules cannot prove."""
        if self.guide is None or self.worst <= self.guide:
            return None
        return (
            f"guide asks {duration_text(self.guide)}: not provable with these schedules "
            f"({duration_text(self.worst)}); provable: >= {duration_text(self.worst)}"
        )


def prove(platform: Platform) -> list[RpoProof]:
    """The worst case of every Aerospike cluster."""
    return [prove_cluster(cluster) for cluster in platform.aerospike.clusters]


def prove_cluster(cluster: AerospikeCluster) -> RpoProof:
    kinds = cluster.backup_kinds
    weekly = tuple(kind for kind in kinds if is_weekly(kind.schedule))
    counted = weekly or kinds
    worst: tuple[timedelta, datetime, datetime, BackupKind, timedelta] | None = None
    times = _timeline(counted, WEEK if weekly else FOUR_YEARS)
    for (at, running), (then, due) in pairwise(times):
        busy = sum((kind.max_duration for kind in running), timedelta(0))
        waited = max(timedelta(0), at + busy - then)
        last = max(due, key=lambda kind: kind.max_duration)
        loss = then - at + waited + last.max_duration
        if worst is None or loss > worst[0]:
            worst = (loss, at, then, last, waited)
    assert worst is not None, "a cron that is never due does not load"
    uncounted = tuple(
        f"{kind.name} runs on some days of the month only: the proof does not count it"
        for kind in kinds
        if kind not in counted
    )
    objective = cluster.objectives
    return RpoProof(
        cluster=cluster.name,
        namespaces=tuple(namespace.name for namespace in cluster.namespaces),
        objective=objective.rpo,
        guide=objective.guide_rpo,
        gap_from=worst[1],
        gap_to=worst[2],
        ends_with=worst[3].name,
        waited=worst[4],
        duration=worst[3].max_duration,
        overlap=cluster.clock_skew_overlap,
        warnings=(*uncounted, *_collisions(times)),
    )


@lru_cache(maxsize=256)
def _timeline(kinds: tuple[BackupKind, ...], length: timedelta) -> tuple[tuple[datetime, tuple[BackupKind, ...]], ...]:
    """All starts of a period, with the kinds that start then, and the first start after it."""
    times: dict[datetime, tuple[BackupKind, ...]] = {}
    end = MONDAY + length
    for kind in kinds:
        for at in starts(kind.schedule, MONDAY - timedelta(minutes=1)):
            times[at] = (*times.get(at, ()), kind)
            if at >= end:
                break
    beyond = min(at for at in times if at >= end)
    return tuple((at, times[at]) for at in sorted(times) if at <= beyond)


def _collisions(times: tuple[tuple[datetime, tuple[BackupKind, ...]], ...]) -> list[str]:
    """One line for each pair of kinds whose runs can get in each other's way."""
    found: dict[tuple[str, str], str] = {}
    for at, running in times:
        if len(running) > 1:
            first, second = running[0].name, running[1].name
            found.setdefault((first, second), f"{first} and {second} both start at {at:%H:%M}: one waits for the other")
    for (at, running), (then, due) in pairwise(times):
        for kind in running:
            if at + kind.max_duration > then:
                found.setdefault(
                    (kind.name, f"next {due[0].name}"),
                    f"{kind.name} of {at:%H:%M} may take {duration_text(kind.max_duration)}, but the next "
                    f"run ({due[0].name}, {then:%H:%M}) is due after {duration_text(then - at)}: it waits",
                )
    return list(found.values())
