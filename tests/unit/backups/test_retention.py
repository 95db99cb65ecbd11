"""Which restore points may go: the rules one by one, then generated histories against a slow reading of the promise."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from dbops.backups.retention import Decision, Point, RetentionPlan, plan_retention
from dbops.platform import Retention
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
EQUAL = Retention(full=30 * DAY, incremental=30 * DAY, max_share=1)
SHORT = Retention(full=30 * DAY, incremental=7 * DAY, max_share=1)
BAD = "slice_0000_0063.asb is missing"


def full(age: float, name: str = "", **more: object) -> Point:
    """A verified full so many days old."""
    facts = {"verified": not more.get("problem")} | more
    return Point(name or f"full-{age:g}", NOW - age * DAY, full=True, **facts)  # type: ignore[arg-type]


def inc(age: float, parent: Point, name: str = "", **more: object) -> Point:
    facts = {"verified": not more.get("problem")} | more
    return Point(name or f"inc-{age:g}", NOW - age * DAY, full=False, parent=parent.id, **facts)  # type: ignore[arg-type]


def chain(age: float, incrementals: int, step: float = 0.25) -> list[Point]:
    """A full and the incrementals after it."""
    found = [full(age)]
    for number in range(1, incrementals + 1):
        found.append(inc(age - number * step, found[-1]))
    return found


def daily(days: int, incrementals: int = 3) -> list[Point]:
    return [point for age in range(days, 0, -1) for point in chain(age, incrementals)]


def ids(decisions: Iterable[Decision]) -> set[str]:
    return {decision.point.id for decision in decisions}


def expired(points: Sequence[Point], policy: Retention = EQUAL, **more: object) -> set[str]:
    return ids(plan_retention(points, policy, NOW, **more).expire)  # type: ignore[arg-type]


def reason(plan: RetentionPlan, point: Point) -> str:
    return next(decision.reason for decision in plan.decisions if decision.point.id == point.id)


class TestWindow:
    def test_the_only_full_is_kept_even_if_it_is_400_days_old(self) -> None:
        plan = plan_retention([full(400)], EQUAL, NOW)
        assert plan.expire == []
        assert plan_retention([], EQUAL, NOW) == RetentionPlan((), None, None)

    def test_the_newest_full_before_the_window_reaches_its_first_moment(self) -> None:
        points = [full(age) for age in (50, 40, 35, 20, 10)]
        plan = plan_retention(points, EQUAL, NOW)
        assert ids(plan.expire) == {"full-50", "full-40"}
        assert "at or before 2026-10-24T05:00:00Z, where the window begins" in reason(plan, points[2])
        assert reason(plan, points[3]) == "is 20 d old; fulls are kept 30 d"
        assert reason(plan, points[0]).startswith("is 50 d old, fulls are kept 30 d; nothing that is kept builds on it")

    def test_one_exactly_at_the_beginning_of_the_window_needs_none_before_it(self) -> None:
        assert expired([full(age) for age in (50, 30, 20, 10)]) == {"full-50"}

    def test_a_chain_goes_as_a_whole(self) -> None:
        old, next_, rest = chain(33, 3), chain(32, 3), [full(20), full(10)]
        assert expired([*old, *next_, *rest]) == {point.id for point in old}

    def test_the_base_of_a_live_chain_stays_beyond_the_window(self) -> None:
        points = [*chain(60, 40, 1), full(40), full(15), full(5)]
        plan = plan_retention(points, EQUAL, NOW)
        assert plan.expire == []
        assert reason(plan, points[0]) == "inc-59 builds on it"

    def test_with_a_shorter_window_only_the_end_of_a_chain_goes_before_its_full(self) -> None:
        points = [point for age in range(28, 0, -7) for point in chain(age, 6, 1)]
        gone = expired(points, SHORT)
        # 7 d: the window begins with the full of that age, so no older incremental reaches into it
        assert gone == {f"inc-{age}" for age in (*range(22, 28), *range(15, 21), *range(8, 14))}

    def test_the_newest_incremental_before_its_window_stays_with_all_it_builds_on(self) -> None:
        points = [*chain(10, 9, 1), full(0.5)]
        assert expired(points, SHORT) == set()
        points = [*chain(12, 4, 1), full(7.5), full(0.5)]
        assert expired(points, SHORT) == {"inc-11", "inc-10", "inc-9", "inc-8"}

    def test_incrementals_kept_longer_than_fulls_keep_theirs(self) -> None:
        policy = Retention(full=7 * DAY, incremental=30 * DAY, max_share=1)
        assert expired([*chain(20, 3), *chain(40, 3), *chain(35, 3), full(1), full(2)], policy) == {
            *(point.id for point in chain(40, 3))
        }

    def test_order_is_that_of_snapshots_not_of_names(self) -> None:
        points = [full(50, "backup_9"), full(40, "backup_10"), full(35, "backup_2"), full(20, "a"), full(10, "A")]
        assert expired(points) == {"backup_9", "backup_10"}
        assert [d.point.id for d in plan_retention(points[::-1], EQUAL, NOW).decisions] == [p.id for p in points]

    def test_dependents_go_before_what_they_build_on(self) -> None:
        points = daily(40)
        random.Random(1).shuffle(points)
        gone = [decision.point.id for decision in plan_retention(points, EQUAL, NOW).expire]
        assert gone
        by_id = {point.id: point for point in points}
        for id, parent in ((id, by_id[id].parent) for id in gone):
            assert parent is None or gone.index(id) < gone.index(parent)

    def test_one_of_the_future_is_kept_and_replaces_none_of_today(self) -> None:
        points = [full(50), full(40), full(35), full(-400)]
        assert expired(points) == {"full-50", "full-40"}

    def test_two_of_one_id_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same id"):
            plan_retention([full(1), full(1)], EQUAL, NOW)


class TestFloor:
    @pytest.mark.parametrize("count", [0, 1])
    def test_fewer_than_the_floor_is_no_error_and_nothing_goes(self, count: int) -> None:
        points = [*(chain(90, 3) if count else []), full(80, problem=BAD), full(70, problem=BAD)]
        plan = plan_retention(points, EQUAL, NOW)
        assert plan.expire == []
        assert plan.approval is None
        assert f"there {'is' if count else 'are'} only {count or 'no'} verified full" in reason(plan, points[-1])

    @pytest.mark.parametrize("floor", [1, 2, 5])
    def test_so_many_verified_fulls_stay_however_old_they_are(self, floor: int) -> None:
        points = [full(age) for age in range(400, 300, -10)]
        kept = ids(plan_retention(points, EQUAL.model_copy(update={"floor": floor}), NOW).keep)
        assert kept == {f"full-{age}" for age in range(310, 310 + 10 * floor, 10)}

    def test_incrementals_do_not_count(self) -> None:
        """barman counted them, and `delete oldest` in a loop took three backups to none (#1081)."""
        policy = EQUAL.model_copy(update={"floor": 3})
        points = [full(90), full(80), *chain(70, 20, 0.1)]
        assert expired(points, policy) == set()

    def test_the_last_good_full_survives_ten_corrupt_ones(self) -> None:
        good = full(60)
        corrupt = [full(age, problem=BAD) for age in range(59, 49, -1)]
        one = EQUAL.model_copy(update={"floor": 1})
        plan = plan_retention([good, *corrupt], one, NOW)
        assert ids(plan.keep) == {good.id}
        assert BAD in reason(plan, corrupt[0])
        assert ids(plan_retention([good, *corrupt], EQUAL, NOW).expire) == set()
        assert good.id not in expired([full(80), full(70), good, *corrupt])

    def test_unverified_fulls_do_not_count_and_the_newest_before_the_window_stays_beside_the_verified_one(self) -> None:
        points = [full(90), full(80), full(70), full(60, verified=False), full(50, verified=False)]
        assert expired(points) == {"full-90", "full-60"}

    def test_a_chain_on_a_damaged_full_reaches_nothing(self) -> None:
        broken = full(33, problem=BAD)
        points = [full(60), full(50), full(45), *chain(40, 2), broken, inc(32, broken), inc(31.5, broken, "b")]
        assert expired(points) == {"full-60", "full-50", broken.id, "inc-32", "b"}

    def test_without_a_newer_verified_full_than_at_the_last_expiry_nothing_goes(self) -> None:
        points = [full(age) for age in (60, 50, 40, 10)]
        assert expired(points, last_full=NOW - 11 * DAY) == {"full-60", "full-50"}
        for last in (10, 5):
            plan = plan_retention(points, EQUAL, NOW, last_full=NOW - last * DAY)
            assert plan.expire == []
            assert "no full newer than full-10 was verified" in reason(plan, points[0])


class TestHeld:
    def test_a_pinned_incremental_keeps_its_chain_up_to_it_and_nothing_else(self) -> None:
        points = daily(40)
        without = expired(points, SHORT)
        pinned = [replace(p, pinned="by ann at noon: audit") if p.id == "inc-35.5" else p for p in points]
        plan = plan_retention(pinned, SHORT, NOW)
        assert without - ids(plan.expire) == {"full-36", "inc-35.75", "inc-35.5"}
        assert reason(plan, pinned[[p.id for p in pinned].index("inc-35.5")]) == "is pinned by ann at noon: audit"
        assert expired(points) - expired(pinned) == {point.id for point in chain(36, 3)}, "chains go as a whole"

    def test_a_locked_point_is_kept_until_the_lock_ends(self) -> None:
        points = [full(age) for age in (60, 50, 40, 20, 10)]
        points[0] = replace(points[0], locked_until=NOW + HOUR)
        plan = plan_retention(points, EQUAL, NOW)
        assert ids(plan.expire) == {"full-50"}
        assert reason(plan, points[0]) == "is locked until 2026-11-23T06:00:00Z"
        points[0] = replace(points[0], locked_until=NOW)
        assert expired(points) == {"full-60", "full-50"}

    def test_what_is_in_use_is_kept_with_all_it_builds_on(self) -> None:
        old = chain(60, 3)
        old[2] = replace(old[2], held="is being restored until 2026-11-23T07:00:00Z by drill")
        assert expired([*old, full(40), full(20), full(10)], SHORT) == {old[3].id}

    @pytest.mark.parametrize("more", [{"verified": False}, {"problem": BAD}])
    def test_damaged_and_unverified_ones_are_left_alone_for_the_grace_period(self, more: dict[str, object]) -> None:
        policy = Retention(full=2 * DAY, incremental=2 * DAY, grace=5 * DAY, max_share=1)
        points = [full(age) for age in (9, 8, 7)]
        young, old = full(4, "young", **more), full(6, "old", **more)
        assert expired([*points, young, old, full(0.5), full(0.4)], policy) == {"full-9", "full-8", "old"}
        late = replace(old, changed_at=NOW - HOUR)
        plan = plan_retention([*points, late, full(2.5), full(0.5), full(0.4)], policy, NOW)
        assert "old" not in ids(plan.expire)
        assert "1 h ago; such a point is left alone for 5 d" in reason(plan, late)

    def test_a_point_with_a_lost_manifest_keeps_what_it_most_likely_builds_on(self) -> None:
        first = chain(40, 1)
        lost = Point("lost", NOW - 39.5 * DAY, full=False, problem="manifest.json: Invalid JSON", pinned="by ann")
        plan = plan_retention([*first, lost, *(full(age) for age in (35, 34, 33, 20, 10))], SHORT, NOW)
        assert {*(point.id for point in first), "lost"}.isdisjoint(ids(plan.expire))


class TestGuard:
    def test_a_typo_in_the_policy_stops_for_a_person(self) -> None:
        points = daily(40)
        plan = plan_retention(points, Retention(full=30 * DAY, incremental=30 * DAY), NOW)
        assert 0 < len(plan.expire) < len(points) / 2
        assert plan.approval is None
        typo = plan_retention(points, Retention(full=3 * DAY, incremental=3 * DAY), NOW)
        assert typo.approval == (
            "148 of 160 restore points would go, 92%; more than 50% at once needs a person's approval"
        )
        assert len(typo.expire) == 148, "the plan is not lost"

    @pytest.mark.parametrize(("share", "asks"), [(0.0, True), (0.39, True), (0.4, False), (1.0, False)])
    def test_the_share_is_that_of_all_points(self, share: float, asks: bool) -> None:
        policy = EQUAL.model_copy(update={"max_share": share})
        plan = plan_retention([full(age) for age in (60, 50, 40, 20, 10)], policy, NOW)
        assert (plan.approval is not None) is asks
        assert plan_retention([full(20), full(10)], policy, NOW).approval is None


# --- generated histories ------------------------------------------------------------------------------------


class Slow:
    """The promise read word by word, by walking every chain."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.by_id = {point.id: point for point in points}
        self.points = sorted(points, key=lambda point: (point.snapshot_at, point.id))
        self.walked = {point.id: self._walk(point) for point in points}

    def _walk(self, point: Point) -> list[Point] | None:
        links = [point]
        while not links[-1].full:
            above = self.by_id.get(links[-1].parent or "")
            if above is None or above.snapshot_at >= links[-1].snapshot_at:
                return None
            links.append(above)
        return links

    def restorable(self, *, verified: bool) -> list[Point]:
        return [
            point
            for point in self.points
            if (links := self.walked[point.id])
            and all(link.problem is None and (link.verified or not verified) for link in links)
        ]


def newest(points: Sequence[Point], at: datetime) -> Point | None:
    return next((point for point in reversed(points) if point.snapshot_at <= at), None)


def check(points: list[Point], policy: Retention, now: datetime, plan: RetentionPlan) -> None:
    before, kept = Slow(points), [decision.point for decision in plan.keep]
    after = Slow(kept)
    assert len(plan.decisions) == len(points)
    assert all(decision.reason for decision in plan.decisions)
    gone = [decision.point for decision in plan.expire]
    names = {point.id for point in kept}
    incrementals = now - policy.incremental
    fulls = now - max(policy.full, policy.incremental)
    moments = sorted({incrementals, fulls, now, *(point.snapshot_at for point in points)})
    for verified in (True, False):
        old, new = before.restorable(verified=verified), after.restorable(verified=verified)
        old_fulls, new_fulls = ([point for point in some if point.full] for some in (old, new))
        for moment in moments:
            if moment >= incrementals:
                assert newest(old, moment) is newest(new, moment), "a promised moment is lost"
            if moment >= fulls:
                assert newest(old_fulls, moment) is newest(new_fulls, moment), "a promised full is lost"
        if verified:
            assert len(new_fulls) >= min(policy.floor, len(old_fulls)), "fewer verified fulls than the floor"
            assert old_fulls[-1:] == new_fulls[-1:], "the newest verified full is lost"
            if len(old_fulls) < policy.floor:
                assert not gone
    for point in kept:
        above = before.by_id.get(point.parent or "")
        assert above is None or above.id in names or above.snapshot_at >= point.snapshot_at, "a needed base is lost"
    for point in gone:
        start = fulls if point.full else incrementals
        assert point.snapshot_at < start
        assert (point.pinned, point.held) == (None, None)
        assert point.locked_until is None or point.locked_until <= now
        if not point.verified or point.problem:
            assert now - (point.changed_at or point.snapshot_at) >= policy.grace
    if policy.incremental >= policy.full:
        roots = {id: links[-1].id for id, links in before.walked.items() if links}
        assert {roots.get(p.id) for p in gone}.isdisjoint(roots[p.id] for p in kept if p.id in roots), "part of a chain"
    place = {point.id: index for index, point in enumerate(gone)}
    for point in gone:
        if (above := before.by_id.get(point.parent or "")) and above.id in place:
            assert above.snapshot_at >= point.snapshot_at or place[point.id] < place[above.id]
    assert (plan.approval is not None) is (len(gone) > policy.max_share * len(points))


STEP = timedelta(hours=6)


def live(history: bytes) -> None:
    """Two bytes are an event of a platform's life: time passes, backups succeed, fail, rot, are pinned, expire."""
    now = NOW
    points: list[Point] = []
    policy = EQUAL
    last_full: datetime | None = None
    events = iter(history)
    for number, (what, byte) in enumerate(zip(events, events, strict=False)):
        kind, low, high = what % 16, byte % 16, byte // 16
        now += STEP * (what // 16)
        some = points[low % len(points)] if points else None
        if kind < 3:
            points.append(Point(f"{255 - number:03}-full", now - low * HOUR, full=True, verified=high < 11))
        elif kind < 8:  # on the newest point, or on any one, or on one that is not there
            parent = points[-1 - (high if low == 0 else 0) % len(points)].id if points else "missing"
            parent_id = None if low == 15 else "missing" if low == 14 else parent
            at = now - (low if low > 8 else 0) * HOUR
            bad = "manifest.json is damaged" if parent_id is None else None
            points.append(Point(f"{255 - number:03}", at, False, parent_id, verified=high < 11, problem=bad))
        elif kind == 8 and some:
            points[low % len(points)] = replace(some, problem=BAD, verified=False, changed_at=now)
        elif kind == 9 and some:
            points[low % len(points)] = replace(some, verified=high < 8)
        elif kind == 10 and some:
            until = now + high * DAY
            points[low % len(points)] = replace(
                some, pinned="by x" if high < 3 else None, held="in use" if high == 3 else None, locked_until=until
            )
        elif kind == 11:
            policy = Retention(
                full=(1 + high) * STEP * 2,
                incremental=(1 + low) * STEP,
                floor=1 + (low + high) % 4,
                grace=(1 + high % 5) * STEP,
                max_share=low / 15,
            )
        elif kind > 11:
            plan = plan_retention(points, policy, now, last_full)
            check(points, policy, now, plan)
            if plan.expire:
                points = [decision.point for decision in plan.keep]
                last_full = plan.newest_full
                assert last_full == max(p.snapshot_at for p in Slow(points).restorable(verified=True) if p.full)
    random.Random(len(history)).shuffle(points)
    check(points, policy, now, plan_retention(points, policy, now))


@settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=64))
def test_promises_survive_any_history_policy_and_order_of_failures(history: bytes) -> None:
    live(history)


def test_promises_survive_long_histories() -> None:
    rng = random.Random(20261123)
    for _ in range(1000):
        live(rng.randbytes(rng.randrange(100, 400)))
