"""What is done to a table, by its figures: the rules, and the traps that others fell into."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dbops.platform import Vacuum
from dbops.redshift.rules import Form, analyze_statement, decide, decide_all, vacuum_statement
from dbops.redshift.views import TableFigures, sort_column
from hypothesis import given
from hypothesis import strategies as st

LIMITS = Vacuum()
GB = 1024

WELL = TableFigures(
    schema="public",
    table="wins",
    id=100,
    size_mb=10 * GB,
    rows=1_000_000,
    visible_rows=1_000_000,
    unsorted=0.0,
    stats_off=0.0,
    diststyle="KEY(id)",
    sort_key="timestamp",
    is_interleaved=False,
    sort_benefit=0.0,
    skew_rows=1.0,
    skew_sort_key=1.0,
    sort_key_encoding="none",
)
BIG = replace(WELL, size_mb=LIMITS.max_size_mb + 1)
INTERLEAVED = replace(WELL, sort_key=None, is_interleaved=True, sort_benefit=None, interleaved_skew=1.0)


def unsorted(table: TableFigures, percent: float, benefit: float | None = None) -> TableFigures:
    return replace(table, unsorted=percent, sort_benefit=percent if benefit is None else benefit)


def deleted(table: TableFigures, percent: float) -> TableFigures:
    return replace(table, visible_rows=round(table.rows * (100 - percent) / 100))


@pytest.mark.parametrize(
    ("table", "vacuum", "analyze"),
    [
        (WELL, (), False),
        (unsorted(WELL, 5), (), False),
        (unsorted(WELL, 5.1), (Form.SORT_ONLY,), True),
        (deleted(WELL, 10), (), False),
        (deleted(WELL, 11), (Form.DELETE_ONLY,), True),
        (deleted(unsorted(WELL, 30), 30), (Form.FULL,), True),
        (replace(WELL, stats_off=10.0), (), False),
        (replace(WELL, stats_off=10.1), (), True),
        (replace(WELL, stats_off=None), (), False),
        (unsorted(BIG, 30), (Form.RECLUSTER,), True),
        (deleted(unsorted(BIG, 30), 30), (Form.DELETE_ONLY, Form.RECLUSTER), True),
        (replace(unsorted(BIG, 30), diststyle="ALL"), (Form.SORT_ONLY,), True),
        (replace(unsorted(BIG, 30), diststyle="AUTO(ALL)"), (Form.SORT_ONLY,), True),
        (INTERLEAVED, (), False),
        (replace(INTERLEAVED, interleaved_skew=1.5), (Form.REINDEX,), True),
        (replace(INTERLEAVED, is_initialised=False), (Form.REINDEX,), True),
        (replace(INTERLEAVED, unsorted=20.0), (Form.SORT_ONLY,), True),
    ],
)
def test_each_state_of_a_table_has_its_work(table: TableFigures, vacuum: tuple[Form, ...], analyze: bool) -> None:
    decision = decide(table, LIMITS)
    assert (decision.vacuum, decision.analyze, decision.advice) == (vacuum, analyze, None)
    assert decision.reasons


# --- what others fell into ----------------------------------------------------------------------------------


def test_a_table_that_is_a_little_unsorted_is_left_alone() -> None:
    """amazon-redshift-utils #222: vacuums that were not needed added empty blocks and made tables larger."""
    decision = decide(deleted(unsorted(WELL, 4.9), 2), LIMITS)
    assert decision.is_nothing
    assert decision.reasons == ("4.9 % unsorted, limit 5 %", "2.0 % of the rows are deleted, limit 10 %")


def test_unsorted_rows_that_no_query_would_gain_by_are_left_alone() -> None:
    decision = decide(unsorted(WELL, 60, benefit=1), LIMITS)
    assert decision.is_nothing
    assert decision.reasons == ("60 % unsorted, but scans would gain 1 % at most (limit 5 %)",)


def test_a_table_that_queries_gain_much_by_is_sorted_before_the_limit() -> None:
    """The guide: vacuum_sort_benefit > 5."""
    assert decide(unsorted(WELL, 3, benefit=40), LIMITS).vacuum == (Form.SORT_ONLY,)
    assert decide(unsorted(WELL, 0.5, benefit=40), LIMITS).is_nothing, "VACUUM would skip it: 99.5 % are sorted"


def test_deleted_rows_are_seen_without_the_column_empty() -> None:
    """amazon-redshift-utils #97: `empty` is always 0; rows include deleted ones, and the visible are an estimate."""
    decision = decide(deleted(WELL, 40), LIMITS)
    assert decision.vacuum == (Form.DELETE_ONLY,)
    assert decision.reasons[0] == "400,000 of 1,000,000 rows are deleted and not reclaimed (40 %, limit 10 %)"
    assert replace(WELL, visible_rows=WELL.rows + 5).deleted_rows == 0
    assert replace(WELL, visible_rows=None).deleted_rows == 0


@pytest.mark.parametrize("percent", [0.2, 1, 2.5, 4, 30, 99.9])
def test_vacuum_never_skips_what_the_rules_chose(percent: float) -> None:
    """amazon-redshift-utils #462: without TO, VACUUM leaves a table alone that is sorted to 95 %."""
    strict = LIMITS.model_copy(update={"min_unsorted": 0.1, "min_deleted": 0.1, "sort_benefit": 0.1, "to_percent": 95})
    for table in (unsorted(WELL, percent), deleted(WELL, percent), deleted(unsorted(WELL, percent), percent)):
        decision = decide(table, strict)
        assert decision.vacuum
        assert 100 - percent < decision.to_percent <= 100


def test_the_interleaved_are_not_left_out() -> None:
    """amazon-redshift-utils #184, #92: interleaved tables were skipped, and DELETE ONLY never ran on them."""
    assert decide(deleted(INTERLEAVED, 30), LIMITS).vacuum == (Form.DELETE_ONLY,)
    assert decide(deleted(replace(INTERLEAVED, interleaved_skew=5.0), 30), LIMITS).vacuum == (Form.REINDEX,)


@pytest.mark.parametrize("says", [None, 100.0])
def test_a_table_without_sort_key_is_never_unsorted(says: float | None) -> None:
    """amazon-redshift-utils #71: it is 100 % unsorted for ever, or null."""
    table = replace(WELL, sort_key=None, unsorted=says, sort_benefit=None)
    decision = decide(table, LIMITS)
    assert decision.is_nothing
    assert decision.reasons == ("has no sort key: nothing to sort, whatever `unsorted` says",)
    assert decide(deleted(table, 30), LIMITS).vacuum == (Form.DELETE_ONLY,)


def test_a_plan_that_does_nothing_says_why_for_each_table() -> None:
    """amazon-redshift-utils #126, #495: "runs and does nothing"."""
    assert decide(WELL, LIMITS).reasons == ("sorted, without deleted rows, statistics current",)


def test_only_what_is_unsorted_is_sorted_when_nothing_is_deleted() -> None:
    """dbt-labs/redshift #36: SORT ONLY, since Redshift deletes by itself."""
    assert decide(deleted(unsorted(WELL, 30), 3), LIMITS).vacuum == (Form.SORT_ONLY,)


def test_a_big_and_very_unsorted_table_gets_advice_and_its_deleted_rows_go_all_the_same() -> None:
    decision = decide(deleted(unsorted(BIG, 80), 20), LIMITS)
    assert decision.vacuum == (Form.DELETE_ONLY,)
    assert decision.advice is not None
    assert 'insert into "public"."wins_new" select * from "public"."wins" order by "timestamp";' in decision.advice
    assert decide(unsorted(BIG, 50), LIMITS).vacuum == (Form.RECLUSTER,)
    assert decide(replace(INTERLEAVED, size_mb=BIG.size_mb, is_initialised=False), LIMITS).advice


@pytest.mark.parametrize(
    ("key", "column"),
    [
        (None, None),
        ("", None),
        ("AUTO(SORTKEY)", None),
        ("INTERLEAVED(day)", None),
        ("AUTO(SORTKEY(day))", "day"),
        ("INTERLEAVED", None),
        ("timestamp", "timestamp"),
    ],
)
def test_a_sort_key_is_read_as_redshift_writes_it(key: str | None, column: str | None) -> None:
    assert sort_column(key) == column


# --- order and statements -----------------------------------------------------------------------------------


def test_the_biggest_benefit_comes_first_and_the_smallest_last() -> None:
    large, small = replace(unsorted(WELL, 20), id=1, table="a"), replace(unsorted(WELL, 90), id=2, table="b", size_mb=1)
    stale = replace(WELL, id=3, table="c", stats_off=90.0)
    fine = replace(WELL, id=4, table="d")
    order = [decision.table.table for decision in decide_all([fine, small, stale, large], LIMITS)]
    assert order == ["a", "c", "b", "d"]


def test_statements_are_quoted_and_carry_only_what_their_form_takes() -> None:
    assert vacuum_statement("public", 'we"ird', Form.FULL, 99, boost=True) == (
        'vacuum full "public"."we""ird" to 99 percent boost'
    )
    assert vacuum_statement("s", "t", Form.SORT_ONLY, 99, boost=False) == 'vacuum sort only "s"."t" to 99 percent'
    assert vacuum_statement("s", "t", Form.REINDEX, 99, boost=True) == 'vacuum reindex "s"."t"'
    assert vacuum_statement("s", "t", Form.RECLUSTER, 99, boost=True) == 'vacuum recluster "s"."t" boost'
    assert analyze_statement("s", "user") == 'analyze "s"."user"'


percent = st.one_of(st.none(), st.floats(0, 100, allow_nan=False))
rows = st.integers(1, 10**12)
tables = st.builds(
    TableFigures,
    schema=st.just("s"),
    table=st.text("abc", min_size=1, max_size=3),
    id=st.integers(1, 10**6),
    size_mb=st.integers(0, 10**8),
    rows=rows,
    visible_rows=st.one_of(st.none(), rows),
    unsorted=percent,
    stats_off=percent,
    diststyle=st.sampled_from(["EVEN", "ALL", "AUTO(ALL)", "KEY(a)", "AUTO(EVEN)"]),
    sort_key=st.sampled_from([None, "day"]),
    is_interleaved=st.booleans(),
    sort_benefit=percent,
    skew_rows=percent,
    skew_sort_key=percent,
    sort_key_encoding=st.just("az64"),
    interleaved_skew=st.one_of(st.none(), st.floats(1, 50)),
    is_initialised=st.booleans(),
)


@given(st.lists(tables, max_size=8))
def test_whatever_the_figures_every_decision_is_one_that_redshift_takes(found: list[TableFigures]) -> None:
    decisions = decide_all(found, LIMITS)
    assert len(decisions) == len(found)
    working = [decision for decision in decisions if not decision.is_nothing]
    assert decisions[: len(working)] == working
    assert [decision.benefit for decision in working] == sorted((d.benefit for d in working), reverse=True)
    for decision in decisions:
        table, forms = decision.table, set(decision.vacuum)
        assert decision.reasons
        assert 1 <= decision.to_percent <= 100
        assert Form.REINDEX not in forms or table.is_interleaved
        assert Form.RECLUSTER not in forms or not (table.is_interleaved or table.is_distributed_to_all)
        assert table.has_sort_key or forms <= {Form.DELETE_ONLY}
        assert not forms or decision.analyze
        assert decision.advice is None or table.size_mb > LIMITS.max_size_mb
        for form in forms:
            assert not form.sorts or form == Form.REINDEX or (table.unsorted or 0) > 100 - decision.to_percent
            assert not form.deletes or form == Form.REINDEX or table.deleted > 100 - decision.to_percent
