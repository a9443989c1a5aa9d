"""Devices whose keys somebody misuses: the real agent goes on beneath, and the connection speaks for the attacker.

Rules
- An attacker has what its device has: the keys, the certificate, its orders and permits. The simulation also hands it what others
  are called and what they lately said (`Grapevine`), as if it had overheard that.
- It acts for a while after each order that it hears, and rests while everybody is gathered: before the world begins, and when all
  is to be said and heard. So what it does is bounded in count and time.
- It keeps books of what it forged and of what it heard that wasn't its own, for whoever looks whether anything got through.
- Who lies lets nothing through that the agent beneath signs from its first order on, and numbers its own reports on from there.
  All others leave the agent its words.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from typing import Any

from msgspec.structs import replace
from securesystemslib.signer import Signer

from device_agent.identity import Identity
from firmware.errors import RefusedError
from firmware.protocol import topics
from firmware.protocol.blocks import Want, artifact_name, encode_want
from firmware.protocol.envelope import seal
from firmware.protocol.order import Order
from firmware.protocol.permit import ASK_KIND, Ask, Verdict
from firmware.protocol.report import REPORT_KIND, Report
from firmware.protocol.topics import Leaf
from firmware.protocol.words import AgentState
from simulator.virtual.hostility import LIES as LYING
from simulator.wire.grapevine import Grapevine
from simulator.wire.hostile_words import (
    FORGERIES,
    LIES,
    Step,
    block_in,
    claim,
    is_ask,
    order_in,
    payload_of,
    permit_in,
    presence,
    report_in,
    short,
    stranger,
)
from simulator.wire.parts import Luck
from simulator.wire.plan import Misdeeds

BEAT_S = 3.0
FLOOD_BEAT_S = 1.0
BEATS = 30
"""How often one acts after an order: for a minute and a half, and a flood for half a minute."""
FLOOD = 50
"""Messages of a flood at each beat."""
ASK_AGAIN_S = 60.0
Message = tuple[str, bytes, bool]
"""Topic, payload, and whether it is to be retained."""


class Attacker:
    """Whoever holds a device's keys; see `attacker_of` for what each does. `beat_s`: seconds between what it does."""

    beat_s = BEAT_S

    def __init__(self, identity: Identity, signer: Signer, grapevine: Grapevine, luck: Luck) -> None:
        self.name, self.target, self.rests = identity.agent, identity.target, False
        self._signer, self._grapevine, self._luck = signer, grapevine, luck
        self._report: Report | None = None
        self._genuine = b""
        self._order: Order | None = None
        self._hash = ""
        self._heard: set[str] = set()
        self._beats = 0
        self.forged, self.misplaced, self.overheard, self.messages = bytearray(), set[bytes](), 0, 0

    # Its cable's calls

    def listens(self) -> tuple[str, ...]:
        """What it subscribes to beside what its agent does."""
        return ()

    def in_place_of(self, topic: str, payload: bytes) -> Iterable[Message]:
        """What goes out when the agent says this."""
        report = report_in(payload) if b'"payloadType"' in payload else None
        if report is not None:
            self._report, self._genuine = report, payload
        return [(topic, payload, False)]

    def heard(self, topic: str, payload: bytes) -> float | None:
        """Note what comes; in how many seconds to act, if at all."""
        if not is_of(topic, self.name):
            self.overheard += topic != topics.CATALOGUE
            return None
        order = order_in(payload) if topic.endswith(Leaf.ORDER) else None
        digest = hashlib.sha256(payload_of(payload)).hexdigest()
        if order is None or digest in self._heard:
            return None
        self._heard.add(digest)
        self._order, self._hash = order, digest
        self._beats = BEATS
        return self.beat_s

    def acts(self, now: float) -> tuple[list[Message], float | None]:
        """What it does now, and in how many seconds next."""
        if not self._beats or self._report is None or self._order is None:
            return [], None
        self._beats -= 1
        return list(self.deeds(self._report, self._order)), self.beat_s if self._beats else None

    def deeds(self, report: Report, order: Order) -> Iterator[Message]:
        """What it does at a beat, given the last that its agent reported and was ordered."""
        yield from ()

    @property
    def misdeeds(self) -> Misdeeds:
        """Its books."""
        return Misdeeds(
            forged=bytes(self.forged),
            misplaced=frozenset(self.misplaced),
            overheard=self.overheard,
            messages=self.messages,
        )

    # What they are made of

    def _own(self, leaf: Leaf) -> str:
        return topics.presence(self.name) if leaf is Leaf.PRESENCE else topics.of_target(self.name, self.target, leaf)

    def _of(self, other: str, leaf: Leaf) -> str:
        return topics.presence(other) if leaf is Leaf.PRESENCE else topics.of_target(other, other, leaf)

    def _victim(self) -> str:
        others = [one for one in self._grapevine.names if one != self.name] or ["nobody"]
        return others[int(self._luck.jitter() * len(others))]

    def _claims(self, report: Report, order: Order) -> Report:
        """A report that is not true: it would be the next, and says that all is done."""
        made = claim(report, order, self._hash, AgentState.COMMITTED, seq=report.seq + 1, new=True)
        return replace(made, evidence={"made-up": self._luck.nonce()})

    def _forge(self, topic: str, payload: bytes, *, retain: bool = False) -> Message:
        """Note that this is not genuine."""
        self.forged += short(payload_of(payload))
        if not is_of(topic, self.name):
            self.misplaced.add(short(payload))
        return topic, payload, retain


class Forger(Attacker):
    """Says on its own topics what is not signed, signed by another key, cut off, too long, or no message at all."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._other = stranger(int(self._luck.jitter() * (1 << 32)))
        self._shapes = cycle(FORGERIES.values())
        self._leaves = cycle((Leaf.REPORT, Leaf.REPORT, Leaf.INVENTORY, Leaf.REPORT, Leaf.PRESENCE))

    def deeds(self, report: Report, order: Order) -> Iterator[Message]:
        shape = next(self._shapes)
        yield self._forge(self._own(next(self._leaves)), shape(self._claims(report, order), self._signer, self._other))


class Impersonator(Attacker):
    """Speaks on others' topics and in others' names on its own, says what others said as its own, and listens to all."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._ways = cycle((self._speaks_there, self._speaks_here, self._says_again, self._sends_away, self._commands))

    def listens(self) -> tuple[str, ...]:
        return f"{topics.ROOT}/#", *(f"{topics.ROOT}/+/+/t/+/{leaf}" for leaf in (Leaf.ORDER, Leaf.REPORT))

    def deeds(self, report: Report, order: Order) -> Iterator[Message]:
        victim = self._victim()
        yield from next(self._ways)(victim, self._claims(report, order))

    def _as(self, victim: str, report: Report) -> bytes:
        """In a new journal, or under a number that the victim gave, which would look as if two had its key."""
        report = replace(report, agent=victim, target=victim, journal=self._luck.nonce(), seq=1, oldest=1)
        given = [said for topic, said in self._grapevine.said if is_of(topic, victim)]
        last = report_in(given[-1]) if given and self._luck.jitter() < 0.5 else None
        if last is not None:
            report = replace(report, journal=last.journal, seq=last.seq, oldest=last.oldest)
        return seal(report, REPORT_KIND, self._signer)

    def _speaks_there(self, victim: str, report: Report) -> Iterator[Message]:
        yield self._forge(self._of(victim, Leaf.REPORT), self._as(victim, report))

    def _speaks_here(self, victim: str, report: Report) -> Iterator[Message]:
        yield self._forge(self._own(Leaf.REPORT), self._as(victim, report))
        foreign = topics.of_target(self.name, victim, Leaf.REPORT)
        yield self._forge(foreign, seal(replace(report, target=victim), REPORT_KIND, self._signer))

    def _says_again(self, victim: str, report: Report) -> Iterator[Message]:
        said = self._grapevine.said
        topic, payload = said[int(self._luck.jitter() * len(said))] if said else ("", b"")
        if not topic or is_of(topic, self.name):
            return
        yield self._own(Leaf.REPORT), payload, False
        yield topic, payload, False

    def _sends_away(self, victim: str, report: Report) -> Iterator[Message]:
        yield self._forge(self._of(victim, Leaf.PRESENCE), presence(self._luck.nonce(), online=False), retain=True)

    def _commands(self, victim: str, report: Report) -> Iterator[Message]:
        for leaf in (Leaf.ORDER, Leaf.PERMIT, Leaf.ACK, Leaf.INVENTORY):
            yield self._forge(self._of(victim, leaf), self._as(victim, report), retain=leaf is Leaf.ORDER)
        yield self._forge(topics.CATALOGUE, self._luck.nonce().encode(), retain=True)


class Flooder(Attacker):
    """Says as much as its connection takes: its last report again, words of progress, that it comes and goes, and garbage."""

    beat_s = FLOOD_BEAT_S

    def deeds(self, report: Report, order: Order) -> Iterator[Message]:
        words = (
            (self._own(Leaf.REPORT), self._genuine, False),
            (self._own(Leaf.REPORT), FORGERIES["progress"](report, self._signer, self._signer), False),
            (self._own(Leaf.PRESENCE), presence(self._luck.nonce(), online=False), True),
            (self._own(Leaf.INVENTORY), b"\xff" * 2000, False),
            (self._own(Leaf.PRESENCE), presence(self._luck.nonce(), online=True), True),
        )
        yield from islice(cycle(words), FLOOD)


class Prier(Attacker):
    """Wants blocks of files that no order of its names, in its own name and in others', and listens for others' blocks."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._streams: set[int] = set()

    def listens(self) -> tuple[str, ...]:
        return tuple(f"{topics.ROOT}/+/+/t/+/{leaf}" for leaf in (Leaf.BLOCK, Leaf.ORDER, Leaf.PERMIT))

    def heard(self, topic: str, payload: bytes) -> float | None:
        if topic.endswith(Leaf.BLOCK):
            block = block_in(payload)
            self.overheard += block is not None and block.stream in self._streams and not block.absent
        return super().heard(topic, payload)

    def deeds(self, report: Report, order: Order) -> Iterator[Message]:
        victim = self._victim()
        name = artifact_name(hashlib.sha256(self._luck.nonce().encode()).hexdigest())
        stream = int(self._luck.jitter() * (1 << 62))
        want = encode_want(Want(stream=stream, offset=0, credit=1 << 20, name=name))
        self._streams.add(stream)
        yield self._own(Leaf.WANT), want, False
        yield self._own(Leaf.WANT), want[:-64] + b"../../../../state/admin.token", False
        yield topics.of_target(self.name, victim, Leaf.WANT), want, False
        there = encode_want(Want(stream=stream + 1, offset=0, credit=1 << 20, name=name))
        yield self._forge(self._of(victim, Leaf.WANT), there)


class Liar(Attacker):
    """Signs rightly what is not true, in one of the ways of `LIES`: dealt to those of a process in turn."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.lie = [*LIES][next(self._grapevine.liars) % len(LIES)]
        self._steps: deque[Step] = deque()
        self._seq, self._skipped = 0, 0
        self._nonce, self._asked_at = "", 0.0

    def in_place_of(self, topic: str, payload: bytes) -> Iterable[Message]:
        report = report_in(payload)
        if self._order is not None and (report is not None or is_ask(payload)):
            return []
        if report is not None:
            self._seq = max(self._seq, report.seq)
        return super().in_place_of(topic, payload)

    def heard(self, topic: str, payload: bytes) -> float | None:
        before = self._hash
        in_s = super().heard(topic, payload)
        if self._hash != before and self._order is not None:
            self._nonce = ""
            self._steps = deque(LIES[self.lie] if self._order.release is not None else ())
        elif topic.endswith(Leaf.PERMIT) and self._nonce:
            permit = permit_in(payload)
            if permit is not None and permit.nonce == self._nonce:
                granted = permit.verdict is Verdict.GRANTED
                self._nonce, self._beats = "", BEATS
                if granted:
                    self._steps.popleft()
                return self.beat_s if granted else float(permit.retry_after_s)
        return in_s

    def acts(self, now: float) -> tuple[list[Message], float | None]:
        if not self._steps or self._report is None or self._order is None:
            return [], None
        step = self._steps[0]
        if step.state is None:
            if not self._nonce or now >= self._asked_at + ASK_AGAIN_S:
                return [self._ask(self._report, self._order, now)], ASK_AGAIN_S
            return [], ASK_AGAIN_S
        self._steps.popleft()
        return [self._says(self._report, self._order, step, step.state)], self.beat_s

    def _ask(self, report: Report, order: Order, now: float) -> Message:
        self._nonce, self._asked_at = self._luck.nonce(), now
        ask = Ask(
            target=self.target,
            agent=self.name,
            order_hash=self._hash,
            counter=order.counter,
            boot_id=report.boot_id,
            nonce=self._nonce,
        )
        return self._own(Leaf.REPORT), seal(ask, ASK_KIND, self._signer), False

    def _says(self, report: Report, order: Order, step: Step, state: AgentState) -> Message:
        seq = self._number(step)
        made = claim(report, order, self._hash, state, seq=seq, new=step.new)
        if step.gone:
            made = replace(made, oldest=seq)
        return self._own(Leaf.REPORT), seal(made, REPORT_KIND, self._signer), False

    def _number(self, step: Step) -> int:
        if step.skips and not step.gone:
            return self._seq + step.skips
        self._seq += 0 if step.again else 1 + step.skips
        return self._seq


_KINDS: dict[str, type[Attacker]] = {
    "floods": Flooder,
    "forges": Forger,
    "impersonates": Impersonator,
    LYING: Liar,
    "pries": Prier,
}


def attacker_of(does: str, identity: Identity, signer: Signer, grapevine: Grapevine, seed: int) -> Attacker:
    """Who does one of `simulator.virtual.hostility.MISDEEDS` with a device's keys."""
    return _KINDS[does](identity, signer, grapevine, Luck(seed))


def is_of(topic: str, agent: str) -> bool:
    """Whether a topic is for this agent: the doorbell is for all to hear and nobody's to ring."""
    try:
        return topics.parse(topic).agent == agent
    except RefusedError:
        return False
