"""SQL text as a log holds it: which of its statements change the schema or rights, shown without what may be secret."""

from __future__ import annotations

import re
from collections.abc import Iterator

CHANGING = frozenset({"create", "alter", "drop", "grant", "revoke", "comment", "security", "import", "reassign"})
"""First words of statements that change the schema or who may what. REINDEX and TRUNCATE change neither."""
LONGEST = 500
MASK = "'***'"

_TOKEN = re.compile(
    r"""
      (?P<space> \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<escaped> [eE] ' (?: [^'\\] | '' | \\. )* (?: ' | \\? \Z ) )
    | (?P<text> (?: [nNbBxX] | [uU]& )? ' (?: [^'] | '' )* (?: ' | \Z ) )
    | (?P<name> (?: [uU]& )? " (?: [^"] | "" )* (?: " | \Z ) )
    | (?P<dollar> \$ (?P<tag> (?: [^\W\d] \w* )? ) \$ )
    | (?P<word> [^\W\d] [\w$]* )
    | (?P<number> \$? [0-9] [\w.]* )
    | (?P<end> ; )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_POSSIBLE = re.compile(rf"\b(?:{'|'.join(sorted(CHANGING))}|into)\b", re.IGNORECASE)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def changes(text: str) -> list[str]:
    """The statements of a query string that change the schema or rights, each in one line and masked.

    Every literal is `'***'` and every comment gone: each may hold a password, and none says which object is changed.
    Temporary tables are nobody's schema. What a DO block or a function does is not seen: pgAudit sees it.
    """
    if not _POSSIBLE.search(text):  # as of nearly every statement of an application
        return []
    return [_shown(tokens) for tokens in _statements(text) if _is_change([token.strip().lower() for token in tokens])]


def masked(text: str) -> str:
    """A text in one line, without its literals and comments."""
    return "; ".join(_shown(tokens) for tokens in _statements(text))


def _is_change(words: list[str]) -> bool:
    if words[0] == "select":
        return _selects_into(words)
    return words[0] in CHANGING and not (words[0] == "create" and _is_temporary(words[1:4]))


def _selects_into(words: list[str]) -> bool:
    """SELECT INTO makes a table."""
    depth = 0
    for place, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word == "from":
            return False
        if depth == 0 and word == "into":
            return not _is_temporary(words[place + 1 : place + 3])
    return False


def _is_temporary(words: list[str]) -> bool:
    """What follows CREATE or INTO, before anything that may be a name."""
    while words and words[0] in {"global", "local", "or", "replace"}:
        words = words[1:]
    return words[:1] in (["temp"], ["temporary"])


def _shown(tokens: list[str]) -> str:
    shown = "".join(tokens).strip()
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 2]} …"


def _statements(text: str) -> Iterator[list[str]]:
    """Tokens of each statement, with a space before those that had any; a log may have cut the text off anywhere."""
    tokens: list[str] = []
    for kind, token in _tokens(text):
        if kind == "end":
            if tokens:
                yield tokens
            tokens = []
        else:
            tokens.append(token)
    if tokens:
        yield tokens


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, space = 0, ""
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:  # every character is a token of some kind
            return
        at, kind = found.end(), found.lastgroup or "other"
        if kind == "space":
            space = " "
            continue
        if kind == "comment":
            at, space = _after_comment(text, at), " "
            continue
        if kind in {"tag", "dollar"}:
            end = text.find(f"${found['tag']}$", at)
            at = len(text) if end < 0 else end + len(found["tag"]) + 2
            yield "text", space + MASK
        elif kind in {"text", "escaped"}:
            yield "text", space + MASK
        else:
            yield kind, space + found[0]
        space = ""


def _after_comment(text: str, at: int) -> int:
    """Comments nest."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at
