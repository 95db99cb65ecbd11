"""Drift that is planted is all the drift there is, and what is harmless is none."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from application_world import assert_in_step, differences
from dbops_lab.application.drift import (
    HARMLESS,
    KINDS,
    SYSTEMS,
    NothingToBreak,
    Planted,
    plant,
    plant_harmless,
    plant_spend,
)
from dbops_lab.application.mapping import PAIRS
from dbops_lab.application.traffic import Traffic
from dbops_lab.application.world import World, is_quiet
from dbops_lab.testing import LabApp, LabEtl, small_world

TRIALS = 8


def said(planted: list[Planted]) -> set[tuple[str, str, str, frozenset[str]]]:
    return {(one.side, one.table, one.key, frozenset(one.fields)) for one in planted}


def heal(app: LabApp, planted: list[Planted]) -> None:
    for one in planted:
        app.syncer.publish(one.table, [one.key])


def test_what_is_planted_is_what_differs_while_traffic_runs(lab_app: LabApp) -> None:
    kinds: Counter[str] = Counter()
    with closing(Traffic(lab_app.database, lab_app.world)) as traffic:
        for trial in range(TRIALS):
            with lab_app.syncer:
                traffic.start(rate=100)
                planted = plant(lab_app.database, lab_app.cluster, trial)
                harmless = plant_harmless(lab_app.database, lab_app.cluster, trial, besides=planted)
                traffic.close()
                lab_app.syncer.wait()
            assert len(harmless) == 5
            assert differences(lab_app) == said(planted)
            kinds.update(one.kind for one in planted)
            heal(lab_app, planted)
            assert differences(lab_app) == set()
    assert len(kinds) > 5
    assert sum(traffic.done.values()) > TRIALS


def test_the_same_seed_plants_the_same(lab_app: LabApp) -> None:
    lab_app.reset()
    first = plant(lab_app.database, lab_app.cluster, 99, count=20)
    lab_app.reset()
    assert plant(lab_app.database, lab_app.cluster, 99, count=20) == first
    heal(lab_app, first)
    other = plant(lab_app.database, lab_app.cluster, 98, count=20)
    assert other != first
    heal(lab_app, other)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_drift_in_every_table_that_can_have_it(lab_app: LabApp, kind: str) -> None:
    tables = PAIRS.keys() - ({"spend_tracking"} if kind == "resurrected" else set())
    planted = [
        one
        for table in sorted(tables)
        for one in plant(lab_app.database, lab_app.cluster, 5, kinds=[kind], tables=[table], count=1)
    ]
    assert {one.table for one in planted} == tables
    assert {one.kind for one in planted} == {kind}
    assert all(is_quiet(one.key.lower()) for one in planted if kind != "extra")
    assert differences(lab_app) == said(planted)
    heal(lab_app, planted)


@pytest.mark.parametrize("table", PAIRS)
def test_every_column_that_goes_to_aerospike_can_differ(lab_app: LabApp, table: str) -> None:
    pair, seen = PAIRS[table], set()
    for trial in range(6):
        planted = plant(lab_app.database, lab_app.cluster, trial, kinds=["different"], tables=[table], count=15)
        seen |= {column for one in planted for column in one.fields}
        assert differences(lab_app) == said(planted)
        heal(lab_app, planted)
        if seen == {one.column for one in pair.bins}:
            break
    assert seen == {one.column for one in pair.bins}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_harmless_is_no_difference(lab_app: LabApp, kind: str) -> None:
    done = plant_harmless(lab_app.database, lab_app.cluster, 3, kinds=[kind], count=4)
    assert len({key for _, _, key in done}) == 4
    assert differences(lab_app) == set()


def test_too_few_rows_for_what_is_wanted_is_said(lab_app: LabApp) -> None:
    lab_app.reset(World(campaigns=2, line_items=2, creatives=2, days=1))
    try:
        with pytest.raises(NothingToBreak, match="seed more"):
            plant(lab_app.database, lab_app.cluster, 1, kinds=["missing"], tables=["campaigns"], count=3)
    finally:
        lab_app.reset(small_world())


def spent(app: LabApp, etl: LabEtl, key: str, day: Any) -> dict[str, Decimal]:
    pair = PAIRS["spend_tracking"]
    with app.database.session() as cursor:
        cursor.execute("select spent from spend_tracking where line_item_id = %s and day = %s", [key, day])
        row = cursor.fetchone()
    assert row is not None
    with closing(app.cluster.connect()) as client:
        bins = client.get((pair.namespace, pair.set, f"{key}:{day:%Y%m%d}"))[2]
    with closing(etl.connect()) as connection, closing(connection.cursor()) as cursor:
        first = datetime(day.year, day.month, day.day, tzinfo=UTC).replace(tzinfo=None)
        values = (key, first, first + timedelta(days=1))
        where = 'where line_item_id = %s and "timestamp" >= %s and "timestamp" < %s'
        cursor.execute(f"select sum(win_price) from wins {where}", values)
        (found,) = cursor.fetchone()
        where = "where line_item_id = %s and hour >= %s and hour < %s"
        cursor.execute(f"select sum(spend) from hourly_line_item_stats {where}", values)
        assert cursor.fetchone()[0] == found
    return {"postgres": row[0], "aerospike": Decimal(bins["spent"]).scaleb(-6), "warehouse": found}


def test_spend_is_the_same_in_three_systems_and_differs_where_it_is_planted(lab_app: LabApp, lab_etl: LabEtl) -> None:
    lab_app.reset(lab_etl.world)
    lab_etl.seed(lab_etl.world.days)
    assert_in_step(lab_app)
    planted = [
        one
        for system in SYSTEMS
        for one in plant_spend(lab_app.database, lab_app.cluster, lab_etl, 4, systems=[system], count=2)
    ]
    cent = Decimal("0.01")
    by_place = Counter((one.line_item_id, one.day) for one in planted)
    for one in planted:
        if by_place[one.line_item_id, one.day] > 1:
            continue
        found = spent(lab_app, lab_etl, one.line_item_id, one.day)
        wrong = found.pop(one.system)
        right = list(found.values())
        assert abs(right[0] - right[1]) < cent
        assert abs(wrong - right[0] - one.amount) < cent
    for row in list(lab_app.world.rows("spend_tracking"))[:5]:
        if (row[0], row[1]) not in by_place:
            found = spent(lab_app, lab_etl, row[0], row[1])
            assert max(found.values()) - min(found.values()) < cent
