"""Ledgers for comparing boot scripts with the rules."""

import random

from device_agent.boot.ledger import MAX_COUNT, Ledger, Phase
from device_agent.ports import Slot

A, B, BOTH = frozenset({Slot.A}), frozenset({Slot.B}), frozenset(Slot)
LONG_ID = "t" + "-" * 62 + "_"


def some_ledger(dice: random.Random) -> Ledger:
    phase = dice.choice(list(Phase))
    return Ledger(
        slot=dice.choice(list(Slot)),
        whole=dice.choice([A, B, BOTH, BOTH]),
        left=dice.choice([0, 1, 2, 8, MAX_COUNT]),
        phase=dice.choice([Phase.TRIAL, phase]),
        trial_id=dice.choice(["", "t1", LONG_ID]),
        tries=dice.choice([0, 1, 2, 3, MAX_COUNT]),
        spare=dice.choice([0, 1, 3, 4, 9]),
        clean=dice.choice([False, True]),
        cause=dice.choice(["", "requested"]),
        probe=dice.choice(["", "0a1b2c3d"]),
        seen=dice.choice(["", "ffffffff"]),
    )
