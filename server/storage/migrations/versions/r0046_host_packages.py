"""What packages hosts have.

Revision ID: 0046
"""

import sqlalchemy as sa
from alembic import op

revision = "0046"
down_revision = "0045"
BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Hosts tell what they have anew."""
    op.create_table(
        "package_chunk",
        sa.Column("id", BIG, nullable=False, autoincrement=True),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_package_chunk"),
        sa.UniqueConstraint("sha256", name="uq_package_chunk_sha256"),
    )
    op.create_table(
        "host",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("security", sa.Integer(), nullable=False),
        sa.Column("told_at", sa.Float(), nullable=False),
        sa.Column("chunks", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_host_target"),
        sa.PrimaryKeyConstraint("target", name="pk_host"),
    )
    op.create_table(
        "host_part",
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("now", sa.String(), nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["target"], ["target.id"], name="fk_host_part_target"),
        sa.PrimaryKeyConstraint("target", "number", name="pk_host_part"),
    )
