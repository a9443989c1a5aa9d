"""The real needrestart, on a real Debian: what it prints of kernels and services is understood."""

import platform
from pathlib import Path

import pytest

from device_agent.effects import FileEffects
from device_agent.packages.host import Host, HostTools
from device_agent.packages.port import Waiting
from tests.device_agent.packages.debian import debian_in, lacking

LACK = lacking()
pytestmark = [
    pytest.mark.xdist_group("debian"),
    pytest.mark.timeout(1200),  # a Debian is made first, unless there is one in the cache
    pytest.mark.skipif(LACK is not None, reason=str(LACK)),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernel's file is made as on x86-64"),
]
REPLACE = (
    "file=$(readlink -f $(ldd {program} | grep -o '/[^ ]*{library}[^ ]*')); cp $file $file.new; mv $file.new $file"
)
"""As dpkg does: another file under the same name."""
NAME_AT, POINTER_AT, LEAST_BYTES = 0x400, 0x20E, 1_000_000


def write_kernel(path: Path, says: str) -> None:
    """A kernel's file as far as its header names its version (Linux' x86 boot protocol)."""
    data = bytearray(LEAST_BYTES)
    data[POINTER_AT : POINTER_AT + 2] = (NAME_AT - 0x200).to_bytes(2, "little")
    data[NAME_AT : NAME_AT + len(says)] = says.encode()
    path.write_bytes(data)


def test_a_kernel_that_was_built_anew_under_its_name_is_seen(tmp_path: Path) -> None:
    release, build = platform.release(), platform.version()
    with debian_in(tmp_path) as debian:
        tools = HostTools(root=debian.root, needrestart=(*debian.enter, "needrestart", "-b"))
        host, kernel = Host(FileEffects(), tools), debian.root / f"boot/vmlinuz-{release}"
        assert "NEEDRESTART-KSTA: 0" in debian.run("needrestart", "-b")
        assert host.waiting() == Waiting()
        write_kernel(kernel, f"{release} (one@example.org) {build}")
        assert "NEEDRESTART-KSTA: 1" in debian.run("needrestart", "-b")
        assert host.waiting() == Waiting()
        write_kernel(kernel, f"{release} (one@example.org) #77 SMP of another day")
        assert "NEEDRESTART-KSTA: 2" in debian.run("needrestart", "-b")
        assert host.waiting() == Waiting(restart=f"kernel {release} runs in an older build than the installed one")


def test_a_daemon_that_runs_a_library_which_was_replaced_is_named_and_started_again(tmp_path: Path) -> None:
    with debian_in(tmp_path) as debian:
        tools = HostTools(
            root=debian.root,
            needrestart=(*debian.enter, "needrestart", "-b"),
            restart_service=(*debian.enter, "sh", "-c", 'service "$1" restart', "sh"),
        )
        host = Host(FileEffects(), tools)
        debian.run("service", "cron", "start")
        before = debian.run("cat", "/run/crond.pid")
        assert host.waiting().services == ()
        debian.run("sh", "-ec", REPLACE.format(program="/usr/sbin/cron", library="libselinux"))
        assert host.waiting().services == ("cron",)
        host.restart_services(host.waiting().services)
        assert host.waiting().services == ()
        assert debian.run("cat", "/run/crond.pid") != before
