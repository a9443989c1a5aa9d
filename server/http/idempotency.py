"""`Idempotency-Key`: a POST that is sent again with the same key does nothing again, and is answered as it was.

What was begun is stored before it is done, and its answer after: a retry that comes meanwhile, or after a crash between the
two, is told so (409) and does nothing. Typed errors keep no key, since they changed nothing. An answer may hold a secret that is
shown once, so it is stored sealed by the key itself, which only whoever sent it has."""

import hashlib
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.protocol.words import ReasonKind
from server.errors import ConflictError
from server.http.access import Caller
from server.http.bodies import keep_body
from server.ports import Clock, Database, KeptReply, Unit

HEADER, REPLAYED = "Idempotency-Key", "Idempotency-Replayed"
TTL_S = 24 * 3600.0
MIN_CHARS, MAX_CHARS = 16, 255
MAX_BODY_BYTES = 32 << 20


class BusyError(ConflictError):
    """What this key stands for was begun, and its answer isn't known."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored, sealed."""

    status: int
    body: bytes


class Idempotency:
    """Keeps answers for whoever asks again."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        self._run = secrets.token_hex(8)
        self._asking = Counter[str]()
        """How many requests there are at the moment, by what they stand for."""
        self._undone: set[str] = set()
        """What did nothing, and the database could not be told so."""

    async def once(
        self, request: web.Request, caller: Caller, act: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Act, or answer as before. Raises `RefusedError` (`malformed`, `idempotency-key-reused`) and `BusyError`."""
        key = _key(request)
        body = await keep_body(request, MAX_BODY_BYTES)
        asked = _hash(request.query_string.encode(), body)
        kept = KeptReply(
            id=_hash(caller.name.encode(), request.path.encode(), key.encode()),
            request_sha256=asked,
            run=self._run,
            expires_at=self._clock.now() + TTL_S,
        )
        self._asking[kept.id] += 1
        try:
            before = await self._database.write(lambda unit: self._begin(unit, kept))
            return await self._first(kept, key, act) if before is None else self._again(before, kept, key)
        finally:
            self._asking[kept.id] -= 1
            if not self._asking[kept.id]:
                del self._asking[kept.id]

    async def _first(
        self, kept: KeptReply, key: str, act: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._undone.discard(kept.id)
        try:
            response = await act()
        except OtariaError:
            await self._undo(kept.id)
            raise
        except Exception:
            unknown = KeptReply(**{**vars(kept), "run": ""})
            await self._database.write(lambda unit: unit.replies.put(unknown))
            raise
        return await self._keep(kept, key, response)

    async def _undo(self, kept: str) -> None:
        """Nothing was done. Where the database can't be told, this server knows it for as long as it lives."""
        try:
            await self._database.write(lambda unit: unit.replies.remove(kept))
        except UnavailableError:
            self._undone.add(kept)

    def _begin(self, unit: Unit, kept: KeptReply) -> KeptReply | None:
        """What was kept under the id and holds; if nothing, this is from now on."""
        before = unit.replies.get(kept.id)
        if before is not None and before.expires_at > self._clock.now() and kept.id not in self._undone:
            return before
        unit.replies.put(kept)
        return None

    def _again(self, before: KeptReply, kept: KeptReply, key: str) -> web.Response:
        if before.request_sha256 != kept.request_sha256:
            text = "This Idempotency-Key was used for another request; take a new one for each thing to be done."
            raise RefusedError("idempotency-key-reused", text)
        if before.answer is None:
            running = before.run == self._run and self._asking[kept.id] > 1
            why = "is still being done; ask again" if running else "was begun and broke off; look what became of it"
            raise BusyError(f"What this Idempotency-Key was sent for {why}.")
        answer = msgspec.json.decode(_opened(before.answer, kept.id, key), type=Answer)
        headers = {REPLAYED: "true"}
        return web.Response(status=answer.status, body=answer.body, content_type="application/json", headers=headers)

    async def _keep(self, kept: KeptReply, key: str, response: web.StreamResponse) -> web.StreamResponse:
        body = response.body if isinstance(response, web.Response) else None
        if not isinstance(body, bytes) or response.content_type != "application/json":
            await self._database.write(lambda unit: unit.replies.remove(kept.id))
            return response
        sealed = _sealed(msgspec.json.encode(Answer(status=response.status, body=body)), kept.id, key)
        done = KeptReply(**{**vars(kept), "answer": sealed})
        await self._database.write(lambda unit: unit.replies.put(done))
        return response


def _key(request: web.Request) -> str:
    key = request.headers[HEADER]
    if not (MIN_CHARS <= len(key) <= MAX_CHARS and key.isascii() and key.isprintable()):
        text = f"{HEADER} must have {MIN_CHARS} to {MAX_CHARS} printable ASCII characters that nobody guesses, such as a UUID."
        raise RefusedError(ReasonKind.MALFORMED, text)
    return key


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _cipher(key: str) -> AESGCM:
    return AESGCM(hashlib.sha256(b"otaria idempotency\n" + key.encode()).digest())


def _sealed(plain: bytes, reply_id: str, key: str) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + _cipher(key).encrypt(nonce, plain, reply_id.encode())


def _opened(sealed: bytes, reply_id: str, key: str) -> bytes:
    try:
        return _cipher(key).decrypt(sealed[:12], sealed[12:], reply_id.encode())
    except InvalidTag as error:
        raise BusyError("The answer that was kept for this Idempotency-Key can't be read any more.") from error
