"""Validation against the lab's application: what was planted is found, field by field, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from dbops.aerospike.cluster import Access
from dbops.platform import load_platform
from dbops.platform.sync import SyncPair
from dbops.sync.validate import PairResult, Validation
from dbops_lab.application.drift import plant, plant_harmless
from dbops_lab.testing import LabApp

PROJECT = Path(__file__).resolve().parents[3]
NO_LAG = timedelta(0)


def pairs() -> dict[str, SyncPair]:
    sync = load_platform(PROJECT / "include/platform/lab.yaml").sync
    assert sync is not None
    return {pair.table: pair for pair in sync.pairs}


def validate(app: LabApp, pair: SyncPair, **more: object) -> PairResult:
    access = Access("app", (("127.0.0.1", app.standin.ports[0]),))
    return Validation(pair, "app", app.info(), access, lag=NO_LAG, **more).run()  # type: ignore[arg-type]


@pytest.fixture
def app(lab_app: LabApp) -> Iterator[LabApp]:
    yield lab_app
    lab_app.reset()


def found(results: dict[str, PairResult]) -> set[tuple[str, str, str]]:
    return {(one.kind, table, one.key or "") for table, result in results.items() for one in result.differences}


def test_what_was_published_is_all_the_same(app: LabApp) -> None:
    for table, pair in pairs().items():
        result = validate(app, pair)
        assert result.ok, (table, result.message, result.differences[:3])
        assert result.rows == result.records > 0
        assert result.unmapped == ()


def test_planted_drift_is_found_exactly(app: LabApp) -> None:
    planted = plant(app.database, app.cluster, 7, count=60)
    plant_harmless(app.database, app.cluster, 8, count=20, besides=planted)
    results = {table: validate(app, pair) for table, pair in pairs().items()}
    assert found(results) == {(one.side, one.table, one.key) for one in planted}
    for one in planted:
        if one.side == "different":
            (seen,) = (item for item in results[one.table].differences if item.key == one.key)
            assert {item.column for item in seen.fields} == set(one.fields), (one, seen)
