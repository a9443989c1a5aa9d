"""Bundles over REST: give orders out, fetch the bundle, bring reports and codes back."""

from collections.abc import Sequence
from typing import Annotated, Protocol

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from firmware.bundle.evidence import Sent, address
from firmware.errors import RefusedError
from firmware.protocol.words import Id, Label
from server.campaigns.bundles import BundleService, Chosen
from server.campaigns.bundles import Page as GivenOut
from server.http.access import Caller, Need
from server.http.bodies import path_id, read_json
from server.http.routes import Raw, Route, reply

MAX_BODY_BYTES = 4 << 20
MAX_TARGETS = 100_000
MAX_REPORTS = 200


class Choice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which targets of the campaign; `after` continues a page."""

    targets: Annotated[list[Id], Meta(max_length=MAX_TARGETS)] | None = None
    labels: Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=64)] = {}
    after: Id | None = None

    @property
    def chosen(self) -> Chosen:
        return Chosen(targets=None if self.targets is None else tuple(self.targets), labels=dict(self.labels))


class Reports(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signed reports as they came from a site."""

    reports: Annotated[list[Sent], Meta(min_length=1, max_length=MAX_REPORTS)]


class Code(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody typed."""

    code: Annotated[str, Meta(max_length=64)]


class BroughtReport(Struct, frozen=True, kw_only=True):
    """What became of one: `stored`, `repeated`, or why it was dropped."""

    target: str
    became: str
    text: str


class Brought(Struct, frozen=True, kw_only=True):
    """What became of each, in order."""

    reports: list[BroughtReport]


class CodeTaken(Struct, frozen=True, kw_only=True):
    """What the code said, and the state of the assignment since then. It is nobody's signed word."""

    target: str
    outcome: str
    state: str
    signed: bool = False


class Brings(Protocol):
    """Takes messages in by the way of those from the broker; a word for each."""

    async def bring(self, messages: Sequence[tuple[str, bytes]]) -> list[tuple[str, str]]: ...


class BundleRoutes:
    """Handlers about bundles."""

    def __init__(self, *, bundles: BundleService, ingest: Brings, wake: "Wake") -> None:
        self._bundles, self._ingest, self._wake = bundles, ingest, wake

    def routes(self) -> Sequence[Route]:
        one = "/campaigns/{campaign}/bundle"
        return (
            Route(
                method="POST",
                path=f"{one}/orders",
                need=Need.OPERATE,
                action=self.give_out,
                body=Choice,
                answer=GivenOut,
            ),
            Route(
                method="POST",
                path=one,
                need=Need.OPERATE,
                action=self.pack,
                body=Choice,
                answer=Raw(media="application/zip", text="The bundle, streamed."),
            ),
            Route(method="POST", path="/reports", need=Need.OPERATE, action=self.bring, body=Reports, answer=Brought),
            Route(
                method="POST",
                path="/fleet/{target}/code",
                need=Need.OPERATE,
                action=self.code,
                body=Code,
                answer=CodeTaken,
            ),
        )

    async def give_out(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Give out a page of orders for unattended use."""
        choice = await read_json(request, Choice, max_bytes=MAX_BODY_BYTES)
        page = await self._bundles.give_out(path_id(request, "campaign"), choice.chosen, choice.after, by=caller.name)
        self._wake()
        return reply(page)

    async def pack(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The bundle of what is given out, as a stream; about how long it is, and its note, in headers."""
        choice = await read_json(request, Choice, max_bytes=MAX_BODY_BYTES)
        packed = await self._bundles.pack(path_id(request, "campaign"), choice.chosen)
        note = msgspec.json.encode(packed.note).decode()
        headers = {"X-Otaria-Bytes": str(packed.length), "X-Otaria-Note": note, "Cache-Control": "no-store"}
        response = web.StreamResponse(headers={"Content-Type": "application/zip", **headers})
        try:
            await response.prepare(request)
            async for piece in packed.pieces:
                await response.write(piece)
        finally:
            await packed.pieces.aclose()  # type: ignore[attr-defined]  # it is a generator, and holds a file
        await response.write_eof()
        return response

    async def bring(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take signed reports in, each as if the broker had brought it; what became of each, in order."""
        body = await read_json(request, Reports, max_bytes=MAX_BODY_BYTES * 2)
        addressed = []
        for number, one in enumerate(body.reports, start=1):
            try:
                addressed.append(address(one))
            except RefusedError as error:
                raise RefusedError(error.kind, f"Report {number}: {error.text}") from error
        words = await self._ingest.bring(addressed)
        return reply(
            Brought(
                reports=[
                    BroughtReport(target=_target(topic), became=word, text=text)
                    for (topic, _), (word, text) in zip(addressed, words, strict=True)
                ]
            )
        )

    async def code(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Take a typed code."""
        body = await read_json(request, Code)
        target = path_id(request, "target")
        outcome, state = await self._bundles.take_code(target, body.code, by=caller.name)
        self._wake()
        return reply(CodeTaken(target=target, outcome=outcome, state=state))


class Wake(Protocol):
    """Tells the parts that there is something to send or decide."""

    def __call__(self) -> None: ...


def _target(topic: str) -> str:
    return topic.rsplit("/", 2)[-2]
