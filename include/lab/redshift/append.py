"""ALTER TABLE ... APPEND FROM: the rows of one table moved into another, and the first is empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbops_lab.redshift.ddl import Reader
from dbops_lab.redshift.errors import BackendError
from dbops_lab.redshift.lexer import identifier, literal, tokenize
from dbops_lab.redshift.rewrite import tree

if TYPE_CHECKING:
    from dbops_lab.redshift.session import Session


def run(statement: str, session: Session) -> int:
    """How many rows went over."""
    reader = Reader(tree(tokenize(statement)))
    reader.expect("alter", "table")
    target = reader.qualified()
    reader.expect("append", "from")
    source = reader.qualified()
    ignores, fills = reader.accept("ignoreextra"), reader.accept("filltarget")
    if not reader.is_done:
        reader.fail()
    there, here = _columns(target, session), _columns(source, session)
    extra = [name for name in here if name not in there]
    missing = [name for name in there if name not in here]
    if (extra and not ignores) or (missing and not fills):
        names = ", ".join(extra if extra and not ignores else missing)
        raise BackendError("42703", f"ALTER TABLE APPEND: columns of {source} and {target} do not match: {names}")
    shared = [name for name in there if name in here]
    for name in shared:
        if there[name] != here[name]:
            raise BackendError("42804", f"ALTER TABLE APPEND: column {name} is {here[name]}, not {there[name]}")
    columns = ", ".join(map(identifier, shared))
    upstream = session.upstream
    upstream.execute(f"LOCK TABLE {target}, {source} IN ACCESS EXCLUSIVE MODE")
    tag = upstream.execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {source}")
    rows = int(tag.split()[-1])
    upstream.execute(f"TRUNCATE {source}")
    upstream.query(f"SELECT rs.changed({literal(target)}, 'insert', {rows})")
    upstream.query(f"SELECT rs.changed({literal(source)}, 'truncate', 0)")
    return rows


def _columns(table: str, session: Session) -> dict[str, str]:
    sql = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        f" WHERE attrelid = {literal(table)}::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    return {str(name): str(kind) for name, kind in session.upstream.query(sql)[1]}
