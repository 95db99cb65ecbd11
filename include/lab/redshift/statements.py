"""What a statement is, what PostgreSQL runs for it, and what is to be noted when it has run.

A statement that is not known here is refused: nothing passes that Redshift might not take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from dbops_lab.redshift import users
from dbops_lab.redshift.ddl import Reader, alter_table, create_table, spaced
from dbops_lab.redshift.errors import BackendError, syntax_error, unsupported
from dbops_lab.redshift.lexer import Token, identifier, literal, significant, tokenize
from dbops_lab.redshift.rewrite import Facts, Group, Node, Rewriter, is_space, render, symbol, tree, word

SPECIAL = ("copy", "unload", "vacuum", "analyze", "append")
"""What no single statement of PostgreSQL does; `session` runs it."""

_NATIVE = ("search_path", "statement_timeout", "timezone", "datestyle", "extra_float_digits", "application_name",
           "client_encoding", "intervalstyle")  # fmt: skip
PARAMETERS = {
    "analyze_threshold_percent": "10",
    "downcase_delimited_identifier": "off",
    "enable_case_sensitive_identifier": "off",
    "enable_result_cache_for_session": "on",
    "enable_vacuum_boost": "off",
    "max_concurrency_scaling_clusters": "1",
    "query_group": "unset",
    "spectrum_query_maxerror": "0",
    "wlm_query_slot_count": "1",
}
"""Parameters that PostgreSQL has not, with what they are at first; they live as `rs.<name>`."""


@dataclass(frozen=True)
class Change:
    """Rows of a table that a statement changes."""

    table: str  # quoted for PostgreSQL
    how: str  # insert, load, update, delete, truncate


@dataclass(frozen=True)
class Plan:
    """How one statement runs.

    :param kind: as SYS_QUERY_HISTORY calls it.
    :param special: the action that runs it, in place of `sql`.
    :param notes: table and JSON for `rs.note_table` after it ran.
    :param tag: the command tag that the client sees, where PostgreSQL's is another.
    """

    text: str
    kind: str
    sql: str = ""
    facts: Facts = field(default_factory=Facts)
    special: str = ""
    change: Change | None = None
    notes: tuple[str, str] | None = None
    tag: str = ""
    is_outside_transactions: bool = False
    commits: bool = False
    control: str = ""  # begin, commit, rollback
    settings: tuple[str, str] | None = None


@lru_cache(maxsize=2048)
def plan(sql: str) -> Plan:
    """The plan of one statement without its semicolon.

    :raises BackendError: Redshift does not take it, or this stand-in does not.
    """
    tokens = tokenize(sql)
    words = significant(tokens)
    if not words:
        return Plan(sql, "EMPTY")
    first = words[0]
    if first.is_symbol("("):
        return _query(sql, tree(tokens))
    make = _STATEMENTS.get(first.value) if first.kind == "word" else None
    if make is None:
        if first.kind == "word" and first.value in _KNOWN:
            raise unsupported(first.value.upper())
        raise syntax_error(first.text)
    return make(sql, tree(tokens))


def _second(nodes: Sequence[Node]) -> list[str]:
    """The words of a statement's beginning."""
    return [word(node) for node in nodes if not is_space(node)][:6]


# ---------------------------------------------------------------------------------------------- queries and changes


def _query(sql: str, nodes: list[Node]) -> Plan:
    rewriter = Rewriter()
    if any(word(node) == "into" for node in nodes):
        raise unsupported("SELECT INTO: use CREATE TABLE AS")
    text = render(rewriter.scope(nodes))
    return Plan(sql, "SELECT", text, rewriter.facts)


def _with(sql: str, nodes: list[Node]) -> Plan:
    for at, node in enumerate(nodes):
        if word(node) in ("delete", "update"):
            return _change(sql, nodes, at)
        if word(node) == "insert":
            raise syntax_error("insert")
    return _query(sql, nodes)


def _change_first(sql: str, nodes: list[Node]) -> Plan:
    return _change(sql, nodes, next(at for at, node in enumerate(nodes) if not is_space(node)))


def _change(sql: str, nodes: list[Node], at: int) -> Plan:
    """INSERT, UPDATE or DELETE, whose word stands at that place."""
    verb = word(nodes[at])
    reader = Reader(nodes[at + 1 :])
    how = verb
    if verb == "insert":
        reader.expect("into")
    elif verb == "delete" and not reader.accept("from"):
        nodes = [*nodes[: at + 1], Token("space", " ", " "), Token("word", "FROM", "from"), *nodes[at + 1 :]]
    table = reader.qualified()
    if verb == "insert":
        while isinstance(reader.next, Group):
            reader.take()
        if word(reader.next) in ("select", "with", "table") or isinstance(reader.next, Group):
            how = "load"
    rewriter = Rewriter()
    text = render(rewriter.scope(nodes))
    return Plan(sql, verb.upper(), text, rewriter.facts, change=Change(table, how))


def _truncate(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("truncate")
    reader.accept("table")
    table = reader.qualified()
    _done(reader)
    facts = Facts(tables=[table.replace('"', "")])
    return Plan(sql, "UTILITY", f"TRUNCATE {table}", facts, change=Change(table, "truncate"), commits=True)


def _explain(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("explain")
    is_verbose = reader.accept("verbose")
    if word(reader.next) not in ("select", "with", "insert", "update", "delete", "create"):
        reader.fail()
    inner = plan(_text_from(nodes, reader.next))
    return Plan(sql, "UTILITY", f"EXPLAIN {'VERBOSE ' if is_verbose else ''}{inner.sql}", inner.facts)


def _text_from(nodes: Sequence[Node], node: Node | None) -> str:
    for at, found in enumerate(nodes):
        if found is node:
            return render(nodes[at:])
    raise syntax_error("")


def _declare(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("declare")
    name = identifier(reader.name())
    reader.expect("cursor")
    reader.expect("for")
    inner = plan(_text_from(nodes, reader.next))
    if inner.kind != "SELECT":
        reader.fail()
    return Plan(sql, "UTILITY", f"DECLARE {name} CURSOR FOR {inner.sql}", inner.facts)


def _fetch(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("fetch")
    how = "NEXT"
    if reader.accept("all"):
        how = "ALL"
    elif reader.accept("forward"):
        node = reader.next
        is_counted = isinstance(node, Token) and (node.kind == "number" or node.is_word("all"))
        how = f"FORWARD {reader.take().text}" if is_counted else "FORWARD 1"
    else:
        reader.accept("next")
    reader.expect("from")
    name = identifier(reader.name())
    _done(reader)
    return Plan(sql, "UTILITY", f"FETCH {how} FROM {name}")


def _close(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("close")
    name = identifier(reader.name())
    _done(reader)
    return Plan(sql, "UTILITY", f"CLOSE {name}")


def _done(reader: Reader) -> None:
    if not reader.is_done:
        reader.fail()


# ---------------------------------------------------------------------------------------------- transactions


def _control(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    verb = word(reader.take())
    if verb == "start":
        reader.expect("transaction")
    elif not reader.accept("work"):
        reader.accept("transaction")
    if verb in ("commit", "end"):
        _done(reader)
        return Plan(sql, "UTILITY", "COMMIT", control="commit")
    if verb in ("rollback", "abort"):
        _done(reader)
        return Plan(sql, "UTILITY", "ROLLBACK", control="rollback")
    is_read_only = False
    while not reader.is_done:
        if symbol(reader.next) == ",":
            reader.take()
        elif reader.accept("isolation", "level"):
            _isolation(reader)
        else:
            reader.expect("read")
            is_read_only = reader.one_of("only", "write") == "only"
    return Plan(sql, "UTILITY", "BEGIN READ ONLY" if is_read_only else "BEGIN", control="begin")


def _isolation(reader: Reader) -> None:
    """All levels are taken for the database's own."""
    ways = (("serializable",), ("snapshot",), ("repeatable", "read"), ("read", "committed"), ("read", "uncommitted"))
    if not any(reader.accept(*way) for way in ways):
        reader.fail()


def _lock(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("lock")
    reader.accept("table")
    tables = [reader.qualified()]
    while symbol(reader.next) == ",":
        reader.take()
        tables.append(reader.qualified())
    _done(reader)
    return Plan(sql, "UTILITY", f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")


# ---------------------------------------------------------------------------------------------- settings


def _set(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("set")
    is_local = reader.accept("local")
    if not is_local:
        if reader.accept("session", "authorization"):
            who = reader.take()
            assert isinstance(who, Token)
            target = "DEFAULT" if who.is_word("default") else identifier(who.value)
            _done(reader)
            return Plan(sql, "UTILITY", f"SET SESSION AUTHORIZATION {target}")
        reader.accept("session")
    if reader.accept("time", "zone"):
        name = "timezone"
    else:
        name = _parameter(reader)
        if not reader.accept("to"):
            node = reader.take()
            if symbol(node) != "=":
                raise syntax_error(node.text)
    values = reader.rest()
    if not values:
        raise syntax_error("")
    value = spaced(values)
    if name == "enable_case_sensitive_identifier" and value.strip("'").lower() not in ("off", "false", "default"):
        raise unsupported("enable_case_sensitive_identifier")
    told = value if name != "timezone" else _zone(values)
    if name not in _NATIVE and word(values[0]) != "default":
        told = literal(values[0].value if isinstance(values[0], Token) else value)
    text = f"SET {'LOCAL ' if is_local else ''}{_stored(name)} TO {told}"
    return Plan(sql, "UTILITY", text, settings=(name, value.strip("'")))


def _zone(values: Sequence[Node]) -> str:
    return spaced(values)


def _parameter(reader: Reader) -> str:
    node = reader.take()
    name = node.value if isinstance(node, Token) and node.is_name else ""
    if name not in _NATIVE and name not in PARAMETERS:
        raise BackendError("42704", f'unrecognized configuration parameter "{node.text}"')
    return name


def _stored(name: str) -> str:
    return name if name in _NATIVE else f"rs.{name}"


def _reset(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("reset")
    if reader.accept("all"):
        return Plan(sql, "UTILITY", "RESET ALL")
    name = _parameter(reader)
    _done(reader)
    return Plan(sql, "UTILITY", f"RESET {_stored(name)}", settings=(name, PARAMETERS.get(name, "")))


def _show(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("show")
    if reader.accept("all"):
        return Plan(sql, "UTILITY", "SELECT name, setting FROM rs.parameters ORDER BY name", tag="SHOW")
    if word(reader.next) in ("tables", "databases", "schemas", "columns", "table", "view", "grants", "procedure"):
        raise unsupported(f"SHOW {word(reader.next).upper()}")
    if reader.accept("transaction", "isolation", "level") or reader.accept("transaction_isolation"):
        return Plan(sql, "UTILITY", "SELECT rs.isolation() AS transaction_isolation", tag="SHOW")
    name = _parameter(reader)
    _done(reader)
    return Plan(sql, "UTILITY", f"SELECT current_setting('{_stored(name)}') AS {identifier(name)}", tag="SHOW")


# ---------------------------------------------------------------------------------------------- objects


def _create(sql: str, nodes: list[Node]) -> Plan:
    if users.is_principal(nodes):
        return _tagged(sql, *users.create(Reader(nodes)))
    words = _second(nodes)[1:]
    rest = [each for each in words if each not in ("or", "replace", "local", "temp", "temporary")]
    if rest[:1] == ["table"] and "replace" not in words:
        return _create_table(sql, nodes)
    if rest[:1] == ["view"]:
        return _create_view(sql, nodes)
    if rest[:1] == ["schema"]:
        return _create_schema(sql, nodes)
    if rest[:1] == ["index"] or rest[:2] == ["unique", "index"]:
        raise BackendError("0A000", 'SQL command "create index" not supported on Redshift tables.')
    raise unsupported(f"CREATE {' '.join(words[:2]).upper()}")


def _create_table(sql: str, nodes: list[Node]) -> Plan:
    rewriter = Rewriter()
    made = create_table(nodes, rewriter)
    notes = (made.table, made.notes.as_json())
    change = Change(made.table, "fill") if made.is_filled else None
    return Plan(sql, "CTAS" if made.is_filled else "DDL", made.sql, rewriter.facts, notes=notes, change=change)


def _create_view(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("create")
    is_replaced = reader.accept("or", "replace")
    reader.expect("view")
    name = reader.qualified()
    columns = f" ({', '.join(map(identifier, reader.names()))})" if isinstance(reader.next, Group) else ""
    reader.expect("as")
    if [word(node) for node in reader.nodes[-4:]] == ["with", "no", "schema", "binding"]:
        raise unsupported("views WITH NO SCHEMA BINDING")
    inner = plan(_text_from(nodes, reader.next))
    if inner.kind != "SELECT":
        reader.fail()
    head = f"CREATE {'OR REPLACE ' if is_replaced else ''}VIEW {name}{columns}"
    return Plan(sql, "DDL", f"{head} AS {inner.sql}", inner.facts)


def _create_schema(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("create", "schema")
    optional = "IF NOT EXISTS " if reader.accept("if", "not", "exists") else ""
    name = identifier(reader.name())
    owner = ""
    if reader.accept("authorization"):
        owner = f" AUTHORIZATION {identifier(reader.name())}"
    if reader.accept("quota", "unlimited"):
        pass
    elif word(reader.next) == "quota":
        raise unsupported("schema quotas")
    _done(reader)
    return Plan(sql, "DDL", f"CREATE SCHEMA {optional}{name}{owner}")


def _tagged(sql: str, statement: str, tag: str) -> Plan:
    return Plan(sql, "DDL", statement, tag=tag)


def _drop(sql: str, nodes: list[Node]) -> Plan:
    if users.is_principal(nodes):
        return _tagged(sql, *users.drop(Reader(nodes)))
    reader = Reader(nodes)
    reader.expect("drop")
    what = reader.one_of("table", "view", "schema")
    is_optional = reader.accept("if", "exists")
    names = [reader.qualified()]
    while symbol(reader.next) == ",":
        reader.take()
        names.append(reader.qualified())
    is_cascaded = not reader.is_done and reader.one_of("cascade", "restrict") == "cascade"
    _done(reader)
    if what == "table":
        flags = f"{str(is_optional).lower()}, {str(is_cascaded).lower()}"
        calls = [f"PERFORM rs.drop_table({users.text(name)}, {flags})" for name in names]
        return _tagged(sql, users.body(*calls), "DROP TABLE")
    optional, how = "IF EXISTS " if is_optional else "", " CASCADE" if is_cascaded else ""
    return Plan(sql, "DDL", f"DROP {what.upper()} {optional}{', '.join(names)}{how}")


def _grant(sql: str, nodes: list[Node]) -> Plan:
    return _tagged(sql, *users.grant(Reader(nodes)))


def _alter(sql: str, nodes: list[Node]) -> Plan:
    words = _second(nodes)
    if users.is_principal(nodes):
        return _tagged(sql, *users.alter(Reader(nodes)))
    if words[1] == "database":
        return _alter_database(sql, Reader(nodes))
    if words[1] == "default":
        return _tagged(sql, *users.default_privileges(Reader(nodes)))
    if words[1] == "table":
        if "append" in [word(node) for node in nodes]:
            return Plan(sql, "UTILITY", special="append", is_outside_transactions=True, tag="ALTER TABLE APPEND")
        rewriter = Rewriter()
        made = alter_table(nodes, rewriter)
        notes = (made.table, made.notes.as_json()) if made.table else None
        is_retyped = made.sql.startswith("DO")
        return Plan(sql, "DDL", made.sql, rewriter.facts, notes=notes, is_outside_transactions=is_retyped,
                    tag="ALTER TABLE")  # fmt: skip
    if words[1] == "schema":
        reader = Reader(nodes)
        reader.expect("alter", "schema")
        name = identifier(reader.name())
        way = "RENAME TO" if reader.accept("rename", "to") else "OWNER TO"
        if way == "OWNER TO":
            reader.expect("owner", "to")
        target = identifier(reader.name())
        _done(reader)
        return Plan(sql, "DDL", f"ALTER SCHEMA {name} {way} {target}")
    raise unsupported(f"ALTER {words[1].upper()}")


def _alter_database(sql: str, reader: Reader) -> Plan:
    """Only the isolation level, which new connections have then."""
    reader.expect("alter", "database")
    name = identifier(reader.name())
    reader.expect("isolation", "level")
    level = {"serializable": "serializable", "snapshot": "repeatable read"}[reader.one_of("serializable", "snapshot")]
    _done(reader)
    return Plan(sql, "DDL", f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'",
                is_outside_transactions=True, tag="ALTER DATABASE")  # fmt: skip


def _comment(sql: str, nodes: list[Node]) -> Plan:
    words = _second(nodes)
    if words[1:2] != ["on"] or words[2] not in ("table", "column", "view", "schema", "database"):
        raise unsupported("COMMENT on this kind of object")
    return Plan(sql, "DDL", render(Rewriter().scope(nodes)))


# ---------------------------------------------------------------------------------------------- what `session` runs


def _special(name: str) -> Callable[[str, list[Node]], Plan]:
    def make(sql: str, nodes: list[Node]) -> Plan:
        kind = name.upper() if name in ("copy", "unload") else "UTILITY"
        return Plan(sql, kind, special=name, is_outside_transactions=name == "vacuum", tag=name.upper())

    return make


def _analyze(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.take()
    if reader.accept("compression"):
        table = reader.qualified() if not reader.is_done else ""
        if isinstance(reader.next, Group):
            reader.names()
        if reader.accept("comprows"):
            reader.take()
        _done(reader)
        text = f"SELECT * FROM rs.analyze_compression({literal(table)})"
        return Plan(sql, "UTILITY", text, tag="ANALYZE COMPRESSION", is_outside_transactions=True)
    return _special("analyze")(sql, nodes)


def _cancel(sql: str, nodes: list[Node]) -> Plan:
    reader = Reader(nodes)
    reader.expect("cancel")
    node = reader.take()
    if not isinstance(node, Token) or node.kind != "number":
        raise syntax_error(node.text)
    if not reader.is_done:
        reader.take()
    _done(reader)
    return Plan(sql, "UTILITY", f"DO $rs$ BEGIN PERFORM rs.cancel({node.text}); END $rs$", tag="CANCEL")


_STATEMENTS: dict[str, Callable[[str, list[Node]], Plan]] = {
    "select": _query,
    "with": _with,
    "insert": _change_first,
    "update": _change_first,
    "delete": _change_first,
    "truncate": _truncate,
    "explain": _explain,
    "declare": _declare,
    "fetch": _fetch,
    "close": _close,
    "begin": _control,
    "start": _control,
    "commit": _control,
    "end": _control,
    "rollback": _control,
    "abort": _control,
    "lock": _lock,
    "set": _set,
    "reset": _reset,
    "show": _show,
    "create": _create,
    "drop": _drop,
    "alter": _alter,
    "comment": _comment,
    "grant": _grant,
    "revoke": _grant,
    "copy": _special("copy"),
    "unload": _special("unload"),
    "vacuum": _special("vacuum"),
    "analyze": _analyze,
    "analyse": _analyze,
    "cancel": _cancel,
}
_KNOWN = frozenset((
    "call",
    "prepare",
    "execute",
    "deallocate",
    "refresh",
    "merge",
    "desc",
    "describe",
    "use",
    "values",
))
