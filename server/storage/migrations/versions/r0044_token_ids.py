"""People's tokens have ids, so that lists and acts can name one without naming what is known of its secret.

Revision ID: 0044
"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0044"
down_revision = "0040"


def upgrade() -> None:
    """Those that are there get one each."""
    db = op.get_bind()
    kept = [dict(row) for row in db.execute(sa.text("SELECT * FROM api_token")).mappings()]
    op.drop_table("api_token")
    made = op.create_table(
        "api_token",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_token"),
        sa.UniqueConstraint("secret_sha256", name="uq_api_token_secret_sha256"),
    )
    op.create_index("ix_api_token_name_id", "api_token", ["name", "id"])
    op.bulk_insert(made, [{"id": f"p-{secrets.token_hex(5)}", **row} for row in kept])
