"""A server's OS patches from the maker to a real agent, over the real server and broker, on a private dpkg root.

Order, staging, ask, permit, installation, health, commit, signed reports: by the same planner and the same core as a device's.
"""

from collections.abc import Iterator

import pytest

from server.transport.broker import find_mosquitto
from simulator.debs import build_deb
from simulator.lab import PRODUCT, Lab, running
from tests.device_agent.packages.bed import Bed, Beds, beds_in
from tests.e2e.servers import HARDWARE, Server, named_in

pytestmark = pytest.mark.xdist_group("host-patches")
OLD = {"alpha": "1.0", "beta": "1.0", "conf": "1.0", "gamma": "1.0"}
SETTINGS = """\
[target]
kind = "host"
root = "{root}"
apt_config = "{conf}"
needrestart = []
keep_free_mib = 1

[[health.checks]]
kind = "command"
argv = ["grep", "-q", "", "{root}/usr/share/alpha/version"]
"""


def publish(lab: Lab, bed: Bed, version: str, counter: int, *named: str) -> None:
    """List the packages, build the release, sign it, publish it: with the commands that people use."""
    lab.publish_patches(version, counter, named, bed.archive / "Packages", product=PRODUCT, hardware=HARDWARE)


@pytest.fixture(scope="module")
def beds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beds]:
    with beds_in(tmp_path_factory.mktemp("archives")) as made:
        yield made


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running(Lab(tmp_path_factory.mktemp("hosts"), broker="mosquitto" if find_mosquitto() else "embedded")) as one:
        yield one


@pytest.fixture
def bed(beds: Beds, request: pytest.FixtureRequest) -> Bed:
    return beds.make(request.node.name[:24])


@pytest.fixture
def server(lab: Lab, bed: Bed) -> Iterator[Server]:
    one = Server(lab, bed.folder, SETTINGS.format(root=bed.root, conf=bed.conf))
    yield one
    one.kill()


def test_a_set_is_installed_and_a_bad_one_is_led_back_and_both_are_reported(lab: Lab, bed: Bed, server: Server) -> None:
    bed.offer(build_deb(bed.folder, "beta", "3.0", scripts={"postinst": "echo broken; exit 9"}))
    publish(lab, bed, "2026.1", 1, "alpha=2.0", "beta=2.0", "+extra=1.0")
    publish(lab, bed, "2026.2", 2, "alpha=2.0", "beta=3.0")
    bed.system.refresh()
    server.start()
    server.wait(lambda: server.view["running_version"] == "as-found", "its first report")
    server.wait(lambda: server.view["labels"].get("agent.packages.count") == "4", "what it has")
    server.wait(lambda: server.packages == OLD, "each of its packages")
    assert named_in(server.pending_set()) == {"alpha": "2.0", "beta": "3.0", "conf": "2.0", "gamma": "2.0"}
    good = server.campaign("2026.1")
    server.wait(lambda: server.counts(good) == {"verified": 1}, "the good set to be verified")
    assert bed.versions() == OLD | {"alpha": "2.0", "beta": "2.0", "extra": "1.0"}
    assert server.view["running_version"] == "2026.1"
    server.wait(lambda: server.view["labels"]["agent.packages.count"] == "5", "what it has now")
    server.wait(lambda: server.packages == bed.versions(), "the packages it has now")
    found = server.told("fleet", "hosts", "--package", "alpha", "--below", "2.0.1")["hosts"]
    assert [(one["target"], [it["version"] for it in one["found"]]) for one in found] == [(server.target, ["2.0"])]
    bad = server.campaign("2026.2")
    server.wait(lambda: server.counts(bad) == {"fell_back": 1}, "the bad set to be led back")
    assert bed.versions() == OLD | {"alpha": "2.0", "beta": "2.0", "extra": "1.0"}
    assert bed.audit() == ""
    assert server.view["running_version"] == "2026.1"
    assert "exit status 9" in server.words()


def test_an_agent_that_is_killed_in_the_middle_goes_on_where_it_was(lab: Lab, bed: Bed, server: Server) -> None:
    """The new package's own script kills it, so dpkg works on without anybody; the next process waits for that and goes on."""
    script = (
        f'[ ! -e "{bed.folder}/once" ] || exit 0; touch "{bed.folder}/once"; kill -9 $(cat "{bed.folder}/agent.pid")'
    )
    bed.offer(build_deb(bed.folder, "alpha", "3.0", scripts={"postinst": script}))
    publish(lab, bed, "2026.3", 3, "alpha=3.0", "gamma=2.0")
    server.start()
    server.wait(lambda: server.view["running_version"] == "as-found", "its first report")
    campaign, ends = server.campaign("2026.3"), []
    server.wait(
        lambda: ends.append(server.tend()) or server.counts(campaign) == {"verified": 1}, "the set to be verified"
    )
    assert sum(ends) == 1
    assert bed.versions() == OLD | {"alpha": "3.0", "gamma": "2.0"}
    assert bed.audit() == ""
