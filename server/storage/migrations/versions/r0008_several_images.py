"""Releases of several images: each slot set's in a list, all of them under one hash; legs say for which set they are.

Revision ID: 0008, which follows 0011
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_RELEASE = sa.table(
    "release",
    sa.column("product", sa.String()),
    sa.column("version", sa.String()),
    sa.column("image_path", sa.String()),
    sa.column("image_length", sa.BigInteger()),
    sa.column("image_sha256", sa.String()),
    sa.column("encrypted", sa.JSON(none_as_null=True)),
    sa.column("sha256", sa.String()),
    sa.column("images", sa.JSON()),
)


def upgrade() -> None:
    """Rewrite what there is: a release of before has one image, in `root`, and its content's hash is that image's own."""
    op.add_column("release", sa.Column("sha256", sa.String(), nullable=True))
    op.add_column("release", sa.Column("images", sa.JSON(), nullable=True))
    op.add_column("campaign_leg", sa.Column("slot", sa.String(), nullable=True))
    db = op.get_bind()
    for row in db.execute(sa.select(_RELEASE)).mappings().all():
        which = (_RELEASE.c.product == row["product"], _RELEASE.c.version == row["version"])
        values = {"sha256": row["image_sha256"], "images": [_image(dict(row))]}
        db.execute(sa.update(_RELEASE).where(*which).values(**values))
    db.execute(sa.text("UPDATE campaign_leg SET slot = 'root'"))
    with op.batch_alter_table("release") as release:
        release.alter_column("sha256", existing_type=sa.String(), nullable=False)
        release.alter_column("images", existing_type=sa.JSON(), nullable=False)
        for name in ("image_path", "image_length", "image_sha256", "encrypted"):
            release.drop_column(name)
    with op.batch_alter_table("campaign_leg") as leg:
        leg.alter_column("slot", existing_type=sa.String(), nullable=False)
    op.create_index("ix_release_sha256", "release", ["sha256"])


def _image(row: dict[str, Any]) -> dict[str, Any]:
    file = {"path": row["image_path"], "length": row["image_length"], "sha256": row["image_sha256"]}
    return {"slot": "root", "file": file, "encrypted": row["encrypted"]}
