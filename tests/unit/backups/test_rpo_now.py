"""The age of what can be restored: never younger than it is, and never a pass when nobody could look."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from dbops.alerts import Severity
from dbops.backups import catalog
from dbops.backups.catalog import newest_verified
from dbops.backups.manifest import Manifest
from dbops.backups.rpo import ClockOff, Measured, State, age_text, alert_of, measure, measure_place
from dbops.backups.store import LocalStore, Store, StoreUnavailable
from dbops.platform import load_platform
from dbops.platform.load import DIRECTORY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from points_world import DAY, HOUR, NOW, ids, mark, plan_of, store_slices, take, take_chain

PLACE = ("eu", "bidder")
RPO = timedelta(hours=7)


def look(store: Store, now: object = NOW) -> Measured:
    return measure_place(store, *PLACE, RPO, now)  # type: ignore[arg-type]


def old_way(store: Store) -> catalog.RestorePoint | None:
    """The same by reading everything."""
    return catalog.latest([point for point in catalog.restore_points(store, *PLACE) if point.verified])


def drop(store: Store, manifest: Manifest) -> None:
    store.delete([catalog.manifest_key(*PLACE, manifest.id)])


# --- what counts --------------------------------------------------------------------------------------------


def test_the_age_is_that_of_the_newest_point_that_was_read_back_with_all_it_builds_on(store: Store) -> None:
    chain = take_chain(store, 1, 2)
    found = look(store)
    assert (found.point, found.snapshot_at, found.age) == (chain[-1].id, chain[-1].snapshot_at, 12 * HOUR)
    assert found.newer == {}
    unread = take(store, NOW - 6 * HOUR, chain[-1], ok=None)
    on_it = take(store, NOW - 5 * HOUR, unread)
    damaged = take(store, NOW - 4 * HOUR, on_it, ok=False)
    store_slices(store, plan_of(NOW - 3 * HOUR))
    found = look(store)
    assert (found.point, found.age) == (chain[-1].id, 12 * HOUR)
    assert list(found.newer) == [f"{NOW - 3 * HOUR:%Y%m%dT%H%M%SZ}-full", damaged.id, on_it.id, unread.id]
    reasons = list(found.newer.values())
    assert reasons[0] == "was not committed: it runs, or it died"
    assert reasons[1:] == [
        "was found damaged: slice_0000_4095.asb: is missing",
        f"builds on {unread.id}, which was never read back",
        "was never read back",
    ]
    mark(store, unread, ok=True)
    found = look(store)
    assert (found.point, list(found.newer)[-1]) == (on_it.id, damaged.id)
    store.put(catalog.manifest_key(*PLACE, on_it.id), b"{")
    assert look(store).newer[damaged.id].startswith("was found damaged")
    mark(store, damaged, ok=True)
    reason = look(store).newer[damaged.id]
    assert reason.startswith(f"builds on {on_it.id}, which has a manifest that cannot be read: ")


def test_a_missing_link_takes_all_that_builds_on_it(store: Store) -> None:
    first, second = take_chain(store, 2), take_chain(store, 1, 3)
    drop(store, second[1])
    assert look(store).point == second[0].id
    drop(store, second[0])
    found = look(store)
    assert found.point == first[0].id
    assert f"{second[1].id} is missing" in found.newer[second[2].id]
    drop(store, first[0])
    found = look(store)
    assert (found.state, found.point, found.age) == (State.NEVER, None, None)
    assert found.message.startswith("there is no restorable point; newer: ")


def test_nothing_at_all_is_never_and_one_older_than_the_objective_is_exceeded(store: Store) -> None:
    assert look(store).state is State.NEVER
    point = take(store, NOW - RPO)
    assert look(store).state is State.KEPT
    assert look(store, NOW + timedelta(microseconds=1)).state is State.EXCEEDED
    assert look(store).message == f"{point.id} is 7 h old"


def test_clocks_that_differ_a_little_do_not_matter_and_more_is_no_answer(local: LocalStore) -> None:
    take(local, NOW + timedelta(minutes=5))
    found = look(local)
    assert (found.state, found.age) == (State.KEPT, timedelta(0))
    take(local, NOW + timedelta(minutes=15))
    found = look(local)
    assert (found.state, found.age) == (State.UNKNOWN, None)
    assert isinstance(found.error, ClockOff)
    assert "set this machine's clock" in found.message


def test_no_more_manifests_are_read_than_the_answer_takes(local: LocalStore) -> None:
    for age in range(30, 0, -1):
        chain = take_chain(local, age, 1)
    store = Failing(local.directory)
    assert look(store).point == chain[-1].id
    assert store.calls <= 6
    assert len(newest_verified(local, *PLACE).newer) == 0


# --- could not look -----------------------------------------------------------------------------------------


class Failing(LocalStore):
    """Fails at one of its reads: this is the store of an outage that begins or ends at any moment."""

    def __init__(self, root: Path, fails_at: int = 0, error: Exception | None = None) -> None:
        super().__init__(root)
        self.calls, self.fails_at, self.error = 0, fails_at, error or StoreUnavailable("the store is down")

    def _called(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            raise self.error

    def get(self, key: str) -> bytes:
        self._called()
        return super().get(key)

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        self._called()
        return super().list_prefixes(prefix)


HISTORY = st.lists(
    st.tuples(
        st.integers(0, 60), st.booleans(), st.sampled_from([True, True, True, False, None, "gone", "unreadable"])
    ),
    max_size=7,
)


def write(store: Store, history: list[tuple[int, bool, bool | str | None]]) -> None:
    """Points of so many hours ago, full or on top of the one before; some unread, damaged, gone or unreadable."""
    last: Manifest | None = None
    for number, (hours, full, fate) in enumerate(sorted(history, key=lambda one: -one[0])):
        at = NOW - hours * HOUR + timedelta(minutes=number)
        parent = None if full else last
        last = take(store, at, parent, ok=fate if isinstance(fate, bool) else True if fate else None)
        if fate == "gone":
            drop(store, last)
        if fate == "unreadable":
            store.put(catalog.manifest_key(*PLACE, last.id), b"{")


@given(HISTORY, st.integers(1, 20), st.sampled_from([StoreUnavailable("down"), OSError("a bug"), ValueError("a bug")]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happened_it_is_never_kept_by_less_than_a_whole_chain_nor_when_a_look_failed(
    history: list[tuple[int, bool, bool | str | None]], fails_at: int, error: Exception
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        write(store, history)
        found, truth = look(store, NOW + HOUR), old_way(store)
        assert found.snapshot_at == (truth.snapshot_at if truth else None)
        assert (found.state is State.KEPT) == (truth is not None and NOW + HOUR - truth.snapshot_at <= RPO)
        failing = Failing(Path(folder), fails_at, error)
        found = look(failing, NOW + HOUR)
        if failing.calls >= fails_at:
            assert (found.state, found.age, found.point) == (State.UNKNOWN, None, None)
            assert alert_of(found, NOW - DAY) is None, "the incident of a place says that it is exceeded"
            assert str(error) in found.message


def test_a_place_that_cannot_be_looked_at_hides_no_other(local: LocalStore) -> None:
    platform = load_platform(DIRECTORY / "lab.yaml")
    take(local, NOW - HOUR)
    take(local, NOW - DAY, namespace="spend")

    class Partly(LocalStore):
        def list_prefixes(self, prefix: str) -> Iterator[str]:
            if "dmp" in prefix:
                raise StoreUnavailable("dmp is not to be seen")
            return super().list_prefixes(prefix)

    places = [("eu", "bidder"), ("eu", "dmp"), ("eu", "spend"), ("apac", "bidder")]
    found = measure(Partly(local.directory), platform, places, NOW)
    assert [one.target for one in found] == ["/".join(place) for place in places]
    assert [str(one.state) for one in found] == ["kept", "unknown", "exceeded", "never"]
    assert found[1].message == "could not look: dmp is not to be seen"
    assert {one.rpo for one in found} == {RPO}


# --- alerts -------------------------------------------------------------------------------------------------


def test_an_exceeded_objective_is_critical_from_the_moment_it_was_exceeded(local: LocalStore) -> None:
    point = take(local, NOW - 9 * HOUR)
    unread = [take(local, NOW - hours * HOUR, ok=None) for hours in (5, 4, 3, 2)]
    alert = alert_of(look(local), None)
    assert alert is not None
    assert (alert.severity, alert.key) == (Severity.CRITICAL, "aerospike_rpo/eu/bidder")
    assert (alert.since, alert.value, alert.limit) == (point.snapshot_at + RPO, "9 h", "7 h")
    assert f"is {point.id}: were the namespace lost now" in alert.what
    assert f"Newer, but not restorable: {unread[-1].id} (was never read back), " in alert.what
    assert alert.what.endswith(" and 1 more.")
    later = alert_of(look(local, NOW + HOUR), None)
    assert later is not None
    assert (later.title, later.key) == (alert.title, alert.key), "they name the problem, not its occurrence"


def test_a_kept_objective_is_no_alert(local: LocalStore) -> None:
    take(local, NOW - 7 * HOUR)
    assert alert_of(look(local), NOW - 90 * DAY) is None


@pytest.mark.parametrize(
    ("known", "due"), [(None, False), (timedelta(0), False), (RPO, False), (RPO + HOUR, True), (90 * DAY, True)]
)
def test_a_namespace_without_any_point_is_due_one_objective_after_it_became_known(
    local: LocalStore, known: timedelta | None, due: bool
) -> None:
    found = look(local)
    since = NOW - known if known is not None else None
    alert = alert_of(found, since)
    assert (alert is not None) == due
    assert found.state is State.NEVER
    if alert is not None and since is not None:
        assert alert.since == since + RPO
        assert "eu/bidder has no restorable point" in alert.what
        assert alert.value == f"none, known since {since:%Y-%m-%d %H:%M} UTC"


def test_ages_are_shown_in_minutes_once_there_are_any() -> None:
    shown = [age_text(timedelta(seconds=seconds)) for seconds in (0, 59, 61, 3600, 90061)]
    assert shown == ["0 s", "59 s", "1 min", "1 h", "1 d 1 h 1 min"]
    assert replace(Measured(*PLACE, RPO, NOW), snapshot_at=NOW - timedelta(seconds=90)).age == timedelta(seconds=90)


def test_drills_take_the_same_point(local: LocalStore) -> None:
    from dbops.aerospike.drill import newest_points

    chain = take_chain(local, 1, 1)
    take(local, NOW - HOUR, chain[-1], ok=None)
    assert newest_points(local, [PLACE, ("eu", "none")]) == [
        {"cluster": "eu", "namespace": "bidder", "id": ids(chain)[-1]}
    ]
