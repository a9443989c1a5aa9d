"""The typed code: 16 characters that say over the telephone how an order ended, and that nobody but its device could say.

`OTTT-TTTT-TTTT-TTTC` in Crockford's base32 (no I, L, O, U): O is the outcome, T a truncated MAC of 70 bits, C a check symbol that
catches every wrong character and every two neighbours that were swapped. The MAC's key is HKDF-SHA256 of X25519 between the
device's key (the one that it announced, signed) and the server's, whose public half is in the signed order; so no secret lies on
the stick, and what a thief of it can do is guess: once in 2^70, at the rate that the server allows.

It is weaker than a signed report: it says how one order ended, not what runs now, and whoever has the server's key could make it.
"""

import hashlib
import hmac
from functools import reduce

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from firmware.errors import RefusedError
from firmware.protocol.codec import canonical
from firmware.protocol.words import AgentState

SUITE = "code-x25519-hkdf-sha256-hmac-sha256-70"
OUTCOMES = (AgentState.COMMITTED, AgentState.FELL_BACK, AgentState.FAILED, AgentState.REFUSED)
"""By the value of the first character."""
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MAC_CHARS = 14
LENGTH = MAC_CHARS + 2
_MISREAD = str.maketrans("ILO", "110", "- ")
_INFO = b"otaria typed code v1"


def code_key(private: X25519PrivateKey, public: X25519PublicKey, order_hash: str) -> bytes:
    """The MAC key that device and server share for one order. Raises `RefusedError` (`bad-encryption-key`)."""
    try:
        shared = private.exchange(public)
    except ValueError as error:
        raise RefusedError("bad-encryption-key", "There is no secret to share with this key.") from error
    return HKDF(hashes.SHA256(), 32, bytes.fromhex(order_hash), _INFO).derive(shared)


def make_code(key: bytes, target: str, order_hash: str, outcome: AgentState) -> str:
    """The code in groups of four. Raises `ValueError` for a state that is no outcome."""
    symbols = [OUTCOMES.index(outcome), *_mac(key, target, order_hash, outcome)]
    text = "".join(ALPHABET[symbol] for symbol in [*symbols, _check(symbols)])
    return "-".join(text[at : at + 4] for at in range(0, LENGTH, 4))


def parse_code(text: str) -> tuple[AgentState, str]:
    """The outcome that a typed code claims, and the code as `make_code` would write it. Raises `RefusedError` (`bad-code`) for
    what was mistyped; whether it is true is `is_true`'s to say."""
    plain = text.upper().translate(_MISREAD)[: LENGTH + 1]
    if len(plain) != LENGTH or any(character not in ALPHABET for character in plain):
        raise _bad(f"a code has {LENGTH} characters out of {ALPHABET}")
    *symbols, check = (ALPHABET.index(character) for character in plain)
    if check != _check(symbols):
        raise _bad("its last character doesn't fit the others, so one was misread or two were swapped")
    if symbols[0] >= len(OUTCOMES):
        raise _bad("its first character names no outcome that is known here")
    return OUTCOMES[symbols[0]], "-".join(plain[at : at + 4] for at in range(0, LENGTH, 4))


def is_true(key: bytes, target: str, order_hash: str, outcome: AgentState, code: str) -> bool:
    """Whether the device that shares this key made this code; takes as long whatever the answer."""
    return hmac.compare_digest(make_code(key, target, order_hash, outcome).encode(), code.encode())


def _mac(key: bytes, target: str, order_hash: str, outcome: AgentState) -> list[int]:
    words = canonical({"order": order_hash, "outcome": outcome.value, "target": target})
    number = int.from_bytes(hmac.new(key, words, hashlib.sha256).digest(), "big")
    return [number >> 5 * place & 31 for place in range(MAC_CHARS)]


def _check(symbols: list[int]) -> int:
    """The symbols as a polynomial over GF(32) at a generator of the field: each place has a weight of its own."""
    return reduce(lambda sum_, symbol: _times_two(sum_ ^ symbol), symbols, 0)


def _times_two(symbol: int) -> int:
    return symbol << 1 if symbol < 16 else symbol << 1 & 31 ^ 0b00101


def _bad(why: str) -> RefusedError:
    return RefusedError("bad-code", f"This is no code that a device shows: {why}. Read it again.")
