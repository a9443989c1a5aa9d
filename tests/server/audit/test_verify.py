"""Every way to tamper with an export is found, and named."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from firmware.errors import RefusedError
from server.audit.verify import Verdict, verify
from tests.server.audit.chains import changed, checked, is_record, made, place, told

Lines = list[bytes]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Lines:
    return made(tmp_path_factory.mktemp("chains"))


def at(lines: Lines, partition: str, number: int) -> int:
    return next(i for i, line in enumerate(lines) if is_record(line) and place(line) == (partition, number))


def test_an_export_as_it_was_made_is_whole(lines: Lines) -> None:
    verdict = checked(lines)
    assert told(verdict) == []
    assert verdict.is_whole
    assert (verdict.records, verdict.checkpoints, verdict.trusted) == (9, 3, 3)
    shown = {name: (span.first, span.last, span.uncovered) for name, span in verdict.partitions.items()}
    assert shown == {"people": (1, 3, 0), "planner": (1, 6, 0)}


def test_a_line_is_the_bytes_that_were_hashed(lines: Lines) -> None:
    """As the documentation tells whoever verifies with other tools."""
    for line in filter(is_record, lines):
        assert hashlib.sha256(b"{" + line[75:]).hexdigest() == json.loads(line)["hash"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", "p4!"),
        ("actor", "eve"),
        ("at", 1.5),
        ("kind", "other"),
        ("target", None),
        ("data", {"of": []}),
        ("campaign", "x"),
        ("change_id", "x"),
    ],
)
def test_a_changed_field_is_named(lines: Lines, name: str, value: Any) -> None:
    where = at(lines, "planner", 4)
    lines = [*lines[:where], changed(lines[where], lambda one: one.update({name: value})), *lines[where + 1 :]]
    assert told(checked(lines)) == [("changed", "planner", 4, 4)]


def rehashed(line: bytes, previous: str | None = None, **values: Any) -> bytes:
    """Changed by somebody who knows how records are hashed."""
    line = changed(line, lambda one: one.update({**values, **({"previous": previous} if previous else {})}))
    return b'{"hash":"%b"' % hashlib.sha256(b"{" + line[75:]).hexdigest().encode() + line[73:][1:]


def test_a_record_that_was_hashed_anew_doesnt_fit_to_the_next(lines: Lines) -> None:
    where = at(lines, "planner", 4)
    lines = [*lines[:where], rehashed(lines[where], text="else"), *lines[where + 1 :]]
    assert told(checked(lines)) == [("unlinked", "planner", 5, 5)]


def rewritten(lines: Lines, partition: str, number: int, text: str) -> Lines:
    """One record changed, and all behind it written anew so that they fit."""
    out, previous = [], None
    for line in lines:
        if is_record(line) and place(line)[0] == partition and place(line)[1] >= number:
            line = rehashed(line, previous, **({"text": text} if place(line)[1] == number else {}))
            previous = json.loads(line)["hash"]
        out.append(line)
    return out


@pytest.mark.parametrize(
    ("number", "first", "signed"), [(1, 1, 3), (2, 1, 3), (3, 1, 3), (4, 4, 5), (5, 4, 5), (6, 6, 6)]
)
def test_a_history_written_anew_contradicts_a_checkpoint(lines: Lines, number: int, first: int, signed: int) -> None:
    """And it is told between which records it was changed."""
    found = told(checked(rewritten(lines, "planner", number, "else")))
    assert found == [("not-as-signed", "planner", first, signed)]


def test_whoever_holds_only_older_checkpoints_finds_what_they_cover(lines: Lines) -> None:
    pin = json.dumps(json.loads(lines[2])["checkpoint"], sort_keys=True, separators=(",", ":")).encode()
    assert told(verify(lines, {}, [pin])) == []
    assert told(verify(rewritten(lines, "planner", 4, "else"), {}, [pin])) == [("not-as-signed", "planner", 4, 5)]
    # what only later checkpoints cover nobody vouches for
    assert told(verify(rewritten(lines, "planner", 6, "else"), {}, [pin])) == []


def removed(lines: Lines, partition: str, first: int, last: int) -> Lines:
    return ended(
        [
            line
            for line in lines
            if not (is_record(line) and place(line) in [(partition, n) for n in range(first, last + 1)])
        ]
    )


def ended(lines: Lines) -> Lines:
    """With an end that fits, as somebody would write it who tampers."""
    records = sum(is_record(line) for line in lines)
    checkpoints = sum(line.startswith(b'{"checkpoint"') for line in lines)
    end = json.dumps({"end": {"checkpoints": checkpoints, "records": records}}, separators=(",", ":")).encode()
    return [*[line for line in lines if not line.startswith(b'{"end"')], end]


@pytest.mark.parametrize(("first", "last"), [(1, 1), (2, 3), (4, 4), (1, 5)])
def test_removed_records_are_named(lines: Lines, first: int, last: int) -> None:
    assert told(checked(removed(lines, "planner", first, last))) == [("missing", "planner", first, last)]


@pytest.mark.parametrize("first", [1, 2, 6])
def test_a_cut_off_end_is_named(lines: Lines, first: int) -> None:
    assert told(checked(removed(lines, "planner", first, 6))) == [("cut-off", "planner", first, 6)]


def test_a_partition_that_is_gone_altogether_is_named(lines: Lines) -> None:
    assert told(checked(removed(lines, "people", 1, 3))) == [("cut-off", "people", 1, 3)]


def test_records_in_another_order_are_named(lines: Lines) -> None:
    first = at(lines, "planner", 3)
    lines = [*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]]
    assert told(checked(lines)) == [("reordered", "planner", 3, 3)]


def test_a_record_that_is_there_twice_is_named(lines: Lines) -> None:
    where = at(lines, "planner", 3)
    assert told(checked(ended([*lines[:where], lines[where], *lines[where:]]))) == [("inserted", "planner", 3, 3)]


def test_a_record_put_in_is_named(lines: Lines) -> None:
    """Behind the end, with a number and a hash that fit: nobody signed it, and it says so."""
    where = at(lines, "planner", 6)
    following = rehashed(lines[where], json.loads(lines[where])["hash"], number=7)
    verdict = checked(ended([*lines[: where + 1], following, *lines[where + 1 :]]))
    assert (verdict.is_whole, verdict.partitions["planner"].uncovered) == (True, 1)
    between = rehashed(lines[where], json.loads(lines[at(lines, "planner", 3)])["hash"], number=4, text="put in")
    third = at(lines, "planner", 3)
    found = told(checked(ended([*lines[: third + 1], between, *lines[third + 1 :]])))
    assert ("inserted", "planner", 4, 4) in found


def test_checkpoints_cannot_be_dropped_changed_or_forged(lines: Lines) -> None:
    assert told(checked(ended([lines[0], *lines[2:]])))[0] == ("checkpoint-missing", None, 1, 1)
    assert told(checked(ended([*lines[:2], *lines[3:]])))[0] == ("checkpoint-missing", None, 2, 2)
    assert ("checkpoint-inserted", None, 1, 1) in told(checked([lines[0], lines[2], lines[1], *lines[3:]]))
    other = CryptoSigner.generate_ecdsa().public_key
    verdict = verify(lines, {other.keyid: other})
    assert [fault.kind for fault in verdict.faults][:2] == ["checkpoint-changed"] * 2
    assert "no-checkpoint" in [fault.kind for fault in verdict.faults]


def test_a_dropped_last_checkpoint_is_found_by_whoever_kept_it(lines: Lines) -> None:
    pin = json.dumps(json.loads(lines[3])["checkpoint"], sort_keys=True, separators=(",", ":")).encode()
    older = ended(removed(removed([*lines[:3], *lines[4:]], "planner", 6, 6), "people", 3, 3))
    assert told(checked(older)) == []  # nobody else can know
    assert told(checked(older, [pin])) == [("checkpoint-missing", None, 3, 3)]
    assert told(checked(lines, [pin])) == []


def test_an_export_that_broke_off_is_found(lines: Lines) -> None:
    assert told(checked(lines[:-1])) == [("incomplete", None, None, None)]
    assert told(checked([*lines[:-1], b'{"end":{"checkpoints":3,"records":8}}'])) == [("incomplete", None, None, None)]


def test_without_a_key_or_a_pin_nothing_is_proven(lines: Lines) -> None:
    with pytest.raises(RefusedError) as caught:
        verify(lines, {})
    assert caught.value.kind == "no-trust"


def _tampered(data: st.DataObject, lines: Lines) -> tuple[Lines, set[tuple[str, int]]]:
    """Lines that differ from those given, and the records that somebody touched."""
    places = [i for i, line in enumerate(lines) if is_record(line)]
    kind = data.draw(st.sampled_from(["flip", "remove", "swap", "copy", "rewrite", "cut", "replace"]))
    i, j = sorted(data.draw(st.lists(st.sampled_from(places), min_size=2, max_size=2, unique=True)))
    out = list(lines)
    match kind:
        case "flip":
            spot = data.draw(st.integers(0, len(out[i]) - 1))
            byte = data.draw(st.integers(0, 255).filter(lambda value: value not in (out[i][spot], 10)))
            out[i] = out[i][:spot] + bytes([byte]) + out[i][spot + 1 :]
            return out, {place(lines[i])}
        case "remove":
            del out[i]
            return ended(out), {place(lines[i])}
        case "swap":
            out[i], out[j] = out[j], out[i]
            return out, {place(lines[n]) for n in range(i, j + 1) if is_record(lines[n])}
        case "copy":
            out.insert(j, out[i])
            return ended(out), {place(lines[i])}
        case "replace":
            out[i] = out[j]
            return out, {place(lines[i]), place(lines[j])}
        case "rewrite":
            partition, number = place(lines[i])
            out = rewritten(out, partition, number, data.draw(st.text(max_size=5)) + "!")
            return out, {(partition, n) for n in range(1, 10)}
    partition, number = place(lines[i])
    return removed(out, partition, number, 9), {(partition, n) for n in range(number, 10)}


@given(data=st.data())
def test_whatever_somebody_does_to_the_records_is_found_and_named(lines: Lines, data: st.DataObject) -> None:
    """Unless a swap of two partitions' records leaves each in its order, which changes nothing that was recorded."""
    tampered, touched = _tampered(data, lines)
    verdict = checked(tampered)
    if _by_partition(tampered) == _by_partition(lines):
        assert verdict.is_whole
        return
    assert not verdict.is_whole
    assert _named(verdict) & touched, (told(verdict), touched)


def _by_partition(lines: Lines) -> object:
    try:
        records = [(place(line)[0], line) for line in lines if is_record(line)]
    except (ValueError, KeyError):
        return None
    return sorted(records, key=lambda one: str(one[0]))


def _named(verdict: Verdict) -> set[tuple[str, int]]:
    """The records that were named, one by one."""
    return {
        (fault.partition, number)
        for fault in verdict.faults
        if fault.partition is not None and fault.number is not None and fault.upto is not None
        for number in range(fault.number, min(fault.upto, 20) + 1)
    }
