"""Two copies: which one is written first, and what a torn write leaves when the other copy was no help."""

import contextlib
from pathlib import Path

import pytest

from device_agent.boot.backend import uboot_store
from device_agent.boot.ledger import Ledger
from device_agent.ports import Slot
from tests.contract.power import CutEffects, PowerCut, UnsyncedEffects, every_cut

OLDEST, OLD, NEW = Ledger(cause="oldest"), Ledger(cause="old"), Ledger(cause="new", whole=frozenset(Slot))
OFFSETS = (0, 4096)


def saved(path: Path, *ledgers: Ledger) -> bytes:
    for ledger in ledgers:
        uboot_store(UnsyncedEffects(), path).save(ledger)
    return path.read_bytes()


@pytest.mark.parametrize("harm", ["stale", "damaged"])
@pytest.mark.parametrize("victim", OFFSETS)
def test_the_only_good_copy_is_whole_until_the_other_one_is(tmp_path: Path, victim: int, harm: str) -> None:
    """A first power cut, or rust, has left one good copy; a second cut anywhere leaves the old state or the new."""
    path = tmp_path / "state"
    path.write_bytes(bytes(32768))
    stale = saved(path, OLDEST)
    start = bytearray(saved(path, OLD))
    start[victim : victim + 1024] = stale[victim : victim + 1024] if harm == "stale" else b"rust" * 256
    cuts = list(every_cut(8))
    seen = set()
    for cut in cuts:
        path.write_bytes(start)
        effects = CutEffects(cut)
        with contextlib.suppress(PowerCut):
            uboot_store(effects, path).save(NEW)
        found = uboot_store(UnsyncedEffects(), path).load()
        assert found is not None, cut
        assert found.ledger in (OLD, NEW), cut
        seen.add(found.ledger.cause)
    assert seen == {"old", "new"}


def test_numbers_go_on_past_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(bytes(32768))
    for number in range(5):
        saved(path, Ledger(cause=f"c{number}"))
        assert uboot_store(UnsyncedEffects(), path).load().ledger.cause == f"c{number}"  # type: ignore[union-attr]
