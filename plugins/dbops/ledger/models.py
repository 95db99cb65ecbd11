"""The tables of the ledger. They only ever remember; what is true lies in the systems and in S3."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, Date, DateTime, Double, Identity, Index, Text, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        date: Date(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: JSONB,
        int: BigInteger,
        float: Double,
        str: Text,
    }


class RestorePoint(Base):
    """One committed backup. The manifest in S3 is the truth; this row can be rebuilt from it."""

    __tablename__ = "restore_point"

    cluster: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    snapshot_at: Mapped[datetime]
    committed_at: Mapped[datetime]
    records: Mapped[int]
    deleted: Mapped[int]
    stored_bytes: Mapped[int]
    base: Mapped[str | None]
    parent: Mapped[str | None]
    location: Mapped[str]
    manifest_sha256: Mapped[str]
    verified_at: Mapped[datetime | None]
    verified_ok: Mapped[bool | None]
    problems: Mapped[list[str]] = mapped_column(server_default=text("'[]'"))
    gone_at: Mapped[datetime | None]
    """When it expired, or when `rebuild` no longer found its manifest."""

    __table_args__ = (Index("restore_point_by_snapshot", "cluster", "namespace", "snapshot_at"),)


class ArchivedPartition(Base):
    """Rows of a day that are in the archive, and no longer in the warehouse. Its document in S3 is the truth."""

    __tablename__ = "archived_partition"

    dataset: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    attempt: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[int]
    """1 for the first time that rows of the day were archived, then one more for each time that rows were late."""
    table_name: Mapped[str]
    column_name: Mapped[str]
    range_first: Mapped[datetime]
    range_end: Mapped[datetime]
    """Exclusive."""
    rows: Mapped[int]
    bytes: Mapped[int]
    files: Mapped[int]
    location: Mapped[str]
    document: Mapped[str]
    """Where the part's document is."""
    manifest_sha256: Mapped[str | None]
    checks: Mapped[dict[str, Any]]
    archived_at: Mapped[datetime]
    deleted_at: Mapped[datetime]
    attached_at: Mapped[datetime | None]
    """When the rows were brought back into the warehouse, where they still are."""

    __table_args__ = (Index("archived_partition_by_time", "archived_at"),)


class CheckResult(Base):
    """What a check saw. One row per check, target and run, so that a retried task writes its row once."""

    __tablename__ = "check_result"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    target: Mapped[str]
    run: Mapped[str]
    at: Mapped[datetime]
    ok: Mapped[bool]
    value: Mapped[float | None]
    limit: Mapped[float | None]
    unit: Mapped[str | None]
    message: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    __table_args__ = (
        UniqueConstraint("name", "target", "run", name="check_result_once"),
        Index("check_result_by_time", "name", "target", "at"),
    )


class Action(Base):
    """What was done to a system: a backup, a verification, a restore. One row per action, target and run."""

    __tablename__ = "action"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    target: Mapped[str]
    run: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str]
    """running, done, failed or skipped"""
    message: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))

    __table_args__ = (
        UniqueConstraint("name", "target", "run", name="action_once"),
        Index("action_by_time", "started_at"),
    )


class Incident(Base):
    """One problem from its first sight to its end. At most one of a key is open."""

    __tablename__ = "incident"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    key: Mapped[str]
    severity: Mapped[str]
    """critical, warning or summary; rises while the incident is open, never falls"""
    title: Mapped[str]
    opened_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    times_seen: Mapped[int] = mapped_column(server_default=text("1"))
    last_seen_in: Mapped[str | None]
    """The run that saw it last; the same run reporting again is not counted again."""
    resolved_at: Mapped[datetime | None]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    channels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    """Channel name -> {state, at, severity, failures, error}; see `dbops.ledger.incidents`."""

    __table_args__ = (
        Index("incident_one_open", "key", unique=True, postgresql_where=text("resolved_at IS NULL")),
        Index("incident_by_key", "key", "opened_at"),
    )
