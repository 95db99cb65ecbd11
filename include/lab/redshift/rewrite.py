"""An expression or query of Redshift as PostgreSQL takes it, or Redshift's error for what Redshift does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from dbops_lab.redshift.errors import BackendError, syntax_error, unsupported
from dbops_lab.redshift.functions import ALLOWED, DATE_PARTS, NEVER_BARE, NOT_FUNCTIONS, RESERVED, words
from dbops_lab.redshift.lexer import NUMBER, QUOTED, SPACE, STRING, SYMBOL, WORD, Token, identifier, literal

SYSTEM_PREFIXES = ("stl_", "stv_", "svl_", "svv_", "svcs_", "sys_")
SHADOWED = {"pg_user": "rs.pg_user", "pg_group": "rs.pg_group", "pg_database_info": "rs.pg_database_info"}
"""Catalogs that PostgreSQL has too, with other columns."""
INFORMATION = {"table_constraints": "rs.table_constraints", "key_column_usage": "rs.key_column_usage"}
"""The same of `information_schema`: keys that nothing enforces."""
CATALOGS = words("""
    pg_attrdef pg_attribute pg_attribute_info pg_class pg_class_info pg_constraint pg_database pg_database_info
    pg_default_acl pg_description pg_external_schema pg_group pg_index pg_indexes pg_language pg_library pg_locks
    pg_namespace pg_proc pg_proc_info pg_shadow pg_statistic_indicator pg_table_def pg_tables pg_type pg_user pg_views
    """)
"""Those of PostgreSQL's that Redshift has."""
VERSION = (
    "'PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc (GCC) 3.4.2 20041017 (Red Hat 3.4.2-6.fc3),"
    " Redshift 1.0.77433'::varchar"
)
COMPARISONS = ("=", "<", ">", "<=", ">=", "<>", "!=")
TABLE_WORDS = ("from", "join", "into", "update", "using")
SESSION_FUNCTIONS = (
    "pg_last_copy_count",
    "pg_last_copy_id",
    "pg_last_query_id",
    "pg_last_unload_count",
    "pg_last_unload_id",
)


@dataclass
class Group:
    """What stands in parentheses."""

    nodes: list[Node]

    @property
    def text(self) -> str:
        return f"({render(self.nodes)})"


Node = Token | Group


@dataclass
class Facts:
    """What a statement touches."""

    tables: list[str] = field(default_factory=list)  # read from; as written, quotes resolved: schema.name
    compared: set[str] = field(default_factory=set)  # names that stand beside a comparison
    uses_system_views: bool = False
    uses_session: bool = False


def render(nodes: Iterable[Node]) -> str:
    return "".join(node.text for node in nodes)


def tree(tokens: Sequence[Token]) -> list[Node]:
    """:raises BackendError: the parentheses do not match."""
    stack: list[list[Node]] = [[]]
    for token in tokens:
        if token.is_symbol("("):
            stack.append([])
        elif token.is_symbol(")"):
            if len(stack) == 1:
                raise syntax_error(")")
            inner = stack.pop()
            stack[-1].append(Group(inner))
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise syntax_error("")
    return stack[0]


def rewrite(tokens: Sequence[Token]) -> tuple[str, Facts]:
    """The text for PostgreSQL."""
    rewriter = Rewriter()
    return render(rewriter.scope(tree(tokens))), rewriter.facts


def code(text: str) -> Token:
    """Text for PostgreSQL that is not looked at again."""
    return Token(SYMBOL, text, text)


def is_space(node: Node | None) -> bool:
    return isinstance(node, Token) and node.kind == SPACE


def word(node: Node | None) -> str:
    """The word that a node is, else nothing."""
    return node.value if isinstance(node, Token) and node.kind == WORD else ""


def symbol(node: Node | None) -> str:
    return node.text if isinstance(node, Token) and node.kind == SYMBOL else ""


def commas(nodes: Sequence[Node]) -> list[list[Node]]:
    """The parts between commas."""
    parts: list[list[Node]] = [[]]
    for node in nodes:
        if symbol(node) == ",":
            parts.append([])
        else:
            parts[-1].append(node)
    return parts


def trimmed(nodes: Sequence[Node]) -> list[Node]:
    found = list(nodes)
    while found and is_space(found[0]):
        found.pop(0)
    while found and is_space(found[-1]):
        found.pop()
    return found


class Rewriter:
    def __init__(self) -> None:
        self.facts = Facts()
        self._names: set[str] = set()  # of common table expressions

    def scope(self, nodes: Sequence[Node]) -> list[Node]:
        """One level of parentheses, with what it encloses."""
        walk = _Walk(self, nodes)
        return walk.run()

    def part(self, nodes: Sequence[Node]) -> str:
        return render(self.scope(nodes)).strip()


class _Walk:
    """From left to right through one level."""

    def __init__(self, rewriter: Rewriter, nodes: Sequence[Node]) -> None:
        self._rewriter = rewriter
        self._facts = rewriter.facts
        self._nodes = nodes
        self._at = 0
        self._out: list[Node] = []
        self._limit = ""
        self._seen: list[Node] = []  # so far, without spaces

    def run(self) -> list[Node]:
        while self._at < len(self._nodes):
            node = self._nodes[self._at]
            self._at += 1
            if is_space(node):
                self._out.append(node)
                continue
            if isinstance(node, Group):
                self._group(node)
            elif node.kind == WORD:
                self._word(node)
            elif node.kind == QUOTED:
                self._name(node)
            elif node.kind == SYMBOL:
                self._symbol(node)
            else:
                self._out.append(node)
            self._seen.append(node)
        if self._limit:
            self._out.append(code(f" LIMIT {self._limit}"))
        return self._out

    # ------------------------------------------------------------------ looking back and ahead

    @property
    def _before(self) -> Node | None:
        return self._seen[-1] if self._seen else None

    @property
    def _before_that(self) -> Node | None:
        return self._seen[-2] if len(self._seen) > 1 else None

    def _next(self, skip: int = 0) -> Node | None:
        for node in self._nodes[self._at :]:
            if not is_space(node):
                if skip == 0:
                    return node
                skip -= 1
        return None

    def _take(self) -> Node | None:
        """The next node that is no space, and what comes after it is next then."""
        while self._at < len(self._nodes):
            node = self._nodes[self._at]
            self._at += 1
            if not is_space(node):
                return node
        return None

    def _take_group(self) -> list[Node]:
        group = self._take()
        assert isinstance(group, Group)
        return group.nodes

    # ------------------------------------------------------------------ one node

    def _group(self, group: Group) -> None:
        first = next((node for node in group.nodes if not is_space(node)), None)
        if word(first) == "values":  # PostgreSQL takes it for a table
            raise syntax_error("values")
        self._out.append(Group(self._rewriter.scope(group.nodes)))

    def _symbol(self, token: Token) -> None:
        if token.text in ("{", "}", "[", "@", "`") or (token.text == "-" and self._is_arrow()):
            raise syntax_error(token.text)
        if token.text in COMPARISONS:
            self._facts.compared |= {
                node.value for node in (self._before, self._next()) if isinstance(node, Token) and node.is_name
            }
        self._out.append(token)

    def _is_arrow(self) -> bool:
        return self._at < len(self._nodes) and symbol(self._nodes[self._at]) == ">"

    def _name(self, token: Token) -> None:
        """A quoted identifier, or `#name`."""
        is_call = self._is_call() if symbol(self._before) == "." else not self._is_alias_list()
        if isinstance(self._next(), Group) and is_call:
            self._check_function(token.value)
        self._note_table(token)
        self._out.append(code(identifier(token.value)))

    def _word(self, token: Token) -> None:
        value = token.value
        if symbol(self._before) == ".":
            self._qualified(token)
            return
        special = _SPECIAL.get(value)
        if special is not None and special(self, token):
            return
        if value.startswith("#"):
            self._name(token)
            return
        if value in NEVER_BARE and word(self._before) != "as":
            raise syntax_error(token.text)
        if isinstance(self._next(), Group) and value not in NOT_FUNCTIONS and not self._is_alias_list():
            self._check_function(value)
        if value in SHADOWED and not isinstance(self._next(), Group):
            self._facts.uses_system_views = True
            self._out.append(code(SHADOWED[value]))
            return
        self._note_table(token)
        self._out.append(token)

    def _qualified(self, token: Token) -> None:
        """A word behind a dot."""
        schema = self._before_that
        name = schema.value if isinstance(schema, Token) else ""
        target = None
        if name == "pg_catalog":
            self._note_system(token.value)
            target = SHADOWED.get(token.value)
        elif name == "information_schema":
            target = INFORMATION.get(token.value)
        if isinstance(self._next(), Group) and self._is_call():
            if name != "pg_catalog":
                raise BackendError("42883", f"function {name}.{token.value}() does not exist")
            self._check_function(token.value)
        if target is not None:
            while self._out and not (isinstance(self._out[-1], Token) and self._out[-1].value == name):
                self._out.pop()
            self._out.pop()
            self._out.append(code(target))
            return
        self._out.append(token)

    def _is_call(self) -> bool:
        """Whether the name before a parenthesis stands where a value is expected."""
        first = word(self._seen[-3]) if len(self._seen) > 2 else ""
        return first not in ("into", "table", "join", "using", "as", "references", "update")

    def _is_alias_list(self) -> bool:
        """Whether the parenthesis behind this name lists columns: of a table, an alias or a WITH query."""
        before = self._before
        if word(before) in ("into", "table", "as", "join", "references", "view", "exists"):
            return word(before) != "exists" or word(self._before_that) == "if"
        if isinstance(before, Group) or (isinstance(before, Token) and before.kind in (QUOTED, STRING)):
            return True
        if isinstance(before, Token) and before.kind == WORD and before.value not in RESERVED | NOT_FUNCTIONS:
            return before.value not in ("return", "explain")
        return word(self._next(1)) == "as" and (word(before) in ("with", "recursive") or symbol(before) == ",")

    def _check_function(self, name: str) -> None:
        if name not in ALLOWED:
            raise BackendError("42883", f"function {name}() does not exist",
                               hint="No function of Redshift that the lab has matches the given name.")  # fmt: skip
        if name in SESSION_FUNCTIONS:
            self._facts.uses_session = True

    # ------------------------------------------------------------------ tables

    def _note_table(self, token: Token) -> None:
        follows = word(self._before)
        if follows == "with" or (word(self._next()) == "as" and isinstance(self._next(1), Group)):
            self._rewriter._names.add(token.value)
        self._note_system(token.value)
        is_table = follows in TABLE_WORDS or (symbol(self._before) == "," and self._is_from_list())
        is_listed = follows == "into" or not isinstance(self._next(), Group)
        if is_table and is_listed and token.value not in self._rewriter._names:
            self._table(token, follows)

    def _table(self, token: Token, follows: str) -> None:
        name = token.value
        if symbol(self._next()) == "." and isinstance(behind := self._next(1), Token):
            name = f"{name}.{behind.value}"
            if token.value == "rs":
                raise BackendError("3F000", 'schema "rs" does not exist')
        last = name.rpartition(".")[2]
        if last.startswith("pg_") and last not in CATALOGS:
            raise BackendError("42P01", f'relation "{last}" does not exist')
        if follows != "into" and token.value not in ("pg_catalog", "information_schema", "set", "select"):
            self._facts.tables.append(name)

    def _is_from_list(self) -> bool:
        """Whether the comma before separates tables: the last clause word on this level was FROM."""
        for node in reversed(self._nodes[: self._at - 1]):
            if word(node) in ("from", "join"):
                return True
            if word(node) in ("select", "where", "group", "order", "on", "set", "values", "having", "by", "limit"):
                return False
        return False

    def _note_system(self, name: str) -> None:
        if name.startswith(SYSTEM_PREFIXES) or name == "pg_table_def":
            self._facts.uses_system_views = True

    # ------------------------------------------------------------------ words with a meaning of their own

    def _is_called(self) -> bool:
        return isinstance(self._next(), Group)

    def _sysdate(self, token: Token) -> bool:
        self._out.append(code("rs_sysdate()"))
        return True

    def _date_function(self, token: Token) -> bool:
        """`DATEDIFF(day, ...)`: the date part is a word or a literal."""
        if not self._is_called():
            return False
        parts = commas(self._take_group())
        first = trimmed(parts[0])
        if len(first) != 1 or not isinstance(first[0], Token):
            raise syntax_error(render(first))
        unit = first[0].value.lower()
        if unit not in DATE_PARTS:
            raise BackendError("22023", f'timestamp units "{unit}" not recognized')
        rest = ", ".join(self._rewriter.part(part) for part in parts[1:])
        name = {"datediff": "date_diff", "dateadd": "date_add"}.get(token.value, token.value)
        self._out.append(code(f"pg_catalog.{name}({literal(unit)}, {rest})"))
        return True

    def _nvl(self, token: Token) -> bool:
        if not self._is_called():
            return False
        self._out.append(code("coalesce"))
        return True

    def _strtol(self, token: Token) -> bool:
        """`STRTOL(LEFT(x, n), 16)` of fifteen digits at most, the usual way from a hash to a number, without a call for
        each row. What is no digit is refused by the cast.
        """
        group = self._next()
        if not isinstance(group, Group):
            return False
        parts = [trimmed(part) for part in commas(group.nodes)]
        if len(parts) != 2 or render(parts[1]) != "16" or [word(node) for node in parts[0]] != ["left", ""]:
            return False
        inner = parts[0][1]
        value, *_, last = commas(inner.nodes) if isinstance(inner, Group) else [[], []]
        size = render(trimmed(last))
        if not size.isdigit() or not 1 <= int(size) <= 15:
            return False
        self._take()
        digits, bits = self._rewriter.part(parts[0]), 4 * int(size)
        if [word(node) for node in trimmed(value)] != ["md5", ""]:  # another text may have fewer digits
            digits, bits = f"lpad({digits}, 16, '0')", 64
        self._out.append(code(f"('x' || {digits})::bit({bits})::bigint"))
        return True

    def _nvl2(self, token: Token) -> bool:
        if not self._is_called():
            return False
        parts = [self._rewriter.part(part) for part in commas(self._take_group())]
        if len(parts) != 3:
            raise syntax_error("nvl2")
        self._out.append(code(f"(CASE WHEN ({parts[0]}) IS NOT NULL THEN {parts[1]} ELSE {parts[2]} END)"))
        return True

    def _decode(self, token: Token) -> bool:
        """`DECODE(value, search, result, ..., else)`; NULL finds NULL."""
        if not self._is_called():
            return False
        parts = [self._rewriter.part(part) for part in commas(self._take_group())]
        if len(parts) < 3:
            raise BackendError("42883", "function decode() does not exist")
        value, rest = parts[0], parts[1:]
        otherwise = rest.pop() if len(rest) % 2 else "NULL"
        whens = " ".join(
            f"WHEN ({value}) IS NOT DISTINCT FROM ({rest[i]}) THEN {rest[i + 1]}" for i in range(0, len(rest), 2)
        )
        self._out.append(code(f"(CASE {whens} ELSE {otherwise} END)"))
        return True

    def _convert(self, token: Token) -> bool:
        if not self._is_called():
            return False
        kind, *rest = commas(self._take_group())
        if len(rest) != 1:
            raise syntax_error("convert")
        self._out.append(code(f"CAST({self._rewriter.part(rest[0])} AS {self._rewriter.part(kind)})"))
        return True

    def _listagg(self, token: Token) -> bool:
        """`LISTAGG([DISTINCT] value [, delimiter]) [WITHIN GROUP (ORDER BY ...)]`."""
        if not self._is_called():
            return False
        arguments = trimmed(self._take_group())
        distinct = ""
        if arguments and word(arguments[0]) == "distinct":
            distinct, arguments = "DISTINCT ", trimmed(arguments[1:])
        value, *rest = (self._rewriter.part(part) for part in commas(arguments))
        delimiter = rest[0] if rest else "''"
        order = ""
        if word(self._next()) == "within" and word(self._next(1)) == "group":
            self._take()
            self._take()
            order = self._rewriter.part(self._take_group())
            if distinct and order.lower().split()[:2] == ["order", "by"]:
                order = f"ORDER BY ({order.split(None, 2)[2]})::varchar"
        if word(self._next()) == "over":
            raise unsupported("LISTAGG as a window function")
        self._out.append(code(f"string_agg({distinct}({value})::varchar, {delimiter} {order})"))
        return True

    def _median(self, token: Token) -> bool:
        if not self._is_called():
            return False
        value = self._rewriter.part(self._take_group())
        self._out.append(code(f"percentile_cont(0.5) WITHIN GROUP (ORDER BY {value})"))
        return True

    def _avg(self, token: Token) -> bool:
        """The average of integers is an integer: a function of two arguments tells by the second what it was of."""
        behind = self._next()
        if not isinstance(behind, Group) or word(self._next(1)) == "over":
            return False
        self._take()
        inner = trimmed(behind.nodes)
        value = trimmed(inner[1:]) if inner and word(inner[0]) in ("distinct", "all") else inner
        whole = self._rewriter.part(inner)
        self._out.append(code(f"pg_catalog.avg(avg({whole}), min({self._rewriter.part(value)}))"))
        return True

    def _version(self, token: Token) -> bool:
        if not self._is_called():
            return False
        self._take()
        self._out.append(code(VERSION))
        return True

    def _distinct(self, token: Token) -> bool:
        if word(self._before) == "is" or (word(self._before) == "not" and word(self._before_that) == "is"):
            raise syntax_error(token.text)
        return False

    def _date_part(self, token: Token) -> bool:
        """`DATE_PART(dow, ...)`: as PostgreSQL's, but the part may be a word."""
        behind = self._next()
        if not isinstance(behind, Group):
            return False
        first, *rest = commas(behind.nodes)
        part = trimmed(first)
        if len(part) != 1 or word(part[0]) not in DATE_PARTS or len(rest) != 1:
            return False
        self._take()
        self._out.append(code(f"date_part({literal(word(part[0]))}, {self._rewriter.part(rest[0])})"))
        return True

    def _top(self, token: Token) -> bool:
        """`SELECT TOP n` is a limit of this level."""
        if word(self._before) not in ("select", "distinct", "all"):
            return False
        count = self._take()
        if not isinstance(count, Token) or count.kind not in (NUMBER, "$n"):
            raise syntax_error("top")
        if any(word(node) in ("union", "intersect", "except", "minus", "limit") for node in self._nodes):
            raise unsupported("TOP together with LIMIT or set operations on one level")
        self._limit = count.text
        return True

    def _approximate(self, token: Token) -> bool:
        """`APPROXIMATE COUNT(DISTINCT x)` counts exactly here."""
        if word(self._next()) != "count":
            raise unsupported("APPROXIMATE other than COUNT(DISTINCT ...)")
        return True

    def _minus(self, token: Token) -> bool:
        self._out.append(code("EXCEPT"))
        return True

    def _timestamp(self, token: Token) -> bool:
        """The type's name is reserved: as a column it must be quoted."""
        follows, behind = self._before, self._next()
        is_literal = isinstance(behind, Token) and behind.kind == STRING
        is_type = symbol(follows) == "::" or word(follows) in ("as", "type") or word(behind) in ("without", "with")
        if not is_literal and not is_type:
            raise syntax_error(behind.text if isinstance(behind, Token) else token.text)
        return False

    def _super(self, token: Token) -> bool:
        if symbol(self._before) == "::" or word(self._before) == "as":
            self._out.append(code("jsonb"))
            return True
        return False

    def _exact_number(self, token: Token) -> bool:
        """NUMERIC without precision is NUMERIC(18,0)."""
        is_cast = symbol(self._before) == "::" or word(self._before) == "as"
        if is_cast and not self._is_called():
            self._out.append(code(f"{token.text}(18,0)"))
            return True
        return False

    def _refused(self, token: Token) -> bool:
        raise syntax_error(token.text)

    def _refused_when_called(self, token: Token) -> bool:
        if self._is_called():
            raise syntax_error("(")
        return False

    def _between(self, token: Token) -> bool:
        if isinstance(self._before, Token) and self._before.is_name:
            self._facts.compared.add(self._before.value)
        return False

    def _on(self, token: Token) -> bool:
        if word(self._next()) == "conflict" or word(self._before) == "distinct":
            raise syntax_error("conflict" if word(self._next()) == "conflict" else "on")
        return False

    def _for(self, token: Token) -> bool:
        if word(self._next()) in ("update", "share", "no", "key"):
            raise BackendError("0A000", "SELECT FOR UPDATE/SHARE is not supported")
        return False


_Special = Callable[[_Walk, Token], bool]
_SPECIAL: dict[str, _Special] = {
    "sysdate": _Walk._sysdate,
    "datediff": _Walk._date_function,
    "date_diff": _Walk._date_function,
    "dateadd": _Walk._date_function,
    "date_add": _Walk._date_function,
    "nvl": _Walk._nvl,
    "nvl2": _Walk._nvl2,
    "strtol": _Walk._strtol,
    "decode": _Walk._decode,
    "convert": _Walk._convert,
    "listagg": _Walk._listagg,
    "avg": _Walk._avg,
    "median": _Walk._median,
    "version": _Walk._version,
    "distinct": _Walk._distinct,
    "date_part": _Walk._date_part,
    "top": _Walk._top,
    "approximate": _Walk._approximate,
    "minus": _Walk._minus,
    "timestamp": _Walk._timestamp,
    "super": _Walk._super,
    "numeric": _Walk._exact_number,
    "decimal": _Walk._exact_number,
    "returning": _Walk._refused,
    "lateral": _Walk._refused,
    "tablesample": _Walk._refused,
    "filter": _Walk._refused_when_called,
    "between": _Walk._between,
    "on": _Walk._on,
    "for": _Walk._for,
}
