"""Which restore points may go: a pure function, for points of every kind that build on each other or on nothing.

What is promised, for every moment T: the newest restorable point at or before T survives when T lies in the window of
incrementals, and the newest restorable full one when T lies in the window of fulls. "Restorable" is read twice, as
"nothing is known against it" and as "was read back and found whole", and both hold. So the window's first moments,
which only a point older than the window reaches, can be restored too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

_DAY = timedelta(days=1)


class Policy(Protocol):
    """`platform.Retention`."""

    @property
    def full(self) -> timedelta: ...

    @property
    def incremental(self) -> timedelta: ...

    @property
    def floor(self) -> int: ...

    @property
    def max_share(self) -> float: ...

    @property
    def grace(self) -> timedelta: ...


@dataclass(frozen=True, slots=True)
class Point:
    """What has to be known of a restore point, whatever it holds and wherever it lies."""

    id: str
    snapshot_at: datetime
    full: bool
    parent: str | None = None
    """Id of the point that it builds on. None although it is no full one: unknown, since its manifest is damaged."""
    verified: bool = False
    """It was read back and found whole."""
    problem: str | None = None
    """What is known to be wrong with it alone."""
    changed_at: datetime | None = None
    """When it was committed or found damaged, whichever is later; grace counts from here. None: at its snapshot."""
    pinned: str | None = None
    """Who pinned it, when and why."""
    locked_until: datetime | None = None
    """No object of it can be removed before."""
    held: str | None = None
    """Any other reason that forbids its deletion now: a restore reads it, its locks could not be looked at."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a point, and why, in words."""

    point: Point
    keep: bool
    reason: str
    needs: str | None = None
    """Id of the point that it builds on, which must not go before it."""


@dataclass(frozen=True)
class RetentionPlan:
    """A decision for every point, the oldest snapshot first."""

    decisions: tuple[Decision, ...]
    approval: str | None
    """Why a person has to look at it before anything goes; None when it may go by itself."""
    newest_full: datetime | None
    """Snapshot of the newest verified full: what the next plan is told as `last_full` when this one is carried out."""

    @property
    def keep(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.keep]

    @property
    def expire(self) -> list[Decision]:
        """In the order in which they have to go: what builds on another one before that one."""
        return [decision for decision in reversed(self.decisions) if not decision.keep]


def plan_retention(
    points: Iterable[Point], policy: Policy, now: datetime, last_full: datetime | None = None
) -> RetentionPlan:
    """Decide which restore points of one namespace may go.

    A chain (a full and what builds on it) goes as a whole; where incrementals are kept shorter than fulls, the end of
    a chain may go before. Never expired: what lies in its window or is needed to restore its first moment, what a kept
    point builds on, the newest `floor` verified fulls, what is pinned, locked or in use, what is unverified or damaged
    and younger than `grace`. One that may not go does not hold back others. With fewer than `floor` verified fulls
    nothing goes, and nothing goes before a full is verified that is newer than `last_full`.

    :param points: all committed points, any order (ordered here by `snapshot_at`, never by name).
    :param now: aware UTC; the real time, not that of a schedule.
    :param last_full: snapshot of the newest verified full when something last expired; None when nothing ever did.
    :raises ValueError: two points have the same id.
    """
    decided = _Decided(points, policy, now)
    decided.hold()
    decided.keep_windows()
    decided.keep_floor()
    decided.keep_young()
    decided.keep_needed()
    if policy.incremental >= policy.full:
        decided.keep_chains()
    decided.keep_when_backups_fail(last_full)
    return decided.plan()


class _Decided:
    """The state of one decision. A point's first reason to be kept is the one that is told."""

    def __init__(self, points: Iterable[Point], policy: Policy, now: datetime) -> None:
        self.policy, self.now = policy, now
        self.points = sorted(points, key=lambda point: (point.snapshot_at, point.id))
        place = {point.id: index for index, point in enumerate(self.points)}
        if len(place) != len(self.points):
            raise ValueError("two restore points have the same id")
        count = len(self.points)
        self.reasons: list[str | None] = [None] * count
        self.needs: list[int | None] = [None] * count
        """The older point that a point builds on, as far as it is there."""
        self.chain = list(range(count))
        """The oldest point that a point leads to: the same number, the same chain."""
        self.usable = [False] * count
        self.trusted = [False] * count
        for index, point in enumerate(self.points):
            whole = point.problem is None
            if point.full:
                self.usable[index], self.trusted[index] = whole, whole and point.verified
                continue
            known = None if point.parent is None else place.get(point.parent)
            if point.parent is None and index:
                known = index - 1  # the manifest is lost; if it is found again, this is what it most likely needs
            if known is None or self.points[known].snapshot_at >= point.snapshot_at:
                continue
            self.needs[index], self.chain[index] = known, self.chain[known]
            if point.parent is not None:
                self.usable[index] = whole and self.usable[known]
                self.trusted[index] = whole and point.verified and self.trusted[known]
        self.verified_fulls = [index for index in range(count) if self.points[index].full and self.trusted[index]]

    def _keep(self, index: int, reason: str) -> None:
        if self.reasons[index] is None:
            self.reasons[index] = reason

    def hold(self) -> None:
        for index, point in enumerate(self.points):
            if point.held:
                self._keep(index, point.held)
            elif point.pinned:
                self._keep(index, f"is pinned {point.pinned}")
            elif point.locked_until is not None and point.locked_until > self.now:
                self._keep(index, f"is locked until {point.locked_until:%FT%TZ}")

    def keep_windows(self) -> None:
        """What lies in its window, and what reaches the window's first moment."""
        # An incremental is worth nothing without its full, so a full one's window is never the shorter.
        full = max(self.policy.full, self.policy.incremental)
        for window, what, fulls in ((full, "fulls", True), (self.policy.incremental, "incrementals", False)):
            kept = f"{what} are kept {_age(window)}"
            for index in range(self._after(self.now - window, exactly=True), len(self.points)):
                if self.points[index].full is fulls:
                    self._keep(index, f"is {_age(self.now - self.points[index].snapshot_at)} old; {kept}")
        self._keep_first(self.now - full, full_only=True)
        self._keep_first(self.now - self.policy.incremental, full_only=False)

    def _after(self, moment: datetime, *, exactly: bool = False) -> int:
        """Where the points after a moment begin; with `exactly`, those at it too."""
        if exactly:
            moment -= timedelta(microseconds=1)
        return bisect_right(self.points, moment, key=lambda point: point.snapshot_at)

    def _keep_first(self, start: datetime, *, full_only: bool) -> None:
        end, what = self._after(start), "full" if full_only else "restore point"
        for good, adjective in ((self.usable, "newest"), (self.trusted, "newest verified")):
            older = (index for index in range(end - 1, -1, -1) if good[index])
            found = next((index for index in older if self.points[index].full or not full_only), None)
            if found is not None:
                self._keep(
                    found,
                    f"is the {adjective} {what} at or before {start:%FT%TZ}, where the window begins: its first "
                    "moments are restored from it",
                )

    def keep_floor(self) -> None:
        for index in self.verified_fulls[-self.policy.floor :]:
            self._keep(index, f"is one of the {self.policy.floor} newest verified fulls, which always stay")

    def keep_young(self) -> None:
        for index, point in enumerate(self.points):
            age = self.now - (point.changed_at or point.snapshot_at)
            if age < self.policy.grace and not (point.verified and point.problem is None):
                what = "was found damaged" if point.problem else "was committed, and not yet verified,"
                self._keep(index, f"{what} {_age(age)} ago; such a point is left alone for {_age(self.policy.grace)}")

    def keep_needed(self) -> None:
        for index in range(len(self.points) - 1, -1, -1):
            known = self.needs[index]
            if known is not None and self.reasons[index] is not None:
                self._keep(known, f"{self.points[index].id} builds on it")

    def keep_chains(self) -> None:
        """Incrementals are kept as long as fulls, so that a chain goes only as a whole."""
        kept = {self.chain[index]: index for index, reason in enumerate(self.reasons) if reason is not None}
        for index, chain in enumerate(self.chain):
            if chain in kept:
                self._keep(index, f"its chain is kept, since {self.points[kept[chain]].id} is: chains go as a whole")

    def keep_when_backups_fail(self, last_full: datetime | None) -> None:
        found = len(self.verified_fulls)
        if found < self.policy.floor:
            self._keep_all(
                f"there {'is' if found == 1 else 'are'} only {found or 'no'} verified full{'s' if found != 1 else ''} "
                f"and {self.policy.floor} must stay: nothing expires before there are more"
            )
            return
        newest = self.points[self.verified_fulls[-1]]
        if last_full is not None and newest.snapshot_at <= last_full:
            self._keep_all(
                f"no full newer than {newest.id} was verified since something last expired: it waits for one"
            )

    def _keep_all(self, reason: str) -> None:
        for index in range(len(self.points)):
            self._keep(index, reason)

    def plan(self) -> RetentionPlan:
        decisions = []
        for index, (point, reason) in enumerate(zip(self.points, self.reasons, strict=True)):
            known = self.needs[index]
            needs = None if known is None else self.points[known].id
            decisions.append(Decision(point, reason is not None, reason or self._why_expired(index), needs))
        gone = sum(not decision.keep for decision in decisions)
        approval = None
        if gone > self.policy.max_share * len(decisions):
            approval = (
                f"{gone} of {len(decisions)} restore points would go, {gone / len(decisions):.0%}; more than "
                f"{self.policy.max_share:.0%} at once needs a person's approval"
            )
        newest = self.points[self.verified_fulls[-1]].snapshot_at if self.verified_fulls else None
        return RetentionPlan(tuple(decisions), approval, newest)

    def _why_expired(self, index: int) -> str:
        point = self.points[index]
        what, window = ("fulls", self.policy.full) if point.full else ("incrementals", self.policy.incremental)
        damaged = (
            "" if self.usable[index] else f", and it cannot be restored ({point.problem or 'its chain is broken'})"
        )
        age = _age(self.now - point.snapshot_at)
        return f"is {age} old, {what} are kept {_age(window)}; nothing that is kept builds on it{damaged}"


def _age(value: timedelta) -> str:
    """`31 d`, `5 h`, `12 min`: the largest unit alone, rounded down."""
    if value >= _DAY:
        return f"{value // _DAY} d"
    seconds = int(value.total_seconds())
    return f"{seconds // 3600} h" if seconds >= 3600 else f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"
