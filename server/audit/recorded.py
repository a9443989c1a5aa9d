"""No act without a record: what changes something and recorded nothing is recorded here, in its own transaction.

Whoever acts says what it did in words of its own. Should it forget, the statements of the transaction tell which tables it
changed, and that goes on the trail: less to read, but there. So it doesn't depend on anybody's care that a record exists.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from server.ports import Clock, Database, Unit

T = TypeVar("T")
CHANGED = "changed"
"""The kind of a record that nobody put into words."""


@dataclass(frozen=True, kw_only=True)
class Act:
    """What a person or script asked for."""

    actor: str
    what: str


_ACT: ContextVar[Act | None] = ContextVar("act", default=None)


@contextmanager
def acting(actor: str, what: str) -> Iterator[None]:
    """Whatever is written meanwhile is this person's act. `what`: a method and an address, for the record without words."""
    token = _ACT.set(Act(actor=actor, what=what))
    try:
        yield
    finally:
        _ACT.reset(token)


class RecordedDatabase:
    """A `Database` whose writes leave a record, or changed nothing but bookkeeping. In an act of a person that counts too."""

    def __init__(self, inner: Database, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock

    async def read(self, work: Callable[[Unit], T]) -> T:
        return await self._inner.read(work)

    async def write(self, work: Callable[[Unit], T]) -> T:
        act = _ACT.get()  # here, since the work runs in a thread that knows nothing of who asked

        def recorded(unit: Unit) -> T:
            outcome = work(unit)
            self._complete(unit, act)
            return outcome

        return await self._inner.write(recorded)

    async def close(self) -> None:
        await self._inner.close()

    def _complete(self, unit: Unit, act: Act | None) -> None:
        tables = unit.audit.unrecorded(bookkeeping=act is not None)
        if not tables:
            return
        by = f"{act.actor} ({act.what})" if act else "The server"
        unit.audit.add(
            at=self._clock.now(),
            kind=CHANGED,
            text=f"{by} changed {', '.join(tables)}.",
            actor=act.actor if act else "server",
            data={"tables": list(tables)},
        )
