"""Policy as code: the values of a strategy, as `server.planner.policy` validated them."""

from dataclasses import dataclass, field
from functools import cached_property

from firmware.errors import RefusedError
from server.planner.calendar import Calendar

BY_BLOCK = ("rate", "metrics")
"""The kinds of gate that look at strata and sites."""
MOST_EFFECT = 3.0


@dataclass(frozen=True, kw_only=True)
class MetricPolicy:
    """A health metric that targets are compared by. `worse`: `higher` or `lower` than its control is worse, by more than
    `margin`, in the metric's unit; else the two are equal."""

    name: str
    worse: str = "higher"
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class GatePolicy:
    """One test of a cohort, by `kind`.

    `all`: every attempted target verifies, at least `min_verified` of them. `share`: at most `max_failure_rate` of the cohort
    fail, counted when none is undecided (or at once when that can no longer hold).
    `rate`: an anytime-valid test of the failure rate against `max_failure_rate`, with `confidence`, in each stratum (`by`), with
    what has the same label `block` as one; a release whose rate is `expected_rate` should pass with the probability `power`.
    `small_cohort`, `small_stratum`: what becomes of one with too few sites to ever pass: `all` (all must verify), or `hold`.
    `metrics`: is a site worse than its control by as much as `effect` (in standard deviations), `observe_s` after its commit.
    `sli`: the reading `name` stays at most `limit` for `for_s`, read every `every_s`; above it for `bear_s` fails.
    `external`: somebody, or something, says so about `name`.
    `accept_after_s`: after how long an open cohort whose gate lacks evidence passes all the same, as `accept_by` signed.
    """

    kind: str = "all"
    name: str = ""
    min_verified: int = 1
    max_failure_rate: float = 0.0
    confidence: float = 0.95
    power: float = 0.8
    expected_rate: float = 0.0
    by: tuple[str, ...] = ()
    block: str = "site"
    small_cohort: str = "all"
    small_stratum: str = "hold"
    metrics: tuple[MetricPolicy, ...] = ()
    effect: float = 1.0
    observe_s: float = 3600
    limit: float = 0.0
    for_s: float = 0.0
    every_s: float = 60
    bear_s: float = 0.0
    accept_after_s: float | None = None
    accept_by: str = ""

    def __post_init__(self) -> None:
        """Raise `RefusedError` (`bad-strategy`) for bounds that no test could be made of."""
        if self.kind == "rate" and not 0 < self.max_failure_rate < 1:
            text = f"A gate of kind rate tests a failure rate between 0 and 1, not {self.max_failure_rate:g}"
            raise RefusedError("bad-strategy", f"{text}; where nothing may fail, take kind all.")
        if self.kind in BY_BLOCK and not 0 < self.confidence < 1:
            text = f"A gate of kind {self.kind} needs a confidence between 0 and 1, not {self.confidence:g}."
            raise RefusedError("bad-strategy", text)
        if self.kind == "metrics" and not 0 < self.effect <= MOST_EFFECT:
            text = f"A gate of kind metrics looks for a harm of up to {MOST_EFFECT:g} standard deviations, not {self.effect:g}."
            raise RefusedError("bad-strategy", text)


@dataclass(frozen=True, kw_only=True)
class CohortPolicy:
    """One cohort: `count` targets, or `percent` of the campaign's (rounded up); neither means all the rest. Targets with all
    the labels in `first` are taken before others; who they are among equals is random. `reachable`: its size means those who are
    expected to come within the patience, so it takes more. It passes when `gate` and all `more_gates` do."""

    name: str
    count: int | None = None
    percent: float | None = None
    gate: GatePolicy = GatePolicy()
    more_gates: tuple[GatePolicy, ...] = ()
    first: dict[str, str] = field(default_factory=dict)
    reachable: bool = False

    @cached_property
    def gates(self) -> tuple[GatePolicy, ...]:
        """All of its gates."""
        return (self.gate, *self.more_gates)

    @cached_property
    def grouping(self) -> GatePolicy | None:
        """The gate that says what the strata and sites of the cohort are; None when none of its gates looks at them."""
        return next((gate for gate in self.gates if gate.kind in BY_BLOCK), None)

    @cached_property
    def is_timeless(self) -> bool:
        """Whether its verdict never changes by time alone."""
        return all(gate.accept_after_s is None for gate in self.gates)


@dataclass(frozen=True, kw_only=True)
class BudgetPolicy:
    """How many targets of a group may be down at once. `by` is `campaign` or the name of a label whose value names the group.

    One of: `limit`; `percent` of the group's members, rounded down, but `at_least` so many; `keep`: so many of the members must
    stay up. `offline_counts`: whether members that are offline by the broker's word count as down.
    """

    by: str
    limit: int | None = None
    percent: float | None = None
    at_least: int = 0
    keep: int | None = None
    offline_counts: bool = False


@dataclass(frozen=True, kw_only=True)
class RatePolicy:
    """At most `count` activations of a group in `every_s` seconds, evenly. `by`: as for budgets. `grow`: by what the rate is
    multiplied whenever `after` (0: never) more targets have verified, up to `most` (None: no bound) in `every_s`."""

    count: int
    every_s: float
    by: str = "campaign"
    grow: float = 1.0
    after: int = 0
    most: int | None = None


@dataclass(frozen=True, kw_only=True)
class DownloadPolicy:
    """At most `limit` targets of a group download at once. `by`: as for budgets."""

    by: str
    limit: int


@dataclass(frozen=True, kw_only=True)
class BandwidthPolicy:
    """All targets of a group that download fetch at most `limit` bytes per second together. `by`: as for downloads, of which
    there must be a limit by the same."""

    by: str
    limit: int


@dataclass(frozen=True, kw_only=True)
class ApprovalRule:
    """`need` people must agree to a campaign with `targets` or more, some of which have all of `labels`."""

    need: int
    targets: int = 0
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ApprovalPolicy:
    """`need`: how many must agree to any campaign; the strictest of it and the fitting `rules` counts. `expires_s`: how long they
    may take."""

    need: int = 0
    rules: tuple[ApprovalRule, ...] = ()
    expires_s: float = 3 * 86400


@dataclass(frozen=True, kw_only=True)
class EmergencyPolicy:
    """How urgent an emergency is. `reserve_s`: for how long it has the next token of a full group, at most. `remind_s`: how long
    after its start the approvals that it owes are asked for again first."""

    reserve_s: float = 1800
    remind_s: float = 8 * 3600


@dataclass(frozen=True, kw_only=True)
class AfterPolicy:
    """The campaign comes after another one, `soak_s` after that became `state`: `watching` (every cohort passed) or
    `completed`."""

    campaign: str
    state: str = "completed"
    soak_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RequirePolicy:
    """`of` (`target`, or `gateway`: each of its gateways) has at least this version: of what it runs if that is `product`, or as
    a label of this name says."""

    at_least: str
    of: str = "target"
    product: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class SkewPolicy:
    """The releases of the members of a group, by this label, are at most so many steps apart."""

    by: str
    most: int = 1


@dataclass(frozen=True, kw_only=True)
class TogetherPolicy:
    """The members of a group, by this label, go all or not at all."""

    by: str


@dataclass(frozen=True, kw_only=True)
class DeltaPolicy:
    """How a campaign treats deltas. `wait_s`: for how long its first cohort waits for them. `min_saving`: the share of the full
    image that a delta must save to be offered. `at_most`: so many are made for it, those that most of its targets need."""

    wait_s: float = 600
    min_saving: float = 0.2
    at_most: int = 8


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """At most `most` retries of a target, after `first_s`, then `factor` times as long each time up to `most_wait_s`; each wait
    is shortened by a share of up to `jitter`."""

    most: int = 0
    first_s: float = 60
    factor: float = 2.0
    most_wait_s: float = 3600
    jitter: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TimeoutPolicy:
    """How long a phase may take: `download` until it is staged, `activation` from the permit to the trial boot, `commit` from
    that to the commit. None: only `patience_s` and `horizon_s` bind."""

    download_s: float | None = None
    activation_s: float | None = None
    commit_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class PreconditionPolicy:
    """What must be true of a target before its permit: a good word called `name`, at most `max_age_s` old; or `free_bytes` free,
    as its label `label` says; where `per` is given, the check `name` is asked for the word, for each `target`, `cohort` or value
    of a label; or logs as `evidence`, for which it waits `within_s` (`when_missing`: `hold` or `proceed`). `labels`: only targets
    that have all of these are bound."""

    name: str = ""
    max_age_s: float | None = None
    per: str = ""
    free_bytes: int | None = None
    label: str = ""
    evidence: tuple[str, ...] = ()
    within_s: float = 0.0
    when_missing: str = "hold"
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class VerifyPolicy:
    """Who committed is verified only when a word called `name`, said after that, is good. `within_s`: how long after the target
    was healthy it is waited for; `when_missing`: what its absence means then, `fail` or `hold`."""

    name: str
    within_s: float
    when_missing: str = "hold"


@dataclass(frozen=True, kw_only=True)
class UnattendedPolicy:
    """How orders are given out for sites without a network. `expires_s`: how long one may be followed. `accept_codes`: whether a
    typed code counts like a signed report. `when_silent`: what silence until after that means, `missing` or `expired`."""

    expires_s: int = 30 * 86400
    accept_codes: bool = False
    when_silent: str = "missing"


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Policy as code, validated. Durations in seconds.

    `patience_s`: how long an ordered target may stay silent before it is moved to the `late` cohort.
    `horizon_s`: a target must be committed this long after its permit, or its silence is failure.
    `healthy_s`: committed and not regressed for this long makes it verified.
    `verify`: the word from outside that it takes besides; None: none.
    `permit_valid_s`, `trial_s`, `order_ttl_s`: as in the permit and order. `order_ttl_auto`: the last was chosen by what presence
    taught, when the campaign was made. `on_failure`: `pause`, `abort` or `rollback`.
    `on_suspect`: whether the campaign stops (`hold`) or goes on (`warn`) when its release becomes suspect.
    `on_drift`: what becomes of a target whose version was changed by hand once every cohort passed: `show` or `correct`.
    `retry_s`: after how long a target that was told to wait asks again, and a target held by another campaign is tried again.
    `priority`: of two campaigns that want a target, the one with the higher takes it while the other has given no permit.
    `retries`: what is tried again when it failed for a reason that says nothing about the release; `timeouts`: of phases.
    `stage_ahead`: so many cohorts after the open one are ordered already; their permits wait for the gates.
    `leaves_first`: gateways go after the targets of the campaign that are behind them.
    `late_max_failures`: how many of `late` may fail; one more pauses the campaign.
    `emergency`: it starts before its approvals are there, and owes them; it goes first where budgets are full (`urgency`).
    `unattended`: how orders are given out for unattended use; None allows none.
    """

    name: str
    cohorts: tuple[CohortPolicy, ...]
    budgets: tuple[BudgetPolicy, ...] = ()
    rates: tuple[RatePolicy, ...] = ()
    rollback_rates: tuple[RatePolicy, ...] = ()
    downloads: tuple[DownloadPolicy, ...] = ()
    bandwidth: tuple[BandwidthPolicy, ...] = ()
    stage_ahead: int = 0
    leaves_first: bool = False
    after: tuple[AfterPolicy, ...] = ()
    requires: tuple[RequirePolicy, ...] = ()
    skew: SkewPolicy | None = None
    together: TogetherPolicy | None = None
    patience_s: float = 3600
    horizon_s: float = 1800
    healthy_s: float = 60
    permit_valid_s: int = 300
    trial_s: int = 600
    order_ttl_s: int = 30 * 86400
    order_ttl_auto: bool = False
    preconditions: tuple[PreconditionPolicy, ...] = ()
    verify: VerifyPolicy | None = None
    priority: int = 0
    max_attempts: int = 1
    retries: RetryPolicy = RetryPolicy()
    timeouts: TimeoutPolicy = TimeoutPolicy()
    late_max_failures: int = 1
    on_failure: str = "pause"
    on_suspect: str = "hold"
    on_drift: str = "show"
    retry_s: int = 30
    deltas: DeltaPolicy = DeltaPolicy()
    approvals: ApprovalPolicy = ApprovalPolicy()
    emergency: bool = False
    urgency: EmergencyPolicy = EmergencyPolicy()
    unattended: UnattendedPolicy | None = None
    calendar: Calendar = field(default_factory=Calendar)

    @property
    def away_s(self) -> float:
        """What must fit into a window: a permit's life, being away, and the way back."""
        return self.permit_valid_s + self.calendar.takes_s + self.calendar.reserve_s
