"""What a VACUUM or ANALYZE did that ended well: by its record in the history and the figures, not by its end alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dbops.redshift.rules import Form
from dbops.redshift.views import AnalyzeRecord, OpenTransaction, VacuumRecord

MOST_NAMED = 3

Outcome = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Verdict:
    outcome: Outcome
    message: str
    needs_person: bool = False


def judge_vacuum(
    form: Form,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    record: VacuumRecord | None,
    blockers: Collection[OpenTransaction],
) -> Verdict:
    """What a VACUUM did that ended well, by its record in the history and the table's figures before and after it.

    :param blockers: transactions that were open before it began and still are.
    """
    moved = _moved(before, after)
    is_sorted = _lowered(before, after, "unsorted") or (
        record is not None and (record.sorted_after or 0) > (record.sorted_before or 0)
    )
    is_reclaimed = _lowered(before, after, "deleted_rows") or bool(record and record.reclaimed)
    had_unsorted, had_deleted = bool(before.get("unsorted")), bool(before.get("deleted_rows"))
    if record is not None and record.is_failed:
        return Verdict("failed", f"history says it failed ({record.status}); {moved}", needs_person=True)
    if not is_sorted and not is_reclaimed and (record is None or record.is_skipped):
        left = (form.sorts and bool(after.get("unsorted"))) or (form.deletes and bool(after.get("deleted_rows")))
        if not left and record is not None:
            return Verdict("skipped", f"nothing was left to do ({record.status}): {moved}")
        told = f"Redshift skipped it ({record.status})" if record else "it is not in SYS_VACUUM_HISTORY"
        return Verdict(
            "skipped",
            f"{told} although there is work: the login neither owns the table nor is a superuser or in a role with "
            f"VACUUM, and such a VACUUM ends well and does nothing; {moved}",
            needs_person=True,
        )
    lacks = []
    if form.deletes and had_deleted and not is_reclaimed:
        why = blocked(blockers) if blockers else "no transaction is open any more that would explain it"
        lacks.append(f"none of {before['deleted_rows']:,} deleted rows was removed: {why}")
    if form.sorts and had_unsorted and not is_sorted:
        lacks.append("nothing was sorted: loads that began before it, or rows that came while it ran")
    if lacks and not (is_sorted or is_reclaimed):
        return Verdict("skipped", f"{'; '.join(lacks)}; {moved}", needs_person=True)
    return Verdict("done", "; ".join([moved, *lacks]), needs_person=bool(lacks))


def judge_analyze(before: Mapping[str, Any], after: Mapping[str, Any], record: AnalyzeRecord | None) -> Verdict:
    """What an ANALYZE did that ended well."""
    moved = _moved(before, after)
    if record is not None and record.is_skipped:
        # Deleted rows that are still stored count in `stats_off`, and are none of ANALYZE's.
        return Verdict("skipped", f"no row has changed since the last ANALYZE ({record.status}); {moved}")
    if record is not None or _lowered(before, after, "stats_off") or not after.get("stats_off"):
        return Verdict("done", moved)
    return Verdict(
        "skipped",
        "it is not in SYS_ANALYZE_HISTORY: the login neither owns the table nor is a superuser or in a role with "
        f"ANALYZE, and such an ANALYZE ends well and does nothing; {moved}",
        needs_person=True,
    )


def _lowered(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> bool:
    return (after.get(name) or 0) < (before.get(name) or 0)


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """`unsorted 33 % -> 0 %, deleted rows 1,200 -> 0, ...`"""
    parts = []
    for name, word, unit in (
        ("unsorted", "unsorted", " %"),
        ("deleted_rows", "deleted rows", ""),
        ("stats_off", "statistics off", " %"),
        ("size_mb", "size", " MB"),
    ):
        old, new = before.get(name), after.get(name)
        if old is not None and new is not None:
            parts.append(f"{word} {_short(old)}{unit} -> {_short(new)}{unit}")
    return ", ".join(parts) or "no figures"


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def blocked(blockers: Collection[OpenTransaction]) -> str:
    named = "; ".join(str(blocker) for blocker in list(blockers)[:MOST_NAMED])
    more = f" and {len(blockers) - MOST_NAMED} more" if len(blockers) > MOST_NAMED else ""
    return f"rows deleted since an open transaction began cannot be removed: {named}{more}; end it"
