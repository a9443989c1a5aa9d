"""The typed code: what may be misread is, what may not is noticed, and only the device and the server can make one."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from firmware.bundle.code import ALPHABET, LENGTH, OUTCOMES, code_key, is_true, make_code, parse_code
from firmware.errors import RefusedError
from firmware.protocol.words import AgentState

DEVICE, SERVER = X25519PrivateKey.generate(), X25519PrivateKey.generate()
ORDER, OTHER = "ab" * 32, "cd" * 32
KEY = code_key(DEVICE, SERVER.public_key(), ORDER)


def test_both_ends_make_the_same_key_and_it_is_one_order_s() -> None:
    assert code_key(SERVER, DEVICE.public_key(), ORDER) == KEY
    assert code_key(SERVER, DEVICE.public_key(), OTHER) != KEY
    assert code_key(SERVER, X25519PrivateKey.generate().public_key(), ORDER) != KEY


def test_a_public_key_that_gives_nothing_secret_is_refused() -> None:
    with pytest.raises(RefusedError):
        code_key(SERVER, X25519PublicKey.from_public_bytes(bytes(32)), ORDER)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_code_says_its_outcome(outcome: AgentState) -> None:
    code = make_code(KEY, "dev-1", ORDER, outcome)
    assert len(code.replace("-", "")) == LENGTH == 16
    assert set(code) <= {*ALPHABET, "-"}
    assert not set(code) & set("ILOU")
    assert parse_code(code) == (outcome, code)
    assert is_true(KEY, "dev-1", ORDER, outcome, code)


def test_a_code_is_good_for_one_order_target_and_outcome() -> None:
    code = make_code(KEY, "dev-1", ORDER, AgentState.COMMITTED)
    assert not is_true(KEY, "dev-2", ORDER, AgentState.COMMITTED, code)
    assert not is_true(KEY, "dev-1", OTHER, AgentState.COMMITTED, code)
    assert not is_true(KEY, "dev-1", ORDER, AgentState.FAILED, code)
    assert not is_true(code_key(SERVER, DEVICE.public_key(), OTHER), "dev-1", ORDER, AgentState.COMMITTED, code)


def test_what_people_misread_is_taken_for_what_was_meant() -> None:
    code = make_code(KEY, "dev-1", ORDER, AgentState.FELL_BACK)
    typed = code.lower().replace("0", "o").replace("1", "l").replace("-", "  ")
    assert parse_code(typed) == (AgentState.FELL_BACK, code)


CODES = st.builds(
    lambda seed, outcome: make_code(seed, "dev-1", ORDER, outcome).replace("-", ""),
    st.binary(min_size=32, max_size=32),
    st.sampled_from(OUTCOMES),
)


@given(code=CODES, at=st.integers(0, LENGTH - 1), to=st.sampled_from(ALPHABET))
def test_one_wrong_character_is_always_noticed(code: str, at: int, to: str) -> None:
    if code[at] == to:
        return
    with pytest.raises(RefusedError, match="misread"):
        parse_code(code[:at] + to + code[at + 1 :])


@given(code=CODES, at=st.integers(0, LENGTH - 2))
def test_two_swapped_neighbours_are_always_noticed(code: str, at: int) -> None:
    if code[at] == code[at + 1]:
        return
    with pytest.raises(RefusedError, match="swapped"):
        parse_code(code[:at] + code[at + 1] + code[at] + code[at + 2 :])


@pytest.mark.parametrize("text", ["", "0", "0" * 15, "0" * 17, "U" * 16, "é" * 16, "0" * 100_000])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_code(text)
    assert caught.value.kind == "bad-code"


def test_an_outcome_that_is_not_known_is_refused() -> None:
    """A later agent may have more of them."""
    symbols = [31, *[0] * 14]
    from firmware.bundle.code import _check

    with pytest.raises(RefusedError, match="no outcome"):
        parse_code("".join(ALPHABET[one] for one in [*symbols, _check(symbols)]))
