"""Every certificate of an agent, whether an agent is still to be put out, and what a target says about its way to us.

An agent enrolled before gets the row of the certificate it was given then: of the only CA there was, and good for the
three years that certificates were good for.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
ENROLLED = sa.table("agent", *(sa.column(name) for name in ("id", "certificate_serial", "enrolled_at")))
CERTIFICATE = sa.table(
    "certificate", *(sa.column(name) for name in ("serial", "agent", "issuer", "issued_at", "expires_at"))
)
THREE_YEARS_S = 3 * 365 * 86400.0


def upgrade() -> None:
    """Add the table and columns, and the certificates of those who are enrolled."""
    op.create_table(
        "certificate",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("replaces", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["agent"], ["agent.id"], name="fk_certificate_agent"),
        sa.PrimaryKeyConstraint("serial", name="pk_certificate"),
    )
    op.create_index("ix_certificate_agent", "certificate", ["agent"])
    begin = ENROLLED.c.enrolled_at
    known = sa.select(ENROLLED.c.certificate_serial, ENROLLED.c.id, sa.literal(""), begin, begin + THREE_YEARS_S)
    op.execute(CERTIFICATE.insert().from_select(["serial", "agent", "issuer", "issued_at", "expires_at"], known))
    op.add_column("agent", sa.Column("evicting", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("target", sa.Column("endpoint", sa.String(), nullable=True))
    op.add_column("target", sa.Column("services_cas", sa.JSON(), nullable=True))
