"""Boxes that print what nobody expects, or are others than they should be, in one campaign: the planner is told of each what was
seen and what was expected, and the box runs on as it was."""

from collections.abc import Sequence
from pathlib import Path

import asyncssh
import pytest
from msgspec.structs import replace

from simulator.appliances.server import BoxServer
from simulator.lab import Lab, running
from tests.brokers import skip_without
from tests.e2e.site import NEW, OLD, publish, site_of
from tests.e2e.test_site_agent import STRATEGY

CHATTY, OTHER_KEY, OTHER_SERIAL, PROMPT, NOISE, FLOOD = range(1, 7)
TOLD: dict[int, tuple[str, tuple[str, ...]]] = {
    OTHER_KEY: ("box-host-key", ("shows the host key ssh-ed25519 SHA256:", "the settings give ssh-ed25519 SHA256:")),
    OTHER_SERIAL: ("box-not-it", ("it is M-1 with serial V-99", f"the settings say M-1 with serial V-{OTHER_SERIAL}")),
    PROMPT: ("box-output", ("login? maybe:", "expected was")),
    NOISE: ("box-output", ("`show images`: the box answered", "expected was running by")),
    FLOOD: ("box-flood", ("`show configuration` printed more than 4 MiB",)),
}


def spoil(servers: Sequence[BoxServer]) -> None:
    """The settings are written after this, so that the key that they give is not the one that this box has."""
    by_number = dict(enumerate(servers, 1))
    by_number[CHATTY].box.faults.banner_bytes = 30_000
    by_number[CHATTY].box.faults.noise = b"\xff\x00\x1b[31m\x07noise\r\n"
    by_number[OTHER_KEY].key = asyncssh.generate_private_key("ssh-ed25519")
    by_number[PROMPT].box.faults.strange_prompt = True
    by_number[NOISE].box.faults.garble = "show images"
    by_number[FLOOD].box.faults.flood = "show configuration"


@pytest.mark.timeout(600)
def test_the_planner_is_told_and_the_box_runs_on(tmp_path: Path) -> None:
    skip_without("mosquitto")
    with running(Lab(tmp_path, broker="mosquitto")) as lab, site_of(lab, 6, spoil=spoil) as site:
        other = site.servers[OTHER_SERIAL - 1].box
        other.keep(replace(other.flash, serial="V-99"))
        publish(lab, NEW, 2)
        campaign = lab.apply_campaign(STRATEGY % ("bad-boxes", NEW))
        done = {"verified": 1, "failed": len(TOLD)}
        site.wait(lambda: site.counts(campaign) == done, "an end of all", campaign)
        for number, (kind, words) in TOLD.items():
            view, flash = site.target(number), site.servers[number - 1].box.flash
            assert view["reason_kind"] == kind, (number, view)
            assert all(word in view["reason"] for word in words), (number, view["reason"])
            assert (flash.running, flash.permanent, flash.once, flash.boots) == (OLD, OLD, "", 1), number
        assert site.servers[CHATTY - 1].box.flash.permanent == NEW
        assert site.servers[OTHER_KEY - 1].box.faults.said == [], "who has another key is told nothing"
