"""What waits for a restart: by files as they are on a host, and a needrestart that says what the real one does."""

from pathlib import Path

import pytest

from device_agent.effects import FileEffects
from device_agent.packages.host import Host, HostTools
from device_agent.packages.port import Waiting
from firmware.errors import RefusedError

RUNNING, NEWER = "6.1.0-9-amd64", "6.1.0-10-amd64"
SAID = "NEEDRESTART-VER: 3.6\nNEEDRESTART-KCUR: {running}\nNEEDRESTART-KEXP: {expected}\nNEEDRESTART-KSTA: {state}\n"


class Machine:
    """A host's root. `says`: what needrestart prints."""

    def __init__(self, root: Path, *, boot: tuple[str, ...] = (), modules: tuple[str, ...] = ()) -> None:
        self.root, self._said = root, root / "said"
        for folder in ("boot", "run", *(f"lib/modules/{name}" for name in modules)):
            (root / folder).mkdir(parents=True)
        for name in boot:
            (root / f"boot/vmlinuz-{name}").touch()
        (root / "osrelease").write_text(f"{RUNNING}\n")
        self._said.touch()

    def waiting(self, said: str = "", needrestart: tuple[str, ...] | None = None) -> Waiting:
        self._said.write_text(said)
        tools = HostTools(
            root=self.root,
            kernel=self.root / "osrelease",
            needrestart=("cat", str(self._said)) if needrestart is None else needrestart,
        )
        return Host(FileEffects(), tools).waiting()


def kernel_says(state: int | str, expected: str = RUNNING) -> str:
    return SAID.format(running=RUNNING, expected=expected, state=state)


@pytest.mark.parametrize("state", [0, 1, "", "9", "-1", "two", "02"])
def test_a_kernel_that_is_current_or_not_known_needs_nothing(tmp_path: Path, state: int | str) -> None:
    assert Machine(tmp_path, boot=(RUNNING,)).waiting(kernel_says(state)) == Waiting()


def test_another_build_of_the_same_release_is_seen_by_needrestart_alone(tmp_path: Path) -> None:
    found = Machine(tmp_path, boot=(RUNNING,)).waiting(kernel_says(2))
    assert found.restart == f"kernel {RUNNING} runs in an older build than the installed one"
    assert not found.is_certain, "it is read from words in the kernel's file"


def test_the_newest_release_is_by_number_and_ours_to_say(tmp_path: Path) -> None:
    machine = Machine(tmp_path, boot=(RUNNING, NEWER))
    assert machine.waiting().restart == f"kernel {RUNNING} runs and {NEWER} is installed"
    assert machine.waiting(needrestart=()).restart == f"kernel {RUNNING} runs and {NEWER} is installed"
    assert machine.waiting().is_certain


def test_where_boot_tells_that_the_newest_runs_needrestart_does_not_say_otherwise(tmp_path: Path) -> None:
    assert Machine(tmp_path, boot=(RUNNING,)).waiting(kernel_says(3, NEWER)).restart is None


def test_where_boot_tells_nothing_needrestart_does(tmp_path: Path) -> None:
    machine = Machine(tmp_path, modules=(RUNNING,))
    assert machine.waiting(kernel_says(3, NEWER)).restart == f"kernel {RUNNING} runs and {NEWER} is installed"
    assert machine.waiting(kernel_says(3, "a b\x1b[")).restart == f"kernel {RUNNING} runs and a newer one is installed"


@pytest.mark.parametrize("state", [2, 3])
def test_a_kernel_that_is_not_of_this_system_is_not_its_business(tmp_path: Path, state: int) -> None:
    """A container runs its host's."""
    assert Machine(tmp_path, boot=(NEWER,)).waiting(kernel_says(state, NEWER)).restart is None


def test_a_package_that_asks_for_a_restart_is_heard(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "run/reboot-required").touch()
    assert machine.waiting(kernel_says(1)).restart == "a package asks for a restart (/run/reboot-required)"


def test_services_are_those_that_needrestart_names(tmp_path: Path) -> None:
    said = "".join(f"NEEDRESTART-SVC: {name}\n" for name in ("ssh.service", "getty@tty1.service", "--all", "a b"))
    assert Machine(tmp_path).waiting(said).services == ("ssh.service", "getty@tty1.service")


@pytest.mark.parametrize("needrestart", [("false",), ("/nowhere/needrestart",)])
def test_a_needrestart_that_fails_or_is_not_there_is_done_without(tmp_path: Path, needrestart: tuple[str, ...]) -> None:
    assert Machine(tmp_path, boot=(RUNNING,)).waiting(needrestart=needrestart) == Waiting()


def test_services_that_do_not_start_again_are_named(tmp_path: Path) -> None:
    script = tmp_path / "restart"
    script.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/tried\n[ "$1" != broken.service ]\n')
    script.chmod(0o755)
    host = Host(FileEffects(), HostTools(root=tmp_path, restart_service=(str(script),)))
    host.restart_services(["ssh.service"])
    with pytest.raises(RefusedError) as caught:
        host.restart_services(["broken.service", "cron.service"])
    assert caught.value.kind == "package-failed"
    assert "broken.service." in caught.value.text
    assert (tmp_path / "tried").read_text().split() == ["ssh.service", "broken.service", "cron.service"]
