"""Whatever fails, and whenever: a host ends at the signed set or at the one before, its database sound, and says which.

The faults are made from a table (`faults.py`); the normal run takes a few of each kind, the deep one takes all.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from device_agent.ports import BootOutcome, Slot
from firmware.errors import RefusedError, UnavailableError
from simulator.debs import build_deb, describe_deb
from tests.device_agent.packages.bed import Bed, Beds
from tests.device_agent.packages.faults import (
    NEW,
    OLD,
    CutEffects,
    Fault,
    PowerCut,
    carry_on,
    end_of,
    faults,
    prepare,
)

pytestmark = pytest.mark.timeout(600)  # dozens of programs each, on whatever machine
ALL = list(faults())
QUICK = {
    "there-new-beta-postinst-fails",
    "there-new-beta-postinst-kills-dpkg",
    "there-new-alpha-preinst-cuts-power",
    "there-old-alpha-prerm-fails",
    "back-new-beta-prerm-cuts-power",
    "back-old-beta-postinst-fails",
}


def assert_ends_well(bed: Bed, *, may_get_stuck: bool = False) -> str:
    """The invariants: one of two sets, a sound database, and an account that agrees with both."""
    end, versions, status = end_of(bed), bed.versions(), bed.boot.status()
    assert end in {"new", "old"} | ({"stuck"} if may_get_stuck else set()), (end, bed.transactions.ledger.ended)
    if end == "stuck":
        assert (status.outcome, status.cause) == (BootOutcome.FELL_BACK, "rollback-failed")
        assert versions != OLD or bed.audit() != ""
        return end
    assert versions == (NEW if end == "new" else OLD)
    assert bed.audit() == ""
    assert status.outcome is (BootOutcome.TRIAL if end == "new" else BootOutcome.FELL_BACK)
    assert status.slot is (Slot.B if end == "new" else Slot.A)
    return end


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name, marks=[] if fault.name in QUICK else [pytest.mark.deep]) for fault in ALL],
)
def test_a_script_at_fault(bed: Bed, fault: Fault) -> None:
    prepare(bed, fault)
    bed.effects = CutEffects(bed.folder / "cut")
    bed.open()
    armed = bed.folder / "armed"
    try:
        if fault.moment == "there":
            armed.touch()
        bed.boot.switch(lambda share, text: None)
    except PowerCut:
        carry_on(bed)
    if fault.moment == "back" and end_of(bed) == "new":
        bed.boot.give_up("one")
        armed.touch()
        carry_on(bed)
        assert end_of(bed) != "new"
    assert_ends_well(bed, may_get_stuck=fault.may_get_stuck)


CUTS = [(at, after, fails) for fails in (False, True) for at in range(1, 13) for after in (False, True)]


@pytest.mark.parametrize(
    ("at", "after", "fails"),
    [
        pytest.param(
            *cut, marks=[] if cut in {(2, True, False), (4, False, False), (5, True, True)} else [pytest.mark.deep]
        )
        for cut in CUTS
    ],
)
def test_the_power_goes_at_a_write_of_the_ledger(bed: Bed, at: int, after: bool, fails: bool) -> None:
    fault = Fault(package="beta", side="new", script="postinst", how="fails", moment="there") if fails else None
    prepare(bed, fault)
    (bed.folder / "armed").touch()
    bed.effects = effects = CutEffects(bed.folder / "cut", at=at, after=after)
    bed.open()
    try:
        bed.boot.switch(lambda share, text: None)
    except PowerCut:
        bed.effects = CutEffects(bed.folder / "cut")
        carry_on(bed)
        if end_of(bed) == "armed":
            assert bed.versions() == OLD
            bed.boot.switch(lambda share, text: None)
    else:
        assert effects.written < at, "the cut was missed"
    assert assert_ends_well(bed) == ("old" if fails else "new")


def test_a_set_that_was_interrupted_before_is_healed_first(bed: Bed) -> None:
    broken = build_deb(bed.folder, "gamma", "1.7", scripts={"postinst": f'[ -e "{bed.folder / "well"}" ]'})
    bed.offer(broken)
    subprocess.run(
        ["dpkg", f"--root={bed.root}", "--force-script-chrootless", "--install", broken.path], capture_output=True
    )
    assert "gamma" in bed.audit()
    with pytest.raises(RefusedError) as caught:
        bed.stage(bed.set_of("alpha=2.0"))
    assert caught.value.kind == "package-failed"
    (bed.folder / "well").touch()
    bed.stage(bed.set_of("alpha=2.0"))
    assert bed.audit() == ""


def test_another_package_manager_is_waited_for(bed: Bed) -> None:
    bed.stage(bed.set_of("alpha=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    holder = subprocess.Popen(
        [shutil.which("python3") or "python3", "-c", HOLD, str(bed.root / "var/lib/dpkg")], stdin=-1, stdout=-1
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    waits: list[float] = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            holder.kill()
            holder.wait()

    bed.sleep = let_go
    bed.open()
    try:
        bed.boot.switch(lambda share, text: None)
    finally:
        holder.kill()
        holder.communicate()
    assert len(waits) >= 3
    assert end_of(bed) == "new"
    assert bed.versions()["alpha"] == "2.0"


HOLD = """
import fcntl, sys
files = [open(f"{sys.argv[1]}/{name}", "w") for name in ("lock-frontend", "lock")]
[fcntl.lockf(file, fcntl.LOCK_EX) for file in files]
print("held", flush=True)
sys.stdin.read()
"""


def test_one_that_never_ends_leaves_everything_as_it_was(bed: Bed) -> None:
    bed.stage(bed.set_of("alpha=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.lock_s = 1.0
    bed.open()
    holder = subprocess.Popen(
        [shutil.which("python3") or "python3", "-c", HOLD, str(bed.root / "var/lib/dpkg")], stdin=-1, stdout=-1
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        bed.boot.switch(lambda share, text: None)
    finally:
        holder.kill()
        holder.communicate()
    assert (bed.boot.status().cause, bed.versions()["alpha"]) == ("packages-locked", "1.0")
    with pytest.raises(UnavailableError):
        bed.boot.commit("one")


def test_without_the_old_file_nothing_is_installed_unless_the_operator_says_so(bed: Bed) -> None:
    bed.offer(without=[("alpha", "1.0")])
    with pytest.raises(RefusedError) as caught:
        bed.stage(bed.set_of("alpha=2.0"))
    assert caught.value.kind in {"no-way-back"} | ({"unreached"} if shutil.which("dpkg-repack") else set())
    assert bed.transactions.ledger.staged is None


def test_an_archive_without_the_new_version_is_named(bed: Bed) -> None:
    wanted = bed.set_of("alpha=2.0")
    bed.offer(without=[("alpha", "2.0")])
    with pytest.raises(RefusedError) as caught:
        bed.stage(wanted)
    assert caught.value.kind == "package-missing"
    assert "alpha" in caught.value.text


def test_an_archive_with_another_file_of_the_same_version_is_refused(bed: Bed) -> None:
    wanted = bed.set_of("alpha=2.0")
    (bed.folder / "other").mkdir()
    bed.offer(build_deb(bed.folder / "other", "alpha", "2.0", files={"usr/share/alpha/evil": "yes"}))
    with pytest.raises(RefusedError) as caught:
        bed.stage(wanted)
    assert caught.value.kind == "artifact-changed"
    assert bed.versions()["alpha"] == "1.0"


def test_a_file_that_is_changed_after_staging_is_not_installed(bed: Bed) -> None:
    bed.stage(bed.set_of("alpha=2.0"))
    path = next(bed.store.files.glob("alpha_2.0*"))
    evil = bed.folder / "other"
    evil.mkdir()
    path.write_bytes(build_deb(evil, "alpha", "2.0", files={"usr/share/alpha/evil": "yes"}).path.read_bytes())
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    assert (bed.boot.status().cause, bed.versions()["alpha"]) == ("artifact-changed", "1.0")
    assert not (bed.root / "usr/share/alpha/evil").exists()


def test_a_plan_that_changed_since_staging_is_not_followed(bed: Bed) -> None:
    bed.offer(build_deb(bed.folder, "alpha", "1.2"))
    bed.stage(bed.set_of("alpha=2.0"))
    bed.apt("update")
    bed.apt("install", "alpha=1.2")
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    assert (bed.boot.status().cause, bed.versions()["alpha"]) == ("plan-differs", "1.2")


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_held_package_stays(bed: Bed, when: str) -> None:
    if when == "before":
        bed.mark("hold", "alpha")
        with pytest.raises(RefusedError) as caught:
            bed.stage(bed.set_of("alpha=2.0"))
        assert caught.value.kind == "package-held"
        return
    bed.stage(bed.set_of("alpha=2.0"))
    bed.mark("hold", "alpha")
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    assert (bed.boot.status().cause, bed.versions()["alpha"]) == ("package-held", "1.0")


def test_a_changed_configuration_file_stays_there_and_back(bed: Bed) -> None:
    conf = bed.root / "etc/conf.conf"
    conf.write_text("mine\n")
    bed.stage(bed.set_of("conf=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    assert (bed.versions()["conf"], conf.read_text()) == ("2.0", "mine\n")
    bed.boot.give_up("one")
    carry_on(bed)
    assert (bed.versions()["conf"], conf.read_text()) == ("1.0", "mine\n")


def test_a_host_that_went_ahead_of_the_set_refuses_it_unless_it_says_otherwise(bed: Bed) -> None:
    bed.offer(build_deb(bed.folder, "alpha", "9.0"))
    bed.apt("update")
    bed.apt("install", "alpha=9.0")
    with pytest.raises(RefusedError) as caught:
        bed.stage(bed.set_of("alpha=2.0"))
    assert caught.value.kind == "plan-differs"
    bed.stage(bed.set_of("alpha=2.0", downgrades=True))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    assert bed.versions()["alpha"] == "2.0"


def test_a_set_names_what_is_not_here_and_that_is_left_alone(bed: Bed) -> None:
    bed.stage(bed.set_of("alpha=2.0", "extra=1.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    assert bed.versions() == {"alpha": "2.0", "beta": "1.0", "conf": "1.0", "gamma": "1.0"}


def test_a_full_disk_is_known_before_and_survived_during(beds: Beds, tmp_path: Path) -> None:
    """On a file system of its own, small and real, where the test may make one."""
    bed = beds.make("full-disk")
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", mounted], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs root")
    try:
        shutil.copytree(bed.root, mounted / "root")
        shutil.rmtree(bed.root)
        bed.root.symlink_to(mounted / "root")
        bed.offer(
            build_deb(bed.folder, "alpha", "4.0", files={"usr/share/alpha/large": "0123456789abcde\n" * (1 << 18)})
        )
        bed.stage(bed.set_of("alpha=4.0"))
        bed.boot.try_slot(Slot.B, "one", deadline_s=60)
        bed.boot.switch(lambda share, text: None)
        assert end_of(bed) == "old"
        assert bed.boot.status().cause == "package-failed"
        assert "space" in bed.boot.status().text
        assert bed.versions()["alpha"] == "1.0"
        assert bed.audit() == ""
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_what_needs_more_room_than_there_is_is_not_begun(bed: Bed) -> None:
    big = build_deb(bed.folder, "alpha", "4.0", fields="Installed-Size: 99999999999\n")
    assert describe_deb(big.path, "alpha", "4.0", "").sha256 == big.sha256
    bed.offer(big)
    bed.stage(bed.set_of("alpha=4.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    assert (bed.boot.status().cause, bed.versions()["alpha"]) == ("no-room", "1.0")
