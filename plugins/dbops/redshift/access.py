"""Who may what in the warehouse, against what the platform file says: least privilege, looked at monthly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from dbops.errors import FinalError
from dbops.platform import Grantee, duration_text
from dbops.redshift.session import Session
from dbops.sql import quoted, statement

OWN_USERS = frozenset({"rdsdb"})
"""Of the service itself."""
OWN_PREFIXES = ("sys:", "ds:")
"""Roles and users that Redshift makes: predefined roles, data shares."""
SEES_ALL = frozenset({"sys:monitor", "sys:operator", "sys:dba", "sys:superuser", "sys:secadmin"})
"""Roles that may look into system tables."""
EXPIRES_SOON = timedelta(days=14)
PUBLIC = ("group", "public")
"""Everybody; in a platform file `{name: public, kind: group, ...}`."""

Key = tuple[str, str]


class RightsNotVisible(FinalError):
    """This login does not see the rights of others, so a review proves nothing."""


@dataclass(frozen=True)
class Finding:
    """One thing that goes beyond what was agreed.

    :param kind: superuser, unknown, member, grant, schema, default, system, password.
    :param who: `user etl`, `group analysts`, `role loader`, `PUBLIC`.
    :param fix: the statement that ends it; empty when it is no statement.
    """

    kind: str
    who: str
    text: str
    fix: str = ""

    @property
    def line(self) -> str:
        return f"{self.who}: {self.text}{f' ({self.fix})' if self.fix else ''}"


@dataclass(frozen=True)
class Review:
    """What a review found. Notes are what is wrong with the platform file, not with the rights."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    users: int
    groups: int
    roles: int

    def in_words(self, most: int = 10) -> str:
        lines = [finding.line for finding in self.findings[:most]]
        if len(self.findings) > most:
            lines.append(f"and {len(self.findings) - most} more")
        return "\n".join(lines)


@dataclass
class Rights:
    """What the warehouse says, as read by `read_rights`."""

    users: Mapping[str, tuple[bool, bool, datetime | None]]
    """Name -> superuser, may create databases, when the password expires."""
    groups: Mapping[str, Sequence[str]]
    """Name -> users in it."""
    roles: Sequence[str]
    user_roles: Sequence[tuple[str, str, bool]]
    role_roles: Sequence[tuple[str, str]]
    relations: Sequence[Sequence[Any]] = field(default_factory=list)
    schemas: Sequence[Sequence[Any]] = field(default_factory=list)
    defaults: Sequence[Sequence[Any]] = field(default_factory=list)
    system: Sequence[Sequence[Any]] = field(default_factory=list)


def review_access(session: Session, allowed: Sequence[Grantee], now: datetime) -> Review:
    """Read the rights and compare.

    :param allowed: `access` of the platform file.
    :param now: aware UTC, for passwords that expire.
    :raises RightsNotVisible: this login would not see what is wrong.
    """
    return compare_rights(read_rights(session), allowed, now)


def read_rights(session: Session) -> Rights:
    """:raises RightsNotVisible: this login sees its own rights only."""
    groups: dict[str, list[str]] = {}
    for group, member in session.rows(statement("redshift/access_groups")):
        groups.setdefault(group, [])
        if member is not None:
            groups[group].append(member)
    rights = Rights(
        users={
            name: (bool(is_super), bool(creates), _moment(until))
            for name, is_super, creates, until in session.rows(statement("redshift/access_users"))
        },
        groups=groups,
        roles=[name for (name,) in session.rows(statement("redshift/access_roles"))],
        user_roles=[
            (user, role, bool(admin)) for user, role, admin in session.rows(statement("redshift/access_user_roles"))
        ],
        role_roles=[(role, granted) for role, granted in session.rows(statement("redshift/access_role_roles"))],
    )
    _require_sight(session, rights)
    rights.relations = session.rows(statement("redshift/access_relations"))
    rights.schemas = session.rows(statement("redshift/access_schemas"))
    rights.defaults = session.rows(statement("redshift/access_defaults"))
    rights.system = session.rows(statement("redshift/access_system"))
    return rights


def _require_sight(session: Session, rights: Rights) -> None:
    found = session.rows(statement("redshift/access_me"))
    if not found:
        raise RightsNotVisible("review of access: this login has no row in svv_user_info; look at the connection")
    name, is_super, syslog = found[0]
    if is_super:
        return
    roles = {role for user, role, _ in rights.user_roles if user == name}
    while more := {granted for role, granted in rights.role_roles if role in roles} - roles:
        roles |= more
    missing = []
    if not roles & SEES_ALL:
        missing.append(f"GRANT ROLE sys:monitor TO {quoted(name)}")
    if str(syslog).upper() != "UNRESTRICTED":
        missing.append(f"ALTER USER {quoted(name)} SYSLOG ACCESS UNRESTRICTED")
    if missing:
        raise RightsNotVisible(
            f"review of access: {name} sees its own rights only, so nothing would be found; run as a superuser: "
            f"{'; '.join(missing)} (include/sql/redshift/grants.sql)"
        )


def compare_rights(rights: Rights, allowed: Sequence[Grantee], now: datetime) -> Review:
    """The pure part: what goes beyond `allowed`, by user, group, role and PUBLIC."""
    known: dict[Key, Grantee] = {(item.kind, item.name): item for item in allowed}
    found = [
        *_principals(rights, known),
        *_members(rights, known),
        *_relations(rights, known),
        *_schemas(rights, known),
        *_defaults(rights, known),
        *_system(rights, known),
        *_passwords(rights, now),
    ]
    theirs = [name for name in rights.users if not _is_own(name)]
    roles = [name for name in rights.roles if not _is_own(name)]
    return Review(tuple(found), tuple(_absent(rights, known)), len(theirs), len(rights.groups), len(roles))


def _is_own(name: str) -> bool:
    return name in OWN_USERS or name.startswith(OWN_PREFIXES)


def _who(kind: str, name: str) -> str:
    return "PUBLIC" if (kind, name) == PUBLIC else f"{kind} {name}"


def _to(kind: str, name: str) -> str:
    """A grantee as a statement names it."""
    return "PUBLIC" if (kind, name) == PUBLIC else f"{'' if kind == 'user' else f'{kind.upper()} '}{quoted(name)}"


def _key(identity_type: str, name: str) -> Key:
    return PUBLIC if identity_type == "public" else (identity_type, name)


def _principals(rights: Rights, known: Mapping[Key, Grantee]) -> Iterable[Finding]:
    there: dict[Key, bool] = {("user", name): is_super for name, (is_super, _, _) in rights.users.items()}
    there |= {("group", name): False for name in rights.groups} | {("role", name): False for name in rights.roles}
    for key, is_super in sorted(there.items()):
        kind, name = key
        if _is_own(name):
            continue
        entry = known.get(key)
        if entry is None:
            how = "is not in the platform file, and a superuser" if is_super else "is not in the platform file"
            yield Finding(
                "unknown", _who(*key), how, f"add it to redshift.access, or DROP {kind.upper()} {quoted(name)}"
            )
        elif is_super and not entry.superuser:
            yield Finding("superuser", _who(*key), "is a superuser", f"ALTER USER {quoted(name)} NOCREATEUSER")


def _absent(rights: Rights, known: Mapping[Key, Grantee]) -> Iterable[str]:
    there = {("user", name) for name in rights.users} | {("group", name) for name in rights.groups}
    for key in sorted(known.keys() - there - {("role", name) for name in rights.roles} - {PUBLIC}):
        yield f"{_who(*key)} is in the platform file (redshift.access) and does not exist"


def _members(rights: Rights, known: Mapping[Key, Grantee]) -> Iterable[Finding]:
    """Who is in a role or group; those who are not known at all were named already."""
    found = [("user", user, "group", group) for group, users in rights.groups.items() for user in users]
    found += [("user", user, "role", role) for user, role, _ in rights.user_roles]
    found += [("role", role, "role", granted) for role, granted in rights.role_roles]
    passing = {(user, role) for user, role, admin in rights.user_roles if admin}
    for kind, name, what, into in sorted(found):
        entry = known.get((kind, name))
        if _is_own(name) or entry is None or entry.superuser:
            continue
        fix = f"REVOKE ROLE {quoted(into)} FROM {_to(kind, name)}"
        if into not in entry.member_of:
            leave = fix if what == "role" else f"ALTER GROUP {quoted(into)} DROP USER {quoted(name)}"
            yield Finding("member", _who(kind, name), f"is in {what} {into}", leave)
        elif (name, into) in passing and kind == "user":
            yield Finding("member", _who(kind, name), f"may give role {into} to others", fix)


def _relations(rights: Rights, known: Mapping[Key, Grantee]) -> Iterable[Finding]:
    for identity, name, schema, privilege, may_grant, count, example in rights.relations:
        key = _key(identity, name)
        entry = known.get(key)
        if entry is not None and entry.superuser:
            continue
        where = f"{schema}.{example}" if int(count) == 1 else f"{count} tables of {schema} ({example}, ...)"
        on = quoted(schema, example) if int(count) == 1 else f"ALL TABLES IN SCHEMA {quoted(schema)}"
        if entry is None or schema not in entry.schemas or privilege not in entry.privileges:
            fix = f"REVOKE {privilege.upper()} ON {on} FROM {_to(*key)}"
            yield Finding("grant", _who(*key), f"may {privilege} {where}", fix)
        elif int(may_grant):
            fix = f"REVOKE GRANT OPTION FOR {privilege.upper()} ON {on} FROM {_to(*key)}"
            yield Finding("grant", _who(*key), f"may let others {privilege} {where}", fix)


def _schemas(rights: Rights, known: Mapping[Key, Grantee]) -> Iterable[Finding]:
    for identity, name, schema, privilege, may_grant in rights.schemas:
        key = _key(identity, name)
        entry = known.get(key)
        if entry is not None and entry.superuser:
            continue
        if key == PUBLIC and schema == "public" and privilege == "usage":
            continue  # so a database begins; what it holds is protected by the privileges on tables
        allowed = entry is not None and schema in entry.schemas and (privilege == "usage" or entry.creates)
        fix = f"REVOKE {privilege.upper()} ON SCHEMA {quoted(schema)} FROM {_to(*key)}"
        what = {"usage": f"may use schema {schema}", "create": f"may create tables in schema {schema}"}
        if not allowed:
            yield Finding("schema", _who(*key), what.get(privilege, f"may {privilege} schema {schema}"), fix)
        elif may_grant:
            yield Finding("schema", _who(*key), f"may give {privilege} on schema {schema} to others", fix)


def _defaults(rights: Rights, known: Mapping[Key, Grantee]) -> Iterable[Finding]:
    for identity, name, schema, privilege, owner in rights.defaults:
        key = _key(identity, name)
        entry = known.get(key)
        if entry is not None and entry.superuser:
            continue
        allowed = entry is not None and privilege in entry.privileges and (schema is None or schema in entry.schemas)
        if not allowed:
            place = f"schema {schema}" if schema else "any schema"
            within = f" IN SCHEMA {quoted(schema)}" if schema else ""
            yield Finding(
                "default",
                _who(*key),
                f"may {privilege} every table that {owner} makes in {place}",
                f"ALTER DEFAULT PRIVILEGES FOR USER {quoted(owner)}{within} REVOKE {privilege.upper()} ON TABLES "
                f"FROM {_to(*key)}",
            )


def _system(rights: Rights, known: Mapping[Key, Grantee]) -> Iterable[Finding]:
    for identity, name, privilege in rights.system:
        entry = known.get((identity, name))
        if entry is not None and (entry.superuser or privilege in entry.system):
            continue
        fix = f"REVOKE {privilege.upper()} FROM {_to(identity, name)}"
        yield Finding("system", _who(identity, name), f"may {privilege} in the whole database", fix)
    for name, (is_super, creates, _) in sorted(rights.users.items()):
        if creates and not is_super and not _is_own(name):
            yield Finding("system", _who("user", name), "may create databases", f"ALTER USER {quoted(name)} NOCREATEDB")


def _passwords(rights: Rights, now: datetime) -> Iterable[Finding]:
    for name, (_, _, until) in sorted(rights.users.items()):
        if until is None or _is_own(name):
            continue
        if until <= now:
            yield Finding("password", _who("user", name), f"has a password that expired {until:%F}", "renew or drop it")
        elif until - now < EXPIRES_SOON:
            left = duration_text(timedelta(days=(until - now).days) or timedelta(hours=1))
            yield Finding("password", _who("user", name), f"has a password that expires in {left}", "renew it")


def _moment(text: str | None) -> datetime | None:
    """`2026-12-31 00:00:00` of the view; None: it never expires."""
    if text is None or text.strip() in {"", "infinity"}:
        return None
    found = datetime.fromisoformat(text.strip())
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
