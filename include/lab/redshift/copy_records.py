"""Records of text files: delimited, CSV, JSON. Each with its line, or what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

from dbops_lab.redshift.bulk import InternalError
from dbops_lab.redshift.copy_values import BAD_LINE, DELIMITER_MISSING
from dbops_lab.redshift.options import CopyStatement


class Record(NamedTuple):
    line: int
    raw: str
    fields: Sequence[str | None]


class BadRecord(NamedTuple):
    line: int
    raw: str
    code: int
    reason: str


Records = Iterator[Record | BadRecord]


def text_records(lines: IO[str], statement: CopyStatement) -> Records:
    """Records of delimited or CSV text; the header is skipped, not counted out of the line numbers."""
    numbered = _numbered(lines, statement)
    if statement.format == "csv":
        return _csv(numbered, statement.delimiter or ",", statement.quote)
    delimiter = statement.delimiter or "|"
    if statement.escape or statement.remove_quotes:
        return _marked(numbered, delimiter, statement)
    return _plain(numbered, delimiter)


def _numbered(lines: IO[str], statement: CopyStatement) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if number <= statement.ignore_header:
            continue
        text = line[:-1] if line.endswith("\n") else line
        if statement.ignore_blank_lines and text in ("", "\r"):
            continue
        yield number, text


def _without_return(text: str) -> str:
    return text.removesuffix("\r")


def _plain(lines: Iterator[tuple[int, str]], delimiter: str) -> Records:
    for number, text in lines:
        text = _without_return(text)
        yield Record(number, text, text.split(delimiter))


def _csv(lines: Iterator[tuple[int, str]], delimiter: str, quote: str) -> Records:
    d, q = re.escape(delimiter), re.escape(quote)
    blank = "" if delimiter.isspace() else " *"
    field = re.compile(rf"{blank}{q}((?:[^{q}]|{q}{q})*){q}{blank}(?={d}|$)|([^{d}{q}]*)(?={d}|$)", re.DOTALL)
    for number, text in lines:
        last = number
        if quote not in text:
            text = _without_return(text)
            yield Record(number, text, text.split(delimiter))
            continue
        while text.count(quote) % 2:  # a line break within quotes
            more = next(lines, None)
            if more is None:
                break
            last = more[0]
            text += "\n" + more[1]
        text = _without_return(text)
        fields, position = [], 0
        while match := field.match(text, position):
            fields.append(match[2] if match[1] is None else match[1].replace(quote * 2, quote))
            position = match.end() + 1
            if position > len(text):
                yield Record(last, text, fields)
                break
        else:
            yield BadRecord(last, text, DELIMITER_MISSING, "Invalid quote formatting for CSV")


def _marked(lines: Iterator[tuple[int, str]], delimiter: str, statement: CopyStatement) -> Records:
    """Text with escapes, quotes to remove, or both."""
    d = re.escape(delimiter)
    unquoted = rf"([^{d}\\\"']*)(?={d}|$)"
    quoted = rf"\"([^\"\\]*)\"(?={d}|$)|'([^'\\]*)'(?={d}|$)|"
    simple = re.compile((quoted if statement.remove_quotes else "") + unquoted)
    for number, text in lines:
        last = number
        if statement.escape:
            while _open_escape(text):  # an escaped line break
                more = next(lines, None)
                if more is None:
                    break
                last = more[0]
                text += "\n" + more[1]
        text = _without_return(text)
        fields = _simple_fields(text, simple) or _marked_fields(text, delimiter, statement)
        if fields is None:
            yield BadRecord(last, text, DELIMITER_MISSING, "Delimiter not found")
        else:
            yield Record(last, text, fields)


def _simple_fields(text: str, field: re.Pattern[str]) -> list[str] | None:
    """The fields of a record without escapes and with quotes only around fields; None if it is not so simple."""
    fields, position = [], 0
    while match := field.match(text, position):
        fields.append(match[match.lastindex or 0])
        position = match.end() + 1
        if position > len(text):
            return fields
    return None


def _open_escape(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _marked_fields(text: str, delimiter: str, statement: CopyStatement) -> list[str] | None:
    r"""The fields of one record, None when a quote is not closed. \N alone stays so while it means NULL."""
    escape, quotes, null = statement.escape, statement.remove_quotes, statement.null_as == "\\N"
    fields: list[str] = []
    field: list[str] = []
    quote, at, start = "", 0, True
    while at < len(text):
        mark = text[at]
        if start and quotes and mark in "'\"":
            quote = mark
        elif escape and mark == "\\" and at + 1 < len(text):
            at += 1
            alone = null and text[at] == "N" and start and (at + 1 == len(text) or text[at + 1] == delimiter)
            field.append("\\N" if alone else text[at])
        elif quote and mark == quote and (at + 1 == len(text) or text[at + 1] == delimiter):
            quote = ""
        elif mark == delimiter and not quote:
            fields.append("".join(field))
            field, start = [], True
            at += 1
            continue
        else:
            field.append(mark)
        start = False
        at += 1
    if quote:
        return None
    return [*fields, "".join(field)]


# JSON

Pick = Callable[[Any], Sequence[str | None]]
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)


def json_records(lines: IO[str], statement: CopyStatement, pick: Pick) -> Records:
    """Objects or arrays, one after the other, however they are broken into lines."""
    waiting, depth, last = "", 0, 0  # of an object that goes on in the next line
    for number, line in enumerate(lines, 1):
        if number <= statement.ignore_header:
            continue
        last, at = number, 0
        while at < len(line):
            if not depth and line[at] not in "{[":
                end = min([found for mark in "{[" if (found := line.find(mark, at)) >= 0], default=len(line))
                if stray := line[at:end].strip():
                    yield BadRecord(number, stray, BAD_LINE, "Invalid value.")
                at = end
                continue
            end, depth = _json_end(line, at, depth)
            waiting += line[at:end]
            at = end
            if not depth:
                yield _json_record(waiting, number, pick)
                waiting = ""
    if depth:
        yield BadRecord(last, waiting.strip(), BAD_LINE, "Invalid value.")


def _json_end(line: str, at: int, depth: int) -> tuple[int, int]:
    """Where the object ends in this line, or the line's end, and how deep it is there."""
    for match in _MARKS.finditer(line, at):
        if match[0] in "{[":
            depth += 1
        elif match[0] in "}]":
            depth -= 1
            if not depth:
                return match.end(), 0
    return len(line), depth


def _json_record(text: str, line: int, pick: Pick) -> Record | BadRecord:
    try:
        return Record(line, text, pick(json.loads(text)))
    except ValueError:
        return BadRecord(line, text, BAD_LINE, "Invalid value.")
    except LookupError as error:
        return BadRecord(line, text, BAD_LINE, str(error.args[0]))


def json_text(value: Any) -> str | None:
    """A JSON value as a field."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return repr(value)


def pick_by_name(names: Sequence[str], supers: Sequence[bool], *, ignore_case: bool) -> Pick:
    """Values under the columns' names."""

    def pick(found: Any) -> list[str | None]:
        if not isinstance(found, dict):
            raise ValueError("no object")
        if ignore_case:
            found = {key.lower(): value for key, value in found.items()}
        return [_picked(found.get(name), kept) for name, kept in zip(names, supers, strict=True)]

    return pick


def _picked(value: Any, is_super: bool) -> str | None:
    return json.dumps(value, ensure_ascii=False) if is_super and value is not None else json_text(value)


_STEP = re.compile(r"\['([^']*)'\]|\[(\d+)\]|\.([^.\[\]']+)")


def parse_json_paths(text: str) -> list[list[str | int]] | None:
    """The paths of a JSONPaths file; None if it has no `jsonpaths`, which means 'auto'.

    :raises BackendError: it is no such file.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InternalError("Invalid JSONPath format. Supported notations are 'dot-notation' and "
                            "'bracket-notation': the file is not JSON") from error  # fmt: skip
    if not isinstance(found, dict):
        raise InternalError("Invalid JSONPath format: the file must be one JSON object")
    if "jsonpaths" not in found:
        return None
    return [_parse_path(path) for path in found["jsonpaths"]]


def _parse_path(path: Any) -> list[str | int]:
    steps: list[str | int] = []
    end = 1
    if isinstance(path, str) and path.startswith("$"):
        while match := _STEP.match(path, end):
            steps.append(int(match[2]) if match[2] is not None else match[1] if match[1] is not None else match[3])
            end = match.end()
    if not isinstance(path, str) or end != len(path) or not steps:
        raise InternalError(
            f"Invalid JSONPath format. Supported notations are 'dot-notation' and 'bracket-notation': {path}"
        )
    return steps


def pick_by_path(paths: Sequence[Sequence[str | int]], supers: Sequence[bool]) -> Pick:
    """Values at the paths."""

    def pick(found: Any) -> list[str | None]:
        return [_picked(_follow(found, path), kept) for path, kept in zip(paths, supers, strict=True)]

    return pick


def _follow(value: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                raise LookupError("Invalid JSONPath format: Not an array or index out of range.")
            value = value[step]
        elif isinstance(value, dict):
            value = value.get(step)
        elif value is not None:
            raise LookupError("Invalid JSONPath format: Member is not an object.")
    return value
