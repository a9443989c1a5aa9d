"""What all tables share: one metadata with names that every database agrees on, and numbers of 64 bits."""

from typing import ClassVar

from sqlalchemy import BigInteger, Integer, MetaData, Table
from sqlmodel import SQLModel

BIG = BigInteger().with_variant(Integer, "sqlite")
"""64 bits everywhere; SQLite counts up only plain INTEGER primary keys."""

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class Stored(SQLModel):
    """What all tables share: one metadata with names that every database agrees on."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMES)


def table(name: str) -> Table:
    """The table of this name, which a class was declared for."""
    return Stored.metadata.tables[name]
