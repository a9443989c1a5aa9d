"""The audit trail as hash chains, and the checkpoints over them.

Revision ID: 0035
"""

import msgspec
import sqlalchemy as sa
from alembic import op

from server.audit.chain import GENESIS, PARTITIONS, Line, body_of, data_of, digest_of

revision = "0035"
down_revision = "0034"
EARLIER = "earlier"
PAGE = 1000
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """What was recorded before nobody watched over; it becomes a chain of its own, which holds from now on."""
    for name, kind in (("partition", sa.String()), ("number", sa.BigInteger())):
        op.add_column("audit", sa.Column(name, kind, nullable=False, server_default=sa.text("'0'")))
    for name in ("previous", "hash"):
        op.add_column("audit", sa.Column(name, sa.LargeBinary(), nullable=False, server_default=sa.text("''")))
    op.create_table(
        "audit_head",
        sa.Column("partition", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("gone_number", sa.BigInteger(), nullable=False),
        sa.Column("gone_hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("partition", name="pk_audit_head"),
    )
    op.create_table(
        "audit_checkpoint",
        sa.Column("number", BIG, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_checkpoint"),
    )
    number, digest = _chain_what_there_is()
    heads = dict.fromkeys(PARTITIONS, (0, GENESIS)) | ({EARLIER: (number, digest)} if number else {})
    for name, (last, its_hash) in heads.items():
        op.get_bind().execute(
            sa.text("INSERT INTO audit_head VALUES (:partition, :number, :hash, 0, :genesis)"),
            {"partition": name, "number": last, "hash": its_hash, "genesis": GENESIS},
        )
    op.create_index("uq_audit_partition_number", "audit", ["partition", "number"], unique=True)


def _chain_what_there_is() -> tuple[int, bytes]:
    db, number, last, digest = op.get_bind(), 0, 0, GENESIS
    page = sa.text("SELECT * FROM audit WHERE id > :last ORDER BY id LIMIT :page")
    chained = sa.text(
        "UPDATE audit SET partition = :partition, number = :number, previous = :previous, hash = :hash WHERE id = :id"
    )
    while rows := db.execute(page, {"last": last, "page": PAGE}).mappings().all():
        changes = []
        for row in rows:
            number, previous = number + 1, digest
            digest = digest_of(body_of(_line(row, number, previous)))
            place = {"partition": EARLIER, "number": number, "previous": previous, "hash": digest}
            changes.append({**place, "id": row["id"]})
        db.execute(chained, changes)
        last = rows[-1]["id"]
    return number, digest


def _line(row: sa.RowMapping, number: int, previous: bytes) -> Line:
    data = msgspec.json.decode(row["data"]) if isinstance(row["data"], str) else row["data"]
    return Line(
        actor=row["actor"],
        at=row["at"],
        campaign=row["campaign"],
        change_id=row["change_id"],
        data=data_of(data),
        kind=row["kind"],
        number=number,
        partition=EARLIER,
        previous=previous.hex(),
        target=row["target"],
        text=row["text"],
    )
