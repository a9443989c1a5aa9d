"""What people and other systems say about targets: a backup is verified, a check elsewhere passed. Preconditions wait for it."""

from server.errors import NotFoundError
from server.planner.surroundings import Word
from server.ports import Clock, Database, Unit


class WordService:
    """Takes words in, each with a line on the trail."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def say(self, name: str, key: str, *, good: bool, expires_s: int, by: str, reason: str) -> Word:
        """Keep a word about a target (its id) or about all that have a label (`name=value`); raises `NotFoundError` for a target
        that isn't there."""
        now = self._clock.now()
        word = Word(name=name, key=key, good=good, by=by, reason=reason, at=now, expires_at=now + expires_s)
        await self._database.write(lambda unit: _keep(unit, word))
        return word


def _keep(unit: Unit, word: Word) -> None:
    target = None if "=" in word.key else word.key
    if target is not None and unit.fleet.target(target) is None:
        raise NotFoundError(f"There is no target {target}; `otaria fleet list` shows those there are.")
    unit.fleet.put_word(word)
    verdict, why = "good" if word.good else "bad", f": {word.reason}" if word.reason else ""
    text = f"{word.name} of {word.key} is {verdict}, by {word.by}{why}."
    unit.audit.add(at=word.at, kind="word", text=text, actor=word.by, target=target)
