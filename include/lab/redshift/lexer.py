"""SQL as Redshift reads it, split into tokens that together are the text again.

Literals take backslash escapes, identifiers fold to lower case even when quoted, `#name` is a temporary table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dbops_lab.redshift.errors import BackendError

SPACE, WORD, QUOTED, STRING, NUMBER, PARAMETER, SYMBOL = "space", "word", "quoted", "string", "number", "$n", "symbol"

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*)
      | (?P<comment>/\*)
      | (?P<string>[eE]?'(?:[^'\\]|''|\\.)*')
      | (?P<dollar>\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?\$(?P=tag)\$)
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<parameter>\$\d+)
      | (?P<number>\d+(?:\.(?!\.)\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<word>[^\W\d][\w$]*|\#[^\W\d][\w$]*)
      | (?P<symbol>::|<=|>=|<>|!=|\|\||!~\*|!~|~\*|\.\.|:=|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


class Token(NamedTuple):
    kind: str
    text: str  # as it stands in the statement
    value: str  # words in lower case, identifiers and literals without their quotes

    def is_word(self, *words: str) -> bool:
        return self.kind == WORD and self.value in words

    def is_symbol(self, symbol: str) -> bool:
        return self.kind == SYMBOL and self.text == symbol

    @property
    def is_name(self) -> bool:
        return self.kind in (WORD, QUOTED)


def tokenize(sql: str) -> list[Token]:
    """:raises BackendError: a literal, identifier or comment does not end."""
    tokens, at = [], 0
    while at < len(sql):
        found = _TOKEN.match(sql, at)
        assert found is not None
        kind = found.lastgroup or ""
        part = found.group()
        if kind == "comment":
            part = _comment(sql, at)
            tokens.append(Token(SPACE, part, " "))
        elif found["tag"] is not None or kind == "dollar":
            tokens.append(Token(STRING, part, part[len(found["tag"]) + 2 : -len(found["tag"]) - 2]))
        elif kind == "string":
            tokens.append(Token(STRING, part, unescape(part[part.index("'") + 1 : -1])))
        elif kind == "quoted":
            tokens.append(Token(QUOTED, part, part[1:-1].replace('""', '"').lower()))
        elif part in ("'", '"'):
            what = "string" if part == "'" else "identifier"
            raise BackendError("42601", f'unterminated quoted {what} at or near "{sql[at : at + 40]}"')
        else:
            tokens.append(Token({"parameter": PARAMETER}.get(kind, kind), part, part.lower()))
        at += len(part)
    return tokens


def _comment(sql: str, at: int) -> str:
    """The comment that begins there; comments nest."""
    depth, end = 0, at
    while True:
        found = re.compile(r"/\*|\*/").search(sql, end)
        if found is None:
            raise BackendError("42601", f'unterminated /* comment at or near "{sql[at : at + 40]}"')
        depth += 1 if found.group() == "/*" else -1
        end = found.end()
        if depth == 0:
            return sql[at:end]


def unescape(body: str) -> str:
    """What a literal means: doubled quotes and backslash escapes resolved."""
    return re.sub(
        r"''|\\([0-7]{1,3}|.)",
        lambda found: "'" if found[1] is None else chr(int(found[1], 8)) if found[1][0] in "01234567"
        else _ESCAPES.get(found[1], found[1]),
        body, flags=re.DOTALL)  # fmt: skip


def literal(value: str) -> str:
    """A literal that means this text, wherever backslashes are escapes."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def render(tokens: Iterable[Token]) -> str:
    return "".join(token.text for token in tokens)


def significant(tokens: Iterable[Token]) -> list[Token]:
    return [token for token in tokens if token.kind != SPACE]


def split(sql: str) -> list[str]:
    """The statements of a string, without their semicolons; empty ones are left out."""
    statements: list[list[Token]] = [[]]
    for token in tokenize(sql):
        if token.is_symbol(";"):
            statements.append([])
        else:
            statements[-1].append(token)
    return [render(tokens).strip() for tokens in statements if significant(tokens)]


def closing(tokens: Sequence[Token], start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for at in range(start, len(tokens)):
        if tokens[at].is_symbol("("):
            depth += 1
        elif tokens[at].is_symbol(")"):
            depth -= 1
            if depth == 0:
                return at
    raise BackendError("42601", "syntax error at end of input")


def split_commas(tokens: Sequence[Token]) -> list[list[Token]]:
    """The parts between commas that stand in no parenthesis."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += token.is_symbol("(") - token.is_symbol(")")
        if depth == 0 and token.is_symbol(","):
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
