"""What an event's target stands among: facts of other rows that the checks read and no decision writes.

Their number is bounded whatever the size of the fleet: counters per group of the target, and rows of what is named by it.
"""

from msgspec import Struct

AGENT_LABEL = "agent."
"""Prefix of labels an agent gave itself: it cannot choose its selection or budget group with them unless asked to."""
MAX_PEERS = 64
"""Most members of a group whose releases are compared, or that go together."""


class GroupSize(Struct, frozen=True, kw_only=True, gc=False):
    """How many targets carry the label of a group, and how many of those are offline by the broker's word and hold no token of
    it. Kept by the storage."""

    key: str
    members: int
    offline: int = 0


class BehindRow(Struct, frozen=True, kw_only=True, gc=False):
    """How many of a campaign's targets behind a gateway are undecided, those in `late` left out. Counted by the ledger, for
    campaigns whose gateways go last."""

    campaign: str
    gateway: str
    waiting: int
    version: int = 0


class Predecessor(Struct, frozen=True, kw_only=True, gc=False):
    """A campaign that another comes after."""

    id: str
    state: str
    changed_at: float


class Neighbour(Struct, frozen=True, kw_only=True, gc=False):
    """Another target: what it runs, whether it is in flight, and where it is in the campaign (None: it has no part in it)."""

    id: str
    product: str | None = None
    version: str | None = None
    counter: int | None = None
    groups: tuple[str, ...] = ()
    in_flight: bool = False
    state: str | None = None
    reason_kind: str = "none"
    is_late: bool = False


class Peers(Struct, frozen=True, kw_only=True, gc=False):
    """The members of a group, at most `MAX_PEERS`; `more`: there are others."""

    key: str
    members: tuple[Neighbour, ...] = ()
    more: bool = False


class Rival(Struct, frozen=True, kw_only=True, gc=False):
    """Another campaign under way whose part at the target has no permit yet. `waits`: it has tried to take the
    target and waits for it. `made_at`: when it was made. `goes_back`: its order is to go back."""

    campaign: str
    campaign_state: str
    priority: int
    made_at: float
    product: str
    counter: int
    state: str
    waits: bool = False
    goes_back: bool = False
    undoes: bool = False
    suspect: bool = False


class Word(Struct, frozen=True, kw_only=True, gc=False):
    """What somebody, or something, outside said about `key`: a target's id, or a label as `name=value`."""

    name: str
    key: str
    good: bool
    by: str
    reason: str
    at: float
    expires_at: float


class Evidence(Struct, frozen=True, kw_only=True, gc=False):
    """What became of the target's logs that were asked for last for this campaign: `waiting`, `answered`, `refused` or
    `expired`."""

    state: str
    asked_at: float
    reason: str = ""


class Inquiry(Struct, frozen=True, kw_only=True, gc=False):
    """What became of asking the check `name` about `key`: `waiting`, asked `attempts` times without an answer and again at
    `next_at`, the last time for this `reason`; or `answered`, and its word was kept."""

    name: str
    key: str
    state: str
    attempts: int = 0
    next_at: float = 0.0
    reason: str = ""


def cohort_key(campaign: str, cohort: str) -> str:
    """What words about a cohort are about; no target's id and no label looks so."""
    return f"{campaign}/{cohort}"


class Surroundings(Struct, frozen=True, kw_only=True, gc=False):
    """`sizes`: of the target's own groups. `behind`: where the target counts, and what is behind itself. The others only where
    the campaign's strategy asks for them: `before`, the campaigns it comes after; `gateways`, what the target's run; `peers` in
    its groups; `counters`, those of the product's releases in order. `step_is_suspect`: whether the release on the way that the
    target was ordered is. `younger`: a campaign that was made later, has this target, and was started; only for campaigns that
    correct what was changed by hand."""

    sizes: tuple[GroupSize, ...] = ()
    behind: tuple[BehindRow, ...] = ()
    before: tuple[Predecessor, ...] = ()
    gateways: tuple[Neighbour, ...] = ()
    peers: tuple[Peers, ...] = ()
    counters: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    """About the target, its cohort or its labels, of the names that the strategy's preconditions and its `verify` have."""
    evidence: Evidence | None = None
    inquiries: tuple[Inquiry, ...] = ()
    """About the same, of the names of its checks."""
    rivals: tuple[Rival, ...] = ()
    """Only for a planned target; then `made_at` is when its own campaign was made."""
    made_at: float = 0.0
    step_is_suspect: bool = False
    younger: str | None = None


NOWHERE = Surroundings()
