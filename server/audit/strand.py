"""One partition, record by record: what was changed, removed, put in or moved.

It needs a number and a hash to begin from, and holds nothing but where it is, what it misses and what was signed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.audit.chain import GENESIS, Line, body_of, digest_of
from server.audit.checkpoint import Place

MAX_GAPS = 1000
"""More places where records are missing than this are told as one."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is not as it was written. `kind` is stable: `changed`, `unlinked`, `missing`, `reordered`, `inserted`,
    `not-as-signed`, `cut-off`, `malformed`, `incomplete`, `no-checkpoint`, `checkpoint-changed`, `checkpoint-missing`,
    `checkpoint-inserted`, `history-replaced`, `lost-by-restore`. `number` to `upto`: the records of a partition, or
    the checkpoint (without a partition)."""

    kind: str
    text: str
    partition: str | None = None
    number: int | None = None
    upto: int | None = None


Tell = Callable[[Fault], None]
START = Place(number=0, hash=GENESIS.hex())


class Strand:
    """Records of one partition in the order they come. `signed`: by number, the hash that a checkpoint signed, and which."""

    def __init__(
        self, partition: str, begin: Place, tell: Tell, signed: Mapping[int, tuple[str, int]] | None = None
    ) -> None:
        self._name, self._tell = partition, tell
        self._begin = begin
        self._signed = dict(signed or {})
        self._gaps: list[tuple[int, int]] = []
        self._vouched = begin.number
        self._parted = False
        self.number, self.hash = begin.number, begin.hash
        self.records = 0

    def take(self, line: Line, body: bytes, stated: str) -> None:
        """The next record, its bytes, and the hash that stands with it."""
        self.records += 1
        number, is_next = line.number, line.number == self.number + 1
        if digest_of(body).hex() != stated:
            said = (
                "isn't what its hash is of" if is_next else f"stands where {self.number + 1} belongs, and isn't either"
            )
            self._fault("changed", f"{self._name} {number} {said}: it was changed.", number)
            if not is_next:
                return
        elif body_of(line) != body:
            self._fault("malformed", f"{self._name} {number} isn't written in the canonical form.", number)
        if number <= self.number:
            self._late(number)
        else:
            self._follow(line, is_next)
            self.number, self.hash = number, stated
        self._compare(number, stated)

    def finish(self) -> None:
        """There are no more."""
        for first, last in self._gaps:
            self._missing(first, last)
        end = max(self._signed, default=0)
        if end > self.number:
            checkpoint = self._signed[end][1]
            text = f"{self._name} ends with {self.number}, and checkpoint {checkpoint} was signed over {end}: "
            text += f"{_span(self.number + 1, end)} cut off."
            self._fault("cut-off", text, self.number + 1, end)

    @property
    def uncovered(self) -> int:
        """How many of the last records no checkpoint covers yet."""
        return max(0, self.number - max(max(self._signed, default=0), self._begin.number))

    def _follow(self, line: Line, is_next: bool) -> None:
        number = line.number
        if is_next:
            if line.previous != self.hash:
                text = f"{self._name} {number} was written after another record {number - 1} than the one that stands before it: "
                self._fault("unlinked", f"{text}one of the two was changed.", number)
        elif len(self._gaps) < MAX_GAPS:
            self._gaps.append((self.number + 1, number - 1))
        else:
            self._gaps[-1] = (self._gaps[-1][0], number - 1)

    def _late(self, number: int) -> None:
        gap = next(((first, last) for first, last in self._gaps if first <= number <= last), None)
        if gap is None:
            known = "was removed by rule" if number <= self._begin.number else "has been there already"
            text = f"{self._name} {number} {known}, and stands after {self.number}: it was put in."
            self._fault("inserted", text, number)
            return
        self._gaps.remove(gap)
        self._gaps += [(a, b) for a, b in ((gap[0], number - 1), (number + 1, gap[1])) if a <= b]
        self._fault("reordered", f"{self._name} {number} stands after {self.number}: the order was changed.", number)

    def _compare(self, number: int, stated: str) -> None:
        found = self._signed.get(number)
        if found is None or self._parted:
            return
        if found[0] == stated:
            self._vouched = max(self._vouched, number)
            return
        self._parted = True  # what follows differs by consequence
        text = f"{self._name} {number} isn't the record that checkpoint {found[1]} was signed over: a record from "
        text += f"{self._vouched + 1} on was changed, and those behind it were written anew."
        self._fault("not-as-signed", text, self._vouched + 1, number)

    def _missing(self, first: int, last: int) -> None:
        self._fault("missing", f"{self._name}: {_span(first, last)} removed.", first, last)

    def _fault(self, kind: str, text: str, number: int, upto: int | None = None) -> None:
        last = number if upto is None else upto
        self._tell(Fault(kind=kind, text=text, partition=self._name, number=number, upto=last))


def _span(first: int, last: int) -> str:
    return f"record {first} was" if first == last else f"records {first} to {last} were"
