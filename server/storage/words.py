"""What was said from outside about targets and labels: one word by name and key, the newest in place of the one before."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select

from server.planner.surroundings import Word
from server.storage.tables import WORD

_OF = (
    select(WORD)
    .where(WORD.c.key.in_(bindparam("keys", expanding=True)), WORD.c.name.in_(bindparam("names", expanding=True)))
    .order_by(WORD.c.name, WORD.c.key)
)


def put(db: Connection, word: Word) -> None:
    """Keep a word, in place of one of the same name about the same."""
    db.execute(delete(WORD).where(WORD.c.name == word.name, WORD.c.key == word.key))
    values = {name: getattr(word, name) for name in Word.__struct_fields__}
    db.execute(insert(WORD).values(**values))


def about(db: Connection, keys: Sequence[str], names: Sequence[str]) -> tuple[Word, ...]:
    """The words of these names about any of these keys: a target's id, or `label=value`."""
    return tuple(Word(**row) for row in db.execute(_OF, {"keys": list(keys), "names": list(names)}).mappings())
