"""Who may what in PostgreSQL, against what the platform file says: what goes beyond it, and what is missing of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dbops.errors import DbopsError
from dbops.platform import Postgres, PostgresGrantee, Severity, duration_text
from dbops.postgres.health import Check, OpenSession
from dbops.postgres.reports import text_for
from dbops.postgres.session import Session
from dbops.sql import quoted

ACCESS = "postgres_access"
"""Name of the check, in the ledger and in incidents; of an instance its roles, of each database the rights there."""
PUBLIC = "public"
"""Everybody. No role can have that name."""
OWN_PREFIX = "pg_"
"""Of the roles that PostgreSQL makes itself; it lets nobody else make one of such a name."""
OF_RDS = frozenset([
    "rdsadmin",
    "rds_superuser",
    "rds_replication",
    "rds_iam",
    "rds_password",
    "rds_ad",
    "rds_extension",
    "rds_reserved",
    "rdsproxyadmin",
    "rdsrepladmin",
    "rdstopmgr",
    "rdswriteforwarduser",
    "rds_reserved_superuser",
])
EXPIRES_SOON = timedelta(days=14)
MOST_NAMED = 10

Row = Mapping[str, Any]
Known = Mapping[str, PostgresGrantee]


@dataclass(frozen=True)
class Finding:
    """One difference.

    :param kind: unknown, attribute, member, password, database, schema, table, column, sequence, owner, default,
        definer, or missing.
    :param fix: the statement that ends it; empty when it is none.
    """

    kind: str
    who: str
    text: str
    fix: str = ""

    @property
    def line(self) -> str:
        return f"{self.who} {self.text}{f': {self.fix}' if self.fix else ''}"


def review_access(postgres: Postgres, open_session: OpenSession, now: datetime) -> list[Check]:
    """Roles of the instance, then rights in each database; one that cannot be looked at is an error.

    The catalogs that are read are open to every role, so nothing is hidden from a role with few rights.
    """
    known = {one.name: one for one in postgres.access}
    checks: list[Check] = []
    for place, database in enumerate(postgres.databases):
        targets = [postgres.name] * (place == 0) + [f"{postgres.name}/{database}"]
        try:
            with open_session(database) as session:
                if place == 0:
                    rows = session.query(text_for("access_roles", session.version)).dicts()
                    checks.append(_check(postgres.name, compare_roles(rows, known, now), _notes(rows, known)))
                checks.append(_check(targets[-1], *_database(session, known)))
        except DbopsError as error:
            seen = {check.target for check in checks}
            checks += [
                Check(ACCESS, target, f"could not look: {error}", error=error)
                for target in targets
                if target not in seen
            ]
    return checks


def _check(target: str, findings: Sequence[Finding], notes: Sequence[str]) -> Check:
    details = {
        "findings": [{"kind": one.kind, "who": one.who, "text": one.text, "fix": one.fix} for one in findings],
        "notes": list(notes),
    }
    if not findings:
        message = "\n".join(["rights are as the platform file says", *notes])
        return Check(ACCESS, target, message, None, 0, 0, None, details)
    lines = [finding.line for finding in findings[:MOST_NAMED]]
    more = len(findings) - MOST_NAMED
    message = "\n".join([f"{len(findings)} differences", *lines, *([f"and {more} more"] if more > 0 else []), *notes])
    return Check(ACCESS, target, message, Severity.WARNING, len(findings), 0, None, details)


def is_own(role: str) -> bool:
    return role.startswith(OWN_PREFIX) or role in OF_RDS


def _to(role: str) -> str:
    """A grantee as a statement names it."""
    return "PUBLIC" if role == PUBLIC else quoted(role)


def _who(role: str) -> str:
    return "PUBLIC" if role == PUBLIC else f"role {role}"


# --- roles --------------------------------------------------------------------------------------------------


def compare_roles(rows: Iterable[Row], known: Known, now: datetime) -> list[Finding]:
    """Attributes, memberships and passwords that expire.

    :param rows: of access_roles.sql.
    :param now: aware UTC.
    """
    return [finding for row in rows if not is_own(row["role"]) for finding in _role(row, known, now)]


def _role(row: Row, known: Known, now: datetime) -> Iterator[Finding]:
    role, attributes = row["role"], tuple(row["attributes"])
    entry, who = known.get(role), _who(role)
    if entry is None:
        more = f", {' and '.join(attributes)}" if attributes else ""
        yield Finding("unknown", who, f"is not in the platform file{more}", f"DROP ROLE {quoted(role)}")
        return
    for name in attributes:
        if name not in entry.attributes:
            yield Finding("attribute", who, f"is {name}", f"ALTER ROLE {quoted(role)} NO{name.upper()}")
    for name in entry.attributes:
        if name not in attributes:
            yield Finding("missing", who, f"is not {name}", f"ALTER ROLE {quoted(role)} {name.upper()}")
    for group in row["member_of"]:
        if group not in entry.member_of:
            yield Finding("member", who, f"is a member of {group}", f"REVOKE {quoted(group)} FROM {quoted(role)}")
        elif group in row["gives"]:
            fix = f"REVOKE ADMIN OPTION FOR {quoted(group)} FROM {quoted(role)}"
            yield Finding("member", who, f"may make others members of {group}", fix)
    for group in entry.member_of:
        if group not in row["member_of"]:
            yield Finding("missing", who, f"is no member of {group}", f"GRANT {quoted(group)} TO {quoted(role)}")
    until = row["valid_until"]
    if row["login"] and until is not None:
        if until <= now:
            yield Finding("password", who, f"has a password that expired {until:%Y-%m-%d}")
        elif until - now < EXPIRES_SOON:
            left = timedelta(days=(until - now).days) or timedelta(hours=1)
            yield Finding("password", who, f"has a password that expires in {duration_text(left)}")


def _notes(rows: Sequence[Row], known: Known) -> list[str]:
    there = {row["role"] for row in rows}
    notes = [
        f"role {name} is in the platform file (postgres.access) and does not exist"
        for name in known
        if name not in there and name != PUBLIC
    ]
    lasting = sorted(row["role"] for row in rows if row["login"] and not is_own(row["role"]) and not row["valid_until"])
    if lasting:
        more = f" and {len(lasting) - MOST_NAMED} more" if len(lasting) > MOST_NAMED else ""
        notes.append(f"passwords that never expire: {', '.join(lasting[:MOST_NAMED])}{more}")
    return notes


# --- rights in a database -----------------------------------------------------------------------------------


def _database(session: Session, known: Known) -> tuple[list[Finding], list[str]]:
    database = session.info.schema or ""
    here = {name: entry for name, entry in known.items() if not entry.databases or database in entry.databases}

    def rows(name: str, *values: Any) -> list[dict[str, Any]]:
        found = session.query(text_for(name, session.version), *values).dicts()
        return [row | {"role": row.get("role") or PUBLIC} for row in found]

    findings = [
        *compare_database(database, rows("access_databases"), here),
        *compare_schemas(rows("access_schemas"), here),
        *compare_relations(rows("access_relations"), here),
        *compare_owners(rows("access_owners"), here),
        *compare_defaults(rows("access_defaults"), here),
        *_definers(rows("access_definers")),
        *missing(database, rows("access_missing", json.dumps(wanted(here, session.version)))),
    ]
    schemas = {row["schema"] for row in rows("access_schema_names")}
    notes = [
        f"schema {schema} of {_who(entry.name)} is in the platform file and not in {database}"
        for entry in here.values()
        for schema in entry.schemas
        if schema not in schemas
    ]
    return findings, notes


def _may_all(role: str, here: Known) -> bool:
    """Superusers need no grant, and what PostgreSQL's own roles may is PostgreSQL's."""
    return is_own(role) or (role in here and "superuser" in here[role].attributes)


def compare_database(database: str, rows: Iterable[Row], here: Known) -> Iterator[Finding]:
    for row in rows:
        role, privilege = row["role"], row["privilege"]
        entry = here.get(role)
        if _may_all(role, here):
            continue
        fix = f"REVOKE {privilege.upper()} ON DATABASE {quoted(database)} FROM {_to(role)}"
        is_agreed = entry is not None and (
            privilege == "connect" or (privilege == "temporary" and entry.temporary)
        )  # fmt: skip
        what = {"connect": "connect to", "temporary": "make temporary tables in", "create": "create schemas in"}
        if not is_agreed:
            yield Finding("database", _who(role), f"may {what.get(privilege, privilege)} database {database}", fix)
        elif row["passes_on"]:
            yield Finding("database", _who(role), f"may let others {what[privilege]} database {database}", fix)


def compare_schemas(rows: Iterable[Row], here: Known) -> Iterator[Finding]:
    for row in rows:
        role, schema, privilege = row["role"], row["schema"], row["privilege"]
        entry = here.get(role)
        if _may_all(role, here) or (role == PUBLIC and schema == "public" and privilege == "usage"):
            continue  # the latter is how a database begins; rights on tables protect what is in it
        is_agreed = entry is not None and (
            (privilege == "usage" and schema in _used(entry)) or (entry.creates and schema in entry.schemas)
        )
        fix = f"REVOKE {privilege.upper()} ON SCHEMA {quoted(schema)} FROM {_to(role)}"
        what = "create in" if privilege == "create" else "use"
        if not is_agreed:
            yield Finding("schema", _who(role), f"may {what} schema {schema}", fix)
        elif row["passes_on"]:
            yield Finding("schema", _who(role), f"may let others {what} schema {schema}", fix)


def compare_relations(rows: Iterable[Row], here: Known) -> Iterator[Finding]:
    """Of a grant on several tables one example is told."""
    for given in rows:
        row = _without_agreed(given, here.get(given["role"]))
        role, schema, privilege, kind, many = (row[name] for name in ("role", "schema", "privilege", "kind", "many"))
        if _may_all(role, here) or not many:
            continue
        is_agreed = _is_agreed(here.get(role), kind, schema, privilege)
        name = f"{row['example']}.{row['column']}" if kind == "column" else row["example"]
        where = f"{kind} {schema}.{name}" if many == 1 else f"{many} {kind}s of {schema} ({name}, ...)"
        if not is_agreed:
            yield Finding(kind, _who(role), f"may {privilege} {where}", _revoke(row, _to(role)))
        elif row["passes_on"]:
            fix = _revoke(row, _to(role), "GRANT OPTION FOR ")
            yield Finding(kind, _who(role), f"may let others {privilege} {where}", fix)


def _without_agreed(row: Row, entry: PostgresGrantee | None) -> Row:
    """The row without the single tables that are agreed, where the grant may not be passed on."""
    if entry is None or row["kind"] != "table" or row["passes_on"]:
        return row
    agreed = {name for name, privileges in entry.tables.items() if row["privilege"] in privileges}
    left = [name for name in row["relations"] if f"{row['schema']}.{name}" not in agreed]
    return {**row, "many": len(left), "example": left[0] if left else None}


def _used(entry: PostgresGrantee) -> set[str]:
    """Schemas that it needs USAGE on."""
    return {*entry.schemas, *(name.partition(".")[0] for name in entry.tables)}


def _is_agreed(entry: PostgresGrantee | None, kind: str, schema: str, privilege: str) -> bool:
    if entry is None or schema not in entry.schemas:
        return False
    return privilege in (entry.sequences if kind == "sequence" else entry.privileges)


def _revoke(row: Row, to: str, option: str = "") -> str:
    schema, kind, privilege = row["schema"], row["kind"], row["privilege"].upper()
    if kind == "column":
        if row["many"] > 1:
            return f"REVOKE {option}{privilege} (...) ON {quoted(schema, row['example'])} FROM {to}"
        return f"REVOKE {option}{privilege} ({quoted(row['column'])}) ON {quoted(schema, row['example'])} FROM {to}"
    if row["many"] == 1:
        return f"REVOKE {option}{privilege} ON {kind.upper()} {quoted(schema, row['example'])} FROM {to}"
    return f"REVOKE {option}{privilege} ON ALL {kind.upper()}S IN SCHEMA {quoted(schema)} FROM {to}"


def compare_owners(rows: Iterable[Row], here: Known) -> Iterator[Finding]:
    for row in rows:
        role, schema, many = row["role"], row["schema"], row["many"]
        entry = here.get(role)
        if _may_all(role, here) or (entry is not None and entry.owns and schema in entry.schemas):
            continue
        where = f"{schema}.{row['example']}" if many == 1 else f"{many} tables of {schema} ({row['example']}, ...)"
        owner = next((name for name, one in here.items() if one.owns and schema in one.schemas), None)
        fix = ""
        if many == 1 and owner is not None:
            fix = f"ALTER TABLE {quoted(schema, row['example'])} OWNER TO {quoted(owner)}"
        elif owner is not None:
            fix = f"REASSIGN OWNED BY {quoted(role)} TO {quoted(owner)}"
        yield Finding("owner", _who(role), f"owns {where}", fix)


def compare_defaults(rows: Iterable[Row], here: Known) -> Iterator[Finding]:
    for row in rows:
        role, schema, kind, privilege = (row[name] for name in ("role", "schema", "kind", "privilege"))
        entry = here.get(role)
        if _may_all(role, here):
            continue
        schemas = [schema] if schema else list(entry.schemas if entry else ())
        if schemas and all(_is_agreed(entry, kind, one, privilege) for one in schemas):
            continue
        place, within = (f"schema {schema}", f" IN SCHEMA {quoted(schema)}") if schema else ("any schema", "")
        yield Finding(
            "default",
            _who(role),
            f"may {privilege} every {kind} that {row['maker']} makes in {place}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(row['maker'])}{within} REVOKE {privilege.upper()} ON "
            f"{kind.upper()}S FROM {_to(role)}",
        )


def _definers(rows: Iterable[Row]) -> Iterator[Finding]:
    for row in rows:
        name = f"{quoted(row['schema'], row['function'])}({row['arguments']})"
        yield Finding(
            "definer",
            "PUBLIC",
            f"may run {row['schema']}.{row['function']} with the rights of {row['owner']} (SECURITY DEFINER)",
            f"REVOKE EXECUTE ON {row['kind']} {name} FROM PUBLIC",
        )


# --- what is missing ----------------------------------------------------------------------------------------


def wanted(here: Known, version: int) -> list[dict[str, str | None]]:
    """The rights that the platform file names, for access_missing.sql. Of PUBLIC none is missed."""
    found: list[dict[str, str | None]] = []
    for role, entry in here.items():
        if role == PUBLIC:
            continue

        def want(kind: str, schema: str | None, privilege: str, role: str = role, relation: str | None = None) -> None:
            if privilege != "maintain" or version >= 17:
                found.append({
                    "role": role,
                    "kind": kind,
                    "schema": schema,
                    "privilege": privilege,
                    "relation": relation,
                })

        if used := _used(entry):
            want("database", None, "connect")
        for schema in sorted(used):
            want("schema", schema, "usage")
        for name, privileges in entry.tables.items():
            schema, _, table = name.partition(".")
            for privilege in privileges:
                want("table", schema, privilege, relation=table)
        for schema in entry.schemas:
            if entry.creates:
                want("schema", schema, "create")
            for privilege in entry.privileges:
                want("table", schema, privilege)
            for use in entry.sequences:
                want("sequence", schema, use)
    return found


def missing(database: str, rows: Iterable[Row]) -> Iterator[Finding]:
    for row in rows:
        role, kind, schema, privilege, many = (row[name] for name in ("role", "kind", "schema", "privilege", "many"))
        right = privilege.upper()
        if kind == "database":
            text, on = f"may not connect to database {database}", f"DATABASE {quoted(database)}"
        elif kind == "schema":
            text = f"may not {'create in' if privilege == 'create' else 'use'} schema {schema}"
            on = f"SCHEMA {quoted(schema)}"
        elif many == 1:
            text = f"may not {privilege} {kind} {schema}.{row['example']}"
            on = f"{kind.upper()} {quoted(schema, row['example'])}"
        else:
            text = f"may not {privilege} {many} {kind}s of {schema} ({row['example']}, ...)"
            on = f"ALL {kind.upper()}S IN SCHEMA {quoted(schema)}"
        yield Finding("missing", _who(role), text, f"GRANT {right} ON {on} TO {_to(role)}")
