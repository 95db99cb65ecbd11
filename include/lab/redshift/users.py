"""Users, groups, roles and privileges: Redshift's three kinds of principal are all roles of PostgreSQL.

What PostgreSQL has no place for (which kind a principal is, privileges to DROP and ALTER, system privileges of roles)
is kept beside, by functions of the schema `rs`.
"""

from __future__ import annotations

import re

from dbops_lab.redshift.ddl import Reader
from dbops_lab.redshift.errors import BackendError, unsupported
from dbops_lab.redshift.lexer import STRING, Token, identifier
from dbops_lab.redshift.rewrite import Group, Node, symbol, word

NATIVE = ("select", "insert", "update", "delete", "references", "truncate", "create", "usage", "temporary", "temp",
          "execute")  # fmt: skip
BESIDE = ("drop", "alter")  # of tables
SYSTEM = (
    "create user", "drop user", "alter user", "create schema", "drop schema", "alter default privileges",
    "create table", "drop table", "alter table", "create or replace view", "drop view", "create role", "drop role",
    "truncate table", "vacuum", "analyze", "cancel", "access system table", "access catalog",
)  # fmt: skip


def text(value: str) -> str:
    """A literal inside a function's body, which knows no backslashes."""
    return "'" + value.replace("'", "''") + "'"


def body(*statements: str) -> str:
    """Several statements as one."""
    return f"DO $rs$ BEGIN {' '.join(statement + ';' for statement in statements)} END $rs$"


# ---------------------------------------------------------------------------------------------- principals


def create(reader: Reader) -> tuple[str, str]:
    """`CREATE USER|GROUP|ROLE ...`: statement and tag."""
    reader.expect("create")
    kind = reader.one_of("user", "group", "role")
    name = reader.name()
    role = identifier(name)
    note = f"PERFORM rs.note_principal({text(name)}, {text(kind)})"
    if kind == "user":
        syslog = _syslog(reader, name)
        options, groups = _user_options(reader, is_new=True)
        joins = [f"GRANT {identifier(group)} TO {role}" for group in groups]
        return body(f"CREATE ROLE {role} LOGIN {options}", note, *syslog, *joins), "CREATE USER"
    members: list[str] = []
    if kind == "group":
        reader.accept("with")
        if reader.accept("user"):
            members = _names(reader)
    _done(reader)
    joins = [f"GRANT {role} TO {identifier(member)}" for member in members]
    return body(f"CREATE ROLE {role} NOLOGIN", note, *joins), f"CREATE {kind.upper()}"


def alter(reader: Reader) -> tuple[str, str]:
    """`ALTER USER|GROUP ...`."""
    reader.expect("alter")
    kind = reader.one_of("user", "group", "role")
    name = reader.name()
    role = identifier(name)
    if reader.accept("rename", "to"):
        return f"ALTER ROLE {role} RENAME TO {identifier(reader.name())}", f"ALTER {kind.upper()}"
    if kind == "group":
        verb = reader.one_of("add", "drop")
        reader.expect("user")
        way = "GRANT {} TO {}" if verb == "add" else "REVOKE {} FROM {}"
        return body(*(way.format(role, identifier(name)) for name in _names(reader))), "ALTER GROUP"
    if kind == "role":
        reader.expect("owner", "to")
        reader.name()
        return body("NULL"), "ALTER ROLE"
    if word(reader.next) in ("set", "reset"):
        raise unsupported("ALTER USER ... SET")
    syslog = _syslog(reader, name)
    options, _ = _user_options(reader, is_new=False)
    changes = [f"ALTER ROLE {role} {options}"] if options else []
    return body(*changes, *syslog), "ALTER USER"


def drop(reader: Reader) -> tuple[str, str]:
    """`DROP USER|GROUP|ROLE ...`."""
    reader.expect("drop")
    kind = reader.one_of("user", "group", "role")
    optional = "IF EXISTS " if reader.accept("if", "exists") else ""
    names = _names(reader)
    if kind == "role" and not reader.is_done:
        reader.one_of("force", "restrict")
    _done(reader)
    return f"DROP ROLE {optional}{', '.join(map(identifier, names))}", f"DROP {kind.upper()}"


def _syslog(reader: Reader, name: str) -> list[str]:
    """What notes SYSLOG ACCESS, which may stand anywhere among the options."""
    words = [word(node) for node in reader.nodes[reader.at :]]
    for at in range(len(words)):
        if words[at : at + 2] == ["syslog", "access"]:
            sees = words[at + 2 : at + 3] == ["unrestricted"]
            return [f"PERFORM rs.note_syslog({text(name)}, {str(sees).lower()})"]
    return []


def _role(reader: Reader) -> str:
    """A role's name; those of Redshift itself have a colon, and are written without quotes."""
    name = reader.name()
    if name == "sys" and symbol(reader.next) == ":":
        reader.take()
        return f"sys:{reader.name()}"
    return name


def _user_options(reader: Reader, *, is_new: bool) -> tuple[str, list[str]]:
    reader.accept("with")
    options: list[str] = []
    groups: list[str] = []
    has_password = False
    while not reader.is_done:
        if reader.accept("password"):
            has_password = True
            if not reader.accept("disable"):
                options.append(f"PASSWORD {text(_password(reader))}")
            elif not is_new:
                options.append("PASSWORD NULL")
        elif reader.accept("createdb") or reader.accept("nocreatedb"):
            options.append(word(reader.nodes[reader.at - 1]).upper())
        elif reader.accept("createuser"):
            options.append("SUPERUSER")
        elif reader.accept("nocreateuser"):
            options.append("NOSUPERUSER")
        elif reader.accept("syslog", "access"):
            reader.one_of("restricted", "unrestricted")
        elif reader.accept("in", "group"):
            groups = _names(reader)
        elif reader.accept("valid", "until"):
            options.append(f"VALID UNTIL {text(_string(reader))}")
        elif reader.accept("connection", "limit"):
            limit = reader.take().text
            options.append(f"CONNECTION LIMIT {'-1' if limit.lower() == 'unlimited' else limit}")
        elif reader.accept("session", "timeout"):
            reader.take()
        else:
            reader.fail()
    if is_new and not has_password:
        raise BackendError("42601", "PASSWORD is required: give one, or PASSWORD DISABLE")
    return " ".join(options), groups


def _string(reader: Reader) -> str:
    node = reader.take()
    if not isinstance(node, Token) or node.kind != STRING:
        raise BackendError("42601", f'syntax error at or near "{node.text}"')
    return node.value


def _password(reader: Reader) -> str:
    password = _string(reader)
    if re.fullmatch(r"md5[0-9a-f]{32}|sha256\|.*", password):
        raise unsupported("passwords that are hashed already")
    is_strong = all(re.search(pattern, password) for pattern in ("[A-Z]", "[a-z]", "[0-9]"))
    if not 8 <= len(password) <= 64 or not is_strong:
        raise BackendError(
            "22023",
            "Password must be 8 to 64 characters with one uppercase letter, one lowercase letter and one number",
        )
    return password


def _names(reader: Reader) -> list[str]:
    names = [reader.name()]
    while symbol(reader.next) == ",":
        reader.take()
        names.append(reader.name())
    return names


def _done(reader: Reader) -> None:
    if not reader.is_done:
        reader.fail()


# ---------------------------------------------------------------------------------------------- privileges


def grant(reader: Reader) -> tuple[str, str]:
    """`GRANT ...` and `REVOKE ...` in all forms that this stand-in has."""
    verb = reader.one_of("grant", "revoke")
    option_only = verb == "revoke" and reader.accept("grant", "option", "for")
    if verb == "revoke" and reader.accept("admin", "option", "for"):
        raise unsupported("REVOKE ADMIN OPTION FOR")
    if reader.accept("role"):
        return _grant_roles(reader, verb)
    privileges = _privileges(reader)
    if reader.accept("on"):
        return _grant_on(reader, verb, privileges, option_only=option_only)
    return _grant_system(reader, verb, privileges)


def _grant_roles(reader: Reader, verb: str) -> tuple[str, str]:
    roles = [_role(reader)]
    while symbol(reader.next) == ",":
        reader.take()
        reader.accept("role")
        roles.append(_role(reader))
    reader.expect("to" if verb == "grant" else "from")
    grantees = _grantees(reader)
    option = " WITH ADMIN OPTION" if reader.accept("with", "admin", "option") else ""
    _done(reader)
    way = "GRANT {} TO {}" if verb == "grant" else "REVOKE {} FROM {}"
    return body(*(way.format(identifier(r), grantee) + option for r in roles for grantee in grantees)), verb.upper()


def _privileges(reader: Reader) -> list[tuple[str, str]]:
    """Privileges with their columns, until ON, TO or FROM."""
    found: list[tuple[str, str]] = []
    words: list[str] = []
    columns = ""
    while True:
        node = reader.next
        if node is None:
            reader.fail()
        if isinstance(node, Group):
            columns = f" ({', '.join(map(identifier, reader.names()))})"
            continue
        is_end = word(node) in ("on", "to", "from")
        if is_end or symbol(node) == ",":
            name = " ".join(words)
            found.append(("all" if name in ("all", "all privileges") else name, columns))
            words, columns = [], ""
            if is_end:
                return found
            reader.take()
            continue
        words.append(word(reader.take()))


def _grantees(reader: Reader) -> list[str]:
    found = []
    while True:
        if reader.accept("public"):
            found.append("PUBLIC")
        else:
            if not reader.accept("group") and not reader.accept("role"):
                reader.accept("user")
            found.append(identifier(reader.name()))
        if symbol(reader.next) != ",":
            return found
        reader.take()


def _grant_on(reader: Reader, verb: str, privileges: list[tuple[str, str]], *, option_only: bool) -> tuple[str, str]:
    target, tables = _target(reader)
    reader.expect("to" if verb == "grant" else "from")
    grantees = _grantees(reader)
    option = " WITH GRANT OPTION" if verb == "grant" and reader.accept("with", "grant", "option") else ""
    how = f" {reader.one_of('restrict', 'cascade').upper()}" if verb == "revoke" and not reader.is_done else ""
    _done(reader)
    native = [f"{name.upper()}{columns}" for name, columns in privileges if name in NATIVE or name == "all"]
    beside = [name for name, _ in privileges if name in BESIDE]
    if unknown := [name for name, _ in privileges if name not in (*NATIVE, *BESIDE, "all")]:
        raise BackendError("42601", f'unrecognized privilege type "{unknown[0]}"')
    if "all" in [name for name, columns in privileges if not columns]:
        beside = list(BESIDE)
    names = ", ".join(grantees)
    statements = []
    if native:
        way = f"GRANT {', '.join(native)} ON {target} TO {names}{option}"
        if verb == "revoke":
            asked = "GRANT OPTION FOR " if option_only else ""
            way = f"REVOKE {asked}{', '.join(native)} ON {target} FROM {names}{how}"
        statements.append(way)
    for table in tables:
        for name in beside:
            for grantee in grantees:
                given = "NULL" if grantee == "PUBLIC" else text(grantee)
                arguments = f"{text(table)}, {given}, {text(name.upper())}, {str(verb == 'grant').lower()}"
                statements.append(f"PERFORM rs.note_privilege({arguments})")
    if not statements:
        raise BackendError("42601", f"privilege {', '.join(beside).upper()} is of tables only")
    return body(*statements), verb.upper()


def _target(reader: Reader) -> tuple[str, list[str]]:
    """What is granted on, and the tables among it by name (a schema's as `schema.*`)."""
    if reader.accept("all", "tables", "in", "schema"):
        schemas = _names(reader)
        return f"ALL TABLES IN SCHEMA {', '.join(map(identifier, schemas))}", [f"{identifier(s)}.*" for s in schemas]
    for kind in ("schema", "database"):
        if reader.accept(kind):
            return f"{kind.upper()} {', '.join(map(identifier, _names(reader)))}", []
    if word(reader.next) in ("function", "procedure", "language", "model", "datashare", "external"):
        raise unsupported(f"privileges on {word(reader.next)}s")
    reader.accept("table")
    tables = [reader.qualified()]
    while symbol(reader.next) == ",":
        reader.take()
        tables.append(reader.qualified())
    return f"TABLE {', '.join(tables)}", tables


def _grant_system(reader: Reader, verb: str, privileges: list[tuple[str, str]]) -> tuple[str, str]:
    reader.expect("to" if verb == "grant" else "from")
    reader.expect("role")
    reader.at -= 1
    roles = _grantees(reader)
    _done(reader)
    statements = []
    for name, _ in privileges:
        if name not in SYSTEM:
            raise BackendError("42601", f'unrecognized system privilege "{name}"')
        statements += [
            f"PERFORM rs.note_system({text(role)}, {text(name.upper())}, {str(verb == 'grant').lower()})"
            for role in roles
        ]
    return body(*statements), verb.upper()


def default_privileges(reader: Reader) -> tuple[str, str]:
    """`ALTER DEFAULT PRIVILEGES [FOR USER u] [IN SCHEMA s] GRANT|REVOKE ... ON TABLES ...`."""
    reader.expect("alter", "default", "privileges")
    parts = ["ALTER DEFAULT PRIVILEGES"]
    owners: list[str] = []
    schemas: list[str] = []
    if reader.accept("for"):
        reader.expect("user")
        owners = list(map(identifier, _names(reader)))
        parts.append(f"FOR ROLE {', '.join(owners)}")
    if reader.accept("in", "schema"):
        schemas = list(map(identifier, _names(reader)))
        parts.append(f"IN SCHEMA {', '.join(schemas)}")
    verb = reader.one_of("grant", "revoke")
    privileges = _privileges(reader)
    reader.expect("on", "tables")
    reader.expect("to" if verb == "grant" else "from")
    grantees = _grantees(reader)
    _done(reader)
    native = [name.upper() for name, _ in privileges if name in NATIVE or name == "all"]
    beside = [name for name, _ in privileges if name in BESIDE]
    if len(native) + len(beside) != len(privileges):
        raise unsupported("default privileges of this kind")
    statements = []
    if native:
        way = "TO" if verb == "grant" else "FROM"
        parts.append(f"{verb.upper()} {', '.join(native)} ON TABLES {way} {', '.join(grantees)}")
        statements.append(" ".join(parts))
    for owner in owners or [None]:
        for schema in schemas or [None]:
            for grantee in grantees:
                who = None if grantee == "PUBLIC" else grantee
                places = ["NULL" if place is None else text(place) for place in (owner, schema, who)]
                given = str(verb == "grant").lower()
                statements += [
                    f"PERFORM rs.note_default({', '.join(places)}, {text(name.upper())}, {given})" for name in beside
                ]
    return body(*statements), "ALTER DEFAULT PRIVILEGES"


def is_principal(nodes: list[Node]) -> bool:
    """Whether a CREATE, ALTER or DROP is about one of the three."""
    reader = Reader(nodes)
    reader.take()
    return word(reader.next) in ("user", "group", "role")


__all__ = ["alter", "body", "create", "default_privileges", "drop", "grant", "is_principal", "text"]
