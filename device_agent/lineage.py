"""The journal's schema, and the way from one to the next and back.

How to change the record: give what is new a default that old records may have, raise `SCHEMA`, and add a step: `up` makes a
record of the schema before into one of this schema, `down` the reverse, both on the JSON object that the record is. `down` may
lose what the older agent has no place for, and must give it everything that it reads. A step is never changed once it was
released, and no schema is ever skipped. A field with a default that an older agent may pass over needs no step at all.

Why both ways: a trial boots a new agent on the old one's journal, and falling back does the reverse. Until its commit the new
agent writes only what the old one reads; afterwards it writes both forms, until the old slot is overwritten (see
`device_agent.journal`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import Struct

from device_agent.core.states import Activating, Standing, Trial
from device_agent.ports import BootOutcome, Slot

SCHEMA = 1
Body = dict[str, Any]
"""A record as its JSON object."""


class Step(NamedTuple):
    """From the schema before to this one, and back."""

    up: Callable[[Body], Body]
    down: Callable[[Body], Body]


STEPS: Mapping[int, Step] = {}
"""By the schema that `up` leads to."""


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The schema that an agent writes, and the steps to it."""

    schema: int = SCHEMA
    steps: Mapping[int, Step] = field(default_factory=lambda: STEPS)

    def __post_init__(self) -> None:
        lacking = set(range(2, self.schema + 1)) - set(self.steps)
        if lacking:
            raise ValueError(f"No step leads to schema {min(lacking)}.")

    def up(self, body: Body, schema: int) -> Body:
        """A record of an earlier schema as one of ours."""
        for number in range(schema + 1, self.schema + 1):
            body = {**self.steps[number].up(body), "schema": number}
        return body

    def down(self, body: Body, schema: int) -> Body:
        """A record of ours as one of an earlier schema."""
        for number in range(self.schema, schema, -1):
            body = {**self.steps[number].down(body), "schema": number - 1}
        return body


OWN = Lineage()


class Reader(Struct, frozen=True, kw_only=True):
    """Who may come to read the journal: the agent in a slot that holds the image `sha256` (empty: unknown) reads `schema`."""

    sha256: str = ""
    schema: int


def readers_of(readers: Mapping[Slot, Reader], standing: Standing, schema: int) -> dict[Slot, Reader]:
    """The readers after a step: one goes when its slot holds another image; who runs here and is committed reads `schema`."""
    slots = standing.slots
    kept = {slot: one for slot, one in readers.items() if slot not in slots or slots[slot].sha256 == one.sha256}
    if on_trial(standing):
        return kept
    running = slots.get(standing.boot.slot)
    return {**kept, standing.boot.slot: Reader(sha256=running.sha256 if running else "", schema=schema)}


def on_trial(standing: Standing) -> bool:
    """Whether what runs has yet to be committed."""
    if standing.boot.outcome is not BootOutcome.TRIAL:
        return False
    running = standing.slots.get(standing.boot.slot)
    return isinstance(standing.state, Activating | Trial) or running is None or not running.good


def forms_of(readers: Mapping[Slot, Reader], standing: Standing, own: int, found: int) -> tuple[int, ...]:
    """The schemas to write a record in, rising: in a trial only the one of the slot that would come back (`found`: what the
    journal had, if that isn't known); otherwise our own, and an older one that the other slot's agent still reads."""
    other = readers.get(standing.boot.slot.other)
    oldest = min(own, other.schema) if other is not None else own
    if on_trial(standing):
        return (oldest if other is not None else min(own, found),)
    return (own,) if oldest == own else (oldest, own)
