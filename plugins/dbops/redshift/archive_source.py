"""A table whose days are archived, as the warehouse has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from dbops.errors import ConfigurationError
from dbops.platform import ArchiveTable
from dbops.redshift.archive_checks import MOMENTS, Checks, Column, Kind, expressions, read_checks
from dbops.redshift.session import Session
from dbops.sql import literal, quoted, statement

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Source:
    """A table of the warehouse, or that of a day, with its columns."""

    table: ArchiveTable
    name: str
    columns: tuple[Column, ...]

    @property
    def sql(self) -> str:
        return quoted(*self.name.split(".", 1))

    @property
    def column(self) -> Column:
        return next(column for column in self.columns if column.name == self.table.column)

    def range(self, first: date | None, end: date | None) -> str:
        """Rows from a day on and before another one, as a condition on the column itself."""
        if self.table.days == "tables":
            return "true"
        name, bounds = quoted(self.table.column), []
        for day, sign in ((first, ">="), (end, "<")):
            if day is not None:
                bounds.append(f"{name} {sign} {_moment(self.column.kind, day)}")
        return " and ".join(bounds)

    def of_day(self, day: date) -> str:
        return self.range(day, day + _DAY)


def _moment(kind: Kind, day: date) -> str:
    if kind is Kind.DATE:
        return f"'{day:%Y-%m-%d}'::date"
    if kind is Kind.TIMESTAMP:
        return f"'{day:%Y-%m-%d} 00:00:00'::timestamp"
    return f"'{day:%Y-%m-%d} 00:00:00+00'::timestamptz"


def read_columns(session: Session, names: Iterable[str]) -> dict[str, tuple[Column, ...]]:
    """The columns of tables, in one statement; a table that is not there is left out."""
    wanted = ", ".join(literal(name) for name in names)
    found: dict[str, list[Column]] = {}
    if wanted:
        for schema, table, name, type_, not_null in session.rows(
            statement("redshift/archive_columns").format(tables=wanted)
        ):
            found.setdefault(f"{schema}.{table}", []).append(Column(name=name, type=type_, not_null=bool(not_null)))
    return {name: tuple(columns) for name, columns in found.items()}


def source_of(table: ArchiveTable, name: str, columns: Sequence[Column]) -> Source:
    """:raises ConfigurationError: the table cannot be archived, and why."""
    what = f"archive of {name}"
    named = {column.name: column for column in columns}
    if table.column not in named:
        raise ConfigurationError(
            f"{what}: it has no column {table.column}, but {', '.join(named)}; correct redshift.archive.tables"
        )
    for column in columns:
        try:
            kind = column.kind
        except ConfigurationError as error:
            raise ConfigurationError(f"{what}: {error}") from None
        if column.name == table.column and kind not in MOMENTS:
            raise ConfigurationError(
                f"{what}: column {column.name} is {column.type}, not a date or timestamp: it does not say which day a "
                "row belongs to; correct redshift.archive.tables"
            )
    return Source(table, name, tuple(columns))


def check_rows(session: Session, table: str, columns: Sequence[Column], where: str) -> Checks:
    """The figures of rows of a table, which is quoted."""
    sql = statement("redshift/archive_checks")
    found = [
        row
        for figures in expressions(columns)
        for row in session.rows(sql.format(figures=figures, table=table, range=where))
    ]
    return read_checks(columns, found)
