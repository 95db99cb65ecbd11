"""The part of a platform file that says how PostgreSQL is to be: migrations, what is audited, who may what, changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StringConstraints, field_validator

from dbops.platform.fields import Duration, Model, Number, Whole
from dbops.platform.postgres_backup import DatabaseName
from dbops.platform.redshift import Percent, TableName

RoleName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[^\x00]+$")]
SettingName = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z0-9_$]+)*$")]
Attribute = Literal["superuser", "createrole", "createdb", "replication", "bypassrls"]
Privilege = Literal["select", "insert", "update", "delete", "truncate", "references", "trigger", "maintain"]
SequencePrivilege = Literal["usage", "select", "update"]


class Migrated(Model):
    """Up to which of goose's versions a database is to be."""

    name: DatabaseName
    version: Annotated[Whole, Field(ge=0)]
    """Of the newest migration that is to be applied: the number that its file begins with."""
    table: TableName = "public.goose_db_version"
    ahead: StrictBool = False
    """A later version is well too: where changes are tried before they reach production."""


class ChangeGuard(Model):
    """What keeps a change from being made now, beside a limit of `limits` or `health` that is passed."""

    staging: DatabaseName | None = None
    """A database in which a migration must have been applied before. None: that is not looked at."""
    long_transaction: Duration = timedelta(minutes=5)
    """An older transaction would be waited for by the first ALTER TABLE, and everybody else behind it."""
    free_connections: Percent = 30
    """Of those that ordinary roles can have; fewer may be free than when nothing is changed."""
    backup_age: Duration = timedelta(minutes=15)
    """To a moment that is no older the instance can be restored."""
    snapshot_timeout: Duration = timedelta(hours=2)


class Audit(Model):
    """What is to be written to the server's log, and who may change the schema."""

    log: Literal["rds", "server", "none"] = "none"
    """How the log is read: through the API of RDS, or from the log directory by the function of
    include/sql/postgres/grants_log.sql. none: it is out of reach, and nothing is known of who changed the schema."""
    settings: Mapping[SettingName, str] = Field(default_factory=lambda: {"pgaudit.log": "ddl, role"})
    """Setting -> the value that it is to have; of a list (pgaudit.log), what it is to have at least."""
    ddl_roles: tuple[RoleName, ...] = ()
    """Roles that may change the schema and rights: that of the migrations."""
    look_back: Duration = timedelta(days=1)
    """How far the first look goes back; each later one begins where the one before ended."""
    most_mb: Annotated[Number, Field(gt=0)] = 256
    """Of the log that one look reads; the next one goes on from there."""


class PostgresGrantee(Model):
    """What a role may do; `public` is everybody. What goes beyond it is reported, and what is missing of it."""

    name: RoleName
    attributes: tuple[Attribute, ...] = ()
    member_of: tuple[RoleName, ...] = ()
    databases: tuple[DatabaseName, ...] = ()
    """In which it may connect, and has what follows. Empty: all of the platform file."""
    schemas: tuple[str, ...] = ()
    privileges: tuple[Privilege, ...] = ()
    """On every table of these schemas."""
    tables: Mapping[TableName, tuple[Privilege, ...]] = Field(default_factory=dict)
    """On single tables, beside those."""
    sequences: tuple[SequencePrivilege, ...] = ()
    creates: StrictBool = False
    """It may create in these schemas."""
    owns: StrictBool = False
    """It may own tables there: an owner may do everything with them."""
    temporary: StrictBool = False
    """It may make temporary tables."""

    @field_validator("attributes")
    @classmethod
    def _of_a_role(cls, value: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
        return tuple(dict.fromkeys(value))
