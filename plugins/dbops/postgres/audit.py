"""What the server writes of changes, against what it should; and who changed the schema, as its log says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dbops.errors import DbopsError
from dbops.platform import Audit, Postgres, Severity
from dbops.postgres.ddl import changes
from dbops.postgres.health import Check, OpenSession
from dbops.postgres.log_sources import LogReader, LogSource, Position, from_details, to_details
from dbops.postgres.reports import text_for
from dbops.postgres.server_log import Entry, Format, LogUnreadable, format_of
from dbops.postgres.session import Session

if TYPE_CHECKING:
    from sqlalchemy import Engine

SETTINGS, DDL = "postgres_audit_settings", "postgres_ddl"
"""Names of the checks, in the ledger and in incidents."""
POSITION = "postgres_log_position"
"""Name of the ledger's rows that say up to where the log was read."""
LATEST, PREVIOUS = "latest", "previous"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SERVICE = frozenset({"rdsadmin", "rdshm"})
"""RDS itself."""
MOST_KINDS = 100
"""Different statements that are told apart; more are only counted."""
MOST_NAMED = 10
MB = 1 << 20


# --- settings -----------------------------------------------------------------------------------------------


def check_settings(postgres: Postgres, open_session: OpenSession) -> Check:
    """Settings of `audit.settings`, and pgAudit in every database where one of them is pgAudit's."""
    wrong: list[str] = []
    try:
        for place, database in enumerate(postgres.databases):
            with open_session(database) as session:
                if place == 0:
                    wrong += _settings(session, postgres.audit)
                wrong += _pgaudit(session, postgres.audit, is_first=place == 0)
    except DbopsError as error:
        return Check(SETTINGS, postgres.name, f"could not look: {error}", error=error)
    details = {"expected": dict(postgres.audit.settings), "wrong": wrong}
    if wrong:
        return Check(SETTINGS, postgres.name, "\n".join(wrong), Severity.WARNING, len(wrong), 0, None, details)
    many = len(postgres.audit.settings)
    return Check(SETTINGS, postgres.name, f"{many} settings of the audit are as configured", None, 0, 0, None, details)


def _settings(session: Session, audit: Audit) -> list[str]:
    wrong = []
    rows = session.query(text_for("audit_settings", session.version), list(audit.settings)).dicts()
    for row in rows:
        name, wanted = row["name"], audit.settings[row["name"]]
        if not row["known"]:
            if not name.startswith("pgaudit."):  # pgAudit that is not loaded is told once
                wrong.append(f"{name} is no setting of this server; {wanted!r} is expected")
            continue
        if not _holds(name, wanted, row["value"]):
            wrong.append(f"{name} is {row['value']!r}; {wanted!r} is expected")
        for other in row["elsewhere"]:
            if not _holds(name, wanted, other["value"]):
                where = [f"role {other['role']}"] if other["role"] else []
                where += [f"database {other['database']}"] if other["database"] else []
                wrong.append(f"{name} is {other['value']!r} for {' in '.join(where)}; {wanted!r} is expected")
    return wrong


def _holds(name: str, wanted: str, value: str) -> bool:
    """pgaudit.log is a list of classes, and "all, -misc" is one too; what is left out is not held."""
    if name != "pgaudit.log":
        return _plain(value) == _plain(wanted)
    classes = {"read", "write", "function", "role", "ddl", "misc", "misc_set"}

    def meant(text: str) -> set[str]:
        found = set[str]()
        for word in (part.strip().lower() for part in text.split(",")):
            named = classes if word.lstrip("-") == "all" else {word.lstrip("-")}
            found = found - named if word.startswith("-") else found | named
        return found - {"none", ""}

    return meant(wanted) <= meant(value)


def _plain(value: str) -> str:
    text = value.strip().lower()
    return {"true": "on", "yes": "on", "1": "on", "false": "off", "no": "off", "0": "off"}.get(text, text)


def _pgaudit(session: Session, audit: Audit, *, is_first: bool) -> list[str]:
    if not any(name.startswith("pgaudit.") for name in audit.settings):
        return []
    found = session.query(text_for("pgaudit", session.version)).dicts()[0]
    if not found["loaded"]:
        how = (
            "put it into shared_preload_libraries (on RDS: the parameter group) and restart"
            if found["installed"]
            else "it is not installed on this server: install it, or leave pgaudit out of audit.settings"
        )
        return [f"pgAudit is not loaded, nothing of it is logged: {how}"] if is_first else []
    if found["version"] is None:
        return [
            f"pgAudit is loaded, but not created in {session.info.schema}: it logs no names of objects there, and not "
            "what functions change; CREATE EXTENSION pgaudit"
        ]
    return []


# --- who changed the schema ---------------------------------------------------------------------------------


@dataclass
class Changes:
    """Statements of the log that change the schema or rights, by role, database and text."""

    allowed: frozenset[str]
    unexpected: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)
    """-> [how often, when first, when last, by which application]"""
    expected: int = 0
    others: int = 0
    """Beyond `MOST_KINDS`."""

    def add(self, entry: Entry) -> None:
        for statement in changes(entry.sql):
            if entry.role in self.allowed:
                self.expected += 1
                continue
            key = (entry.role, entry.database, statement)
            known = self.unexpected.get(key)
            if known is not None:
                if not (entry.audited and known[2] == entry.at):  # log_statement has logged it as well
                    known[0], known[2] = known[0] + 1, entry.at
            elif len(self.unexpected) < MOST_KINDS:
                self.unexpected[key] = [1, entry.at, entry.at, entry.application]
            else:
                self.others += 1

    @property
    def count(self) -> int:
        return sum(int(found[0]) for found in self.unexpected.values()) + self.others

    def lines(self) -> list[str]:
        return [
            f"{role}@{database}, {found[2]}{f', {found[0]} times' if found[0] > 1 else ''}: {statement}"
            for (role, database, statement), found in self.unexpected.items()
        ]


def log_format(session: Session) -> Format:
    """:raises LogUnreadable: the log is in no form, or no language, that is understood."""
    found = session.query(text_for("log_settings", session.version)).dicts()[0]
    language = str(found["language"]).lower()
    if language.partition(".")[0] not in {"", "c", "posix"} and not language.startswith("en"):
        raise LogUnreadable(f"{session.where}: lc_messages is {found['language']}: the log is read in English only")
    return format_of(found["destinations"], found["prefix"])


def check_ddl(
    postgres: Postgres, source: LogSource, form: Format, before: Mapping[str, Position], since: datetime
) -> tuple[Check, dict[str, Position]]:
    """Changes of the schema and of rights since the last look by roles that should make none.

    :param before: where the last look ended, by file.
    :param since: when it was.
    :return: the check, and where this look ended.
    """
    audit, target = postgres.audit, postgres.name
    found = Changes(SERVICE | frozenset(audit.ddl_roles))
    reader = LogReader(source, form, before, since, int(audit.most_mb * MB))
    for entry in reader.entries():
        found.add(entry)
    read = f"{reader.bytes / MB:.1f} MB of {reader.files} files of the log"
    if reader.left:
        read += f" ({reader.left} files are left for the next look: audit.most_mb)"
    lines = found.lines()
    details = {
        "read_bytes": reader.bytes,
        "files": reader.files,
        "files_left": reader.left,
        "expected": found.expected,
        "statements": lines,
    }
    if not found.count:
        message = f"nobody but {', '.join(audit.ddl_roles) or 'nobody'} changed schema or rights: {read}"
        return Check(DDL, target, message, None, 0, 0, None, details, undecided=bool(reader.left)), reader.positions
    message = f"{found.count} changes of schema or rights by roles that should make none, in {read}"
    message += "".join(f"\n{line}" for line in lines[:MOST_NAMED])
    more = len(lines) - MOST_NAMED + found.others
    message += f"\nand {more} more" if more > 0 else ""
    return Check(DDL, target, message, Severity.WARNING, found.count, 0, None, details), reader.positions


# --- where the last look ended ------------------------------------------------------------------------------


def load_positions(ledger: Engine, target: str, run: str) -> tuple[dict[str, Position], datetime | None]:
    """Where the look before that of `run` ended, and when it was; a retry begins where its first attempt did."""
    from dbops.ledger.read import checks_since

    found = {row.run: row for row in checks_since(ledger, POSITION, target, EPOCH)}
    row = found.get(LATEST)
    if row is not None and row.details.get("run") == run:
        row = found.get(PREVIOUS)
    return ({}, None) if row is None else (from_details(row.details["files"]), row.at)


def keep_positions(ledger: Engine, target: str, run: str, positions: Mapping[str, Position], now: datetime) -> None:
    """Keep a look's end for the next one; two rows are overwritten."""
    from dbops.ledger import record_check
    from dbops.ledger.read import checks_since

    def record(row: str, at: datetime, details: Mapping[str, Any]) -> None:
        many = f"{len(details['files'])} files"
        record_check(ledger, name=POSITION, target=target, run=row, at=at, ok=True, message=many, details=details)

    latest = next((row for row in checks_since(ledger, POSITION, target, EPOCH) if row.run == LATEST), None)
    if latest is not None and latest.details.get("run") != run:
        record(PREVIOUS, latest.at, latest.details)
    record(LATEST, now, {"run": run, "files": to_details(positions)})
