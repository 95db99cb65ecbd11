"""What the new instance holds: validation queries, and its tables beside those of the damaged instance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import Field

from dbops.backups.manifest import Document
from dbops.errors import DbopsError
from dbops.platform.postgres_recovery import ComparedTable, Deployment, ValidationQuery
from dbops.postgres.session import Session
from dbops.sql import quoted, statement

BUCKETS = 256
MOST_ROWS = 200_000
"""Keys and hashes of so many rows are compared one by one; memory is bounded by it."""
EXAMPLES = 5

Open = Callable[[str], Session]
"""Opens a session with a database of an instance."""


class Validation(Document):
    """What one validation query has found."""

    name: str
    database: str
    value: float | None = None
    wanted: str
    ok: bool
    message: str = ""


class TableComparison(Document):
    """One table in the new instance and in the damaged one."""

    table: str
    rows: int | None = None
    """In the new instance."""
    checksum: str | None = None
    damaged_rows: int | None = None
    damaged_checksum: str | None = None
    changed: int = 0
    """Rows that are in both, with other values."""
    missing: int = 0
    """Rows that only the new instance has: they came back."""
    extra: int = 0
    """Rows that only the damaged one has: they would be lost."""
    looked_at: int = 0
    """Rows that were compared one by one; when it is less than all that differ, the three counts are of a part."""
    is_part: bool = False
    examples: tuple[str, ...] = Field(default=())
    """Keys of rows that differ."""
    problem: str = ""
    """Why the new instance's table could not be read."""
    note: str = ""
    """Why it could not be compared."""

    @property
    def is_equal(self) -> bool:
        return self.checksum is not None and (self.rows, self.checksum) == (self.damaged_rows, self.damaged_checksum)

    def describe(self) -> str:
        if self.problem:
            return f"{self.table}: {self.problem}"
        head = f"{self.table}: {self.rows:,} rows, checksum {self.checksum}"
        if self.note:
            return f"{head}; not compared: {self.note}"
        if self.is_equal:
            return f"{head}; the damaged instance has the same"
        part = f"; of {self.looked_at:,} rows looked at" if self.is_part else ""
        keys = f"; for example {', '.join(self.examples)}" if self.examples else ""
        return (
            f"{head}; the damaged instance has {self.damaged_rows:,} rows, checksum {self.damaged_checksum}{part}: "
            f"{self.changed:,} changed, {self.missing:,} only in the new one, {self.extra:,} only in the damaged one "
            f"(lost by the switch){keys}"
        )


def validate(open: Open, queries: Sequence[ValidationQuery]) -> list[Validation]:
    """Run the configured queries; one that cannot be answered has failed."""
    return [_validate(open, query) for query in queries]


def _validate(open: Open, query: ValidationQuery) -> Validation:
    limits = [
        f"{words} {value:g}"
        for words, value in (("at least", query.at_least), ("at most", query.at_most))
        if value is not None
    ]
    about: dict[str, Any] = {"name": query.name, "database": query.database, "wanted": " and ".join(limits)}
    try:
        with open(query.database) as session:
            rows = session.rows(query.query)
        if len(rows) != 1 or len(rows[0]) != 1 or not isinstance(rows[0][0], int | float | Decimal):
            return Validation(**about, ok=False, message="its answer is not one number")
        value = float(rows[0][0])
    except DbopsError as error:
        return Validation(**about, ok=False, message=str(error))
    low, high = query.at_least, query.at_most
    ok = (low is None or value >= low) and (high is None or value <= high)
    return Validation(**about, value=value, ok=ok)


@dataclass(frozen=True)
class _Sums:
    """Bucket to rows and the sum of their hashes."""

    buckets: Mapping[int, tuple[int, int]]

    @property
    def rows(self) -> int:
        return sum(rows for rows, _ in self.buckets.values())

    @property
    def checksum(self) -> str:
        return f"{sum(total for _, total in self.buckets.values()) % (1 << 64):016x}"


def compare(open: Open, open_damaged: Open, table: ComparedTable) -> TableComparison:
    """Count and hash a table on both sides, then look at the rows of the parts that differ.

    The order of rows does not matter; columns are compared as PostgreSQL writes them. The damaged instance goes on
    changing meanwhile: the figures are of when it was read.
    """
    try:
        with open(table.database) as session:
            key = key_columns(session, table.table)
            here = _sums(session, table.table, key)
            found = TableComparison(table=table.name, rows=here.rows, checksum=here.checksum)
            try:
                with open_damaged(table.database) as damaged:
                    if key_columns(damaged, table.table) != key:
                        return found.model_copy(update={"note": "its primary key is another one there"})
                    return _rows(session, damaged, table.table, key, found, here, _sums(damaged, table.table, key))
            except DbopsError as error:
                return found.model_copy(update={"note": str(error)})
    except DbopsError as error:
        return TableComparison(table=table.name, problem=str(error))


def checksum(session: Session, table: str) -> tuple[int, str]:
    """Rows of a table, and their checksum."""
    sums = _sums(session, table, key_columns(session, table))
    return sums.rows, sums.checksum


def key_columns(session: Session, table: str) -> tuple[str, ...]:
    """Of its primary key, in order; empty: it has none."""
    return tuple(row[0] for row in session.rows(statement("postgres/primary_key"), quoted(*table.split(".", 1))))


def _filled(name: str, table: str, key: Sequence[str]) -> str:
    """A statement with the table, and how a row of it is known: by its key, or as a whole when it has none."""
    known = f"row({', '.join(f'r.{quoted(column)}' for column in key)})" if key else "(r.*)"
    filled = {"{table}": quoted(*table.split(".", 1)), "{key}": known}
    text = statement(name)
    for place, value in filled.items():
        text = text.replace(place, value.replace("%", "%%"))  # a name may hold what the driver takes for a value
    return text


def _sums(session: Session, table: str, key: Sequence[str]) -> _Sums:
    rows = session.rows(_filled("postgres/row_sums", table, key), BUCKETS)
    return _Sums({int(bucket): (int(count), int(total)) for bucket, count, total in rows})


def _rows(
    session: Session,
    damaged: Session,
    table: str,
    key: Sequence[str],
    found: TableComparison,
    here: _Sums,
    there: _Sums,
) -> TableComparison:
    found = found.model_copy(update={"damaged_rows": there.rows, "damaged_checksum": there.checksum})
    differ = [
        bucket
        for bucket in sorted(here.buckets.keys() | there.buckets.keys())
        if here.buckets.get(bucket) != there.buckets.get(bucket)
    ]
    chosen, size = [], 0
    for bucket in differ:
        size += here.buckets.get(bucket, (0, 0))[0] + there.buckets.get(bucket, (0, 0))[0]
        if size > MOST_ROWS:
            break
        chosen.append(bucket)
    if not chosen:
        return found.model_copy(update={"is_part": bool(differ)})
    text = _filled("postgres/row_hashes", table, key)
    ours: dict[str, int] = dict(session.query(text, BUCKETS, chosen).rows)
    theirs: dict[str, int] = dict(damaged.query(text, BUCKETS, chosen).rows)
    changed = [row for row in ours if row in theirs and theirs[row] != ours[row]]
    missing = [row for row in ours if row not in theirs]
    extra = [row for row in theirs if row not in ours]
    examples = [*changed[:EXAMPLES], *missing[:EXAMPLES], *extra[:EXAMPLES]][:EXAMPLES] if key else []
    return found.model_copy(
        update={
            "changed": len(changed),
            "missing": len(missing),
            "extra": len(extra),
            "looked_at": len(ours.keys() | theirs.keys()),
            "is_part": len(chosen) < len(differ),
            "examples": tuple(f"{', '.join(key)} = {row.strip('()')}" for row in examples),
        }
    )


# --- sessions -----------------------------------------------------------------------------------------------


def sessions_of(session: Session, deployments: Sequence[Deployment]) -> dict[str, int]:
    """How many sessions each deployment has with an instance, by the beginning of their application_name.

    When the beginnings of two fit, the longer one counts.
    """
    found = {one.name: 0 for one in deployments}
    known = sorted(deployments, key=lambda one: -len(one.begins))
    for application, count in session.rows(statement("postgres/sessions_by_application")):
        owner = next((one for one in known if application.startswith(one.begins)), None)
        if owner is not None:
            found[owner.name] += int(count)
    return found
