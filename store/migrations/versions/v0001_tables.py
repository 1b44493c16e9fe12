"""The first schema: products, users, forgotten users, leases, checkpoints, facts."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "products",
        sa.Column("product_id", sa.Text, primary_key=True),
        sa.Column("fields", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("content_revision", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("field_times", sa.Text, nullable=False),
        sa.Column("encoder", sa.Text),
        sa.Column("image_state", sa.Text, nullable=False),
        sa.Column("image_reason", sa.Text),
        sa.Column("retry_at", sa.Double),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("offsets", sa.Text, nullable=False),
    )
    op.create_index("products_changed_at", "products", ["changed_at", "product_id"])
    op.create_index("products_retry_at", "products", ["retry_at"])
    op.create_table(
        "users",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("history", sa.LargeBinary, nullable=False),
        sa.Column("recent_event_ids", sa.Text, nullable=False),
        sa.Column("offsets", sa.Text, nullable=False),
        sa.Column("embedding", sa.LargeBinary),
        sa.Column("embedding_version", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
    )
    op.create_table(
        "forgotten_users",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("offsets", sa.Text, nullable=False),
        sa.Column("forgotten_at", sa.Double, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("saved_at", sa.Double, nullable=False),
    )
    facts = op.create_table(
        "facts",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    # Made once with the table, so that two workers can never hash a forgotten user with different salts.
    op.bulk_insert(facts, [{"name": "forgotten-salt", "value": secrets.token_hex(16)}])
