"""Two real servers on one PostgreSQL and one Mosquitto, and three boards in one campaign. The leader is killed, its successor
frozen: the campaign ends as if there had been one server, and the one that wakes up does nothing more."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from server.storage.engines import IDLE_TIMEOUT_MS
from simulator.lab import PRODUCT, Lab
from simulator.rest import RestError
from tests.brokers import skip_without
from tests.databases import Cluster
from tests.e2e.rig import FACTORY, SLOW_TRIAL, Bench, Rig, publish_all

LEASE_S = 3.0
FROZEN_S = IDLE_TIMEOUT_MS / 1000 + 40.0
"""Whoever is frozen within a transaction keeps its lock for so long, and others look again every ten seconds."""
CAMPAIGN = f"""
name: one-by-one
product: {PRODUCT}
version: {SLOW_TRIAL}
strategy:
  name: one-by-one
  cohorts: [{{name: canary, count: 1}}, {{name: rest}}]
  budgets: [{{by: campaign, limit: 1}}]
  patience: 10m
  trial: 60s
  horizon: 120s
  healthy: 1s
  retry: 1s
  deltas: {{wait: 0s, at_most: 0}}
"""


@dataclass
class Pair:
    """Both servers; `rig` is the bench of boards in front of the one that leads."""

    ulm: Lab
    bonn: Lab
    rig: Rig

    def follow(self, leader: Lab) -> None:
        """Wait until a server leads, and let the name that the boards know lead to it."""
        leader.wait(
            lambda: leader.run_info["role"] == "leader", FROZEN_S, "a change of leader", on_failure=leader.server_log
        )
        self.rig.lab = leader
        port = int(leader.run_info["devices_url"].rpartition(":")[2])
        for bench in self.rig.benches:
            bench.link.lead_to(port)


@pytest.fixture
def pair(postgres: Cluster, tmp_path: Path) -> Iterator[Pair]:
    skip_without("mosquitto")
    name = postgres.fresh()
    ulm = Lab(tmp_path / "ulm", broker="mosquitto", hostile=True)
    ulm.more_settings = f'\n[storage]\nurl = "{postgres.url(name)}"\nlease_s = {LEASE_S}\n'
    made = [ulm]
    rig = None
    try:
        ulm.prepare()
        ulm.start_server()
        publish_all(ulm, (FACTORY, SLOW_TRIAL))
        bonn = ulm.second(tmp_path / "bonn")
        made.append(bonn)
        bonn.start_server()
        assert ulm.broker is not None
        rig = Rig(lab=ulm, eve=ulm.broker.eve())
        yield Pair(ulm=ulm, bonn=bonn, rig=rig)
    finally:
        if rig is not None:
            rig.clear()
            rig.eve.close()
        for lab in reversed(made):
            lab.signal_server(signal.SIGCONT)
            lab.close()
        postgres.drop(name)


def on_trial(benches: list[Bench], number: int) -> bool:
    """Whether so many boards have been on trial or further."""
    states = [bench.view["state"] for bench in benches]
    return sum(state in ("trial", "committed", "verified") for state in states) >= number


def audit(lab: Lab) -> list[dict[str, Any]]:
    return list(lab.rest.get("/audit?limit=500")["audit"])


@pytest.mark.timeout(480)
def test_a_campaign_goes_on_while_its_leader_is_killed_and_the_next_is_frozen(pair: Pair) -> None:
    ulm, bonn, rig = pair.ulm, pair.bonn, pair.rig
    assert (ulm.run_info["role"], bonn.run_info["role"]) == ("leader", "standby")
    with pytest.raises(RestError) as refused:
        bonn.standby_rest(ulm).get("/campaigns")
    assert refused.value.kind == "not-leader"
    benches = [rig.board(name) for name in ("one", "two", "three")]
    campaign = ulm.apply_campaign(CAMPAIGN)
    benches[0].wait(lambda: on_trial(benches, 1), "the first trial", 60.0)
    ulm.kill_server()
    pair.follow(bonn)
    ulm.start_server()
    assert ulm.run_info["role"] == "standby"
    benches[0].wait(lambda: on_trial(benches, 2), "the second trial", 90.0)
    bonn.signal_server(signal.SIGSTOP)
    pair.follow(ulm)
    ulm.wait(lambda: ulm.campaign(campaign)["state"] == "completed", 90.0, "the end", on_failure=benches[2].explain)
    before = audit(ulm)
    bonn.signal_server(signal.SIGCONT)
    assert bonn.await_end() == 1
    assert "no longer leads" in bonn.server_log()
    assert audit(ulm) == before
    check(ulm, campaign, benches, before)


def check(lab: Lab, campaign: str, benches: list[Bench], lines: list[dict[str, Any]]) -> None:
    """Each board was permitted once, given one order, verified and counted once; both changes are told."""
    for bench in benches:
        kinds = [line["kind"] for line in lines if line["target"] == bench.target]
        assert (kinds.count("permit-granted"), kinds.count("verified")) == (1, 1)
        assert bench.view["running_version"] == SLOW_TRIAL
        assert bench.status["waiting_reports"] == 0
    cohorts = lab.campaign(campaign)["cohorts"]
    assert sum(cohort["attempted"] for cohort in cohorts) == len(benches)
    changes = [line["text"] for line in lines if line["kind"] == "leader-changed"]
    assert ["token 2" in changes[-1], "token 3" in changes[0], len(changes)] == [True, True, 2]
    assert "event-failed" not in {line["kind"] for line in lines}
