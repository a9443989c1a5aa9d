"""Choosing the boot loader by configuration, making its first environment, and asking it by hand."""

import re
from pathlib import Path

import pytest

from device_agent.boot import backend
from device_agent.boot.backend import make_environment, open_boot
from device_agent.boot.control import FileBoot
from device_agent.boot.kernel import Kernel
from device_agent.boot.ledger import MAX_COUNT, Ledger, Phase, from_variables, stayed_up, to_variables
from device_agent.boot.scripted import ScriptedBoot
from device_agent.boot.settings import Boot, Grub, Simulated, SystemdBootSettings, UBoot
from device_agent.boot.systemd_boot import SystemdBoot
from device_agent.cli import run
from device_agent.config import load_config
from device_agent.ports import BootOutcome, Slot
from firmware.errors import RefusedError, UnavailableError
from tests.contract.power import UnsyncedEffects

EFFECTS = UnsyncedEffects()


def fit(folder: Path) -> str | None:
    return None


def kernel(folder: Path, cmdline: str) -> Kernel:
    (folder / "cmdline").write_text(cmdline)
    (folder / "boot_id").write_text("0a1b2c3d-0000-4000-8000-000000000000\n")
    return Kernel(EFFECTS, cmdline=folder / "cmdline", boot_id=folder / "boot_id")


# Configuration


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", Simulated()),
        ('[boot]\nkind = "simulated"\nmin_uptime_s = 5', Simulated(min_uptime_s=5)),
        ('[boot]\nkind = "grub"\nenvironment = "/boot/o"\nattempts = 9', Grub(environment="/boot/o", attempts=9)),
        ('[boot]\nkind = "u-boot"\nstate = "/dev/mmcblk0p1"', UBoot(state="/dev/mmcblk0p1")),
        ('[boot]\nkind = "systemd-boot"\nreboot = ["reboot"]', SystemdBootSettings(reboot=("reboot",))),
    ],
)
def test_the_configuration_chooses_the_boot_loader(tmp_path: Path, text: str, settings: Boot) -> None:
    (tmp_path / "agent.toml").write_text(text)
    assert load_config(tmp_path).boot == settings


@pytest.mark.parametrize(
    "text",
    [
        'kind = "lilo"',
        'environment = "/boot/otaria"',
        'kind = "grub"\nstate = "/dev/x"',
        'kind = "grub"\nattempts = 0',
        f'kind = "grub"\nboots = {MAX_COUNT + 1}',
        'kind = "grub"\nspare = 4',
        'kind = "u-boot"\nstate = ""',
        'kind = "grub"\nreboot = []',
        'kind = "grub"\nmin_uptime_s = 0',
        'kind = "grub"\nprogram_port = 70000',
    ],
)
def test_a_wrong_boot_section_is_refused_with_the_file_and_what_is_wrong(tmp_path: Path, text: str) -> None:
    (tmp_path / "agent.toml").write_text(f"[boot]\n{text}\n")
    with pytest.raises(RefusedError) as caught:
        load_config(tmp_path)
    assert caught.value.kind == "bad-config"
    assert "agent.toml" in caught.value.text
    assert "Correct it" in caught.value.text


def test_each_kind_has_its_back_end(tmp_path: Path) -> None:
    kinds: list[tuple[Boot, type]] = [
        (Simulated(), FileBoot),
        (Grub(environment="env"), ScriptedBoot),
        (UBoot(), ScriptedBoot),
        (UBoot(state="state"), ScriptedBoot),
        (SystemdBootSettings(), SystemdBoot),
    ]
    for settings, kind in kinds:
        assert type(open_boot(settings, tmp_path, tmp_path, EFFECTS, judge=fit)) is kind


def test_an_unfit_file_system_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for make in (
        lambda: open_boot(
            Grub(environment="env"), tmp_path, tmp_path, EFFECTS, judge=lambda folder: "It moves. Use FAT."
        ),
        lambda: make_environment(
            Grub(environment="env"), tmp_path, EFFECTS, Slot.A, probe="p", judge=lambda folder: "It moves. Use FAT."
        ),
    ):
        with pytest.raises(RefusedError) as caught:
            make()
        assert caught.value.kind == "boot-environment-unsafe"
        assert "Use FAT" in caught.value.text
    assert list(tmp_path.iterdir()) == []


# The first environment


def test_a_first_environment_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    settings = Grub(environment="env", boots=4)
    make_environment(settings, tmp_path, EFFECTS, Slot.B, probe="0badcafe", judge=fit)
    stored = backend.grub_store(EFFECTS, tmp_path / "env", fit).load()
    assert stored is not None
    expected = Ledger(slot=Slot.B, whole=frozenset({Slot.B}), left=4, probe="0badcafe")
    assert (stored.ledger, stored.is_sound) == (expected, True)
    with pytest.raises(RefusedError) as caught:
        make_environment(settings, tmp_path, EFFECTS, Slot.A, probe="x", judge=fit)
    assert caught.value.kind == "boot-environment-exists"
    with pytest.raises(RefusedError) as not_needed:
        make_environment(Simulated(), tmp_path, EFFECTS, Slot.A, probe="x")
    assert not_needed.value.kind == "not-needed"


def test_the_commands_make_and_note_and_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.toml").write_text('[boot]\nkind = "u-boot"\nstate = "state"\n')
    (tmp_path / "state").write_bytes(bytes(32768))
    assert run(["--dir", str(tmp_path), "boot", "make", "--slot", "B"]) == 0
    assert run(["--dir", str(tmp_path), "boot", "make"]) == 1
    said = capsys.readouterr()
    assert "slot B is committed" in said.out
    assert "boot-environment-exists" in said.err
    assert run(["--dir", str(tmp_path), "boot", "check"]) == 1
    assert "boot-slot-unknown" in capsys.readouterr().err
    assert run(["--dir", str(tmp_path), "boot", "format"]) == 2


def test_a_lost_environment_is_said_and_made_anew_by_a_system_that_stays_up(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_bytes(bytes(32768))
    boot = open_boot(
        UBoot(state="state"),
        tmp_path,
        tmp_path,
        EFFECTS,
        kernel=kernel(tmp_path, "otaria.slot=B otaria.cause=loader-state-lost"),
    )
    status = boot.status()
    assert (status.slot, status.outcome, status.cause) == (Slot.B, BootOutcome.NORMAL, "loader-state-lost")
    for verb in (lambda: boot.try_slot(Slot.A, "t1", deadline_s=1), lambda: boot.retire(Slot.A)):
        with pytest.raises(RefusedError) as caught:
            verb()
        assert caught.value.kind == "boot-environment-split"
    boot.stayed_up()
    stored = backend.uboot_store(EFFECTS, state).load()
    assert stored is not None
    assert (stored.ledger.slot, stored.ledger.whole, stored.is_sound) == (Slot.B, frozenset({Slot.B}), True)


def test_a_damaged_copy_is_mended_by_a_system_that_stays_up(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(bytes(32768))
    settings = UBoot(state="state")
    make_environment(settings, tmp_path, EFFECTS, Slot.A, probe="p")
    store = backend.uboot_store(EFFECTS, tmp_path / "state")
    for offset in (0, 4096, 8192):
        with (tmp_path / "state").open("r+b") as file:
            file.seek(offset)
            file.write(b"rust")
        assert not store.load().is_sound  # type: ignore[union-attr]
        open_boot(settings, tmp_path, tmp_path, EFFECTS, kernel=kernel(tmp_path, "otaria.slot=A")).stayed_up()
        assert store.load().is_sound  # type: ignore[union-attr]


@pytest.mark.parametrize("cmdline", ["", "root=/dev/sda otaria.slot=C", "otaria.slot=", "xotaria.slot=A"])
def test_a_slot_is_never_guessed(tmp_path: Path, cmdline: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        kernel(tmp_path, cmdline).this_boot()
    assert caught.value.kind == "boot-slot-unknown"
    assert "otaria.slot=A or B" in caught.value.text


def test_a_slot_that_a_person_chose_in_the_menu_is_said_and_both_are_in_use(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(bytes(32768))
    settings = UBoot(state="state")
    make_environment(settings, tmp_path, EFFECTS, Slot.A, probe="p")
    store = backend.uboot_store(EFFECTS, tmp_path / "state")
    store.save(stayed_up(store.load().ledger, "0a1b2c3d", running=Slot.A, limits=settings.limits))  # type: ignore[union-attr]
    boot = open_boot(settings, tmp_path, tmp_path, EFFECTS, kernel=kernel(tmp_path, "otaria.slot=B otaria.canary=x"))
    status = boot.status()
    assert (status.outcome, status.trial_id, status.cause) == (BootOutcome.NORMAL, None, "not-selected")
    with pytest.raises(RefusedError):
        boot.retire(Slot.A)


def test_rebooting_runs_the_command_and_says_when_it_fails(tmp_path: Path) -> None:
    done = tmp_path / "done"
    boot = open_boot(UBoot(state="state", reboot=("touch", str(done))), tmp_path, tmp_path, EFFECTS)
    boot.reboot()
    assert done.exists()
    with pytest.raises(OSError, match="false failed with 1"):
        open_boot(UBoot(state="state", reboot=("false",)), tmp_path, tmp_path, EFFECTS).reboot()


# The ledger as variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slot", "C"),
        ("slot", ""),
        ("a", ""),
        ("left", "-1"),
        ("left", "10"),
        ("left", "٣"),
        ("phase", "trail"),
        ("id", "x" * 65),
        ("id", "a b"),
        ("cause", "c" * 33),
        ("probe", "$(reboot)"),
        ("tries", None),
    ],
)
def test_variables_that_are_no_ledger_are_not_believed_by_half(name: str, value: str | None) -> None:
    variables = to_variables(Ledger(phase=Phase.TRIAL, trial_id="t1"))
    assert from_variables(variables) is not None
    changed = {**variables, f"otaria_{name}": value}
    assert from_variables({key: text for key, text in changed.items() if text is not None}) is None


def test_the_boot_scripts_know_every_variable() -> None:
    names = set(to_variables(Ledger())) | {"otaria_first", "otaria_last"}
    root = Path(__file__).parents[3] / "deploy/boot"
    for script in ("grub/otaria.cfg", "u-boot/otaria.cmd"):
        assert names <= set(re.findall(r"otaria_[a-z]+", (root / script).read_text())), script
