"""SQL: every statement is a file of `include/sql`, identifiers are quoted, values are bound."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import dbops
from dbops.errors import ConfigurationError

DIRECTORY = Path(dbops.__file__).parents[2] / "include" / "sql"


@cache
def statement(name: str) -> str:
    """The text of `include/sql/<name>.sql` without the comment that heads it (its source, and the rights it needs)."""
    lines = (DIRECTORY / f"{name}.sql").read_text().splitlines()
    while lines and (not lines[0].strip() or lines[0].startswith("--")):
        del lines[0]
    return "\n".join(lines).rstrip().removesuffix(";")


def quoted(*names: str) -> str:
    """An identifier of one or more parts, quoted: `"public"."wins"`.

    :raises ConfigurationError: a part is empty or holds a NUL.
    """
    for name in names:
        if not name or "\0" in name:
            raise ConfigurationError(f"{name!r} is no name of a table, column or schema")
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(value: str) -> str:
    """A text as an SQL literal, for the places where a statement takes no bound value (UNLOAD, COPY, SET).

    :raises ConfigurationError: it holds a backslash or NUL, which servers read in different ways.
    """
    if "\\" in value or "\0" in value:
        raise ConfigurationError(f"{value!r} cannot be written into a statement: it holds a backslash or NUL")
    return "'" + value.replace("'", "''") + "'"
