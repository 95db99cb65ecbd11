"""Each fault of the lab's ETL is found, by the check that is about it, and a clean hour passes them all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dbops.etl.check import Look
from dbops.etl.findings import OF_AN_HOUR, Finding, Outcome
from dbops_lab.testing import LabEtl, LabRedshift
from etl_world import PIPELINES, document, judged, look_with, platform_of, table_of

HOURS = iter(range(2, 150))


@pytest.fixture
def look(lab_etl: LabEtl, lab_redshift: LabRedshift, tmp_path: Path) -> Iterator[Look]:
    with look_with(platform_of(tmp_path, document(lab_etl)), lab_redshift) as made:
        yield made


@pytest.fixture
def hour(lab_etl: LabEtl) -> datetime:
    """An hour that no other test has run."""
    return lab_etl.world.now - timedelta(hours=next(HOURS))


def bad(found: dict[str, Finding]) -> dict[str, str]:
    return {name: str(one.outcome) for name, one in found.items() if not one.ok}


def test_a_clean_hour_passes_every_check(look: Look, lab_etl: LabEtl, hour: datetime) -> None:
    loads = lab_etl.run(hour)
    for pipeline in PIPELINES:
        found = judged(look, pipeline, hour)
        assert bad(found) == {}, found
        assert list(found) == [name for name in OF_AN_HOUR if name in found]
        load = loads[table_of(pipeline)]
        assert found["etl_reconciliation"].details == {
            "files": load.written,
            "loaded": load.loaded,
            "table": load.loaded,
        }
        assert found["etl_files"].value == load.written
        assert found["etl_keys"].value == 0


@pytest.mark.parametrize(
    ("pipeline", "fault", "expected"),
    [
        ("wins", "not_started", {"etl_run": "error"}),
        ("wins", "glue_failed", {"etl_run": "error"}),
        ("wins", "glue_timeout", {"etl_run": "error"}),
        ("wins", "glue_running", {"etl_run": "error"}),
        ("wins", "load_failed", {"etl_load": "error", "etl_reconciliation": "error"}),
        ("impressions", "load_failed", {"etl_load": "error", "etl_reconciliation": "error"}),
        ("bidstream", "load_lost", {"etl_load": "warn", "etl_reconciliation": "error"}),
        ("impressions", "partial", {"etl_reconciliation": "error"}),
        ("users", "twice", {"etl_loaded_twice": "error", "etl_reconciliation": "error", "etl_keys": "error"}),
        ("clicks", "not_loaded", {"etl_load": "error", "etl_reconciliation": "error"}),
        ("dmp_events", "empty", {"etl_files": "error"}),
        ("dmp_events", "repeated", {"etl_keys": "error"}),
        ("users", "nulls", {"etl_nulls": "error"}),
        ("wins", "out_of_range", {"etl_ranges": "error"}),
        ("wins", "orphans", {"etl_references": "error"}),
        ("clicks", "orphans", {"etl_references": "error"}),
    ],
)
def test_a_fault_is_found_by_its_check(
    look: Look, lab_etl: LabEtl, hour: datetime, pipeline: str, fault: str, expected: dict[str, str]
) -> None:
    load = lab_etl.run(hour, {table_of(pipeline): fault}, is_aggregated=False)[table_of(pipeline)]
    found = judged(look, pipeline, hour)
    shown = bad(found)
    assert expected.items() <= shown.items(), [one.message for one in found.values()]
    if load.loaded:
        assert shown == expected, [one.message for one in found.values()]
    assert Outcome.BLIND not in shown.values()
