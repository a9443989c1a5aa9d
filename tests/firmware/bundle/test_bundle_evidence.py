"""Reports as text: whole envelopes, in parts that may come in any order; what was changed on the way is named."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from firmware.bundle import evidence
from firmware.bundle.evidence import Sent, address, from_text, parse_line, to_line, to_text
from firmware.errors import RefusedError
from firmware.protocol.envelope import open_envelope, seal
from firmware.protocol.report import REPORT_KIND, Report, Running
from firmware.protocol.words import AgentState

SIGNER = CryptoSigner.generate_ed25519()
STATES = (AgentState.ORDERED, AgentState.DOWNLOADING, AgentState.STAGED, AgentState.TRIAL, AgentState.COMMITTED)


def reports(number: int = 5) -> list[tuple[str, bytes]]:
    made = [
        Report(
            target="dev-1",
            agent="dev-1",
            journal="journal",
            seq=seq,
            oldest=1,
            boot_id="boot",
            at=1_790_000_000 + seq,
            state=STATES[seq % len(STATES)],
            running=Running(slot="A", product="demo", version="1.0", sha256="ab" * 32),
            order_hash="cd" * 32,
        )
        for seq in range(1, number + 1)
    ]
    return [("report", seal(report, REPORT_KIND, SIGNER)) for report in made]


def test_what_goes_into_a_text_comes_out_signed_as_it_was() -> None:
    sent = from_text("\n".join(reversed(to_text(reports()))).lower())
    key = SIGNER.public_key
    opened = [open_envelope(address(one)[1], REPORT_KIND, Report, {key.keyid: key}) for one in sent]
    assert [one.message.seq for one in opened] == [1, 2, 3, 4, 5]
    assert address(sent[0])[0] == "otaria/v1/f6/dev-1/t/dev-1/report" or address(sent[0])[0].endswith("/t/dev-1/report")
    assert [address(one)[1] for one in sent] == [data for _, data in reports()]


def test_the_parts_of_an_update_fit_a_terminal() -> None:
    parts = to_text(reports(7))
    assert len(parts) <= 12
    assert all(len(part) <= 619 for part in parts)
    assert all(set(part) <= set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:") for part in parts)


def test_a_part_that_is_missing_is_named() -> None:
    parts = to_text(reports())
    with pytest.raises(RefusedError) as caught:
        from_text(parts[0] + "".join(parts[2:]))
    assert caught.value.kind == "text-incomplete"
    assert "part 2 of" in caught.value.text


def test_a_part_that_was_changed_is_named() -> None:
    parts = to_text(reports())
    wrong = parts[1][:-1] + ("A" if parts[1][-1] != "A" else "B")
    with pytest.raises(RefusedError, match="part 2 was changed"):
        from_text("".join([parts[0], wrong, *parts[2:]]))


def test_parts_of_two_devices_do_not_mix() -> None:
    with pytest.raises(RefusedError, match="different reports"):
        from_text(to_text(reports(5))[0] + to_text(reports(6))[0])


def _text_of(packed: bytes) -> str:
    """A text whose frame is right and whose content is what a stranger put there."""
    import base64

    name = evidence._name(packed)
    data = base64.b32encode(packed).decode().rstrip("=")
    pieces = [data[at : at + 2000] for at in range(0, len(data), 2000)]
    return "".join(evidence._part(number, len(pieces), name, one) for number, one in enumerate(pieces, start=1))


@pytest.mark.parametrize(
    "packed",
    [
        zlib.compress(bytes(2 << 20)),
        zlib.compress(b'{"reports": []}'),
        zlib.compress(b'{"reports": [{"leaf": "order", "kind": "k", "payload": "{}", "signatures": []}]}'),
        zlib.compress(b"[" * 1000),
        zlib.compress(b'{"reports": []}') + b"more",
        zlib.compress(b'{"reports": []}')[:-3],
        b"not packed",
    ],
    ids=["bomb", "empty", "leaf", "nested", "behind", "cut", "plain"],
)
def test_a_hostile_text_is_refused(packed: bytes) -> None:
    with pytest.raises(RefusedError):
        from_text(_text_of(packed))


@given(st.text(max_size=400))
def test_any_text_gets_a_word(text: str) -> None:
    with pytest.raises(RefusedError):
        from_text(text)


def test_too_many_reports_are_for_a_stick() -> None:
    with pytest.raises(RefusedError, match="take a stick"):
        to_text(reports(evidence.MAX_REPORTS + 1))


def test_a_line_of_a_file_is_the_envelope() -> None:
    leaf, data = reports(1)[0]
    sent = parse_line(to_line(leaf, data))
    assert sent == Sent(leaf="report", envelope=json.loads(data))
    assert address(sent)[1] == data


@pytest.mark.parametrize("line", [b"", b"[]", b'{"leaf":"order","envelope":{}}', b'{"leaf":"report"}', b" " * 100_000])
def test_a_bad_line_is_refused(line: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_line(line)


def test_a_report_that_names_nobody_has_no_address() -> None:
    with pytest.raises(RefusedError):
        address(Sent(leaf="report", envelope={"payload": "e30=", "payloadType": "x", "signatures": [{}]}))
