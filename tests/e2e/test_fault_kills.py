"""Kills: agent, board, server and broker, at the worst moments. Nothing is bricked, lost or counted twice."""

import hashlib
import time

from firmware.manifest import WINDOW_BYTES
from tests.e2e.rig import FACTORY, FULL, PAYLOAD_BYTES, SLOW_TRIAL, Rig

SLOWLY = 3e6


def test_agent_killed_while_downloading_resumes_and_is_counted_once(rig: Rig) -> None:
    bench = rig.board("dl-kill", bytes_per_s=SLOWLY / 3)
    campaign = bench.start(FULL)
    image = (rig.lab.directory / f"{FULL}.img").read_bytes()
    bench.wait(lambda: bench.holds(image[WINDOW_BYTES : 2 * WINDOW_BYTES], WINDOW_BYTES), "two windows in the slot")
    bench.board.kill_agent()
    before = len(bench.link.downloads)
    bench.link.bytes_per_s = None
    bench.assert_verified_once(campaign)
    longest = max(bench.link.downloads[before:])
    assert WINDOW_BYTES < longest < len(image) - WINDOW_BYTES, f"no resume: {bench.link.downloads}"


def test_power_cut_while_writing_leaves_the_active_slot_alone(rig: Rig) -> None:
    bench = rig.board("write-cut", bytes_per_s=SLOWLY)
    before = hashlib.sha256(bench.active_slot().read_bytes()).digest()
    campaign = bench.start(FULL)
    bench.wait(lambda: bench.link.received > PAYLOAD_BYTES // 2, "half the image")
    bench.board.power_cut()
    assert hashlib.sha256(bench.active_slot().read_bytes()).digest() == before
    bench.link.bytes_per_s = None
    bench.board.power_on()
    bench.assert_verified_once(campaign)


def test_agent_killed_between_activation_and_commit(rig: Rig) -> None:
    bench = rig.board("trial-kill")
    campaign = bench.start(SLOW_TRIAL)
    bench.wait_state("trial")
    bench.board.kill_agent()
    bench.assert_verified_once(campaign)
    assert bench.view["running_version"] == SLOW_TRIAL


def test_power_cut_during_the_trial_uses_an_attempt_and_no_more(rig: Rig) -> None:
    bench = rig.board("trial-cut")
    campaign = bench.start(SLOW_TRIAL)
    bench.wait_state("trial")
    bench.board.power_cut()
    bench.board.power_on()
    bench.assert_verified_once(campaign)
    assert bench.view["previous_version"] == FACTORY


def test_server_killed_in_mid_campaign_loses_and_doubles_nothing(rig: Rig) -> None:
    bench = rig.board("server-kill", bytes_per_s=SLOWLY)
    campaign = bench.start(SLOW_TRIAL)
    bench.wait_state("downloading")
    rig.lab.kill_server()
    rig.lab.start_server()
    bench.link.cut()
    bench.link.bytes_per_s = None
    bench.wait_state("trial")
    rig.lab.kill_server()
    bench.wait(lambda: bench.status["state"] in ("committed", "idle"), "a commit that nobody hears")
    assert bench.status["waiting_reports"] > 0
    rig.lab.start_server()
    bench.assert_verified_once(campaign)
    assert bench.words().count("permit-granted") == 1


def test_broker_killed_loses_retained_orders_and_the_server_says_them_again(rig: Rig) -> None:
    bench = rig.board("broker-kill")
    bench.board.power_off()
    campaign = bench.start(FULL, patience="1h")
    bench.wait_state("ordered")
    assert rig.lab.broker is not None
    rig.lab.broker.kill()
    rig.lab.broker.start()
    bench.board.power_on()
    bench.assert_verified_once(campaign)


def test_a_device_that_was_off_does_not_stall_the_gate_and_comes_late(rig: Rig) -> None:
    bench = rig.board("sleeper")
    bench.board.power_off()
    campaign = bench.start(FULL, patience="1s")
    bench.wait(lambda: rig.lab.campaign(campaign)["cohorts"][0]["moved_to_late"] == 1, "moved to late")
    assert bench.attempted(campaign) == 0
    time.sleep(0.5)
    bench.board.power_on()
    bench.assert_verified_once(campaign)
    bench.wait(lambda: rig.lab.campaign(campaign)["state"] == "completed", "the campaign completed")
