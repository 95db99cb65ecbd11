"""Days that were archived from the warehouse."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "archived_partition",
        sa.Column("dataset", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("attempt", sa.Text, primary_key=True),
        sa.Column("part", sa.BigInteger, nullable=False),
        sa.Column("table_name", sa.Text, nullable=False),
        sa.Column("column_name", sa.Text, nullable=False),
        sa.Column("range_first", TIME, nullable=False),
        sa.Column("range_end", TIME, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("manifest_sha256", sa.Text),
        sa.Column("checks", JSONB, nullable=False),
        sa.Column("archived_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME, nullable=False),
        sa.Column("attached_at", TIME),
    )
    op.create_index("archived_partition_by_time", "archived_partition", ["archived_at"])


def downgrade() -> None:
    raise NotImplementedError("the ledger is only migrated forward; restore its database to go back")
