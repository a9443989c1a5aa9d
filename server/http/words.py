"""Words from outside about targets, over REST."""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from aiohttp import web
from msgspec import Meta, Struct

from firmware.protocol.words import ID_PATTERN
from server.http.access import Caller, Need
from server.http.bodies import read_json
from server.http.routes import Route, reply
from server.planner.surroundings import Word

LABEL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}=[^\x00-\x1f\x7f]{1,128}\Z"


class Said(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body: whether what `name` stands for is good, about `target` or about all that have `label` (`name=value`)."""

    name: Annotated[str, Meta(pattern=ID_PATTERN)]
    verdict: Literal["good", "bad"]
    expires_s: Annotated[int, Meta(ge=60, le=366 * 86400)]
    target: Annotated[str, Meta(pattern=ID_PATTERN)] | None = None
    label: Annotated[str, Meta(pattern=LABEL_PATTERN)] | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""

    def __post_init__(self) -> None:
        if (self.target is None) == (self.label is None):
            raise ValueError("it must be about a `target` or about a `label`")


class Words(Protocol):
    """Takes words in. Raises typed errors."""

    async def say(self, name: str, key: str, *, good: bool, expires_s: int, by: str, reason: str) -> Word: ...


class WordRoutes:
    """The handler."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def routes(self) -> Sequence[Route]:
        return (Route(method="POST", path="/words", need=Need.OPERATE, action=self.say, body=Said, answer=Word),)

    async def say(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Keep a word that preconditions may wait for."""
        said = await read_json(request, Said)
        key = said.target or said.label or ""
        good = said.verdict == "good"
        word = await self._words.say(
            said.name, key, good=good, expires_s=said.expires_s, by=caller.name, reason=said.reason
        )
        return reply(word)
