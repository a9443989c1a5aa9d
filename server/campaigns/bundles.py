"""Bundles for sites without a network: orders are given out to people, packed with all that they need, and heard of again.

Giving out is the planner's decision, target by target; packing changes nothing and may be repeated. Orders go through a file of
their own on the way, and artifacts are read where they lie: memory does not grow with either.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from firmware.bundle.code import is_true, parse_code
from firmware.bundle.gather import Gathered, gather
from firmware.bundle.layout import Note
from firmware.bundle.write import Content, write_bundle
from firmware.catalogue.publish import Repository
from firmware.errors import OtariaError, RefusedError
from firmware.protocol.codec import canonical, convert
from firmware.protocol.envelope import claimed
from firmware.protocol.order import MAX_BYTES, FileRef, Order, files_of
from server.artifacts import ArtifactStore
from server.campaigns.director import Director
from server.campaigns.turn import Turn
from server.campaigns.unattended import windows_of
from server.errors import NotFoundError
from server.planner.events import CodeGiven, HandOut
from server.planner.rows import CampaignRow
from server.planner.selection import Selection
from server.planner.slices import Footprint
from server.ports import Clock, Database, Unit

PAGE = 100
PIECE_BYTES = 1 << 18
MAX_WRONG_CODES, WRONG_CODES_S = 5, 3600.0
MAX_GUESSERS = 10_000


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which of a campaign's targets: these, or (None) all whose labels equal `labels`."""

    targets: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A target that gets no order, and why."""

    target: str
    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """So many of a page's targets have an order now, whoever doesn't; `next` continues after this target."""

    out: int
    left_out: tuple[LeftOut, ...]
    of: int
    next: str | None


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A bundle about to be sent: `pieces` are its bytes, about `length` of them."""

    note: Note
    length: int
    pieces: AsyncIterator[bytes]


class BundleService:
    """Gives orders out, packs bundles, takes codes."""

    def __init__(
        self, database: Database, clock: Clock, director: Director, repository: Repository, artifacts: ArtifactStore
    ) -> None:
        self._database, self._clock, self._director = database, clock, director
        self._repository, self._artifacts = repository, artifacts
        self._wrong: dict[str, tuple[int, float]] = {}

    async def give_out(self, campaign: str, chosen: Chosen, after: str | None, *, by: str) -> Page:
        """Give orders for unattended use to the next targets. Raises `NotFoundError`, `RefusedError` (`no-unattended`)."""
        ids = await self._database.read(lambda unit: _chosen(unit, campaign, chosen))
        page = [target for target in ids if after is None or target > after][:PAGE]
        left_out = await self._database.write(lambda unit: self._give_out(unit, campaign, page, by))
        last = page[-1] if len(page) == PAGE else None
        return Page(out=len(page) - len(left_out), left_out=tuple(left_out), of=len(ids), next=last)

    def _give_out(self, unit: Unit, campaign: str, page: Sequence[str], by: str) -> list[LeftOut]:
        row, now = _row(unit, campaign), self._clock.now()
        policy = row.strategy.unattended
        if policy is None:
            text = (
                f"The strategy of {campaign} allows no orders for unattended use. Give it an `unattended` part, such as "
                "`unattended: {expires: 14d}`, and make the campaign anew."
            )
            raise RefusedError("no-unattended", text)
        turn, left_out = Turn(unit, self._director, now), list[LeftOut]()
        for target in page:
            until = now + policy.expires_s
            try:
                loaded = unit.campaigns.load(Footprint(campaign=campaign, target=target))
                if loaded.target is None or loaded.assignment is None:
                    raise RefusedError("not-in-campaign", f"{target} is no target of {campaign}.")
                windows_of(row, loaded.target, now, until)
                turn.command(HandOut(campaign=campaign, target=target, until=until, by=by, at=now))
            except OtariaError as error:
                left_out.append(LeftOut(target=target, kind=error.kind, text=error.text))
        return left_out

    async def pack(self, campaign: str, chosen: Chosen) -> Packed:
        """The bundle of the orders that are out now for these targets. Raises `RefusedError` (`nothing-given-out`,
        `artifact-missing`, `catalogue-…`), `NotFoundError`."""
        now = self._clock.now()
        row, ids = await self._database.read(lambda unit: (_row(unit, campaign), _chosen(unit, campaign, chosen)))
        orders = _Orders(tempfile.TemporaryFile(dir=self._artifacts.incoming))  # noqa: SIM115  # closed with the stream
        try:
            await self._collect(campaign, set(ids), orders, now)
            found = await asyncio.to_thread(self._gathered, orders.files, now)
            note = Note(
                campaign=campaign,
                product=row.release.product,
                version=row.release.version,
                made_at=int(now),
                usable_until=int(found.ends_at),
                orders=len(orders.places),
            )
            contents = await asyncio.to_thread(self._contents, note, found, orders)
        except BaseException:
            orders.close()
            raise
        length = sum(content.length + 2 * len(content.name) + 76 for content in contents)
        return Packed(note=note, length=length, pieces=_pieces(contents, orders))

    async def _collect(self, campaign: str, wanted: set[str], orders: "_Orders", now: float) -> None:
        after = ""
        while True:
            last = after
            stored = await self._database.read(lambda unit, at=last: unit.campaigns.given_out(campaign, now, at, PAGE))  # type: ignore[misc]
            for one in stored:
                if one.target in wanted:
                    orders.add(one.target, one.envelope)
            if len(stored) < PAGE:
                break
            after = stored[-1].target
        if not orders.places:
            text = f"No order of {campaign} is given out for these targets; see why each was left out."
            raise RefusedError("nothing-given-out", text)

    def _gathered(self, files: dict[str, FileRef], now: float) -> Gathered:
        return gather(self._repository.root_bytes(), self._metadata, files.values(), now)

    def _metadata(self, name: str, max_bytes: int) -> bytes | None:
        path = self._repository.metadata / name
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(max_bytes + 1)

    def _contents(self, note: Note, found: Gathered, orders: "_Orders") -> list[Content]:
        contents = [
            Content.of("bundle.json", canonical(note)),
            *(Content.of(f"metadata/{name}", data) for name, data in found.files.items()),
            *(self._artifact(file) for file in {file.sha256: file for file in orders.files.values()}.values()),
            *orders.contents(),
        ]
        return sorted(contents, key=lambda content: content.name)

    def _artifact(self, file: FileRef) -> Content:
        length = self._artifacts.length_now(file.sha256)
        if length is None:
            raise RefusedError("artifact-missing", f"{file.path} is not in the store; publish its release again.")
        pieces = partial(self._artifacts.pieces, file.sha256, length)
        return Content(name=f"artifacts/{file.sha256}", length=file.length, open=pieces)

    async def take_code(self, target: str, text: str, *, by: str) -> tuple[str, str]:
        """Take a typed code about the target's current order; its outcome, and the state that the assignment has now.

        Raises `RefusedError` (`bad-code`, `wrong-code`, `too-many-codes`, `no-code`, as `planner.handing.code_given`).
        """
        outcome, code = parse_code(text)
        self._require_patience(target)
        known = await self._database.read(lambda unit: self._shared(unit, target))
        if not is_true(known.key, target, known.order_hash, outcome, code):
            self._note_wrong(target)
            text = f"{target} did not make this code about its current order. Read it again, character by character."
            raise RefusedError("wrong-code", text)
        self._wrong.pop(target, None)
        event = CodeGiven(
            campaign=known.campaign,
            target=target,
            order_hash=known.order_hash,
            outcome=outcome.value,
            by=by,
            at=self._clock.now(),
        )
        return outcome.value, await self._database.write(lambda unit: self._take(unit, event))

    def _take(self, unit: Unit, event: CodeGiven) -> str:
        Turn(unit, self._director, event.at).command(event)
        after = unit.campaigns.load(Footprint(campaign=event.campaign, target=event.target)).assignment
        return after.state.value if after else ""

    def _shared(self, unit: Unit, target: str) -> "_Shared":
        current, view, keys = unit.orders.current(target), unit.fleet.target(target), self._director.code_keys
        order = _order(current.envelope) if current else None
        if current is None or order is None or not order.unattended or order.campaign is None:
            raise RefusedError(
                "no-code", f"No order is given out for {target}, so there is nothing for a code to be about."
            )
        announced = view.encryption_key if view else None
        if keys is None or order.code_key is None or announced is None:
            raise RefusedError("no-code", f"The order of {target} came without a key for a code; import its report.")
        if keys.for_device(announced) != order.code_key:
            text = f"{target} or this server has another key than when the order was given out; import its report."
            raise RefusedError("no-code", text)
        return _Shared(key=keys.shared(announced, current.hash), order_hash=current.hash, campaign=order.campaign)

    def _require_patience(self, target: str) -> None:
        wrong, since = self._wrong.get(target, (0, 0.0))
        if wrong >= MAX_WRONG_CODES and self._clock.now() < since + WRONG_CODES_S:
            text = f"{MAX_WRONG_CODES} wrong codes were given for {target}; try again in an hour, or import its report."
            raise RefusedError("too-many-codes", text)

    def _note_wrong(self, target: str) -> None:
        wrong, since = self._wrong.get(target, (0, 0.0))
        now = self._clock.now()
        fresh = now < since + WRONG_CODES_S
        others = {key: value for key, value in self._wrong.items() if now < value[1] + WRONG_CODES_S}
        kept = others if len(others) < MAX_GUESSERS else {}
        self._wrong = {**kept, target: (wrong + 1, since) if fresh else (1, now)}


@dataclass(frozen=True, kw_only=True)
class _Shared:
    key: bytes
    order_hash: str
    campaign: str


class _Orders:
    """Signed orders in a file without a name, and the catalogue's files that they name."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._end = file, 0
        self.places: dict[str, tuple[int, int]] = {}
        self.files: dict[str, FileRef] = {}

    def add(self, target: str, envelope: bytes) -> None:
        self._file.write(envelope)
        self.places[target] = (self._end, len(envelope))
        self._end += len(envelope)
        self.files |= {file.path: file for file in files_of(_order(envelope))}

    def contents(self) -> Iterator[Content]:
        for target, (at, length) in self.places.items():
            yield Content(name=f"orders/{target}.json", length=length, open=partial(self._at, at, length))

    def close(self) -> None:
        self._file.close()

    def _at(self, offset: int, length: int) -> list[bytes]:
        self._file.seek(offset)
        return [self._file.read(length)]


async def _pieces(contents: Sequence[Content], orders: _Orders) -> AsyncIterator[bytes]:
    """The bundle's bytes, made on a thread, in pieces worth sending."""
    made = write_bundle(contents)
    try:
        while piece := await asyncio.to_thread(_next, made):
            yield piece
    finally:
        orders.close()


def _next(made: Iterator[bytes]) -> bytes:
    out = bytearray()
    for piece in made:
        out += piece
        if len(out) >= PIECE_BYTES:
            break
    return bytes(out)


def _order(envelope: bytes) -> Order:
    """An order out of our own database."""
    _, payload = claimed(envelope, max_bytes=MAX_BYTES)
    return convert(payload, Order)


def _row(unit: Unit, campaign: str) -> CampaignRow:
    view = unit.campaigns.view(campaign)
    if view is None:
        raise NotFoundError(f"There is no campaign {campaign}; `otaria campaign list` shows those there are.")
    return view.row


def _chosen(unit: Unit, campaign: str, chosen: Chosen) -> list[str]:
    """Ids of the chosen targets, sorted. One that was named and is not the campaign's is kept, to be told."""
    _row(unit, campaign)
    if chosen.targets is not None:
        return sorted(set(chosen.targets))
    return list(unit.campaigns.assigned(campaign, Selection(labels=chosen.labels or {})))
