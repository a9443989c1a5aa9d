"""What groups are held to, and how many members they have.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_COUNT = """
INSERT INTO group_size (key, members, offline)
SELECT l.name || '=' || l.value, count(*), sum(CASE WHEN NOT t.presence AND NOT EXISTS (
    SELECT 1 FROM token k WHERE k.target = l.target AND k."group" = l.name || '=' || l.value
  ) THEN 1 ELSE 0 END)
FROM target_label l JOIN target t ON t.id = l.target JOIN agent a ON a.id = t.agent
WHERE a.status NOT IN ('revoked', 'decommissioned')
GROUP BY l.name, l.value
"""


def upgrade() -> None:
    """Add what budgets of members need, and count the members there are."""
    op.add_column("budget_group", sa.Column("keep", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.add_column("budget_group", sa.Column("counts_offline", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "group_size",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("offline", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_group_size"),
    )
    op.execute(_COUNT)
