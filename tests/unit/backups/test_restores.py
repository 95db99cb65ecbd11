"""What is written down about restores is swept when it is old, and never while the restore runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from dbops.backups.in_use import holds, mark_in_use, release_in_use, restoring_prefix
from dbops.backups.restores import sweep_restores
from dbops.backups.store import LocalStore, Store, StoreRefused, StoreUnavailable
from dbops.platform import Retention
from points_world import DAY, HOUR, names_below, take
from restore_documents import put_restore, restores_left

SHORT = Retention(full=7 * DAY, incremental=7 * DAY, grace=DAY)
LONG = Retention(full=90 * DAY, incremental=90 * DAY, grace=2 * DAY)


@pytest.fixture
def now() -> datetime:
    """Objects are written now; time is moved by telling the sweep another one."""
    return datetime.now(UTC)


def sweep(store: Store, now: datetime, *policies: Retention) -> list[str]:
    gone, failed = sweep_restores(store, policies or [SHORT], now)
    assert failed == {}
    return gone


def test_dry_runs_go_after_the_grace_period_and_restores_with_the_fulls_but_not_before_30_days(
    store: Store, now: datetime
) -> None:
    dry, real = put_restore(store, now, dry_run=True), put_restore(store, now)
    assert "-dryrun-" in dry
    assert "-restore-" in real
    assert sweep(store, now + DAY - HOUR) == []
    assert sweep(store, now + 2 * DAY - HOUR, SHORT, LONG) == []
    assert sweep(store, now + DAY + HOUR) == [dry]
    assert restores_left(store) == {real}
    assert sweep(store, now + 29 * DAY) == []
    assert sweep(store, now + 89 * DAY, LONG, SHORT) == []
    assert sweep(store, now + 31 * DAY) == [real]
    assert list(store.list("restores/")) == []


def test_what_was_added_to_lately_stays_however_old_the_restore_is(store: Store, now: datetime) -> None:
    put_restore(store, now - 90 * DAY)
    put_restore(store, now - 3 * DAY, dry_run=True)
    assert sweep(store, now) == []


def test_a_restore_that_still_runs_keeps_its_documents(store: Store, now: datetime) -> None:
    point = take(store, now.replace(microsecond=0))
    running = put_restore(store, now, holder="the one that runs")
    over = put_restore(store, now, holder="another one")
    later = now + 40 * DAY
    mark_in_use(store, "eu", "bidder", [point.id], "the one that runs", later + HOUR)
    assert sweep(store, later) == [over]
    (mark,) = list(store.list(restoring_prefix("eu", "bidder")))
    store.put(mark.key, b"{")
    assert holds(store, "eu", "bidder", "the one that runs", later), "it may say anything"
    assert sweep(store, later) == []
    release_in_use(store, "eu", "bidder", "the one that runs")
    assert sweep(store, later) == [running]


def test_what_is_no_restore_stays_and_one_without_a_plan_goes_by_its_age(local: LocalStore, now: datetime) -> None:
    local.put("restores/notes/plan.json", b"{}")
    local.put("restores/readme.txt", b"hello")
    local.put("restores/20269999T020000Z-restore-00000000/plan.json", b"{}")
    unreadable, without = put_restore(local, now), put_restore(local, now)
    local.put(f"restores/{unreadable}/plan.json", b"{")
    local.delete([f"restores/{without}/plan.json"])
    assert set(sweep(local, now + 31 * DAY)) == {unreadable, without}
    assert names_below(local, "restores/") == {
        "notes/plan.json",
        "readme.txt",
        "20269999T020000Z-restore-00000000/plan.json",
    }


class Refusing(LocalStore):
    """Refuses to delete what is named, or does not answer then."""

    name, error = "", StoreRefused("it is locked")

    def delete(self, keys: Iterable[str]) -> None:
        wanted = list(keys)
        if self.name and any(self.name in key for key in wanted):
            raise self.error
        super().delete(wanted)


def test_one_that_the_store_refuses_to_delete_is_named_and_holds_back_no_other(
    local: LocalStore, now: datetime
) -> None:
    locked, others = put_restore(local, now), {put_restore(local, now) for _ in range(3)}
    store = Refusing(local.directory)
    store.name = locked
    gone, failed = sweep_restores(store, [SHORT], now + 31 * DAY)
    assert (set(gone), failed) == (others, {locked: "it is locked"})


def test_interrupted_it_goes_on_the_next_time_and_the_plan_goes_last(local: LocalStore, now: datetime) -> None:
    id = put_restore(local, now)
    store = Refusing(local.directory)
    store.name, store.error = "plan.json", StoreUnavailable("no answer")  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        sweep_restores(store, [SHORT], now + 31 * DAY)
    assert names_below(local, f"restores/{id}/") == {"plan.json"}
    assert sweep(local, now + 31 * DAY + timedelta(minutes=1)) == [id]
