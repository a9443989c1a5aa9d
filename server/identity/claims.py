"""Claim tokens: made by an administrator, given to devices, each worth a number of enrolments until it expires.

The answer to `create_claim` is the only place that ever holds the secret; the store keeps its sha256.
"""

import asyncio
import hashlib
from collections.abc import Mapping

from firmware.errors import RefusedError
from firmware.protocol.enrol import Claim, encode_claim, parse_claim
from server.identity.roots import Roots
from server.identity.secrets import hashed, new_id, new_secret
from server.planner.surroundings import AGENT_LABEL
from server.ports import ClaimToken, Clock, Database, Unit

MAX_USES = 100_000
MIN_EXPIRES_S = 60
MAX_EXPIRES_S = 366 * 86400
MAX_LABELS = 32


class Claims:
    """Makes claim tokens. `url`: base of the devices' HTTPS listener; `services_ca`: sha256 (hex) of the services CA."""

    def __init__(self, database: Database, *, url: str, services_ca: str, roots: Roots, clock: Clock) -> None:
        self._database = database
        self._url = url
        self._services_ca = services_ca
        self._roots = roots
        self._clock = clock

    async def create_claim(
        self, *, uses: int, expires_s: int, labels: Mapping[str, str], by: str
    ) -> tuple[ClaimToken, str]:
        """Store a new token; returns it and its text. Raises `RefusedError` (`bad-claim`, `no-root`)."""
        _check(uses, expires_s, labels)
        root = await asyncio.to_thread(self._roots.newest)
        secret, now = new_secret(), self._clock.now()
        token = ClaimToken(
            id=new_id("c"),
            secret_sha256=hashed(secret),
            expires_at=now + expires_s,
            uses_left=uses,
            labels=dict(labels),
            created_by=by,
        )
        claim = Claim(
            url=self._url, id=token.id, secret=secret, ca=self._services_ca, root=hashlib.sha256(root).hexdigest()
        )
        text = encode_claim(claim)
        parse_claim(text)  # what a device would refuse is never handed out
        await self._store(token, now, by)
        return token, text

    async def _store(self, token: ClaimToken, now: float, by: str) -> None:
        def work(unit: Unit) -> None:
            unit.identities.add_claim(token)
            unit.audit.add(
                at=now,
                kind="claim-created",
                text=f"{by} made the claim token {token.id} for {token.uses_left} devices.",
                actor=by,
                data={"claim": token.id, "uses": token.uses_left, "expires_at": token.expires_at},
            )

        await self._database.write(work)


def _check(uses: int, expires_s: int, labels: Mapping[str, str]) -> None:
    if not 1 <= uses <= MAX_USES:
        raise RefusedError("bad-claim", f"A claim token is good for 1 to {MAX_USES} devices, not {uses}.")
    if not MIN_EXPIRES_S <= expires_s <= MAX_EXPIRES_S:
        raise RefusedError("bad-claim", f"A claim token lives {MIN_EXPIRES_S} to {MAX_EXPIRES_S} seconds.")
    check_labels(labels, "bad-claim")


def check_labels(labels: Mapping[str, str], kind: str) -> None:
    """Raises `RefusedError` (`kind`) for labels that nobody but a device may have, or too long ones."""
    if len(labels) > MAX_LABELS or any(len(name) > 63 or len(value) > 128 for name, value in labels.items()):
        raise RefusedError(kind, f"At most {MAX_LABELS} labels, names up to 63 and values up to 128 characters.")
    if any(name.startswith(AGENT_LABEL) for name in labels):
        raise RefusedError(
            kind,
            f"Names that begin with `{AGENT_LABEL}` are the devices' own, which they may change; choose another.",
        )
