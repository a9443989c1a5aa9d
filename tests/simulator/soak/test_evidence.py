"""What is stored held against what was said: a lost, doubled, changed or reordered report is noticed, and so is a false state."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from server.storage import SqlDatabase
from server.storage.evidence import KeptReport
from simulator.lab import Lab
from simulator.soak.books import Ledger
from simulator.soak.evidence import Reports, Trail, compare_bricked, compare_fleet, quiet
from simulator.wire.plan import Truth
from tests.server.audit.chains import SIGNER, is_record, made

HASHES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]


def truth(**given: Any) -> Truth:
    made = Truth(
        member="m-1",
        target="d-1",
        version="1.1.0",
        sha256="aa",
        state="committed",
        order="",
        is_up=True,
        is_bricked=False,
        is_connected=True,
        journal="j",
        said=b"".join(bytes.fromhex(one)[:16] for one in HASHES),
        acked=4,
        waiting=0,
        orders=1,
    )
    return replace(made, **given)


async def compared(directory: Path, rows: Sequence[tuple[int, str]], said: Truth) -> dict[str, int]:
    url = f"sqlite:///{directory / 'otaria.db'}"
    database = SqlDatabase.open(url)
    for seq, digest in rows:
        await database.write(
            lambda unit, seq=seq, digest=digest: unit.inbox.add_report("d-1", "d-1", "j", seq, digest, {}, 0.0)
        )
    await database.close()
    ledger = Ledger()
    reports = Reports(url, ledger)
    for _ in range(2):  # what was told is not told again
        reports.compare([said], 1.0, {"m-1": ("what it did",)})
    assert reports.stored == len(rows)
    return dict(ledger.counts)


async def test_what_the_planner_has_still_to_see_is_counted_each_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'otaria.db'}"
    database = SqlDatabase.open(url)
    await database.write(lambda unit: unit.inbox.add_report("d-1", "d-1", "j", 1, HASHES[0], {}, 0.0))
    reports = Reports(url, Ledger())
    for _ in range(3):
        reports.compare([], 1.0, {})
        assert reports.pending == 1
    await database.close()


def test_a_report_that_is_there_twice_is_noticed() -> None:
    ledger = Ledger()
    rows = [KeptReport(number, "d-1", "j", seq, HASHES[seq]) for number, seq in enumerate((1, 2, 2), start=1)]
    Reports("sqlite://", ledger).take(rows, 1.0)
    assert dict(ledger.counts) == {"doubled-report": 1}


class TestTrail:
    """Over exports that the server's own parts made."""

    def trail(self, folder: Path, *pins: bytes) -> tuple[Trail, Ledger]:
        ledger = Ledger()
        made = Trail(Lab(folder / "lab"), folder / "trail", ledger)
        made._pins = list(pins)
        return made, ledger

    def test_one_that_is_whole_is_held(self, tmp_path: Path) -> None:
        trail, ledger = self.trail(tmp_path)
        trail.look(SIGNER.public_key, made(tmp_path), 1.0)
        trail.end(0, 2.0)
        assert (trail.records, dict(ledger.counts)) == (9, {})

    def test_a_record_that_is_missing_is_noticed(self, tmp_path: Path) -> None:
        trail, ledger = self.trail(tmp_path)
        lines = made(tmp_path)
        del lines[next(place for place, line in enumerate(lines) if is_record(line)) + 1]
        trail.look(SIGNER.public_key, lines, 1.0)
        assert dict(ledger.counts) == {"audit": 1}

    def test_another_key_than_before_is_noticed(self, tmp_path: Path) -> None:
        """What was kept of it earlier doesn't verify by the key that the server shows now."""
        other, again = CryptoSigner.generate_ecdsa(), tmp_path / "again"
        again.mkdir()
        pin = next(
            json.dumps(json.loads(line)["checkpoint"]).encode() for line in made(tmp_path) if b'"checkpoint"' in line
        )
        trail, ledger = self.trail(tmp_path, pin)
        trail.look(other.public_key, made(again), 1.0)
        assert dict(ledger.counts) == {"audit": 1}

    def test_one_that_was_never_read_or_lacks_permits_is_noticed(self, tmp_path: Path) -> None:
        trail, ledger = self.trail(tmp_path)
        trail.end(0, 1.0)
        trail.look(SIGNER.public_key, made(tmp_path), 1.0)
        trail.end(1, 2.0)
        assert [one.text for one in ledger.kept] == [
            "The trail: It was never verified.",
            "The trail: It has 0 permits, and devices followed 1.",
        ]


ALL = list(enumerate(HASHES, start=1))


async def test_what_was_said_is_stored(tmp_path: Path) -> None:
    assert await compared(tmp_path, ALL, truth()) == {}


async def test_what_is_not_acked_may_be_missing(tmp_path: Path) -> None:
    assert await compared(tmp_path, ALL[:2], truth(acked=2, waiting=2)) == {}


async def test_a_lost_report_is_noticed(tmp_path: Path) -> None:
    assert await compared(tmp_path, ALL[:3], truth()) == {"lost-report": 1}


async def test_a_changed_report_is_noticed(tmp_path: Path) -> None:
    assert await compared(tmp_path, [*ALL[:3], (4, "f" * 64)], truth()) == {"changed-report": 1}


async def test_a_gap_is_noticed(tmp_path: Path) -> None:
    assert await compared(tmp_path, [ALL[0], *ALL[2:]], truth()) == {"reordered-report": 1, "lost-report": 1}


async def test_a_device_that_has_no_power_now_is_looked_at_later(tmp_path: Path) -> None:
    assert await compared(tmp_path, [], truth(waiting=-1)) == {}


SHOWN = {"id": "d-1", "running_version": "1.1.0", "running_sha256": "aa", "state": "verified", "campaign": "c"}


@pytest.mark.parametrize(
    ("shown", "is_", "kinds"),
    [
        ({}, {}, {}),
        ({"state": "committed"}, {}, {}),
        ({"state": "fell_back", "campaign": "d"}, {}, {}),
        ({"state": None, "campaign": None}, {}, {}),
        ({}, {"version": "1.0.0"}, {"state": 1}),
        ({}, {"sha256": "bb"}, {"state": 1}),
        ({"campaign": "d"}, {}, {"state": 1}),
        ({"state": "fell_back"}, {}, {"state": 1}),
        ({"state": "rolled_back"}, {}, {"state": 1}),
        ({"id": "d-2"}, {}, {"state": 1}),
        ({}, {"is_bricked": True}, {"bricked": 1}),
        ({}, {"waiting": -1}, {"state": 1}),
    ],
)
def test_a_target_is_held_against_its_device(shown: dict[str, Any], is_: dict[str, Any], kinds: dict[str, int]) -> None:
    ledger = Ledger()
    versions = {"c": "1.1.0", "d": "1.2.0"}
    compare_fleet([{**SHOWN, **shown}], {"d-1": truth(**is_)}, versions, ledger, 1.0, {"m-1": ("what it did",)})
    assert dict(ledger.counts) == kinds
    assert all(one.trace == ("what it did",) for one in ledger.kept)


@pytest.mark.parametrize(
    ("shown", "is_bricked", "broken"),
    [
        ({}, True, 1),
        ({"state": "fell_back"}, True, 1),
        ({"id": "d-2"}, True, 1),
        ({"state": "missing"}, True, 0),
        ({}, False, 0),
    ],
)
def test_who_is_bricked_is_neither_verified_nor_back(shown: dict[str, Any], is_bricked: bool, broken: int) -> None:
    ledger = Ledger()
    compare_bricked([{**SHOWN, **shown}], [truth(is_bricked=is_bricked)], ledger, 1.0)
    assert dict(ledger.counts) == ({"bricked": broken} if broken else {})


def test_quiet_is_when_all_is_said_and_heard() -> None:
    assert quiet([truth()]) == ""
    for given in ({"waiting": 1}, {"is_connected": False}, {"is_up": False}):
        assert quiet([truth(), truth(**given)])
        assert quiet(one for one in (truth(), truth(**given))), "whatever they come in"
