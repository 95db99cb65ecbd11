"""What statements cost between two looks: resets, dropped and new statements, and the share that is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from dbops.postgres.statements import Counters, change

START = datetime(2026, 1, 1, tzinfo=UTC)
RESET = START - timedelta(days=30)


def look(minutes: int, statements: dict[str, tuple[int, float]], reset: datetime = RESET) -> Counters:
    return Counters(START + timedelta(minutes=minutes), reset, statements)


def test_the_first_look_has_nothing_to_compare_with() -> None:
    assert change(None, look(0, {"a": (5, 5.0)})) is None


def test_only_what_happened_in_between_counts() -> None:
    found = change(
        look(0, {"a": (1000, 900_000.0), "b": (10, 10.0)}), look(15, {"a": (1000, 900_000.0), "b": (30, 50.0)})
    )
    assert found is not None
    assert (found.calls, found.total_ms, found.p95_ms) == (20, 40.0, 2.0)
    assert found.since == START


def test_counters_that_were_reset_begin_at_zero_and_at_that_moment() -> None:
    reset = START + timedelta(minutes=5)
    found = change(look(0, {"a": (1000, 1000.0)}), look(15, {"a": (2000, 8000.0)}, reset))
    assert found is not None
    assert (found.calls, found.p95_ms, found.since) == (2000, 4.0, reset)


def test_a_statement_that_was_dropped_and_came_back_counts_from_zero() -> None:
    found = change(look(0, {"a": (1000, 5000.0)}), look(15, {"a": (10, 30.0)}))
    assert found is not None
    assert (found.calls, found.p95_ms) == (10, 3.0)


@pytest.mark.parametrize(("slow_calls", "p95"), [(4, 1.0), (6, 500.0)])
def test_the_share_is_of_calls_and_not_of_statements(slow_calls: int, p95: float) -> None:
    found = change(
        look(0, {}),
        look(15, {"fast": (100 - slow_calls, 100.0 - slow_calls), "slow": (slow_calls, 500.0 * slow_calls)}),
    )
    assert found is not None
    assert found.p95_ms == p95
    assert found.slowest[0].key == "slow"
