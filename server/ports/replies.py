"""Answers that are kept for whoever asks again with the same `Idempotency-Key`."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class KeptReply:
    """`id` stands for who asked what with which key, `request_sha256` for the query and the body. `run`: the server's run that
    began it; `answer`: what was answered, sealed; None: nothing yet."""

    id: str
    request_sha256: str
    run: str
    expires_at: float
    answer: bytes | None = None


class Replies(Protocol):
    def get(self, reply_id: str) -> KeptReply | None: ...
    def put(self, reply: KeptReply) -> None:
        """Keep it in the place of what was kept under its id."""
        ...

    def remove(self, reply_id: str) -> None: ...
    def forget(self, now: float, limit: int) -> int:
        """Forget what has expired; returns how many."""
        ...
