"""The grammar of COPY and UNLOAD, and nothing but it: an option that Redshift does not know is a syntax error.

An option that Redshift knows and the lab does not serve is refused by name (0A000). Credentials are read and
dropped here: no statement object holds them, no error shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from dbops_lab.redshift.bulk import InternalError
from dbops_lab.redshift.errors import BackendError, syntax_error, unsupported
from dbops_lab.redshift.lexer import NUMBER, STRING, SYMBOL, WORD, Token, significant, tokenize

MB, GB = 1 << 20, 1 << 30
LARGEST_FILE = 6.2 * GB
SMALLEST_FILE = 5 * MB


def limits_outer_select(query: str) -> bool:
    """Whether the outer SELECT has LIMIT (or TOP), which UNLOAD refuses."""
    depth, after_select = 0, False
    for token in significant(tokenize(query)):
        depth += token.is_symbol("(") - token.is_symbol(")")
        if not depth and (token.is_word("limit") or (after_select and token.is_word("top"))):
            return True
        after_select = token.is_word("select", "distinct", "all")
    return False


@dataclass(frozen=True)
class CopyStatement:
    table: tuple[str, ...]
    columns: tuple[str, ...] | None
    source: str
    format: str = "text"
    json_paths: str = "auto"
    delimiter: str | None = None
    quote: str = '"'
    compression: str | None = None
    manifest: bool = False
    max_errors: int = 0
    ignore_all_errors: bool = False
    ignore_header: int = 0
    ignore_blank_lines: bool = False
    null_as: str = "\\N"
    empty_as_null: bool = False
    blanks_as_null: bool = False
    escape: bool = False
    remove_quotes: bool = False
    fill_record: bool = False
    trim_blanks: bool = False
    truncate_columns: bool = False
    round_decimals: bool = False
    accept_any_date: bool = False
    replacement: str | None = None
    date_format: str | None = None
    time_format: str | None = None
    explicit_ids: bool = False
    no_load: bool = False
    serialize_to_json: bool = False


@dataclass(frozen=True)
class UnloadStatement:
    query: str
    destination: str
    format: str = "text"
    partition_by: tuple[str, ...] = ()
    include: bool = False
    manifest: bool = False
    verbose: bool = False
    header: bool = False
    delimiter: str | None = None
    compression: str | None = None
    add_quotes: bool = False
    escape: bool = False
    null_as: str | None = None
    allow_overwrite: bool = False
    clean_path: bool = False
    parallel: bool = True
    max_file_size: int = int(LARGEST_FILE)
    row_group_size: int = 32 * MB
    extension: str | None = None


class Parser:
    """Reads one statement, token by token."""

    def __init__(self, sql: str) -> None:
        self._tokens = significant(tokenize(sql))
        while self._tokens and self._tokens[-1].is_symbol(";"):
            self._tokens.pop()
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._tokens)

    @property
    def next(self) -> Token:
        return Token("", "", "") if self.done else self._tokens[self._at]

    def take(self) -> Token:
        token = self.next
        self._at += 1
        return token

    def accept(self, *words: str) -> bool:
        """Whether one of these words or symbols comes next; it is then taken."""
        if self.next.kind in (WORD, SYMBOL) and self.next.value in words:
            self._at += 1
            return True
        return False

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            self.fail(self.next)

    def fail(self, token: Token) -> NoReturn:
        raise syntax_error("'...'" if token.kind == STRING else token.text)  # a string may be a secret

    @property
    def word(self) -> str:
        """The keyword that comes next, else nothing."""
        return self.next.value if self.next.kind == WORD else ""

    @property
    def at_string(self) -> bool:
        return self.next.kind == STRING or self.next.is_word("as")

    def string(self) -> str:
        """A literal; `AS` may stand before it."""
        self.accept("as")
        if self.next.kind != STRING:
            self.fail(self.next)
        return self.take().value

    def raw_string(self) -> str:
        """A literal whose backslashes the option itself reads."""
        self.accept("as")
        text = self.next.text
        value = self.string()
        return re.sub(r"''|\\(['\\])", lambda match: match[1] or "'", text[1:-1]) if text[0] == "'" else value

    def number(self) -> float:
        self.accept("as")
        if self.next.kind != NUMBER:
            self.fail(self.next)
        return float(self.take().value)

    def integer(self) -> int:
        self.accept("as")
        token = self.next
        if not token.value.isdigit():
            self.fail(token)
        return int(self.number())

    def name(self) -> str:
        if not self.next.is_name:
            self.fail(self.next)
        return self.take().value

    def names(self) -> tuple[str, ...]:
        """A list in parentheses."""
        self.expect("(")
        found = [self.name()]
        while self.accept(","):
            found.append(self.name())
        self.expect(")")
        return tuple(found)

    def switch(self, *others: str) -> bool:
        """ON, TRUE or nothing: true; OFF or FALSE: false."""
        if self.accept("off", "false"):
            return False
        self.accept("on", "true", *others)
        return True


@dataclass
class _Clauses:
    """Options as they come; each at most once."""

    command: str
    values: dict[str, Any] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    authorized: bool = False

    def add(self, word: str, **values: Any) -> None:
        if word in self.words or any(key in self.values for key in values):
            raise BackendError("42601", "conflicting or redundant options")
        self.words.add(word)
        self.values.update(values)

    def refuse(self, format: str, *words: str) -> None:
        """Redshift's answer for an option that the format cannot have."""
        for word in words:
            if word in self.words:
                text = f"{word.upper()} argument is not supported for {format.upper()} based {self.command}"
                raise BackendError("0A000", text)

    def authorization(self, word: str, parser: Parser) -> bool:
        if word == "with" and parser.word == "credentials":
            word = parser.take().value
        if word == "iam_role":
            if not parser.accept("default"):
                parser.string()
        elif word in ("credentials", "access_key_id", "secret_access_key", "session_token"):
            parser.string()
        else:
            return False
        if word == "iam_role" and self.authorized:
            raise BackendError("42601", "conflicting or redundant options")
        self.authorized = True
        return True

    def require_authorization(self) -> None:
        if not self.authorized:
            raise InternalError("CREDENTIALS argument is required but not supplied")


def _unserved(word: str, command: str) -> NoReturn:
    raise unsupported(f"{command} {word.upper()}")


def character(value: str, option: str) -> str:
    if len(value) != 1 or ord(value) > 127:
        raise BackendError("22023", f"{option} must be a single ASCII character")
    return value


def null_string(text: str) -> str:
    r"""The text that means NULL: \N as it stands, \ddd as that octal character."""
    return re.sub(r"\\([0-7]{1,3})", lambda match: chr(int(match[1], 8)), text)


COMPRESSIONS = {"gzip": "gzip", "zstd": "zstd", "bzip2": "bzip2"}
_COPY_FLAGS = {
    "acceptanydate": "accept_any_date",
    "blanksasnull": "blanks_as_null",
    "emptyasnull": "empty_as_null",
    "escape": "escape",
    "explicit_ids": "explicit_ids",
    "fillrecord": "fill_record",
    "ignoreallerrors": "ignore_all_errors",
    "ignoreblanklines": "ignore_blank_lines",
    "manifest": "manifest",
    "noload": "no_load",
    "removequotes": "remove_quotes",
    "roundec": "round_decimals",
    "serializetojson": "serialize_to_json",
    "trimblanks": "trim_blanks",
    "truncatecolumns": "truncate_columns",
}
_COPY_UNSERVED = ("avro", "orc", "shapefile", "fixedwidth", "lzop", "encrypted", "master_symmetric_key", "ssh",
                  "readratio")  # fmt: skip
_NOT_WITH_PARQUET = ("acceptanydate", "blanksasnull", "bzip2", "comprows", "compupdate", "dateformat", "delimiter",
                     "emptyasnull", "encoding", "escape", "gzip", "ignoreallerrors", "ignoreblanklines", "ignoreheader",
                     "maxerror", "noload", "null", "removequotes", "roundec", "timeformat", "trimblanks",
                     "truncatecolumns", "zstd")  # fmt: skip
_NOT_WITH_JSON = ("delimiter", "escape", "fillrecord", "ignoreblanklines", "null", "removequotes", "serializetojson")
_NOT_WITH_CSV = ("escape", "removequotes", "serializetojson")


def parse_copy(sql: str) -> CopyStatement:
    """The statement `COPY table FROM 's3://...'`.

    :raises BackendError: with Redshift's code (42601 syntax, 0A000 not supported).
    """
    parser = Parser(sql)
    parser.expect("copy")
    table = [parser.name()]
    while parser.accept("."):
        table.append(parser.name())
    columns = parser.names() if parser.next.is_symbol("(") else None
    parser.expect("from")
    source = parser.string()
    if not source.startswith("s3://"):
        _unserved(f"from {source.partition('://')[0]}://", "COPY")
    clauses = _Clauses("COPY")
    while not parser.done:
        parser.accept(",")
        token, word = parser.next, parser.word
        parser.take()
        if clauses.authorization(word, parser):
            continue
        if word == "format":
            parser.accept("as")
            word = parser.word
            if word not in ("csv", "json", "parquet", *_COPY_UNSERVED):
                parser.fail(parser.next)
            parser.take()
        elif word == "as" and parser.word in ("csv", "json", "parquet"):
            word = parser.take().value
        option = _COPY_OPTIONS.get(word)
        if option is not None:
            clauses.add(word, **option(parser))
        elif word in _COPY_FLAGS:
            clauses.add(word, **{_COPY_FLAGS[word]: True})
        elif word in COMPRESSIONS:
            clauses.add(word, compression=COMPRESSIONS[word])
        elif word in _COPY_UNSERVED:
            _unserved(word, "COPY")
        else:
            parser.fail(token)
    clauses.require_authorization()
    if {"maxerror", "ignoreallerrors"} <= clauses.words:
        raise BackendError("42601", "MAXERROR and IGNOREALLERRORS cannot be specified together")
    format = clauses.values.get("format", "text")
    clauses.refuse(
        format, *{"parquet": _NOT_WITH_PARQUET, "json": _NOT_WITH_JSON, "csv": _NOT_WITH_CSV}.get(format, ())
    )
    return CopyStatement(tuple(table), columns, source, **clauses.values)


def _csv(parser: Parser) -> dict[str, Any]:
    if parser.accept("quote"):
        return {"format": "csv", "quote": character(parser.string(), "QUOTE")}
    return {"format": "csv"}


def _json(parser: Parser) -> dict[str, Any]:
    paths = "auto"
    if parser.at_string:
        paths = parser.string()
    if paths not in ("auto", "auto ignorecase") and not paths.startswith("s3://"):
        _unserved(f"json '{paths}'", "COPY")
    return {"format": "json", "json_paths": paths}


def _ignored(parser: Parser) -> dict[str, Any]:
    parser.string()
    return {}


def _update(parser: Parser) -> dict[str, Any]:
    parser.switch("preset")
    return {}


def _rows(parser: Parser) -> dict[str, Any]:
    parser.integer()
    return {}


def _encoding(parser: Parser) -> dict[str, Any]:
    parser.accept("as")
    name = parser.string() if parser.at_string else parser.name()
    if name.lower() not in ("utf8", "utf-8"):
        _unserved(f"encoding {name}", "COPY")
    return {}


def _replacement(parser: Parser) -> dict[str, Any]:
    if parser.at_string:
        return {"replacement": character(parser.string(), "ACCEPTINVCHARS")}
    return {"replacement": "?"}


def _max_errors(parser: Parser) -> dict[str, Any]:
    count = parser.integer()
    if count > 100_000:
        raise BackendError("22023", "MAXERROR must be between 0 and 100000")
    return {"max_errors": count}


_COPY_OPTIONS: dict[str, Callable[[Parser], dict[str, Any]]] = {
    "acceptinvchars": _replacement,
    "comprows": _rows,
    "compupdate": _update,
    "csv": _csv,
    "dateformat": lambda parser: {"date_format": parser.string()},
    "delimiter": lambda parser: {"delimiter": character(parser.string(), "DELIMITER")},
    "encoding": _encoding,
    "ignoreheader": lambda parser: {"ignore_header": parser.integer()},
    "json": _json,
    "maxerror": _max_errors,
    "null": lambda parser: {"null_as": null_string(parser.raw_string())},
    "parquet": lambda parser: {"format": "parquet"},
    "region": _ignored,
    "statupdate": _update,
    "timeformat": lambda parser: {"time_format": parser.string()},
}


def _size(parser: Parser, option: str, smallest: float, largest: float) -> int:
    number = parser.number()
    unit = GB if parser.accept("gb") else MB
    parser.accept("mb")
    size = number * unit
    if not smallest <= size <= largest:
        low, high = f"{smallest / MB:g} MB", f"{largest / GB:g} GB" if largest >= GB else f"{largest / MB:g} MB"
        raise BackendError("22023", f"{option} must be between {low} and {high}")
    return int(size)


def _manifest(parser: Parser) -> dict[str, Any]:
    return {"manifest": True, "verbose": parser.accept("verbose")}


def _partition(parser: Parser) -> dict[str, Any]:
    parser.expect("by")
    return {"partition_by": parser.names(), "include": parser.accept("include")}


_UNLOAD_OPTIONS: dict[str, Callable[[Parser], dict[str, Any]]] = {
    "addquotes": lambda parser: {"add_quotes": True},
    "allowoverwrite": lambda parser: {"allow_overwrite": True},
    "cleanpath": lambda parser: {"clean_path": True},
    "csv": lambda parser: {"format": "csv"},
    "delimiter": lambda parser: {"delimiter": character(parser.string(), "DELIMITER")},
    "escape": lambda parser: {"escape": True},
    "extension": lambda parser: {"extension": parser.string()},
    "header": lambda parser: {"header": True},
    "manifest": _manifest,
    "maxfilesize": lambda parser: {"max_file_size": _size(parser, "MAXFILESIZE", SMALLEST_FILE, LARGEST_FILE)},
    "null": lambda parser: {"null_as": null_string(parser.raw_string())},
    "parallel": lambda parser: {"parallel": parser.switch()},
    "parquet": lambda parser: {"format": "parquet"},
    "partition": _partition,
    "region": _ignored,
    "rowgroupsize": lambda parser: {"row_group_size": _size(parser, "ROWGROUPSIZE", 32 * MB, 128 * MB)},
}
_UNLOAD_UNSERVED = ("json", "fixedwidth", "encrypted", "kms_key_id", "master_symmetric_key")


def parse_unload(sql: str) -> UnloadStatement:
    """The statement `UNLOAD ('select ...') TO 's3://...'`.

    :raises BackendError: with Redshift's code (42601 syntax, 0A000 not supported).
    """
    parser = Parser(sql)
    parser.expect("unload")
    parser.expect("(")
    query = parser.string()
    parser.expect(")")
    parser.expect("to")
    destination = parser.string()
    if not re.match(r"s3://[^/]+/", destination):
        raise BackendError("22023", f"The S3 path '{destination}' is not valid: s3://bucket/prefix is")
    clauses = _Clauses("UNLOAD")
    while not parser.done:
        parser.accept(",")
        token, word = parser.next, parser.word
        parser.take()
        if clauses.authorization(word, parser):
            continue
        if word == "format":
            parser.accept("as")
            word = parser.word
            if word not in ("csv", "parquet", *_UNLOAD_UNSERVED):
                parser.fail(parser.next)
            parser.take()
        if word in _UNLOAD_OPTIONS:
            clauses.add(word, **_UNLOAD_OPTIONS[word](parser))
        elif word in COMPRESSIONS:
            clauses.add(word, compression=COMPRESSIONS[word])
        elif word in _UNLOAD_UNSERVED:
            _unserved(word, "UNLOAD")
        else:
            parser.fail(token)
    clauses.require_authorization()
    format = clauses.values.get("format", "text")
    if format == "parquet":
        clauses.refuse(format, "delimiter", "addquotes", "escape", "null", "header", *COMPRESSIONS)
    else:
        clauses.refuse(format, "rowgroupsize")
    if format == "csv":
        clauses.refuse(format, "addquotes", "escape")
    if {"cleanpath", "allowoverwrite"} <= clauses.words:
        raise BackendError("42601", "CLEANPATH and ALLOWOVERWRITE cannot be specified together")
    if limits_outer_select(query):
        raise BackendError("0A000", "Limit clause is not supported")
    return UnloadStatement(query.strip().rstrip(";"), destination, **clauses.values)
