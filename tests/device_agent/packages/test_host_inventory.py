"""What a host says of itself, and how little afterwards."""

import json
from pathlib import Path

import pytest

from device_agent.cli import run
from device_agent.packages.inventory import state_of, take_inventory
from device_agent.packages.survey import Survey
from device_agent.ports import Slot
from firmware.host_packages import Drifted, telling
from server.cli import run as run_otaria
from simulator.debs import build_deb
from tests.device_agent.packages.bed import Bed

SETTINGS = '[target]\nkind = "host"\nroot = "{root}"\napt_config = "{conf}"\nneedrestart = []\n'


def test_a_host_says_what_it_has_and_what_is_pending(bed: Bed) -> None:
    bed.system.refresh()
    found = take_inventory(bed.system, bed.host)
    assert {name: one.version for name, one in found.packages.items()} == bed.versions()
    assert sorted(found.pending) == ["alpha:all", "beta:all", "conf:all", "gamma:all"]
    offered = found.pending["alpha:all"]
    assert (offered.before, offered.version, offered.sha256) == ("1.0", "2.0", bed.debs["alpha", "2.0"].sha256)
    assert not offered.is_security
    bed.mark("hold", "gamma")
    assert "gamma:all" not in take_inventory(bed.system, bed.host).pending, "it is not for us to change"


def test_what_is_pending_becomes_a_set_by_the_commands_that_people_use(
    bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = bed.folder / "agent"
    agent.mkdir()
    (agent / "agent.toml").write_text(SETTINGS.format(root=bed.root, conf=bed.conf))
    assert run(["--dir", str(agent), "packages", "--refresh", "--json"]) == 0
    said, out = tmp_path / "web-1.json", tmp_path / "patch-set.json"
    said.write_text(capsys.readouterr().out)
    assert run(["--dir", str(agent), "packages"]) == 0
    assert "4 packages, 4 pending, 0 of them for security" in capsys.readouterr().out
    assert run_otaria(["release", "patch-set", "--pending", str(said), "-o", str(out)]) == 0
    assert [one["version"] for one in json.loads(out.read_text())["packages"]] == ["2.0"] * 4
    assert run_otaria(["release", "patch-set", "--pending", str(said), "--security-only", "-o", str(out)]) == 1
    assert "without --security-only it is 4" in capsys.readouterr().err


def test_a_device_has_no_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--dir", str(tmp_path), "packages", "--json"]) == 1
    assert "wrong-kind" in capsys.readouterr().err


def test_a_host_of_1500_packages_is_read_in_bounded_many_programs(bed: Bed) -> None:
    """Time is measured elsewhere: here, that what is run doesn't grow with the packages."""
    stanza = "Package: many-{n}\nStatus: install ok installed\nArchitecture: all\nVersion: 1.{n}\n"
    stanza += "Maintainer: t\nDescription: t\n\n"
    with (bed.root / "var/lib/dpkg/status").open("a") as status:
        status.writelines(stanza.format(n=n) for n in range(1496))
    for n in range(1496):
        (bed.root / f"var/lib/dpkg/info/many-{n}.list").write_text("/.\n")
    before = take_inventory(bed.system, bed.host)
    assert len(before.packages) == 1500
    bed.offer(build_deb(bed.folder, "alpha", "2.5"))
    bed.apt("update")
    bed.apt("install", "alpha=2.5")
    told = telling(state_of(before, []), state_of(take_inventory(bed.system, bed.host), []))
    assert [(one.name, one.version) for one in told.packages] == [("alpha", "2.5")]


def test_drift_from_the_committed_set_is_seen_and_gone_when_it_is_mended(bed: Bed) -> None:
    bed.offer(build_deb(bed.folder, "alpha", "2.5"))
    bed.stage(bed.set_of("alpha=2.0", "gamma=2.0"))
    bed.boot.try_slot(Slot.B, "one", deadline_s=60)
    bed.boot.switch(lambda share, text: None)
    bed.boot.commit("one")
    survey = Survey(bed.transactions)
    survey.look()
    assert survey.labels({})["packages.drift"] == "none"
    bed.apt("install", "alpha=2.5")
    survey.look()
    assert survey.state is not None
    assert survey.state.facts.drift == [Drifted(name="alpha", arch="all", was="2.0", now="2.5")]
    seen = survey.labels({"site": "here", "kernel": "mine"})
    assert (seen["packages.drift"], seen["kernel"], seen["site"]) == ("alpha", "mine", "here")
    assert seen["packages.pending"] == "2"
    bed.apt("install", "--allow-downgrades", "alpha=2.0")
    survey.look()
    assert survey.labels({})["packages.drift"] == "none"


def test_the_host_leaves_the_operator_his_labels(bed: Bed) -> None:
    survey = Survey(bed.transactions)
    assert survey.labels({"a": "1"}) == {"a": "1"}
    survey.look()
    full = {f"label-{n}": "x" for n in range(63)}
    assert len(survey.labels(full)) == 64
    assert survey.labels(full)["packages.security"] == "0"
