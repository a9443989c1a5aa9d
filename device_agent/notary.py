"""The `Notary` that does it itself: verifies with the keys of the catalogue's director, and signs with the report key."""

from collections.abc import Mapping

from securesystemslib.signer import Key, Signer

from device_agent.ports import Directed, Director, Verified
from firmware.errors import UnavailableError
from firmware.protocol.envelope import key_from_dict, seal_payload, verify_envelope


class DirectorKeys:
    """The keys of a director, parsed once."""

    def __init__(self, director: Director) -> None:
        self.director = director
        self.keys: Mapping[str, Key] = {keyid: key_from_dict(keyid, value) for keyid, value in director.keys.items()}

    def verify(self, envelope: bytes, kind: str, *, max_bytes: int) -> Verified:
        """See `Notary.verify`."""
        verify_envelope(envelope, kind, self.keys, max_bytes=max_bytes)
        return Verified(epoch=self.director.epoch, until=self.director.until)


class CatalogueKeys:
    """Verifies with the keys of the director that a catalogue names, parsed once. May be used by several threads."""

    def __init__(self, catalogue: Directed) -> None:
        self._catalogue = catalogue
        self._keys: DirectorKeys | None = None

    def knows_director(self) -> bool:
        """See `Notary.knows_director`."""
        try:
            self._catalogue.director()
        except UnavailableError:
            return False
        return True

    def verify(self, envelope: bytes, kind: str, *, max_bytes: int) -> Verified:
        """See `Notary.verify`. Who the director is, is asked anew for each message."""
        director, keys = self._catalogue.director(), self._keys
        if keys is None or keys.director != director:
            self._keys = keys = DirectorKeys(director)
        return keys.verify(envelope, kind, max_bytes=max_bytes)


class KeyNotary(CatalogueKeys):
    """`Notary` over a catalogue and a key."""

    def __init__(self, catalogue: Directed, signer: Signer) -> None:
        super().__init__(catalogue)
        self._signer = signer

    def seal(self, payload: bytes, kind: str) -> bytes:
        """See `Notary.seal`."""
        return seal_payload(payload, kind, self._signer)
