"""CREATE TABLE and ALTER TABLE: what PostgreSQL makes, and what is noted beside it for the system views."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from dbops_lab.redshift.errors import BackendError, syntax_error, unsupported
from dbops_lab.redshift.functions import RESERVED, words
from dbops_lab.redshift.lexer import NUMBER, Token, identifier
from dbops_lab.redshift.rewrite import Group, Node, Rewriter, commas, is_space, render, symbol, trimmed, word
from dbops_lab.redshift.translate import BYTES_CHECK
from dbops_lab.redshift.types import ColumnType, read_type

QUIET = "WITH (autovacuum_enabled = false, toast.autovacuum_enabled = false)"
"""PostgreSQL leaves the table alone: what VACUUM and ANALYZE have to do here is what Redshift would have."""
ENCODINGS = words(
    """
    raw az64 bytedict delta delta32k lzo mostly8 mostly16 mostly32 runlength text255 text32k zstd
    """
)


@dataclass
class Notes:
    """What Redshift knows of a table and PostgreSQL does not; None = as it was."""

    diststyle: str | None = None  # auto, even, all, key
    distkey: str | None = None
    sortstyle: str | None = None  # auto, none, compound, interleaved
    sortkeys: list[str] | None = None
    encodings: dict[str, str] = field(default_factory=dict)
    auto_encode: bool | None = None
    like: str | None = None  # the table whose notes these begin with
    keys: list[dict[str, object]] = field(default_factory=list)  # PRIMARY KEY and so on, which nothing enforces
    dropped_key: str | None = None
    renamed: list[str] = field(default_factory=list)  # column, new name

    def as_json(self) -> str:
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


@dataclass
class Definition:
    """A statement for PostgreSQL, the table that it is about, and the notes."""

    sql: str
    table: str
    notes: Notes
    is_filled: bool = False  # CREATE TABLE AS


class Reader:
    """Reads nodes from left to right, without spaces."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = [node for node in nodes if not is_space(node)]
        self.at = 0

    @property
    def next(self) -> Node | None:
        return self.nodes[self.at] if self.at < len(self.nodes) else None

    @property
    def is_done(self) -> bool:
        return self.at >= len(self.nodes)

    def accept(self, *words: str) -> bool:
        """Step over these words when they come next."""
        if [word(node) for node in self.nodes[self.at : self.at + len(words)]] != list(words):
            return False
        self.at += len(words)
        return True

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            self.fail()

    def fail(self) -> None:
        raise syntax_error(self.next.text if self.next is not None else "")

    def take(self) -> Node:
        node = self.next
        if node is None:
            raise syntax_error("")
        self.at += 1
        return node

    def group(self) -> Group:
        node = self.take()
        if not isinstance(node, Group):
            raise syntax_error(node.text)
        return node

    def one_of(self, *words: str) -> str:
        node = self.take()
        if word(node) not in words:
            raise syntax_error(node.text)
        return word(node)

    def name(self) -> str:
        """One identifier, quotes resolved."""
        node = self.take()
        if not isinstance(node, Token) or not node.is_name or (node.kind == "word" and node.value in RESERVED):
            raise syntax_error(node.text)
        return node.value

    def qualified(self) -> str:
        """`schema.table`, quoted for PostgreSQL."""
        parts = [self.name()]
        while symbol(self.next) == ".":
            self.at += 1
            parts.append(self.name())
        return ".".join(identifier(part) for part in parts)

    def names(self) -> list[str]:
        """The names between parentheses."""
        found = []
        for part in commas(self.group().nodes):
            inner = Reader(part)
            found.append(inner.name())
            if not inner.is_done:
                inner.fail()
        return found

    def rest(self) -> list[Node]:
        found, self.at = self.nodes[self.at :], len(self.nodes)
        return found


def spaced(nodes: Sequence[Node]) -> str:
    """Nodes that lost their spaces, as text again."""
    return " ".join(node.text for node in nodes).replace(" . ", ".")


def create_table(nodes: Sequence[Node], rewriter: Rewriter) -> Definition:
    """`CREATE [TEMP] TABLE ...`, with columns or AS a query."""
    reader = Reader(nodes)
    reader.expect("create")
    reader.accept("local")
    is_temporary = reader.accept("temp") or reader.accept("temporary")
    reader.expect("table")
    is_optional = reader.accept("if", "not", "exists")
    name = reader.qualified()
    is_temporary = is_temporary or name.startswith('"#')
    notes = Notes(diststyle=None, auto_encode=True)
    columns: list[str] = []
    listed: Group | None = None
    if isinstance(reader.next, Group):
        listed = reader.group()
    query = _attributes(reader, notes)
    head = f"CREATE {'TEMP ' if is_temporary else ''}TABLE {'IF NOT EXISTS ' if is_optional else ''}{name}"
    if query is not None:
        names = f" ({', '.join(map(identifier, Reader([listed]).names()))})" if listed else ""
        _finish(notes)
        body = rewriter.part(_with_spaces(nodes, query))
        return Definition(f"{head}{names} {QUIET} AS {body}", name, notes, is_filled=True)
    if listed is None:
        reader.fail()
    assert listed is not None
    known: list[str] = []
    for part in commas(listed.nodes):
        columns.append(_column_or_constraint(part, notes, rewriter, known))
    for column in [notes.distkey, *(notes.sortkeys or [])]:
        if column and notes.like is None and column not in known:
            raise BackendError("42703", f'column "{column}" named in key does not exist')
    _finish(notes)
    return Definition(f"{head} ({', '.join(part for part in columns if part)}) {QUIET}", name, notes)


def _with_spaces(nodes: Sequence[Node], without: Sequence[Node]) -> list[Node]:
    """The end of `nodes` that begins with the first of `without`."""
    for at, node in enumerate(nodes):
        if node is without[0]:
            return list(nodes[at:])
    raise AssertionError("the query is part of the statement")


def _finish(notes: Notes) -> None:
    if notes.distkey and notes.diststyle not in (None, "key"):
        raise BackendError(
            "42601", f"Cannot specify DISTKEY for table with DISTSTYLE {(notes.diststyle or '').upper()}"
        )
    if notes.diststyle == "key" and not notes.distkey:
        raise BackendError("42601", "DISTKEY must be specified for DISTSTYLE KEY")
    if notes.like is None:
        notes.diststyle = notes.diststyle or ("key" if notes.distkey else "auto")
        notes.sortstyle = notes.sortstyle or ("compound" if notes.sortkeys else "auto")
        notes.sortkeys = notes.sortkeys or []
    elif notes.distkey:
        notes.diststyle = "key"
    if notes.encodings:
        notes.auto_encode = False


def _attributes(reader: Reader, notes: Notes) -> list[Node] | None:
    """The table attributes; the query behind AS, if there is one."""
    while not reader.is_done:
        if reader.accept("as"):
            return reader.rest()
        if reader.accept("backup"):
            reader.one_of("yes", "no")
        elif reader.accept("diststyle"):
            notes.diststyle = reader.one_of("auto", "even", "key", "all")
        elif reader.accept("distkey"):
            notes.distkey = _single(reader.names())
        elif reader.accept("encode", "auto"):
            notes.auto_encode = True
        elif reader.accept("sortkey", "auto"):
            notes.sortstyle = "auto"
        else:
            style = "interleaved" if reader.accept("interleaved") else "compound"
            reader.accept("compound")
            reader.expect("sortkey")
            if notes.sortkeys:
                raise BackendError("42601", "Multiple SORTKEY declarations are not allowed")
            notes.sortstyle, notes.sortkeys = style, reader.names()
            if style == "interleaved" and len(notes.sortkeys) > 8:
                raise BackendError("0A000", "Interleaved sort keys support at most 8 columns")
    return None


def _single(names: list[str]) -> str:
    if len(names) != 1:
        raise syntax_error(",")
    return names[0]


def _column_or_constraint(part: Sequence[Node], notes: Notes, rewriter: Rewriter, known: list[str]) -> str:
    reader = Reader(part)
    if reader.accept("like"):
        return _like(reader, notes)
    name = ""
    if reader.accept("constraint"):
        name = reader.name()
    if word(reader.next) in ("primary", "unique", "foreign"):
        notes.keys.append(_table_key(reader, name))
        return ""
    if word(reader.next) == "check":
        raise BackendError("0A000", "CHECK constraints are not supported")
    column = reader.name()
    known.append(column)
    sql, _, encoding = _column(reader, column, notes, rewriter)
    if encoding:
        notes.encodings[column] = encoding
    return sql


def _like(reader: Reader, notes: Notes) -> str:
    notes.like = reader.qualified()
    defaults = ""
    if reader.accept("including", "defaults"):
        defaults = " INCLUDING DEFAULTS"
    else:
        reader.accept("excluding", "defaults")
    if not reader.is_done:
        reader.fail()
    return f"LIKE {notes.like} INCLUDING CONSTRAINTS{defaults}"


def _table_key(reader: Reader, name: str) -> dict[str, object]:
    key: dict[str, object] = {"name": name}
    if reader.accept("primary", "key"):
        key |= {"kind": "PRIMARY KEY", "columns": reader.names()}
    elif reader.accept("unique"):
        key |= {"kind": "UNIQUE", "columns": reader.names()}
    else:
        reader.expect("foreign", "key")
        key |= {"kind": "FOREIGN KEY", "columns": reader.names()}
        reader.expect("references")
        key["references"] = reader.qualified()
        if isinstance(reader.next, Group):
            key["referenced"] = reader.names()
    if not reader.is_done:
        reader.fail()
    return key


def _column(reader: Reader, column: str, notes: Notes, rewriter: Rewriter) -> tuple[str, ColumnType, str]:
    """The column for PostgreSQL, its type and the encoding that was asked for."""
    kind, taken = read_type(reader.nodes[reader.at :])
    reader.at += taken
    parts = [identifier(column), kind.postgres]
    encoding, is_not_null = "", False
    while not reader.is_done:
        if reader.accept("default"):
            parts.append(f"DEFAULT {rewriter.part(_default(reader))}")
        elif word(reader.next) in ("identity", "generated"):
            parts.append(_identity(reader))
            is_not_null = True
        elif reader.accept("encode"):
            encoding = _encoding(reader)
        elif reader.accept("distkey"):
            notes.distkey = column
        elif reader.accept("sortkey"):
            notes.sortkeys = [*(notes.sortkeys or []), column]
        elif reader.accept("not", "null"):
            is_not_null = True
        elif reader.accept("primary", "key"):
            notes.keys.append({"name": "", "kind": "PRIMARY KEY", "columns": [column]})
            is_not_null = True
        elif reader.accept("unique"):
            notes.keys.append({"name": "", "kind": "UNIQUE", "columns": [column]})
        elif reader.accept("references"):
            key: dict[str, object] = {"name": "", "kind": "FOREIGN KEY", "columns": [column]}
            key["references"] = reader.qualified()
            if isinstance(reader.next, Group):
                key["referenced"] = reader.names()
            notes.keys.append(key)
        elif reader.accept("collate"):
            reader.one_of("case_sensitive", "case_insensitive")
            if word(reader.nodes[reader.at - 1]) == "case_insensitive":
                raise unsupported("COLLATE CASE_INSENSITIVE")
        elif not reader.accept("null"):
            reader.fail()
    if is_not_null:
        parts.append("NOT NULL")
    if kind.limit:
        parts.append(bytes_check(column, kind))
    return " ".join(parts), kind, encoding


def bytes_check(column: str, kind: ColumnType) -> str:
    name = f"{BYTES_CHECK}{kind.limit}_{column}"[:60]
    return f"CONSTRAINT {identifier(name)} CHECK (octet_length({identifier(column)}) <= {kind.limit})"


_AFTER_DEFAULT = (
    "encode",
    "distkey",
    "sortkey",
    "not",
    "null",
    "primary",
    "unique",
    "references",
    "collate",
    "identity",
)


def _default(reader: Reader) -> list[Node]:
    found = [reader.take()]
    while not reader.is_done and word(reader.next) not in _AFTER_DEFAULT:
        found.append(reader.take())
    return _apart(found)


def _apart(nodes: Sequence[Node]) -> list[Node]:
    found: list[Node] = []
    for node in nodes:
        if found and not isinstance(node, Group) and symbol(node) not in (".", "::") and symbol(found[-1]) != "::":
            found.append(Token("space", " ", " "))
        found.append(node)
    return found


def _identity(reader: Reader) -> str:
    is_default = reader.accept("generated", "by", "default", "as")
    reader.expect("identity")
    numbers = [render(trimmed(part)) for part in commas(reader.group().nodes)]
    if len(numbers) != 2 or not all(number.lstrip("-").isdigit() for number in numbers):
        raise syntax_error("identity")
    seed, step = map(int, numbers)
    bound = f"MINVALUE {min(seed, 0)}" if step > 0 else f"MAXVALUE {max(seed, 0)}"
    how = "BY DEFAULT" if is_default else "ALWAYS"
    return f"GENERATED {how} AS IDENTITY (START {seed} INCREMENT {step} {bound})"


def _encoding(reader: Reader) -> str:
    node = reader.take()
    if word(node) not in ENCODINGS:
        raise BackendError("42601", f'encoding "{node.text}" is not known')
    return word(node)


# ---------------------------------------------------------------------------------------------- ALTER TABLE


def alter_table(nodes: Sequence[Node], rewriter: Rewriter) -> Definition:
    """One of Redshift's forms; those that change nothing that PostgreSQL stores become a note alone."""
    reader = Reader(nodes)
    reader.expect("alter", "table")
    table = reader.qualified()
    notes = Notes()
    if reader.accept("rename", "to"):
        return Definition(f"ALTER TABLE {table} RENAME TO {identifier(reader.name())}", "", notes)
    if reader.accept("rename", "column"):
        old = reader.name()
        reader.expect("to")
        new = reader.name()
        notes.renamed = [old, new]
        sql = f"ALTER TABLE {table} RENAME COLUMN {identifier(old)} TO {identifier(new)}"
        return Definition(sql, table, notes)
    if reader.accept("owner", "to"):
        return Definition(f"ALTER TABLE {table} OWNER TO {identifier(reader.name())}", "", notes)
    if word(reader.next) == "add":
        return _alter_add(reader, table, notes, rewriter)
    if word(reader.next) == "drop":
        return _alter_drop(reader, table, notes)
    if word(reader.next) == "alter":
        return _alter_alter(reader, table, notes)
    reader.fail()
    raise AssertionError


def _alter_add(reader: Reader, table: str, notes: Notes, rewriter: Rewriter) -> Definition:
    reader.expect("add")
    name = reader.name() if reader.accept("constraint") else ""
    if word(reader.next) in ("primary", "unique", "foreign"):
        notes.keys.append(_table_key(reader, name))
        return Definition(_nothing(table), table, notes)
    reader.accept("column")
    column = reader.name()
    sql, _, encoding = _column(reader, column, notes, rewriter)
    if encoding:
        notes.encodings[column] = encoding
    return Definition(f"ALTER TABLE {table} ADD COLUMN {sql}", table, notes)


def _alter_drop(reader: Reader, table: str, notes: Notes) -> Definition:
    reader.expect("drop")
    if reader.accept("constraint"):
        notes.dropped_key = reader.name()
        return Definition(_nothing(table), table, notes)
    reader.accept("column")
    column = reader.name()
    how = reader.one_of("restrict", "cascade").upper() if not reader.is_done else ""
    sql = f"ALTER TABLE {table} DROP COLUMN {identifier(column)} {how}".rstrip()
    return Definition(sql, table, notes)


def _alter_alter(reader: Reader, table: str, notes: Notes) -> Definition:
    """`ALTER DISTKEY`, `ALTER SORTKEY`, `ALTER COLUMN`: one or, for keys and encodings, several with commas."""
    sql = _nothing(table)
    while True:
        reader.expect("alter")
        if reader.accept("column"):
            column = reader.name()
            if reader.accept("encode"):
                notes.encodings[column] = _encoding(reader)
                notes.auto_encode = False
            else:
                reader.expect("type")
                sql = _retype(reader, table, column)
        elif reader.accept("encode", "auto"):
            notes.auto_encode = True
        elif reader.accept("distkey"):
            notes.diststyle, notes.distkey = "key", reader.name()
        elif reader.accept("diststyle"):
            notes.diststyle, notes.distkey = reader.one_of("all", "even", "key", "auto"), ""
            if notes.diststyle == "key":
                reader.expect("distkey")
                notes.distkey = reader.name()
        else:
            is_interleaved = reader.accept("interleaved")
            if is_interleaved:
                raise syntax_error("interleaved")
            reader.accept("compound")
            reader.expect("sortkey")
            if reader.accept("auto"):
                notes.sortstyle, notes.sortkeys = "auto", []
            elif reader.accept("none"):
                notes.sortstyle, notes.sortkeys = "none", []
            else:
                notes.sortstyle, notes.sortkeys = "compound", reader.names()
        if symbol(reader.next) != ",":
            break
        reader.take()
    if not reader.is_done:
        reader.fail()
    return Definition(sql, table, notes)


def _retype(reader: Reader, table: str, column: str) -> str:
    """Only a VARCHAR's length can change, and not below what is stored."""
    kind, taken = read_type(reader.nodes[reader.at :])
    reader.at += taken
    if not kind.postgres.startswith("varchar"):
        raise BackendError("0A000", f'cannot alter type of column "{column}"')
    return f"DO $rs$ BEGIN PERFORM rs.retype({_text(table)}, {_text(column)}, {kind.limit}); END $rs$"


def _nothing(table: str) -> str:
    """Changes nothing, and wants of the table what any ALTER wants: that it is there and one's own."""
    return f"ALTER TABLE {table} SET (autovacuum_enabled = false)"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


__all__ = ["NUMBER", "Definition", "Notes", "Reader", "alter_table", "bytes_check", "create_table", "spaced"]
