"""Challenges that only this process can have made, without keeping any of them: a time and chance, under a MAC.

Each is good for a short time, and at most once per agent: an agent's next must have been made after the one it used last.
So what is kept is one number per agent that renewed since the start, and nobody can fill it without a key of the fleet.
"""

import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

from firmware.errors import RefusedError

GOOD_FOR_S = 120.0
_TICK = 1e6
_TIME_BYTES, _CHANCE_BYTES, _MAC_BYTES = 8, 16, 24


class Challenges:
    """Makes and takes challenges. A new process takes none of an older one's."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._latest = 0
        self._used: dict[str, int] = {}

    def issue(self, now: float) -> str:
        """A new challenge at POSIX seconds `now`; each is later than all before it."""
        self._latest = max(self._latest + 1, int(now * _TICK))
        body = self._latest.to_bytes(_TIME_BYTES, "big") + secrets.token_bytes(_CHANCE_BYTES)
        return urlsafe_b64encode(body + self._mac(body)).decode()

    def made_at(self, nonce: str, now: float) -> int:
        """When a challenge was made; raises `RefusedError` (`stale-challenge`) unless it is ours and still good."""
        try:
            data = urlsafe_b64decode(nonce.encode("ascii"))
        except ValueError as error:
            raise _stale() from error
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        made = int.from_bytes(body[:_TIME_BYTES], "big")
        is_ours = len(body) == _TIME_BYTES + _CHANCE_BYTES and hmac.compare_digest(mac, self._mac(body))
        if not is_ours or now * _TICK > made + GOOD_FOR_S * _TICK:
            raise _stale()
        return made

    def spend(self, agent: str, made: int) -> None:
        """Use a challenge up; raises `RefusedError` (`stale-challenge`) when the agent has used it, or a later one."""
        if made <= self._used.get(agent, 0):
            raise _stale()
        self._used[agent] = made

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")[:_MAC_BYTES]


def _stale() -> RefusedError:
    return RefusedError("stale-challenge", "The challenge is not this server's, too old, or used; fetch another one.")
