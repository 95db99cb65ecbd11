"""What a VACUUM or ANALYZE did that ended well: by its record and the figures, never by its end alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from dbops.redshift.judge import judge_analyze, judge_vacuum
from dbops.redshift.rules import Form
from dbops.redshift.views import AnalyzeRecord, OpenTransaction, VacuumRecord

AT = datetime(2026, 11, 22, 3, tzinfo=UTC)
BEFORE = {"size_mb": 40, "rows": 1200, "deleted_rows": 200, "unsorted": 33.0, "stats_off": 12.0}
SORTED = BEFORE | {"unsorted": 0.0}
RECLAIMED = BEFORE | {"deleted_rows": 0, "rows": 1000, "size_mb": 35}
BOTH = RECLAIMED | {"unsorted": 0.0}
DONE = VacuumRecord("Full", "Complete", AT, AT, 1200, 200, 200, 800, 1000)
NOTHING = replace(DONE, reclaimed=0, sorted_after=800)
SKIPPED = replace(NOTHING, status="Skipped(sorted>=99%)")
BLOCKER = OpenTransaction(4711, "looker", "dev", AT)


@pytest.mark.parametrize(
    ("form", "after", "record"),
    [
        (Form.FULL, BOTH, DONE),
        (Form.SORT_ONLY, SORTED, replace(DONE, reclaimed=0)),
        (Form.DELETE_ONLY, RECLAIMED, replace(DONE, sorted_after=800)),
        (Form.REINDEX, BOTH, DONE),
        (Form.RECLUSTER, BEFORE | {"unsorted": 3.0}, replace(DONE, sorted_after=None, reclaimed=None)),
        (Form.FULL, BOTH, None),  # history is late; the figures are not
    ],
)
def test_done_is_what_history_and_figures_show(form: Form, after: dict[str, Any], record: VacuumRecord | None) -> None:
    verdict = judge_vacuum(form, BEFORE, after, record, [])
    assert (verdict.outcome, verdict.needs_person) == ("done", False)
    assert "unsorted 33 % ->" in verdict.message


@pytest.mark.parametrize("record", [None, SKIPPED, replace(NOTHING, status="Skipped")])
def test_no_trace_or_a_skip_although_there_is_work_is_a_matter_of_rights(record: VacuumRecord | None) -> None:
    verdict = judge_vacuum(Form.FULL, BEFORE, BEFORE, record, [])
    assert (verdict.outcome, verdict.needs_person) == ("skipped", True)
    assert "neither owns the table" in verdict.message


def test_a_skip_because_automatic_vacuum_was_quicker_is_nobodys_matter() -> None:
    verdict = judge_vacuum(Form.FULL, BOTH, BOTH, SKIPPED, [])
    assert (verdict.outcome, verdict.needs_person) == ("skipped", False)
    assert verdict.message.startswith("nothing was left to do (Skipped(sorted>=99%))")


def test_rows_that_a_transaction_holds_back_are_not_reclaimed_whatever_the_history_says() -> None:
    verdict = judge_vacuum(Form.DELETE_ONLY, BEFORE, BEFORE, NOTHING, [BLOCKER])
    assert (verdict.outcome, verdict.needs_person) == ("skipped", True)
    assert "none of 200 deleted rows was removed" in verdict.message
    assert "process 4711 of looker in dev, open since 2026-11-22 03:00:00 UTC" in verdict.message
    half = judge_vacuum(Form.FULL, BEFORE, SORTED, replace(NOTHING, sorted_after=1200), [BLOCKER] * 5)
    assert (half.outcome, half.needs_person) == ("done", True)
    assert "and 2 more; end it" in half.message
    unexplained = judge_vacuum(Form.DELETE_ONLY, BEFORE, BEFORE, NOTHING, [])
    assert "no transaction is open any more that would explain it" in unexplained.message


def test_a_sort_that_sorted_nothing_is_not_done() -> None:
    verdict = judge_vacuum(Form.SORT_ONLY, BEFORE, BEFORE | {"unsorted": 34.0}, NOTHING, [])
    assert (verdict.outcome, verdict.needs_person) == ("skipped", True)
    assert "nothing was sorted" in verdict.message


def test_a_table_that_rows_came_into_while_it_was_sorted_is_done_by_its_record() -> None:
    grown = BEFORE | {"unsorted": 40.0}
    assert judge_vacuum(Form.SORT_ONLY, BEFORE, grown, replace(DONE, reclaimed=0), []).outcome == "done"


def test_a_failure_in_the_history_is_a_failure() -> None:
    failed = replace(NOTHING, status="Failed")
    assert judge_vacuum(Form.FULL, BEFORE, BEFORE, failed, []).outcome == "failed"


def test_analyze_is_done_when_history_has_it_and_skipped_when_nothing_changed() -> None:
    record = AnalyzeRecord("Full", AT, AT)
    current = BEFORE | {"stats_off": 0.0}
    assert judge_analyze(BEFORE, current, record).outcome == "done"
    assert judge_analyze(BEFORE, current, None).outcome == "done"
    for figures in (BEFORE, current):  # deleted rows that are still stored look like old statistics
        already = judge_analyze(figures, figures, replace(record, status="Skipped"))
        assert (already.outcome, already.needs_person) == ("skipped", False)
        assert "no row has changed" in already.message


def test_an_analyze_without_a_trace_is_a_matter_of_rights() -> None:
    verdict = judge_analyze(BEFORE, BEFORE, None)
    assert (verdict.outcome, verdict.needs_person) == ("skipped", True)
    assert "neither owns the table" in verdict.message
