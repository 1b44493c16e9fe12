"""The dead letters that were replayed or dropped."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "settled_letters",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("given_up_at", sa.Double, nullable=False),
        sa.Column("how", sa.Text, nullable=False),
        sa.Column("settled_at", sa.Double, nullable=False),
    )
