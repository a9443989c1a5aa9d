"""Revisions keep whole selections, not only labels.

Revision ID: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """What was kept so far were the labels."""
    table = sa.table(
        "campaign_revision",
        sa.column("campaign", sa.String()),
        sa.column("number", sa.Integer()),
        sa.column("selection", sa.JSON()),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(table)).fetchall():
        mine = (table.c.campaign == row.campaign) & (table.c.number == row.number)
        connection.execute(sa.update(table).where(mine).values(selection={"labels": row.selection or {}}))
