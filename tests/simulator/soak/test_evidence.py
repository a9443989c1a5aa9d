"""What is stored held against what was said: a lost, doubled, changed or reordered report is noticed, and so is a false state."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.storage import SqlDatabase
from simulator.soak.books import Ledger
from simulator.soak.evidence import Reports, compare_fleet, quiet
from simulator.wire.plan import Truth

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


def test_quiet_is_when_all_is_said_and_heard() -> None:
    assert quiet([truth()]) == ""
    for given in ({"waiting": 1}, {"is_connected": False}, {"is_up": False}):
        assert quiet([truth(), truth(**given)])
