"""Which tables are vacuumed and analyzed, how, and why: pure functions of figures and limits.

The thresholds are those of awslabs' AnalyzeVacuumUtility, with what it does not see: deleted rows (its `empty` is
always 0), tables without a sort key (unsorted for ever), interleaved keys, and what a full vacuum does that was not
needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dbops.platform import Vacuum
from dbops.redshift.views import TableFigures
from dbops.sql import quoted

SHARE_OF_ANALYZE = 0.1
"""ANALYZE reads samples: what it gains counts as a tenth of what sorting the same share of a table gains."""


class Form(StrEnum):
    """Forms of VACUUM."""

    FULL = "full"
    SORT_ONLY = "sort only"
    DELETE_ONLY = "delete only"
    RECLUSTER = "recluster"
    REINDEX = "reindex"

    @property
    def sorts(self) -> bool:
        return self != Form.DELETE_ONLY

    @property
    def deletes(self) -> bool:
        return self in {Form.FULL, Form.DELETE_ONLY, Form.REINDEX}


@dataclass(frozen=True)
class Decision:
    """What is done to a table, in the order of `vacuum`, then ANALYZE; or nothing, or advice to a person."""

    table: TableFigures
    vacuum: tuple[Form, ...]
    analyze: bool
    to_percent: int
    """Sorted, or not deleted, share that VACUUM leaves be: always above what the table has now."""
    advice: str | None
    reasons: tuple[str, ...]
    """In words, also for nothing."""
    benefit: float
    """Megabytes that become sorted, free or known: what comes first, not a promise."""

    @property
    def is_nothing(self) -> bool:
        return not self.vacuum and not self.analyze


def decide(table: TableFigures, limits: Vacuum) -> Decision:
    """What one table needs."""
    reasons: list[str] = []
    sort, advice = _sorting(table, limits, reasons)
    delete = table.deleted > limits.min_deleted
    if delete:
        reasons.append(
            f"{table.deleted_rows:,} of {table.rows:,} rows are deleted and not reclaimed "
            f"({table.deleted:.0f} %, limit {limits.min_deleted:g} %)"
        )
    elif table.deleted_rows:
        reasons.append(f"{table.deleted:.1f} % of the rows are deleted, limit {limits.min_deleted:g} %")
    vacuum = _forms(sort, delete=delete)
    is_stale = table.stats_off is not None and table.stats_off > limits.stats_off
    if is_stale:
        reasons.append(f"statistics are {table.stats_off:g} % off, limit {limits.stats_off:g} %")
    elif vacuum:
        reasons.append("statistics follow a vacuum")
    if not vacuum and not is_stale and not advice and not reasons:
        reasons.append("sorted, without deleted rows, statistics current")
    return Decision(
        table=table,
        vacuum=vacuum,
        analyze=is_stale or bool(vacuum),
        to_percent=_to_percent(table, limits, vacuum),
        advice=advice,
        reasons=tuple(reasons),
        benefit=_benefit(table, vacuum, is_stale=is_stale),
    )


def decide_all(tables: Sequence[TableFigures], limits: Vacuum) -> list[Decision]:
    """Decisions on all tables: biggest benefit first, smallest last, those without anything to do after them."""
    decisions = [decide(table, limits) for table in tables]
    return sorted(decisions, key=lambda found: (found.is_nothing, -found.benefit, found.table.name))


def _sorting(table: TableFigures, limits: Vacuum, reasons: list[str]) -> tuple[Form | None, str | None]:
    """How a table is to be sorted, and advice when that is not for VACUUM to do."""
    if not table.has_sort_key:
        reasons.append("has no sort key: nothing to sort, whatever `unsorted` says")
        return None, None
    if table.is_interleaved:
        return _interleaved(table, limits, reasons)
    unsorted, benefit = table.unsorted, table.sort_benefit
    if unsorted is None:
        reasons.append("how much is unsorted is not known")
        return None, None
    gains = benefit is not None and benefit > limits.sort_benefit and unsorted > 100 - limits.to_percent
    if unsorted <= limits.min_unsorted and not gains:
        if unsorted:
            reasons.append(f"{unsorted:g} % unsorted, limit {limits.min_unsorted:g} %")
        return None, None
    if benefit is not None and benefit < limits.sort_benefit:
        reasons.append(
            f"{unsorted:g} % unsorted, but scans would gain {benefit:g} % at most (limit {limits.sort_benefit:g} %)"
        )
        return None, None
    told = f"{unsorted:g} % unsorted" + (f", scans would gain up to {benefit:g} %" if benefit is not None else "")
    if table.size_mb <= limits.max_size_mb:
        reasons.append(told)
        return Form.SORT_ONLY, None
    if unsorted > limits.max_unsorted:
        reasons.append(
            f"{told}, of {table.size_mb:,} MB: a deep copy is quicker than a vacuum (from {limits.max_size_mb:,} MB "
            f"and {limits.max_unsorted:g} % on)"
        )
        return None, deep_copy(table)
    if table.is_distributed_to_all:
        reasons.append(told)
        return Form.SORT_ONLY, None
    reasons.append(f"{told}, of {table.size_mb:,} MB: only the unsorted part is sorted")
    return Form.RECLUSTER, None


def _interleaved(table: TableFigures, limits: Vacuum, reasons: list[str]) -> tuple[Form | None, str | None]:
    skew, unsorted = table.interleaved_skew, table.unsorted
    if not table.is_initialised:
        why = "its interleaved sort key was never indexed"
    elif skew is not None and skew > limits.min_interleaved_skew:
        why = f"skew of its interleaved sort key is {skew:g}, limit {limits.min_interleaved_skew:g}"
    elif unsorted is not None and unsorted > limits.min_unsorted:
        # A sort without a new index keeps the key as it is, which is balanced still.
        reasons.append(f"{unsorted:g} % unsorted (interleaved)")
        return Form.SORT_ONLY, None
    else:
        return None, None
    if table.size_mb > limits.max_size_mb:
        reasons.append(f"{why}; of {table.size_mb:,} MB: a deep copy is quicker than VACUUM REINDEX")
        return None, deep_copy(table)
    reasons.append(why)
    return Form.REINDEX, None


def _forms(sort: Form | None, *, delete: bool) -> tuple[Form, ...]:
    if sort == Form.REINDEX:  # which reclaims too
        return (Form.REINDEX,)
    if sort == Form.SORT_ONLY and delete:
        return (Form.FULL,)
    if sort == Form.RECLUSTER and delete:  # which reclaims nothing
        return (Form.DELETE_ONLY, Form.RECLUSTER)
    if sort is not None:
        return (sort,)
    return (Form.DELETE_ONLY,) if delete else ()


def _to_percent(table: TableFigures, limits: Vacuum, vacuum: tuple[Form, ...]) -> int:
    """VACUUM leaves alone what is sorted or kept to at least this share: it must be more than there is."""
    shares = [100 - table.deleted] if any(form.deletes for form in vacuum) else []
    if table.unsorted is not None and any(form.sorts for form in vacuum):
        shares.append(100 - table.unsorted)
    needed = max((math.floor(share) + 1 for share in shares), default=0)
    return min(100, max(limits.to_percent, needed))


def _benefit(table: TableFigures, vacuum: tuple[Form, ...], *, is_stale: bool) -> float:
    share = 0.0
    if any(form.sorts for form in vacuum):
        share += table.sort_benefit if table.sort_benefit is not None else table.unsorted or 0.0
    if any(form.deletes for form in vacuum):
        share += table.deleted
    if is_stale and table.stats_off is not None:
        share += table.stats_off * SHARE_OF_ANALYZE
    return table.size_mb * share / 100


def deep_copy(table: TableFigures) -> str:
    """The statements of a deep copy, for a person: it needs free space for the whole table, and a pause of loads."""
    whole, new = quoted(table.schema, table.table), quoted(table.schema, f"{table.table}_new")
    order = f" order by {quoted(table.sort_key)}" if table.sort_key else ""
    return "\n".join((
        f"create table {new} (like {whole} including defaults);",
        f"insert into {new} select * from {whole}{order};",  # noqa: S608 - quoted, and shown only
        "begin;",
        f"alter table {whole} rename to {quoted(f'{table.table}_old')};",
        f"alter table {new} rename to {quoted(table.table)};",
        "commit;",
        f"drop table {quoted(table.schema, f'{table.table}_old')};  -- after a check; grants are not copied",
    ))


def vacuum_statement(schema: str, table: str, form: Form, to_percent: int, *, boost: bool) -> str:
    """`VACUUM SORT ONLY "public"."wins" TO 99 PERCENT`. REINDEX and RECLUSTER take no threshold, REINDEX no BOOST."""
    words = ["vacuum", str(form), quoted(schema, table)]
    if form not in {Form.REINDEX, Form.RECLUSTER}:
        words.append(f"to {to_percent} percent")
    if boost and form != Form.REINDEX:
        words.append("boost")
    return " ".join(words)


def analyze_statement(schema: str, table: str) -> str:
    return f"analyze {quoted(schema, table)}"
