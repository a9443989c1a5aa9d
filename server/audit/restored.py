"""What the trail says of a restore: where its chains ended in the backup, and which checkpoint was the last.

A backup is older than the server that was lost with it. Records and checkpoints that were written in between are gone, and the
chains go on from where the backup ends: nothing in them shows it. So the restored server's first record names those ends. It is
chained and signed over like any other, and whoever kept a checkpoint from in between is told what it covered.
"""

import msgspec
from msgspec import Struct

from server.audit.chain import Line
from server.audit.checkpoint import Checkpoint, Number, Place
from server.ports import Unit

KIND = "server-restored"


class Ends(Struct, frozen=True, kw_only=True):
    """`made_at`: of the backup; `heads`: where the partitions ended in it; `checkpoint`: its newest, if it had one."""

    made_at: Number
    heads: dict[str, Place] = {}
    checkpoint: Place | None = None


def record(unit: Unit, *, made_at: int, now: float) -> None:
    """Put the restore of a backup on the trail that was in it."""
    last = unit.audit.last_checkpoint()
    ends = Ends(
        made_at=made_at,
        heads={
            name: Place(number=head.number, hash=head.hash) for name, head in unit.audit.heads().items() if head.number
        },
        checkpoint=Place(number=last.number, hash=last.hash) if last else None,
    )
    text = f"Restored from the backup made at {made_at}; what happened since is not known here."
    unit.audit.add(at=now, kind=KIND, text=text, actor="restore", data=msgspec.to_builtins(ends))


def read(line: Line) -> Ends | None:
    """The ends that such a record names; None for one that names none, or none that can be read."""
    try:
        return msgspec.json.decode(line.data, type=Ends)
    except msgspec.MsgspecError:
        return None


def lost(ends: Ends, pin: Checkpoint) -> int:
    """How many records a checkpoint from in between covered that the backup doesn't have."""
    begun = {name: place.number for name, place in ends.heads.items()}
    return sum(max(0, place.number - begun.get(name, 0)) for name, place in pin.heads.items())


def is_between(ends: Ends, at: float, pin: Checkpoint) -> bool:
    """Whether a checkpoint was signed after the backup and before the restore, at `at`."""
    return pin.number > (ends.checkpoint.number if ends.checkpoint else 0) and ends.made_at <= pin.at <= at
