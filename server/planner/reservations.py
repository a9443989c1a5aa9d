"""Reservations: an emergency that waits for a full budget group gets the next token there.

Rules
- Whose ask finds a group full reserves there for its emergency: other campaigns' admissions into the group wait until that target
  was served, waits for it no more, or the reservation lapses.
- A reservation makes no room: whoever it is for goes by the same limits as anybody. It binds no other emergency, so that two
  can't hold each other up, and nobody who is counted already.
- It lapses a while after it was made, however often is asked meanwhile; then for as long again nobody may reserve there. So an
  emergency that is stuck, and asks that are replayed, cost others half of the time at most.
- It stands in the group's row: one for each group, of whoever came first.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from server.planner.ledger import Ledger
from server.planner.rows import GroupRow, campaign_group
from server.planner.states import WAITING


def binds(ledger: Ledger, group: GroupRow) -> bool:
    """Whether the group is reserved for an emergency that this campaign has to let go first."""
    campaign = ledger.campaign
    is_held = bool(group.reserved_by) and ledger.at < group.reserved_until
    return is_held and group.reserved_by != campaign.id and not campaign.strategy.emergency


def make(ledger: Ledger, groups: Iterable[GroupRow]) -> None:
    """Reserve the next token of each of these groups for the target, where nobody has and it may be."""
    campaign, lasts_s = ledger.campaign, ledger.campaign.strategy.urgency.reserve_s
    until = ledger.at + lasts_s
    for group in groups if lasts_s else ():
        is_own = group.key == campaign_group(campaign.id)
        if is_own or ledger.at < max(group.reserved_until, group.reservable_at):
            continue
        mine = {"reserved_by": campaign.id, "reserved_for": ledger.target.id, "reserved_until": until}
        ledger.put_group(replace(group, **mine, reservable_at=until + lasts_s))
        ledger.record("reserved", f"The next token of {group.key} is reserved for it, for {lasts_s:g} s.", target=True)


def is_next(ledger: Ledger, group: GroupRow) -> bool:
    """Whether the group's next token is reserved for the target."""
    return (group.reserved_by, group.reserved_for) == _who(ledger) and ledger.at < group.reserved_until


def served(ledger: Ledger) -> None:
    """The target takes its tokens: what was reserved for it is everybody's again, and may be reserved at once."""
    for group in _mine(ledger):
        ledger.put_group(replace(group, reserved_by="", reserved_for="", reserved_until=0.0, reservable_at=0.0))


def end(ledger: Ledger) -> None:
    """The target waits for no token (now): what was reserved for it is everybody's again."""
    for group in _mine(ledger):
        ledger.put_group(replace(group, reserved_by="", reserved_for="", reserved_until=0.0))


def settle(ledger: Ledger) -> None:
    """After any event: nothing stays reserved for who waits for no permit."""
    if ledger.known and ledger.assignment.state not in WAITING:
        end(ledger)


def _mine(ledger: Ledger) -> list[GroupRow]:
    who = _who(ledger)
    return [group for group in ledger.groups.values() if (group.reserved_by, group.reserved_for) == who]


def _who(ledger: Ledger) -> tuple[str, str]:
    return ledger.campaign.id, ledger.target.id
