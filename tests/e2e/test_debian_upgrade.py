"""A real Debian's real security updates: seen, made a set, led back since what the host declares fails, then installed for good.

Over the real server and broker, by an agent inside of the Debian, with the settings that a server has.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.transport.broker import find_mosquitto
from simulator.lab import PRODUCT, Lab, running
from tests.device_agent.packages.debian import Debian, debian_in, lacking
from tests.e2e.servers import HARDWARE, Server, named_in

LACK = lacking()
pytestmark = [
    pytest.mark.xdist_group("debian"),
    pytest.mark.timeout(1200),  # a Debian is made first, unless there is one in the cache
    pytest.mark.skipif(LACK is not None, reason=str(LACK)),
]
APP = "/usr/local/bin/app-works"
SETTINGS = f"""\
[target]
kind = "host"
restart = "never"

[[health.checks]]
kind = "command"
argv = ["{APP}"]
"""
ONLY_WITH_THE_OLD = '#!/bin/sh\n[ "$(dpkg-query -W -f \'${{Version}}\' {name})" = "{version}" ]\n'
WITH_ANY = "#!/bin/sh\nexec openssl version\n"
PATIENT = {"patience": "500s", "trial": "300s", "horizon": "400s"}
PATIENCE_S = 600.0
UPGRADE = re.compile(r"^Inst (?P<name>\S+) \[(?P<before>\S+)\] \((?P<after>\S+) [^)]*Security", re.M)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the Debian sees of this machine beside the agent's program: the agent's directory."""
    (tmp_path / "web-1").mkdir()
    return tmp_path / "web-1"


@pytest.fixture
def debian(tmp_path: Path, folder: Path) -> Iterator[Debian]:
    with debian_in(tmp_path, [folder]) as one:
        yield one
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running(Lab(tmp_path / "lab", broker="mosquitto" if find_mosquitto() else "embedded")) as one:
        yield one


@pytest.fixture
def server(lab: Lab, debian: Debian, folder: Path) -> Iterator[Server]:
    one = Server(lab, folder, SETTINGS, enter=debian.enter, hurry=PATIENT, patience_s=PATIENCE_S)
    yield one
    one.kill()


def test_security_updates_are_led_back_when_the_host_says_so_and_stay_when_it_does_not(
    lab: Lab, debian: Debian, server: Server
) -> None:
    for kind in ("mnt", "pid", "uts"):
        own = Path(f"/proc/self/ns/{kind}")
        assert debian.run("readlink", str(own)).strip() != str(own.readlink())
    debian.run("apt-get", "-q", "update")
    simulated = debian.run("apt-get", "--simulate", "dist-upgrade")
    due = {found["name"]: (found["before"], found["after"]) for found in UPGRADE.finditer(simulated)}
    if not due:
        pytest.skip("the security archive has nothing newer than the main one now")
    before, automatic = debian.packages(), debian.run("apt-mark", "showauto")

    name = min(due)
    debian.write(APP, ONLY_WITH_THE_OLD.format(name=name, version=due[name][0]))
    server.start()
    server.wait(lambda: server.view["labels"].get("agent.packages.security") == str(len(due)), "what is pending")
    document = server.pending_set("--security-only")
    assert named_in(document) == {one: after for one, (_, after) in due.items()}

    lab.publish_patch_set("2026.1", 1, document, product=PRODUCT, hardware=HARDWARE)
    first = server.campaign("2026.1")
    server.wait(lambda: server.counts(first) == {"fell_back": 1}, "the set to be led back")
    assert debian.packages() == before
    assert debian.run("dpkg", "--audit") == ""
    assert debian.run("apt-mark", "showauto") == automatic
    assert "app-works" in server.words()
    log = (debian.root / "var/log/dpkg.log").read_text()
    for one, (_, after) in due.items():
        assert re.search(rf"status installed {re.escape(one)}:\S+ {re.escape(after)}$", log, re.M), "it was never there"

    debian.write(APP, WITH_ANY)
    lab.publish_patch_set("2026.2", 2, document, product=PRODUCT, hardware=HARDWARE)
    second = server.campaign("2026.2")
    server.wait(lambda: server.counts(second) == {"verified": 1}, "the set to be verified")
    now = debian.packages()
    new = {one: due.get(one.partition(":")[0], (version, version))[1] for one, (version, _) in before.items()}
    assert now == {one: (version, "ii") for one, version in new.items()}
    assert debian.run("dpkg", "--audit") == ""
    assert debian.run("apt-mark", "showauto") == automatic
    server.wait(lambda: server.view["labels"]["agent.packages.security"] == "0", "that nothing is pending")
    assert server.view["running_version"] == "2026.2"
