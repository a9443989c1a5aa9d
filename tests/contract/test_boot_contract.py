"""What every boot loader's back end does, held against each of them: the simulated one, GRUB itself (`grub-emu`),
libubootenv's real tools on a redundant environment, two checksummed copies, and systemd-boot's entries.

The second half cuts the power before, in and after every durable operation of every verb, lets the boot loader go on from
the bytes alone, and asks for two things: what boots then is what would have booted without the verb or with it, never
anything else; and doing the verb again leads where it leads without a cut. Where GRUB's own run would take minutes, its
rules stand for it; that they are the same is the subject of `tests/boot/test_grub_fragment.py`.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_agent.ports import BootControl, Slot
from firmware.errors import OtariaError, RefusedError
from tests.boot.grub_machine import missing_tool
from tests.contract.boot_benches import LIMITS, MAKE, Bench, SystemdBootBench, lay_back, snapshot
from tests.contract.power import Cut, CutEffects, PowerCut, UnsyncedEffects, every_cut

LONG = LIMITS.left + 2 * LIMITS.tries + 2 * LIMITS.spare + 2
Said = tuple[str, str, str | None, str]


def missing(name: str) -> str | None:
    """What is needed for a bench and isn't here."""
    if name == "grub":
        return missing_tool()
    if name == "u-boot-environment" and not shutil.which("fw_setenv"):
        return "fw_setenv (libubootenv-tool)"
    return None


def made(name: str, folder: Path) -> Bench:
    lack = missing(name)
    if lack is not None:
        pytest.skip(f"{lack} is not here; deploy/test-tools.sh installs it")
    bench = MAKE[name](folder)
    bench.boot()
    return bench


@pytest.fixture(params=[name for name in MAKE if name != "grub-model"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return made(request.param, tmp_path)


def agent(bench: Bench) -> BootControl:
    return bench.control(UnsyncedEffects())


def said(bench: Bench) -> Said:
    status = agent(bench).status()
    return status.slot.value, status.outcome.value, status.trial_id, status.cause


def boots(bench: Bench, times: int) -> list[Said]:
    seen = []
    for _ in range(times):
        bench.boot()
        seen.append(said(bench))
    return seen


def stay_up(bench: Bench) -> None:
    agent(bench).stayed_up()
    listen = getattr(bench, "listen", None)
    if listen is not None:
        listen()


def try_b(bench: Bench, trial_id: str = "t1") -> None:
    agent(bench).try_slot(Slot.B, trial_id, deadline_s=60)


def commit_b(bench: Bench, trial_id: str = "t1") -> None:
    try_b(bench, trial_id)
    bench.boot()
    agent(bench).commit(trial_id)


# What each does


def test_a_fresh_board_boots_its_committed_slot(bench: Bench) -> None:
    assert boots(bench, 2) == [("A", "normal", None, "")] * 2


def test_a_trial_has_its_attempts_and_then_falls_back_with_a_named_reason(bench: Bench) -> None:
    try_b(bench)
    trial, lost = ("B", "trial", "t1", ""), ("A", "fell_back", "t1", "attempts-exhausted")
    assert boots(bench, LIMITS.tries + 2) == [trial] * LIMITS.tries + [lost] * 2
    stay_up(bench)
    assert boots(bench, 1) == [lost]


def test_asking_again_for_the_same_trial_refills_nothing(bench: Bench) -> None:
    try_b(bench)
    try_b(bench)
    assert [one[0] for one in boots(bench, LIMITS.tries + 1)] == ["B"] * LIMITS.tries + ["A"]


def test_a_commit_is_held_and_said(bench: Bench) -> None:
    commit_b(bench)
    agent(bench).commit("t1")
    assert agent(bench).committed("t1")
    assert not agent(bench).committed("t2")
    assert boots(bench, 2) == [("B", "normal", None, "")] * 2
    assert agent(bench).committed("t1")


def test_a_commit_without_its_trial_is_none(bench: Bench) -> None:
    with pytest.raises(OtariaError):
        agent(bench).commit("t1")
    try_b(bench)
    bench.boot()
    with pytest.raises(OtariaError):
        agent(bench).commit("t2")
    agent(bench).give_up("t1")
    with pytest.raises(OtariaError):
        agent(bench).commit("t1")
    assert boots(bench, 1)[0][:3] == ("A", "fell_back", "t1")


def test_a_crash_loop_after_the_commit_ends_in_the_old_slot_with_a_named_reason(bench: Bench) -> None:
    commit_b(bench)
    new, old = ("B", "normal", None, ""), ("A", "fell_back", "t1", "boot-loop")
    assert boots(bench, LIMITS.left + 3) == [new] * LIMITS.left + [old] * 3
    assert not agent(bench).committed("t1")


def test_after_a_boot_loop_the_device_can_be_updated_again(bench: Bench) -> None:
    commit_b(bench)
    boots(bench, LIMITS.left + 1)
    stay_up(bench)
    agent(bench).retire(Slot.B)
    assert said(bench) == ("A", "fell_back", "t1", "boot-loop")
    commit_b(bench, "t2")
    assert boots(bench, 2) == [("B", "normal", None, "")] * 2


def test_a_system_that_stays_up_is_never_left(bench: Bench) -> None:
    commit_b(bench)
    for _ in range(3):
        assert {one[0] for one in boots(bench, LIMITS.left)} == {"B"}
        stay_up(bench)


def test_staying_up_gives_a_trial_nothing(bench: Bench) -> None:
    try_b(bench)
    slots = []
    for _ in range(LIMITS.tries + 1):
        bench.boot()
        stay_up(bench)
        slots.append(said(bench)[0])
    assert slots == ["B"] * LIMITS.tries + ["A"]


def test_giving_up_brings_the_old_slot_back(bench: Bench) -> None:
    try_b(bench)
    bench.boot()
    agent(bench).give_up("t1")
    agent(bench).give_up("t1")
    assert boots(bench, 3) == [("A", "fell_back", "t1", "requested")] * 3


def test_giving_up_another_trial_changes_nothing(bench: Bench) -> None:
    try_b(bench)
    bench.boot()
    agent(bench).give_up("t2")
    assert boots(bench, 1)[0][:2] == ("B", "trial")


def test_an_overwritten_slot_is_not_gone_back_to(bench: Bench) -> None:
    commit_b(bench)
    agent(bench).retire(Slot.A)
    agent(bench).retire(Slot.A)
    assert boots(bench, LONG) == [("B", "normal", None, "")] * LONG


def test_overwriting_ends_a_trial_that_was_only_asked_for(bench: Bench) -> None:
    try_b(bench)
    agent(bench).retire(Slot.B)
    assert {one[0] for one in boots(bench, LONG)} == {"A"}


@pytest.mark.parametrize("where", ["committed", "trial"])
def test_a_slot_in_use_is_not_retired(bench: Bench, where: str) -> None:
    if where == "trial":
        try_b(bench)
        bench.boot()
    for slot in (Slot.A, Slot.B) if where == "trial" else (Slot.A,):
        with pytest.raises(RefusedError) as caught:
            agent(bench).retire(slot)
        assert caught.value.kind == "slot-active"


def test_clean_shutdowns_cost_nothing_until_the_cap(bench: Bench) -> None:
    try_b(bench)
    slots = []
    for _ in range(LIMITS.tries + LIMITS.spare + 1):
        bench.boot()
        slots.append(said(bench)[0])
        agent(bench).shut_down()
        agent(bench).shut_down()
    assert slots.count("B") == LIMITS.tries + LIMITS.spare
    assert slots[-1] == "A"


def ask_in_vain(bench: Bench, slot: Slot, trial_id: str) -> None:
    """The simulated board's loader refuses at its next boot, the others at once."""
    if hasattr(bench, "listen"):
        agent(bench).try_slot(slot, trial_id, deadline_s=60)
        return
    with pytest.raises(RefusedError) as caught:
        agent(bench).try_slot(slot, trial_id, deadline_s=60)
    assert caught.value.kind == "trial-refused"


def test_a_trial_starts_only_from_the_committed_slot_and_never_twice_with_one_id(bench: Bench) -> None:
    try_b(bench)
    boots(bench, LIMITS.tries + 1)
    for slot, trial_id in ((Slot.B, "t1"), (Slot.A, "t2")):
        ask_in_vain(bench, slot, trial_id)
        assert boots(bench, 1)[0][0] == "A"
    stay_up(bench)
    try_b(bench, "t3")
    bench.boot()
    ask_in_vain(bench, Slot.A, "t4")
    assert [one[2] for one in boots(bench, 3) if one[1] == "trial"] == ["t3"] * (LIMITS.tries - 1)


def test_an_ordered_rollback_is_a_trial_of_the_previous_slot(bench: Bench) -> None:
    commit_b(bench)
    bench.boot()
    stay_up(bench)
    agent(bench).try_slot(Slot.A, "t2", deadline_s=60)
    assert boots(bench, 1) == [("A", "trial", "t2", "")]
    agent(bench).commit("t2")
    assert boots(bench, LIMITS.left + 1)[-1] == ("B", "fell_back", "t2", "boot-loop")


def test_how_many_boots_are_left_is_said(bench: Bench) -> None:
    if hasattr(bench, "listen"):
        pytest.skip("the simulated board says what it booted, and no count")
    try_b(bench)
    left = []
    for _ in range(LIMITS.tries):
        bench.boot()
        left.append(agent(bench).status().attempts_left)
    assert left == list(reversed(range(LIMITS.tries)))


# One environment


def real(bench: Bench) -> None:
    if hasattr(bench, "listen"):
        pytest.skip("the simulated board has one by construction")


def test_a_boot_loader_that_reads_another_environment_is_found_out(bench: Bench) -> None:
    """The agent's files are an old copy of what the boot loader uses, as on a board with two boot partitions."""
    real(bench)
    stay_up(bench)
    bench.boot()
    stale = {path: data for path, data in snapshot(bench.folder).items() if path.name not in ("cmdline", "boot_id")}
    stay_up(bench)
    bench.boot()
    kernel = {path: data for path, data in snapshot(bench.folder).items() if path.name in ("cmdline", "boot_id")}
    lay_back(bench.folder, kernel | stale)
    before = snapshot(bench.folder)
    for verb in (lambda: try_b(bench), lambda: agent(bench).retire(Slot.B)):
        with pytest.raises(RefusedError) as caught:
            verb()
        assert caught.value.kind == "boot-environment-split"
    assert snapshot(bench.folder) == before


KERNEL = ("cmdline", "boot_id")
"""What the kernel says of this boot, beside the environment in a bench's folder."""


@pytest.mark.parametrize("copied_after", [1, LIMITS.left + 2])
def test_a_boot_by_the_rescue_entry_proves_nothing_about_an_old_copy(tmp_path: Path, copied_after: int) -> None:
    """Copied before the boots ran out, and after; of systemd-boot alone, whose rescue entry outlives its counters."""
    bench = MAKE["systemd-boot"](tmp_path)
    stay_up(bench)
    for _ in range(copied_after):
        bench.boot()
    stale = {path: data for path, data in snapshot(bench.folder).items() if path.name not in KERNEL}
    if copied_after == 1:
        for _ in range(LIMITS.left + 1):
            bench.boot()
    else:
        stay_up(bench)
        bench.boot()
    kernel = {path: data for path, data in snapshot(bench.folder).items() if path.name in KERNEL}
    lay_back(bench.folder, kernel | stale)
    with pytest.raises(RefusedError) as caught:
        try_b(bench)
    assert caught.value.kind == "boot-environment-split"


def test_a_system_whose_power_went_before_it_stayed_up_as_often_as_it_has_boots_still_takes_an_order(
    bench: Bench,
) -> None:
    stay_up(bench)
    for _ in range(LIMITS.left + 2):
        bench.boot()
    agent(bench).retire(Slot.B)
    try_b(bench)
    assert boots(bench, 1) == [("B", "trial", "t1", "")]
    agent(bench).commit("t1")
    assert boots(bench, 1)[0][:2] == ("B", "normal")


def test_before_the_first_boot_with_it_nothing_is_armed(tmp_path: Path) -> None:
    for name in ("grub-model", "u-boot-state", "systemd-boot"):
        folder = tmp_path / name
        folder.mkdir()
        bench = MAKE[name](folder)
        bench.started("otaria.slot=A otaria.canary= otaria.cause=")  # type: ignore[attr-defined]
        with pytest.raises(RefusedError) as caught:
            try_b(bench)
        assert caught.value.kind == "boot-environment-split"


# Power cuts


def fresh(bench: Bench) -> None:
    """Nothing was asked yet."""


def armed(bench: Bench) -> None:
    try_b(bench)


def on_trial(bench: Bench) -> None:
    try_b(bench)
    bench.boot()


def lost(bench: Bench) -> None:
    try_b(bench)
    boots(bench, LIMITS.tries + 1)


def committed(bench: Bench) -> None:
    commit_b(bench)
    bench.boot()


def alone(bench: Bench) -> None:
    """Slot A is being overwritten: it must never boot."""
    committed(bench)
    agent(bench).retire(Slot.A)


Verb = Callable[[BootControl], None]
VERBS: dict[str, tuple[Callable[[Bench], None], Verb]] = {
    "arm": (fresh, lambda control: control.try_slot(Slot.B, "t1", deadline_s=60)),
    "arm-after-loss": (lost, lambda control: control.try_slot(Slot.B, "t2", deadline_s=60)),
    "arm-rollback": (committed, lambda control: control.try_slot(Slot.A, "t2", deadline_s=60)),
    "arm-overwritten": (alone, lambda control: control.try_slot(Slot.A, "t2", deadline_s=60)),
    "commit": (on_trial, lambda control: control.commit("t1")),
    "give-up": (on_trial, lambda control: control.give_up("t1")),
    "cancel": (armed, lambda control: control.give_up("t1")),
    "retire": (committed, lambda control: control.retire(Slot.A)),
    "stay-up": (committed, lambda control: control.stayed_up()),
    "stay-up-lost": (lost, lambda control: control.stayed_up()),
    "stay-up-alone": (alone, lambda control: control.stayed_up()),
    "shut-down-trial": (on_trial, lambda control: control.shut_down()),
    "shut-down": (committed, lambda control: control.shut_down()),
}
MODELS = [name for name in MAKE if name != "grub"]


def cut_verb(bench: Bench, verb: Verb, cut: Cut | None) -> CutEffects:
    effects = CutEffects(cut, is_fat=isinstance(bench, SystemdBootBench))
    try:
        verb(bench.control(effects))
    except PowerCut:
        assert cut is not None
    except OtariaError:
        assert hasattr(bench, "listen"), "only the simulated loader may be silent, when its request was lost"
    return effects


def future(bench: Bench, start: dict[Path, bytes], times: int = LONG) -> list[Said]:
    """What boots from these bytes on, with no agent to do anything."""
    lay_back(bench.folder, start)
    return boots(bench, times)


class Futures:
    """The same, once for the same bytes."""

    def __init__(self, bench: Bench, times: int = LONG) -> None:
        self._bench, self._times = bench, times
        self._known: dict[int, list[Said]] = {}

    def __call__(self, start: dict[Path, bytes]) -> list[Said]:
        key = hash(frozenset(start.items()))
        if key not in self._known:
            self._known[key] = future(self._bench, start, self._times)
        return self._known[key]


def check_future(bench: Bench, seen: list[Said], old: list[Said], new: list[Said]) -> None:
    if not isinstance(bench, SystemdBootBench):
        assert seen in (old, new)
        return
    # A removal that was not done leaves an older entry of the same slot: it may be booted as often as it says, and no oftener.
    assert {one[0] for one in seen} <= {one[0] for one in old} | {one[0] for one in new}
    assert seen[-1][0] in (old[-1][0], new[-1][0])
    assert sum(one[1] == "trial" for one in seen) <= 2 * LIMITS.tries + LIMITS.spare


def cases() -> Iterator[object]:
    """The default run has every verb on three back ends and the main ones on the others, whose boots are dearer."""
    for name in MODELS:
        for what in VERBS:
            is_deep = name in ("simulated", "u-boot-environment") and what not in ("arm", "commit", "retire")
            yield pytest.param(name, what, marks=pytest.mark.deep if is_deep else ())


@pytest.mark.parametrize(("name", "what"), list(cases()))
def test_a_power_cut_anywhere_leaves_the_old_state_or_the_new(name: str, what: str, tmp_path: Path) -> None:
    bench, (prepare, verb) = made(name, tmp_path), VERBS[what]
    prepare(bench)
    start = snapshot(bench.folder)
    old = future(bench, start)
    lay_back(bench.folder, start)
    whole = cut_verb(bench, verb, None)
    operations = whole.operations
    done = snapshot(bench.folder)
    new = future(bench, done)
    assert operations
    lay_back(bench.folder, done)
    whole.lose_unflushed()
    assert snapshot(bench.folder) == done, "it was said to be done, and is not on the medium"
    futures = Futures(bench)
    for cut in every_cut(operations):
        lay_back(bench.folder, start)
        cut_verb(bench, verb, cut)
        after = snapshot(bench.folder)
        check_future(bench, futures(after), old, new)
        # The agent was killed, not the machine: it does the same again.
        lay_back(bench.folder, after)
        cut_verb(bench, verb, None)
        assert futures(snapshot(bench.folder)) == new, cut


@pytest.mark.deep
@pytest.mark.parametrize("what", VERBS)
@pytest.mark.parametrize("name", MODELS)
def test_a_second_power_cut_while_it_is_done_again(name: str, what: str, tmp_path: Path) -> None:
    bench, (prepare, verb) = made(name, tmp_path), VERBS[what]
    prepare(bench)
    start = snapshot(bench.folder)
    old = future(bench, start)
    lay_back(bench.folder, start)
    operations = cut_verb(bench, verb, None).operations
    new = future(bench, snapshot(bench.folder))
    futures = Futures(bench)
    for first in every_cut(operations):
        for second in every_cut(operations):
            lay_back(bench.folder, start)
            cut_verb(bench, verb, first)
            cut_verb(bench, verb, second)
            check_future(bench, futures(snapshot(bench.folder)), old, new)


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in ("arm", "commit") else pytest.mark.deep) for what in VERBS]
)
def test_grub_itself_goes_on_from_what_a_power_cut_left(what: str, tmp_path: Path) -> None:
    """The real GRUB reads every torn block of an activation."""
    bench, (prepare, verb) = made("grub", tmp_path), VERBS[what]
    prepare(bench)
    start = snapshot(bench.folder)
    lay_back(bench.folder, start)
    operations = cut_verb(bench, verb, None).operations
    done = snapshot(bench.folder)
    futures = Futures(bench, LIMITS.tries + 1)
    old, new = futures(start), futures(done)
    for cut in every_cut(operations):
        if cut.keeps or cut.how == "before":
            lay_back(bench.folder, start)
            cut_verb(bench, verb, cut)
            assert futures(snapshot(bench.folder)) in (old, new), cut
