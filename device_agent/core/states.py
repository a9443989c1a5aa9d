"""Where an agent stands with one order: the states with their data, and the table of what may follow what.

Monotonic times (`…_at`) belong to the boot they were made in; `Booted` replaces them. A pair of state and event that is
not in `TABLE` is an error of the program, never a silent no-op; a row's set holds every state that may follow.
"""

from msgspec import Struct

from device_agent.core import events as ev
from device_agent.core.values import NO_BOOT, Content, Goal, Held, Phase
from device_agent.ports import BootStatus, Slot
from firmware.protocol.order import Counter
from firmware.protocol.report import Reason
from firmware.protocol.words import AgentState as Word


class Idle(Struct, frozen=True, kw_only=True, tag=Word.IDLE.value):
    """No order was ever taken up."""


class Ordered(Struct, frozen=True, kw_only=True, tag=Word.ORDERED.value):
    """Being checked (`retry_at` None) or waiting to be checked again. `goal` is known for a rollback; `told` is the kind of
    the last reason reported."""

    held: Held
    goal: Goal | None = None
    attempts: int = 0
    retry_at: float | None = None
    told: str = ""


class Downloading(Struct, frozen=True, kw_only=True, tag=Word.DOWNLOADING.value):
    """Being staged (`retry_at` None) or waiting to go on."""

    held: Held
    goal: Goal
    attempts: int = 0
    retry_at: float | None = None
    told: str = ""


class Staged(Struct, frozen=True, kw_only=True, tag=Word.STAGED.value):
    """Written, flushed and read back in boot `boot_id`; in another boot it is read again first."""

    held: Held
    goal: Goal
    boot_id: str


class OpenAsk(Struct, frozen=True, kw_only=True):
    """An ask that was sent at `at` and is not answered."""

    nonce: str
    at: float


class Asking(Struct, frozen=True, kw_only=True, tag=Word.ASKING.value):
    """`unanswered`: the asks that were sent, the oldest first; none after a `wait`. `answered`: the nonce of the one that `wait`
    answered. The next ask goes out at `ask_at`. Never durable."""

    held: Held
    goal: Goal
    boot_id: str
    unanswered: tuple[OpenAsk, ...]
    ask_at: float
    attempts: int = 0
    answered: str | None = None


class Activating(Struct, frozen=True, kw_only=True, tag=Word.ACTIVATING.value):
    """A permit was given in boot `boot_id`; the boot loader is being asked for the trial and the device restarts.
    `retreat`: why the device goes back to its previous slot of its own accord, without a permit."""

    held: Held
    goal: Goal
    boot_id: str
    trial_id: str
    permit_until: float
    reboot_at: float
    retreat: Reason | None = None


class Trial(Struct, frozen=True, kw_only=True, tag=Word.TRIAL.value):
    """The new slot runs. `check_at`: when to look again (None: checks run now). `committing`: the checks passed.
    `gave_up`: why the old slot was asked for. `failed_rounds`: of the soak. `hurried`: the device's owner wants the commit as
    soon as the checks pass. `retreat`: see `Activating`. `why_not`: why the commit failed last. `migrated`: its data is
    of its schema; then the watch begins at `watched_from`."""

    held: Held
    goal: Goal
    boot_id: str
    trial_id: str
    started_at: float
    check_at: float | None = None
    committing: bool = False
    gave_up: Reason | None = None
    failed_rounds: int = 0
    hurried: bool = False
    retreat: Reason | None = None
    why_not: str = ""
    migrated: bool = False
    watched_from: float = 0.0


class Committed(Struct, frozen=True, kw_only=True, tag=Word.COMMITTED.value):
    """The order is fulfilled; what it committed may still soak (`Standing.soak`)."""

    held: Held
    goal: Goal
    boot_id: str
    trial_id: str | None


class Deferred(Struct, frozen=True, kw_only=True, tag=Word.DEFERRED.value):
    """Can't start for a reason that passes, such as an expired catalogue (`goal` None); or the device withholds what was checked
    (`then`: what would come next). `retry_at` None: policy and hooks are being asked."""

    held: Held
    reason: Reason
    retry_at: float | None
    attempts: int = 1
    goal: Goal | None = None
    boot_id: str = ""
    then: Phase = Phase.ACTIVATION


class FellBack(Struct, frozen=True, kw_only=True, tag=Word.FELL_BACK.value):
    """The trial ended in the old slot."""

    held: Held | None
    reason: Reason


class Failed(Struct, frozen=True, kw_only=True, tag=Word.FAILED.value):
    """Staging or activation was not possible; the old slot was never left."""

    held: Held
    reason: Reason


class Refused(Struct, frozen=True, kw_only=True, tag=Word.REFUSED.value):
    """The order must not be followed."""

    held: Held
    reason: Reason


class Cancelled(Struct, frozen=True, kw_only=True, tag=Word.CANCELLED.value):
    """A signed `nothing` is the current order."""

    held: Held


State = (
    Idle
    | Ordered
    | Downloading
    | Staged
    | Asking
    | Activating
    | Trial
    | Committed
    | Deferred
    | FellBack
    | Failed
    | Refused
    | Cancelled
)


class Soak(Struct, frozen=True, kw_only=True):
    """A committed release in `slot`, whose floor becomes this target's at `soaked_at`."""

    slot: Slot
    product: str
    floor: int
    soaked_at: float


class Vigil(Struct, frozen=True, kw_only=True):
    """What is watched after a commit (`core.vigil`). `slot` runs; `held` brought it, None from the factory. `beat_at`: the next
    heartbeat (None: it runs now, or there is none). `failures`: beats in a row that failed. `regressed`: reported. `retreat`: why
    the previous slot is being read, to go back to it; `retreats`: how often that was done."""

    slot: Slot
    held: Held | None = None
    beat_at: float | None = None
    failures: int = 0
    regressed: Reason | None = None
    retreat: Reason | None = None
    retreats: int = 0


class Clearance(Struct, frozen=True, kw_only=True):
    """Windows, conditions and hooks were asked about an order: yes `until` (monotonic), or no answer yet (None)."""

    order_hash: str
    until: float | None = None


class Local(Struct, frozen=True, kw_only=True):
    """What somebody at the device said. `defer_until`: trusted time. `consent`: hash of the order agreed to. `put_off`: hash of
    the order put off last, first at trusted time `put_off_since`. `clearance` is never durable."""

    defer_until: float = 0.0
    consent: str = ""
    put_off: str = ""
    put_off_since: float = 0.0
    clearance: Clearance | None = None


class Data(Struct, frozen=True, kw_only=True):
    """Data beside the slots, by schema (`core.data`). `held`: what may be on the medium; `gone`: what was removed, or is to be.
    `leaving` goes at trusted time `leaves_at`, looked at again at `look_at`."""

    held: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    leaving: int | None = None
    leaves_at: float = 0.0
    look_at: float | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """All an agent knows about its target. `pending`: the order to take up when the running activation has ended.
    `noted`: hashes of stale, foreign or equivocal orders that were reported, newest last."""

    state: State = Idle()
    pending: Held | None = None
    highest: Counter | None = None
    highest_hash: str = ""
    floors: dict[str, int] = {}
    slots: dict[Slot, Content] = {}
    noted: tuple[str, ...] = ()
    soak: Soak | None = None
    vigil: Vigil | None = None
    local: Local = Local()
    data: Data = Data()
    boot: BootStatus = NO_BOOT


def word_of(state: State) -> Word:
    """The state's word on the wire."""
    return Word(str(state.__struct_config__.tag))


EVERY = frozenset(Word)
_START = {Word.ORDERED, Word.REFUSED, Word.CANCELLED}
"""Where taking up a new order leads at once."""
_ENDED = {Word.IDLE, Word.COMMITTED, Word.FELL_BACK, Word.FAILED, Word.REFUSED, Word.CANCELLED}
_WAITING = {Word.ORDERED, Word.DEFERRED, Word.DOWNLOADING, Word.STAGED, Word.ASKING}

Row = frozenset[Word]
Key = tuple[Word, type[ev.Event]]


def _rows(event: type[ev.Event], rows: dict[Word, set[Word]], *, late: bool = False) -> dict[Key, Row]:
    """Rows of one event. `late`: it answers earlier work, so it may find any other state and then changes nothing."""
    table = {(word, event): frozenset(after) for word, after in rows.items()}
    if late:
        table |= {(word, event): frozenset({word}) for word in EVERY if word not in rows}
    return table


_ORDERED, _DOWN, _STAGED, _ASKING = Word.ORDERED, Word.DOWNLOADING, Word.STAGED, Word.ASKING
_ACTIVATING, _TRIAL, _COMMITTED, _DEFERRED = Word.ACTIVATING, Word.TRIAL, Word.COMMITTED, Word.DEFERRED
_FELL_BACK, _FAILED, _REFUSED = Word.FELL_BACK, Word.FAILED, Word.REFUSED
_AFTER_TRIAL = {_COMMITTED, _FELL_BACK} | _START

TABLE: dict[Key, Row] = {
    **_rows(
        ev.Booted,
        {
            **{word: {word} for word in _ENDED - {_COMMITTED}},
            _ORDERED: _START,
            _DEFERRED: {_ORDERED, _DEFERRED} | _START,
            _DOWN: {_DOWN} | _START,
            _STAGED: {_STAGED} | _START,
            _ASKING: {_STAGED} | _START,
            _ACTIVATING: {_ACTIVATING, _STAGED, _TRIAL, _FAILED} | _AFTER_TRIAL,
            _TRIAL: {_TRIAL, _FAILED} | _AFTER_TRIAL,
            _COMMITTED: {_COMMITTED, _TRIAL, _FELL_BACK},
        },
    ),
    **_rows(
        ev.OrderArrived,
        {word: {word} | (set() if word in {_ACTIVATING, _TRIAL} else _START) for word in EVERY},
    ),
    **_rows(ev.OrderForeign, {word: {word} for word in EVERY}),
    **_rows(ev.OrderChecked, {_ORDERED: {_DOWN, _COMMITTED, _REFUSED, _ORDERED}}, late=True),
    **_rows(ev.CheckRefused, {_ORDERED: {_REFUSED, _DEFERRED, _ORDERED}}, late=True),
    **_rows(ev.CheckDelayed, {_ORDERED: {_ORDERED}}, late=True),
    **_rows(ev.StageFinished, {_DOWN: {_STAGED, _DOWN}}, late=True),
    **_rows(ev.StageRefused, {_DOWN: {_FAILED, _DOWN}}, late=True),
    **_rows(ev.StageDelayed, {_DOWN: {_DOWN}}, late=True),
    **_rows(ev.SlotVerified, {_ORDERED: {_STAGED, _REFUSED, _ORDERED}, _STAGED: {_STAGED, _DOWN, _REFUSED}}, late=True),
    **_rows(ev.PermitArrived, {_ASKING: {_ASKING, _ACTIVATING, _REFUSED, _DEFERRED}}, late=True),
    **_rows(ev.Cleared, {_STAGED: {_STAGED}, _DEFERRED: {_DEFERRED, _STAGED, _DOWN, _REFUSED}}, late=True),
    **_rows(
        ev.Withheld,
        {word: {word, _DEFERRED, _REFUSED} for word in (_DOWN, _STAGED, _DEFERRED)},
        late=True,
    ),
    **_rows(ev.DeferAsked, {word: {word} | ({_DEFERRED} if word in {_STAGED, _ASKING} else set()) for word in EVERY}),
    **_rows(ev.Consented, {word: {word} for word in EVERY}),
    **_rows(ev.ActivationFailed, {_ACTIVATING: {_FAILED} | _START}),
    **_rows(ev.HealthFinished, {_TRIAL: {_TRIAL}}, late=True),
    **_rows(ev.TrialCommitted, {_TRIAL: _AFTER_TRIAL}),
    **_rows(ev.CommitFailed, {_TRIAL: {_TRIAL}}),
    **_rows(ev.CommitVetoed, {_TRIAL: {_TRIAL}}),
    **_rows(ev.Migrated, {_TRIAL: {_TRIAL}}, late=True),
    **_rows(ev.MigrationFailed, {_TRIAL: {_TRIAL}}, late=True),
    **_rows(ev.FailureLogged, {word: {word} for word in EVERY}),
    **_rows(ev.HeartbeatDone, {word: {word} for word in EVERY}),
    **_rows(ev.PreviousVerified, {word: {word, _ACTIVATING} for word in _ENDED}, late=True),
    **_rows(ev.CommitAsked, {word: {word} for word in EVERY}),
    **_rows(ev.RollbackAsked, {word: {word} for word in EVERY}),
    **_rows(ev.LinkUp, {word: {word} for word in EVERY}),
    **_rows(
        ev.Woke,
        {
            **{word: {word} for word in _ENDED | {_DOWN, _ORDERED, _ACTIVATING, _TRIAL}},
            _DEFERRED: {_DEFERRED, _ORDERED, _STAGED, _REFUSED},
            _STAGED: {_STAGED, _ASKING, _DEFERRED, _ACTIVATING, _REFUSED},
            _ASKING: {_ASKING, _STAGED, _DEFERRED},
        },
    ),
}


def diagram() -> str:
    """The table as a Mermaid state diagram in Markdown; rows that stay, and the order that may arrive anywhere, are left out."""
    causes: dict[tuple[Word, Word], list[str]] = {}
    for (word, event), after in TABLE.items():
        if event is not ev.OrderArrived:
            for to in after - {word}:
                causes.setdefault((word, to), []).append(event.__name__)
    words = list(Word)
    edges = sorted(causes.items(), key=lambda edge: [words.index(word) for word in edge[0]])
    lines = [f"    {word} --> {to} : {', '.join(sorted(names))}" for (word, to), names in edges]
    held = [word for word in words if TABLE[word, ev.OrderArrived] == {word}]
    arrival = (
        f"A new order (`OrderArrived`) leads from every state but {' and '.join(f'`{word}`' for word in held)} to "
        f"{', '.join(f'`{word}`' for word in words if word in _START)}; in those two it waits for their end."
    )
    return "## Agent\n\n" + arrival + "\n\n```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```"
