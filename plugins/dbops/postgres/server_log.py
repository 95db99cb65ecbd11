"""A server's log, as it grows: cut into entries, of which those that hold a statement are read.

Two formats: that of the log collector (stderr) with whatever log_line_prefix the server has, and csvlog.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dbops.errors import FinalError

LONGEST_ENTRY = 64 << 10
"""Of a longer one only so much is looked at. Nothing else of the log is held in memory."""

_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_ZONE = r"[A-Za-z0-9_+/-]+"
_ESCAPES = {
    "a": r"(?P<application>.*?)",
    "u": r"(?P<role>.*?)",
    "d": r"(?P<database>.*?)",
    "r": r"\S*?",
    "h": r"\S*?",
    "L": r"\S*?",
    "b": r"[a-z][\w ]*?",
    "p": r"\d+",
    "P": r"\d*",
    "t": rf"(?P<at>{_TIME} {_ZONE})",
    "m": rf"(?P<at>{_TIME}\.\d+ {_ZONE})",
    "n": r"\d+\.\d+",
    "s": rf"{_TIME} {_ZONE}",
    "i": r"[A-Za-z ]*?",
    "e": r"\w{5}",
    "c": r"[0-9a-f]+\.[0-9a-f]+",
    "l": r"\d+",
    "v": r"[\d/]*",
    "x": r"\d+",
    "Q": r"-?\d+",
}
"""https://www.postgresql.org/docs/current/runtime-config-logging.html#GUC-LOG-LINE-PREFIX"""
_SAID = re.compile(
    r"(?:duration: [\d.]+ ms  (?:bind|parse|statement|execute)\b.*?|statement|execute [^\n]*?): (?P<sql>.*)", re.DOTALL
)
_STATEMENT = re.compile(rb"(?:statement|execute|AUDIT)\b")
_CSV_FIELDS = {"at": 0, "role": 1, "database": 2, "severity": 11, "message": 13, "application": 22}
"""The same from 14 to 18; later versions only add at the end."""


class LogUnreadable(FinalError):
    """The log is there, and is in no form that is understood."""


@dataclass(frozen=True)
class Entry:
    """One statement in the log. It stands there before it is carried out, so it may have failed."""

    at: str
    """As the server wrote it."""
    role: str
    database: str
    application: str
    sql: str
    """Its text; of pgAudit, when that was told not to log it, what was done to which object."""
    audited: bool = False
    """Logged by pgAudit."""


class Splitter:
    """Cuts a log into entries as its bytes arrive.

    :param begins: does an entry begin with this line? None: csvlog, whose entries end where no quote is open.
    """

    def __init__(self, begins: Callable[[bytes], bool] | None) -> None:
        self._begins = begins
        self._entry, self._line = bytearray(), bytearray()
        self._entry_bytes = self._line_bytes = self._quotes = 0
        self.done = 0
        """Bytes of the entries that were given out: from here on, an unfinished one has to be read again."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The entries that are complete with these bytes."""
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            yield from self._take(data[begin : end + 1])
            begin = end + 1
        self._keep(data[begin:])

    def finish(self) -> Iterator[bytes]:
        """The last entry, if all of its lines are there: the log ends here for now."""
        if not self._line_bytes and self._begins is not None:
            yield from self._give()

    def _keep(self, part: bytes) -> None:
        self._line += part[: max(0, LONGEST_ENTRY - len(self._line))]
        self._line_bytes += len(part)
        self._quotes += part.count(b'"')

    def _take(self, part: bytes) -> Iterator[bytes]:
        """A line that is complete with this part."""
        self._keep(part)
        if self._begins is not None and self._begins(bytes(self._line)):
            yield from self._give()
        self._entry += self._line[: max(0, LONGEST_ENTRY - len(self._entry))]
        self._entry_bytes += self._line_bytes
        self._line.clear()
        self._line_bytes = 0
        if self._begins is None and self._quotes % 2 == 0:
            yield from self._give()

    def _give(self) -> Iterator[bytes]:
        entry, self.done = bytes(self._entry), self.done + self._entry_bytes
        self._entry.clear()
        self._entry_bytes = self._quotes = 0
        if entry:
            yield entry


class StderrFormat:
    """:param prefix: the server's log_line_prefix.

    :raises LogUnreadable: it does not say who ran a statement.
    """

    def __init__(self, prefix: str) -> None:
        self._begin = re.compile(_pattern(prefix) + r"(?P<severity>[A-Z]+[1-5]?):  (?P<message>.*)", re.DOTALL)

    def splitter(self) -> Splitter:
        return Splitter(self._is_begin)

    def entry(self, data: bytes) -> Entry | None:
        """None: it is not about a statement."""
        if not _STATEMENT.search(data):
            return None
        found = self._begin.match(data.decode(errors="replace"))
        if found is None or found["severity"] != "LOG":
            return None
        known = {name: text or "" for name, text in found.groupdict().items()}
        # Lines after the first are set off by a tab, so that no statement can forge an entry.
        return _entry(known, found["message"].replace("\n\t", "\n"))

    def _is_begin(self, line: bytes) -> bool:
        return not line.startswith(b"\t") and self._begin.match(line.decode(errors="replace")) is not None


class CsvFormat:
    def splitter(self) -> Splitter:
        return Splitter(None)

    def entry(self, data: bytes) -> Entry | None:
        if not _STATEMENT.search(data):
            return None
        row = next(csv.reader(data.decode(errors="replace").splitlines(keepends=True)), [])
        if len(row) <= _CSV_FIELDS["message"]:
            return None
        known = {name: row[place] if place < len(row) else "" for name, place in _CSV_FIELDS.items()}
        return _entry(known, known["message"]) if known["severity"] == "LOG" else None


Format = StderrFormat | CsvFormat


def format_of(destinations: str, prefix: str) -> Format:
    """How the entries of a server's log are read.

    :param destinations: its log_destination.
    :raises LogUnreadable: it writes no log that is understood.
    """
    names = {name.strip().lower() for name in destinations.split(",")}
    if "csvlog" in names:
        return CsvFormat()
    if "stderr" in names:
        return StderrFormat(prefix)
    raise LogUnreadable(f"log_destination is {destinations!r}; set it to stderr or csvlog")


def _pattern(prefix: str) -> str:
    """A pattern for what log_line_prefix puts before each entry; only sessions write what follows %q."""
    pattern, named, optional = "", set[str](), ""
    for found in re.finditer(r"%(-?\d*)(.)|([^%]+)", prefix):
        letter = found[2]
        if found[3] is not None:
            pattern += re.escape(found[3])
        elif letter == "%":
            pattern += "%"
        elif letter == "q" and not optional:
            pattern, optional = pattern + "(?:", ")?"
        elif letter in _ESCAPES:
            part = _ESCAPES[letter]
            name = re.search(r"\?P<(\w+)>", part)
            if name and name[1] in named:
                part = part.replace(f"?P<{name[1]}>", "?:")
            elif name:
                named.add(name[1])
            pattern += rf" *{part} *" if found[1] else part
    missing = [f"%{letter} ({name})" for letter, name in (("u", "role"), ("d", "database")) if name not in named]
    if missing:
        raise LogUnreadable(
            f"log_line_prefix is {prefix!r} and has no {' and no '.join(missing)}, so the log does not say who ran a "
            "statement; set it to '%m [%p] %q%u@%d %a ' (RDS: '%t:%r:%u@%d:[%p]:')"
        )
    return pattern + optional


def _entry(known: dict[str, str], message: str) -> Entry | None:
    audited = message.startswith("AUDIT: ")
    sql = _audited(message) if audited else _logged(message)
    if not sql or not known.get("role"):
        return None
    return Entry(
        known.get("at", ""), known["role"], known.get("database", ""), known.get("application", ""), sql, audited
    )


def _logged(message: str) -> str | None:
    """By log_statement or log_min_duration_statement."""
    found = _SAID.match(message)
    return found["sql"] if found else None


def _audited(message: str) -> str | None:
    """By pgAudit: AUDIT: SESSION,1,1,DDL,CREATE TABLE,TABLE,public.a,<statement>,<parameters>."""
    row = next(csv.reader(message.removeprefix("AUDIT: ").splitlines(keepends=True)), [])
    if len(row) < 8 or row[3] not in {"DDL", "ROLE"}:
        return None
    command, name, statement = row[4], row[6], row[7]
    return f"{command} {name}".strip() if statement in {"<not logged>", "<previously logged>"} else statement
