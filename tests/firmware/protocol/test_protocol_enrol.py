"""The claim token: one text, one meaning."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.errors import RefusedError
from firmware.protocol.enrol import MAX_TOKEN_CHARS, PREFIX, Claim, encode_claim, parse_claim

CLAIM = Claim(url="https://fleet.example:8443", id="c-abcdefghij", secret="s" * 43, ca="a" * 64, root="b" * 64)


def token_of(value: object) -> str:
    data = json.dumps(value, separators=(",", ":")).encode()
    return PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_dict(**changes: object) -> dict[str, object]:
    return {"url": CLAIM.url, "id": CLAIM.id, "secret": CLAIM.secret, "ca": CLAIM.ca, "root": CLAIM.root, **changes}


def test_a_token_survives_the_round_trip_and_white_space_around_it() -> None:
    assert parse_claim(encode_claim(CLAIM)) == CLAIM
    assert parse_claim(f"\n {encode_claim(CLAIM)}\n") == CLAIM
    assert token_of(as_dict()) == encode_claim(CLAIM)


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://fleet.example"},
        {"url": "https://fleet.example/path"},
        {"url": "https://user@fleet.example"},
        {"url": "https://"},
        {"id": "../c"},
        {"secret": "short"},
        {"ca": "A" * 64},
        {"root": ""},
        {"more": 1},
        {"url": None},
    ],
)
def test_a_wrong_field_is_malformed(wrong: dict[str, object]) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_claim(token_of(as_dict(**wrong)))
    assert caught.value.kind == "claim-malformed"


def test_every_cut_and_every_changed_character_is_noticed_or_changes_the_claim() -> None:
    token = encode_claim(CLAIM)
    for end in range(len(token)):
        with pytest.raises(RefusedError):
            parse_claim(token[:end])
    for text in (
        token + "A",
        token + "=",
        token.replace("otc1.", "otc2."),
        token[:50] + "\n" + token[50:],
        token[:50] + "!" + token[50:],
    ):
        with pytest.raises(RefusedError):
            parse_claim(text)
    with pytest.raises(RefusedError):
        parse_claim(PREFIX + "A" * MAX_TOKEN_CHARS)


@given(st.text(max_size=300))
def test_noise_is_refused_with_a_type(noise: str) -> None:
    for text in (noise, PREFIX + noise):
        with pytest.raises(RefusedError) as caught:
            parse_claim(text)
        assert caught.value.kind == "claim-malformed"
