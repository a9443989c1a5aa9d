"""Signed envelopes as evidence: what was ordered, permitted and reported, as it was signed."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from msgspec import Struct


class EnvelopeKind(StrEnum):
    """What an envelope holds."""

    ORDER = "order"
    PERMIT = "permit"
    REPORT = "report"


class SignedEnvelope(Struct, frozen=True, kw_only=True):
    """A DSSE envelope that was sent to or came from a target. `hash`: sha256 (hex) of its payload."""

    id: int = 0
    target: str
    kind: EnvelopeKind
    at: float
    hash: str
    campaign: str | None
    envelope: bytes


class Envelopes(Protocol):
    def add(self, envelope: SignedEnvelope) -> None:
        """Keep one under the next id; its own counts for nothing."""
        ...

    def get(self, envelope_id: int) -> SignedEnvelope | None: ...
    def of_target(
        self, target: str, *, before: int | None = None, limit: int = 100, kind: EnvelopeKind | None = None
    ) -> Sequence[SignedEnvelope]:
        """The newest, newest first; with an id below `before`."""
        ...

    def forget(self, before: float, limit: int) -> int:
        """Forget those of the first `limit` that are older than this; returns how many."""
        ...
