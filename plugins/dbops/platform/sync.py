"""The part of a platform file that says which tables of PostgreSQL Aerospike sets follow, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from string import Formatter
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StringConstraints, ValidationInfo, field_validator, model_validator

from dbops.platform.fields import (
    ConnectionId,
    Cron,
    Duration,
    DurationOrZero,
    Model,
    Name,
    NamespaceName,
    PlatformError,
    SetName,
    Whole,
    inherited,
    refuse,
    unique,
)

Identifier = Annotated[str, StringConstraints(pattern=r'^[^\x00".]{1,63}$')]
BinName = Annotated[str, StringConstraints(pattern=r"^[^\x00\s]{1,15}$")]
Form = Literal[
    "text", "integer", "double", "bool", "bool_int", "epoch_us", "epoch_ms", "epoch_s", "iso", "scaled", "decimal",
    "json", "json_text",
]  # fmt: skip
"""What a bin holds: a text; an integer; a double; a boolean, or 0 and 1 (which of the two matters for direct repairs
only); a time as whole units since 1970 or as an ISO 8601 text; a number as an integer of 10**-scale, or as a text; JSON
as a list, map or value of its own (a text is a string then, whatever it looks like), or as a text."""


class SyncColumn(Model):
    column: Identifier
    bin: BinName
    form: Form = "text"
    scale: Annotated[Whole, Field(ge=0, le=18)] = 0
    """Of the form `scaled`: 6 for money in millionths."""
    default: str | bool | int | float | None = None
    """A value that has no bin, as the bin would hold it. NULL never has one."""
    masked: StrictBool = False
    """Its values are shown nowhere."""

    @field_validator("scale")
    @classmethod
    def _of_scaled(cls, value: int, info: ValidationInfo) -> int:
        if value and info.data.get("form") != "scaled":
            raise ValueError("has a meaning with the form scaled only")
        return value


class Expiry(Model):
    column: Identifier
    after: DurationOrZero = timedelta(0)
    """So long after the time in the column a record is gone. NULL: never."""


class SyncPair(Model):
    """A table, and the set that follows it in some clusters."""

    name: Name
    table: Annotated[str, StringConstraints(pattern=r'^[^\x00".]{1,63}(\.[^\x00".]{1,63})?$')]
    clusters: Annotated[tuple[Name, ...], unique("cluster"), Field(min_length=1)]
    namespace: NamespaceName
    set: SetName
    key: str
    """The record's user key, from columns: `{id}`, or `{line_item_id}:{day:YYYYMMDD}` with a pattern of to_char."""
    key_type: Literal["text", "integer"] = "text"
    columns: Annotated[tuple[SyncColumn, ...], Field(min_length=1, max_length=200)]
    ignored: Annotated[tuple[Identifier, ...], unique("column")] = ()
    """Columns that do not go to Aerospike. A column that is neither here nor in `columns` is reported."""
    deleted: Mapping[Identifier, tuple[str, ...]] = Field(default_factory=dict)
    """Values of columns by which a row counts as deleted: it has no record."""
    expires: Expiry | None = None
    changed: Identifier | None = None
    """The column with the time of a row's last change; needed for validations of a window of changes."""
    lag: DurationOrZero = Field(default_factory=inherited)
    """After so long a change must have arrived. Default: the section's."""
    slices: Annotated[Whole, Field(ge=1, le=256)] = 1
    """Parts of the set that are compared, and retried, by themselves. The table is read whole for each."""
    select_bins: StrictBool = False
    """Ask clusters for the mapped bins only: less to send when records hold much else. A record that has none of them
    then looks as if it were missing."""

    @field_validator("key")
    @classmethod
    def _template(cls, value: str) -> str:
        parts = key_parts(value)
        if not any(column for _, column, _ in parts):
            raise ValueError("names no column; write {id}, or {line_item_id}:{day:YYYYMMDD}")
        return value

    @field_validator("key_type")
    @classmethod
    def _whole(cls, value: str, info: ValidationInfo) -> str:
        if value == "integer" and not re.fullmatch(r"\{[^{}:]+\}", info.data.get("key", "{x}")):
            raise ValueError("integer needs a key of one column, {id}")
        return value

    @field_validator("columns")
    @classmethod
    def _once(cls, value: tuple[SyncColumn, ...], info: ValidationInfo) -> tuple[SyncColumn, ...]:
        keys = {column for _, column, _ in key_parts(info.data.get("key", ""))}
        refuse(
            ((n, "masked"), f"{one.column} is part of the key, by which records are named; it cannot be masked")
            for n, one in enumerate(value)
            if one.masked and one.column in keys
        )
        bins = [one.bin for one in value]
        refuse(((n, "bin"), f"{name!r} was named before") for n, name in enumerate(bins) if name in bins[:n])
        return value

    @property
    def key_columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for _, column, _ in key_parts(self.key) if column))


def key_parts(template: str) -> list[tuple[str, str, str]]:
    """Text before, column, and pattern of to_char, in order."""
    try:
        return [(text, column or "", form or "") for text, column, form, _ in Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"is no template: {error}") from None


class Syncer(Model):
    """The service that carries changes: `POST <host of the connection><path>` {"table", "keys"} carries rows again."""

    connection: ConnectionId = "dbops_syncer"
    path: Annotated[str, StringConstraints(pattern=r"^/\S*$")] = "/publish"
    batch: Annotated[Whole, Field(ge=1, le=10_000)] = 500


class SyncStatus(Model):
    """The table in which the syncer says how it is."""

    table: Identifier = "sync_status"
    max_age: Duration = timedelta(hours=1)
    """Of `last_sync_time`; the guide's frequency of synchronisation."""
    max_errors: Annotated[Whole, Field(ge=0)] = 0


class Sync(Model):
    connection: ConnectionId = "dbops_app"
    """PostgreSQL; may lead to a replica."""
    schedule: Cron = "40 * * * *"
    lag: DurationOrZero = timedelta(seconds=60)
    max_replica_lag: Duration = timedelta(seconds=60)
    """A replica that is further behind says nothing about what is missing."""
    listed: Annotated[Whole, Field(ge=1, le=1000)] = 100
    """Differences of a pair that are listed with their values; all are counted."""
    repair: Literal["syncer", "direct"] = "syncer"
    """How differing records are put right: the syncer carries their rows again, or records are written from here."""
    most_repaired: Annotated[Whole, Field(ge=1, le=5000)] = 1000
    """More differences than this are no drift to repair but something to understand first."""
    syncer: Syncer | None = None
    status: SyncStatus | None = Field(default_factory=SyncStatus)
    """None: there is no such table."""
    pairs: Annotated[tuple[SyncPair, ...], unique("pair"), Field(min_length=1)]

    @field_validator("syncer")
    @classmethod
    def _needed(cls, value: Syncer | None, info: ValidationInfo) -> Syncer | None:
        if value is None and info.data.get("repair") == "syncer":
            raise ValueError("is required with `repair: syncer`")
        return value

    @model_validator(mode="after")
    def _inherit(self) -> Sync:
        if self.repair == "syncer" and self.syncer is None:
            raise ValueError("`repair: syncer` needs a section `syncer`")
        for pair in self.pairs:
            if pair.lag is None:
                object.__setattr__(pair, "lag", self.lag)
        return self

    def pair(self, name: str) -> SyncPair:
        """:raises PlatformError: there is no such pair; the message names those that exist."""
        for one in self.pairs:
            if one.name == name:
                return one
        raise PlatformError(f"{name!r} is no pair of `sync`; there are {', '.join(one.name for one in self.pairs)}")
