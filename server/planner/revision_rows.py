"""The revisions of a campaign: what its file said, each time it was applied, and who agreed to that."""

from enum import StrEnum

from msgspec import Struct

from server.planner.selection import EVERYBODY, Selection
from server.planner.strategy import Strategy


class RevisionState(StrEnum):
    """`proposed`: it waits for approvals; `replaced`: another one was proposed before this one was agreed to."""

    PROPOSED = "proposed"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    REPLACED = "replaced"


class RevisionRow(Struct, frozen=True, kw_only=True, gc=False):
    """`strategy` and `selection` as the file has them; the campaign's row has the strategy as it took effect. `needed`:
    how many must agree before it does; `agreed`: who did. `changes`: what differs from the one before, in words."""

    campaign: str
    number: int
    state: RevisionState
    strategy: Strategy
    selection: Selection = EVERYBODY
    needed: int = 0
    agreed: tuple[str, ...] = ()
    by: str = ""
    at: float = 0.0
    changes: tuple[str, ...] = ()
    version: int = 0
