"""The trail of an exact run: kept as the server keeps it, and verified as `otaria audit verify` does.

Rules
- The keeper is the server's own: it verifies what is new and signs checkpoints of it. What it signed is kept here as a pin, where
  no database can change it.
- The key of checkpoints is drawn anew in each run, as the catalogue's are; nothing that is decided hangs on it.
"""

from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from server.audit.export import export
from server.audit.keeper import Keeper
from server.audit.verify import Verdict, Verifier
from server.ports import Clock, Database

COPY = "audit-checkpoint.json"


class Trail:
    """`directory`: beside the database, where the keeper's copy of its newest checkpoint stands."""

    def __init__(self, database: Database, clock: Clock, directory: Path) -> None:
        self._database, self._clock, self._copy = database, clock, directory / COPY
        self._signer = CryptoSigner(Ed25519PrivateKey.generate())
        self._pins: list[bytes] = []
        self.boot()

    def boot(self) -> None:
        """The server begins again: its keeper remembers nothing but that copy."""
        self._keeper = Keeper(self._database, self._clock, self._signer, self._copy)

    async def sign(self) -> None:
        """Have a checkpoint signed, as the keeper does from time to time."""
        stored = await self._keeper.sign()
        if stored is not None:
            self._pins.append(stored.envelope)

    async def verify(self) -> Verdict:
        """Sign a last time, and verify all of an export against the key and every checkpoint that was signed."""
        await self.sign()
        key = self._signer.public_key
        verifier = Verifier({key.keyid: key}, self._pins)
        async for piece in export(self._database, now=self._clock.now()):
            for line in piece.splitlines():
                verifier.feed(line)
        return verifier.finish()


def said(verdict: Verdict) -> str:
    """What is wrong, in words."""
    return f"The trail does not verify: {msgspec.json.encode(verdict.faults).decode()[:600]}"
