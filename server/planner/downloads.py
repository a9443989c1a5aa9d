"""Places to download: how many targets of a group may fetch at once, in all campaigns together.

Rules
- An order lets a target fetch, so the place is taken with the order. It is given back when the target reports that it staged,
  ended or put it off, and when it moves to `late` because nothing was heard of it for too long.
- Who finds its group full is not ordered; it stands in the group's line, by priority and then by rank, which is seeded and goes
  on from cohort to cohort. Each place that gets free goes to the first in line. Nobody in line is unreached: its cohort waits.
- What binds a group is the strictest of this campaign and of those that have taken places in it since it was last empty. A
  campaign that limits nothing counts where another one does.
- Where the bytes of a group are limited, each order gets an equal share of that for as many as may download at once, and keeps
  it. So all together stay below the limit, however many there are.
- Facts may exceed a limit: a target that says it is downloading is counted, whoever let it.
- Places are no tokens of a budget: who downloads is not down.
"""

from msgspec.structs import replace

from firmware.protocol.words import Action
from server.planner.budgets import CAMPAIGN, UNLIMITED
from server.planner.deadlines import HEARD_FACTOR
from server.planner.download_line import NextInLine, PlaceFree, line_of
from server.planner.ledger import Ledger
from server.planner.rows import GroupRow, TargetRow, TokenRow, campaign_group
from server.planner.states import WAITING
from server.planner.waits import ASKS_A_SECOND, PATIENT_FACTOR
from server.planner.words import AssignmentState, TokenKind

FETCHING = (AssignmentState.ORDERED, AssignmentState.DOWNLOADING)
_PRIORITY = 1 << 32
"""More than any rank."""


def place_group(key: str) -> str:
    """The group in which those of the budget group `key` count while they download."""
    return f"download:{key}"


def groups_of(target: TargetRow, campaign: str) -> tuple[str, ...]:
    """All groups in which a target may count while it downloads."""
    return tuple(place_group(key) for key in (*target.groups, campaign_group(campaign)))


def stand_in_line(ledger: Ledger) -> bool:
    """Whether the target may not be ordered yet because others download; it then stands in line."""
    full = first_full(ledger)
    if full is not None:
        _queue(ledger, full)
    return full is not None


def first_full(ledger: Ledger) -> GroupRow | None:
    """The first group without a place for this target, with the limit that binds; None when all have one."""
    for key, limit in _limits(ledger).items():
        group = ledger.groups.get(key)
        if group is not None and key not in ledger.places and group.used >= _binding(ledger, group, limit):
            return replace(group, limit=_binding(ledger, group, limit))
    return None


def full_text(full: GroupRow) -> str:
    """The sentence for a group that has no place."""
    name = full.key.removeprefix(place_group(""))
    where = name if "=" in name else "the whole campaign"
    return f"{full.used} of {where} may be downloading now, and {full.limit} may at once. It is ordered at its turn."


def take(ledger: Ledger) -> None:
    """Count the target in every group that limits it. Whether there was room was asked before."""
    for key, limit in _limits(ledger).items():
        if key not in ledger.places:
            group = ledger.groups.get(key, GroupRow(key=key, limit=limit))
            held_to = {"limit": _binding(ledger, group, limit), "bandwidth": _narrowest(ledger, group)}
            ledger.put_group(replace(group, **held_to, used=group.used + 1))
            ledger.put_token(_token(ledger, key, TokenKind.DOWNLOADING, ledger.at))


def rate(ledger: Ledger) -> int | None:
    """Bytes per second that an order to fetch may use, once the target has its places; None: no limit."""
    groups = [ledger.groups[key] for key in _mine(ledger, TokenKind.DOWNLOADING)]
    return min((max(1, group.bandwidth // group.limit) for group in groups if group.bandwidth), default=None)


def give_back(ledger: Ledger) -> None:
    """The target doesn't download (any more): the next in line may."""
    for key in _mine(ledger, TokenKind.DOWNLOADING):
        group = ledger.groups[key]
        ledger.put_group(replace(group, used=group.used - 1))
        del ledger.places[key]
        ledger.command(NextInLine(group=key))


def leave(ledger: Ledger) -> None:
    """The target stands in no line any more."""
    for key in _mine(ledger, TokenKind.IN_LINE):
        del ledger.places[key]


def said(ledger: Ledger) -> None:
    """A target says that it is downloading: count it, if that wasn't known."""
    if ledger.assignment.state is AssignmentState.DOWNLOADING and _fetches(ledger):
        take(ledger)


def outstayed(ledger: Ledger) -> bool:
    """Whether a late target has downloaded for longer than it may; nothing else ends its place before its order does."""
    until = _until(ledger)
    return ledger.is_late and until is not None and ledger.at >= until


def turn_came(ledger: Ledger, event: PlaceFree) -> bool:
    """Whether the target still stands in the line of the group that has a place; it then leaves the line."""
    stood = line_of(event.group) in _mine(ledger, TokenKind.IN_LINE)
    if stood:
        leave(ledger)
    return stood


def pass_on(ledger: Ledger, event: PlaceFree) -> None:
    """Ask for the next in line when the group has room after this one's turn."""
    group = ledger.groups.get(event.group)
    waits_on = line_of(event.group) in ledger.places
    limit = _limits(ledger).get(event.group, UNLIMITED)
    if group is not None and not waits_on and group.used < _binding(ledger, group, limit):
        ledger.command(NextInLine(group=event.group))


def settle(ledger: Ledger) -> None:
    """After any event: what the assignment's state doesn't call for is given back; a late target's place has an end."""
    if not ledger.known or not ledger.places:
        return
    if not _fetches(ledger):
        give_back(ledger)
    if not _may_stand(ledger):
        leave(ledger)
    until, wake_at = _until(ledger), ledger.assignment.wake_at
    if ledger.is_late and until is not None and (wake_at is None or wake_at > until):
        ledger.set_assignment(wake_at=until)


def waits_for(ledger: Ledger) -> str | None:
    """The group in whose line the target stands for this campaign; None when in none."""
    return next((key.removeprefix(line_of("")) for key in _mine(ledger, TokenKind.IN_LINE)), None)


def _limits(ledger: Ledger) -> dict[str, int]:
    """By group, how many this campaign lets download at once; where only others limit it, any number."""
    campaign, limits = ledger.campaign, {}
    for key in (*ledger.target.groups, campaign_group(campaign.id)):
        name = CAMPAIGN if key == campaign_group(campaign.id) else key.partition("=")[0]
        limit = next((policy.limit for policy in campaign.strategy.downloads if policy.by == name), None)
        group = place_group(key)
        if limit is not None or group in ledger.groups:
            limits[group] = UNLIMITED if limit is None else limit
    return limits


def _binding(ledger: Ledger, group: GroupRow, limit: int) -> int:
    return min(limit, group.limit) if group.used and not _is_own(ledger, group) else limit


def _narrowest(ledger: Ledger, group: GroupRow) -> int:
    """The bytes per second of a group: of this campaign and of those that have places in it since it was last empty."""
    key = group.key.removeprefix(place_group(""))
    name = CAMPAIGN if _is_own(ledger, group) else key.partition("=")[0]
    own = [policy.limit for policy in ledger.campaign.strategy.bandwidth if policy.by == name]
    others = [group.bandwidth] if group.used and group.bandwidth and not _is_own(ledger, group) else []
    return min([*own, *others], default=0)


def _is_own(ledger: Ledger, group: GroupRow) -> bool:
    return group.key == place_group(campaign_group(ledger.campaign.id))


def _fetches(ledger: Ledger) -> bool:
    """Whether the assignment has an order by which it may be fetching."""
    row = ledger.assignment
    return row.state in FETCHING and row.action is Action.INSTALL and row.out_until is None and row.retry_at is None


def _may_stand(ledger: Ledger) -> bool:
    row = ledger.assignment
    is_next_step = row.state is AssignmentState.COMMITTED and row.via is not None
    is_again = row.state in WAITING and row.order_hash is None and row.retry_at is not None
    return row.state is AssignmentState.PLANNED or is_next_step or is_again


def _until(ledger: Ledger) -> float | None:
    """Until when a target that says nothing keeps its place; None when it has none."""
    since = [ledger.places[key].since for key in _mine(ledger, TokenKind.DOWNLOADING)]
    strategy, row = ledger.campaign.strategy, ledger.assignment
    usual = strategy.patience_s * (HEARD_FACTOR if row.heard else 1)
    limit_s = strategy.timeouts.download_s if row.state is AssignmentState.DOWNLOADING else None
    return max(since) + (limit_s or usual) if since else None


def _queue(ledger: Ledger, full: GroupRow) -> None:
    assignment, strategy = ledger.assignment, ledger.campaign.strategy
    key = line_of(full.key)
    if key not in _mine(ledger, TokenKind.IN_LINE):
        leave(ledger)
        rank = assignment.rank - strategy.priority * _PRIORITY
        ledger.put_token(_token(ledger, key, TokenKind.IN_LINE, float(rank)))
        ledger.set_assignment(state_since=ledger.at)
    looks_again_s = max(strategy.retry_s * PATIENT_FACTOR, ledger.count(AssignmentState.PLANNED) / ASKS_A_SECOND)
    ledger.set_assignment(reason_kind="downloads", reason=full_text(full), wake_at=ledger.at + looks_again_s)


def _mine(ledger: Ledger, kind: TokenKind) -> list[str]:
    campaign = ledger.campaign.id
    return [key for key, row in ledger.places.items() if row.kind is kind and row.campaign == campaign]


def _token(ledger: Ledger, key: str, kind: TokenKind, since: float) -> TokenRow:
    return TokenRow(group=key, target=ledger.target.id, campaign=ledger.campaign.id, kind=kind, since=since)
