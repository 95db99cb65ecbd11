"""Restore points, check results, actions and incidents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)
NO_DETAILS = sa.text("'{}'")


def upgrade() -> None:
    op.create_table(
        "restore_point",
        sa.Column("cluster", sa.Text, primary_key=True),
        sa.Column("namespace", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("snapshot_at", TIME, nullable=False),
        sa.Column("committed_at", TIME, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.BigInteger, nullable=False),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
        sa.Column("base", sa.Text),
        sa.Column("parent", sa.Text),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("manifest_sha256", sa.Text, nullable=False),
        sa.Column("verified_at", TIME),
        sa.Column("verified_ok", sa.Boolean),
        sa.Column("problems", JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("gone_at", TIME),
    )
    op.create_index("restore_point_by_snapshot", "restore_point", ["cluster", "namespace", "snapshot_at"])
    op.create_table(
        "check_result",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("ok", sa.Boolean, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("limit", sa.Double),
        sa.Column("unit", sa.Text),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("details", JSONB, nullable=False, server_default=NO_DETAILS),
        sa.UniqueConstraint("name", "target", "run", name="check_result_once"),
    )
    op.create_index("check_result_by_time", "check_result", ["name", "target", "at"])
    op.create_table(
        "action",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("details", JSONB, nullable=False, server_default=NO_DETAILS),
        sa.UniqueConstraint("name", "target", "run", name="action_once"),
    )
    op.create_index("action_by_time", "action", ["started_at"])
    op.create_table(
        "incident",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("severity", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("opened_at", TIME, nullable=False),
        sa.Column("last_seen_at", TIME, nullable=False),
        sa.Column("times_seen", sa.BigInteger, nullable=False, server_default=sa.text("1")),
        sa.Column("last_seen_in", sa.Text),
        sa.Column("resolved_at", TIME),
        sa.Column("details", JSONB, nullable=False, server_default=NO_DETAILS),
        sa.Column("channels", JSONB, nullable=False, server_default=NO_DETAILS),
    )
    op.create_index(
        "incident_one_open", "incident", ["key"], unique=True, postgresql_where=sa.text("resolved_at IS NULL")
    )
    op.create_index("incident_by_key", "incident", ["key", "opened_at"])


def downgrade() -> None:
    raise NotImplementedError("the ledger is only migrated forward; restore its database to go back")
