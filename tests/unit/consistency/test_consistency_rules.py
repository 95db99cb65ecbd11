"""Which system is named, which days are looked at, and what the platform file refuses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from dbops.consistency.days import days_between, days_to_look_at, open_after
from dbops.consistency.spend import SpendDifference, amount_of, wrong
from dbops.platform import PlatformFileError, load_platform
from dbops.platform.consistency import Tolerance
from dbops.platform.sync import SyncColumn

LAB = Path(__file__).resolve().parents[3] / "include/platform/lab.yaml"
CENT = Tolerance(amount=0.01, percent=0)


def d(day: int) -> date:
    return date(2026, 11, day)


@pytest.mark.parametrize(
    ("postgres", "eu", "apac", "redshift", "named"),
    [
        (10, 10, 10, 10, []),
        (10, 10, 10, 12, ["redshift"]),
        (10, 12, 10, 10, ["eu"]),
        (10, 12, 12, 12, ["postgres"]),
        (10, 12, 10, 12, ["eu", "redshift"]),  # PostgreSQL is what the clusters follow
        (10, 11, 12, 13, ["eu", "apac", "redshift"]),
        (10, None, None, 12, ["redshift"]),  # nobody else was asked
        (10, None, 12, 12, ["postgres"]),
        (0, 0, None, 0, []),
        (10, 10, 10, Decimal("10.01"), []),
        (10, 10, 10, Decimal("10.0101"), ["redshift"]),
    ],
)
def test_the_system_that_stands_alone_is_named(
    postgres: Any, eu: Any, apac: Any, redshift: Any, named: list[str]
) -> None:
    amounts = {"postgres": postgres, "eu": eu, "apac": apac, "redshift": redshift}
    decimals = {name: None if value is None else Decimal(value) for name, value in amounts.items()}
    assert wrong(decimals, CENT) == named


def test_the_larger_tolerance_counts() -> None:
    amounts = {"postgres": Decimal(1000), "redshift": Decimal("1000.9")}
    assert wrong(amounts, Tolerance(amount=0.01, percent=0.1)) == []
    assert wrong(amounts, Tolerance(amount=0.01, percent=0.01)) == ["redshift"]
    assert wrong(amounts, Tolerance(amount=1, percent=0)) == []


def test_a_difference_is_counted_from_the_system_that_is_right() -> None:
    amounts = {"postgres": Decimal(10), "eu": Decimal(12), "redshift": Decimal(12)}
    assert SpendDifference("postgres", "x", d(1), amounts).off == -2
    assert SpendDifference("eu", "x", d(1), amounts).off == 2


def test_an_amount_is_what_the_form_of_its_bin_says() -> None:
    scaled = SyncColumn(column="spent", bin="spent", form="scaled", scale=6)
    assert amount_of(scaled, 12_345_678) == Decimal("12.345678")
    assert amount_of(scaled, None) == 0
    assert amount_of(SyncColumn(column="spent", bin="spent", form="decimal"), "1.50") == Decimal("1.5")


def test_days_are_looked_at_once_they_have_arrived_and_again_while_they_differ() -> None:
    now = datetime(2026, 11, 20, 3, 59, tzinfo=UTC)
    settle = timedelta(hours=4)
    assert days_to_look_at(now, settle, 2) == [d(17), d(18)]
    assert days_to_look_at(now + timedelta(minutes=1), settle, 2) == [d(18), d(19)]
    assert days_to_look_at(now, settle, 2, [d(3), d(18), d(19), date(2026, 10, 18)]) == [d(3), d(17), d(18)]


def test_a_day_stays_open_until_it_is_looked_at_or_too_old() -> None:
    assert open_after([d(3), d(4)], [d(4), d(5)], [d(5)], d(19)) == [d(3), d(5)]
    assert open_after([d(3)], [d(3)], [], d(19)) == []
    assert open_after([date(2026, 10, 19)], [], [], d(19)) == []


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (d(5), d(4), "after the last"),
        (None, d(20), "the newest day to compare is 2026-11-19"),
        (date(2026, 10, 1), d(9), "at most 31"),
    ],
)
def test_days_that_cannot_be_compared_are_refused(first: date | None, last: date, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        days_between(first, last, d(19), 3)


def test_days_of_a_person_are_completed() -> None:
    assert days_between(None, None, d(19), 2) == [d(18), d(19)]
    assert days_between(d(17), None, d(19), 2) == [d(17), d(18), d(19)]
    assert days_between(None, d(10), d(19), 2) == [d(9), d(10)]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("consistency.spend.pair", "wins", "'wins' is no pair of `sync`; there are campaigns"),
        ("consistency.spend.amount", "budget_total", "maps no such column to a bin with a number"),
        ("consistency.spend.amount", "line_item_id", "maps no such column to a bin with a number"),
        ("consistency.campaigns.pair", "spend", "which is not one column"),
        ("consistency.campaigns.events", [{"table": "wins"}], "write schema.table"),
        ("consistency.campaigns.events", [{"table": "a.b"}, {"table": "a.b"}], "was named before"),
        ("consistency.days", 0, "greater than or equal to 1"),
        ("sync", None, "both are needed"),
        ("redshift", None, "both are needed"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused_in_words(path: str, value: Any, said: str, tmp_path: Path) -> None:
    document = yaml.safe_load(LAB.read_text())
    *parents, name = path.split(".")
    place = document
    for one in parents:
        place = place[one]
    place[name] = value
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(PlatformFileError, match=said):
        load_platform(file)
