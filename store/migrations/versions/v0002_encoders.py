"""The versions of the encoders: which there are, which is filled, which serves."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "encoders",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("served", sa.BigInteger, nullable=False),
        sa.Column("life", sa.BigInteger, nullable=False),
        sa.Column("first", sa.Boolean, nullable=False),
        sa.Column("sources", sa.Text, nullable=False),
        sa.Column("widths", sa.Text, nullable=False),
        sa.Column("about", sa.Text, nullable=False),
        sa.Column("has_files", sa.Boolean, nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.Column("filled_at", sa.Double),
    )
