"""An attacker owns the broker: duplicated, replayed, forged, misdirected messages. They are shown; they move nothing."""

import json
import time

from securesystemslib.signer import CryptoSigner

from firmware.protocol import topics
from firmware.protocol.envelope import seal
from firmware.protocol.report import ACK_KIND, Ack
from firmware.protocol.topics import Leaf
from tests.e2e.rig import FACTORY, FULL, SIBLING, SLOW_TRIAL, Rig


def test_a_duplicated_order_installs_nothing_twice(rig: Rig) -> None:
    bench = rig.board("dup-order")
    campaign = bench.start(FULL)
    order = rig.eve_sees(bench.target, Leaf.ORDER)
    bench.assert_verified_once(campaign)
    boot = bench.status["boot"]["boot_id"]
    for _ in range(5):
        rig.eve.publish(order.topic, order.payload, retain=True)
    rig.eve.publish(order.topic, b"", retain=True)
    bench.board.kill_agent()
    bench.wait(lambda: bench.view["presence"], "the agent back")
    assert bench.status["boot"]["boot_id"] == boot
    assert bench.status["state"] in ("committed", "idle")
    bench.assert_verified_once(campaign)


def test_a_replayed_older_order_is_refused_and_the_server_is_told_why(rig: Rig) -> None:
    bench = rig.board("old-order")
    first = bench.start(FULL)
    order = rig.eve_sees(bench.target, Leaf.ORDER)
    bench.assert_verified_once(first)
    second = bench.start(SIBLING)
    bench.assert_verified_once(second)
    rig.eve.publish(order.topic, order.payload, retain=True)
    bench.wait(lambda: "stale-counter" in bench.words(), "the refusal in words")
    assert bench.view["running_version"] == SIBLING
    bench.assert_verified_once(second)


def test_a_withdrawn_order_ends_the_download_and_says_so(rig: Rig) -> None:
    bench = rig.board("withdrawn", bytes_per_s=5e5)
    campaign = bench.start(FULL)
    bench.wait_state("downloading")
    bench.command(campaign, "abort")
    bench.wait(lambda: bench.counts(campaign) == {"cancelled": 1}, "cancelled")
    assert bench.view["running_version"] == FACTORY
    bench.wait(lambda: bench.status["state"] in ("cancelled", "idle"), "the agent gave up")
    assert "the test says so" in bench.words()


def test_an_order_withdrawn_by_a_replayed_install_stays_withdrawn(rig: Rig) -> None:
    bench = rig.board("un-withdrawn", bytes_per_s=5e5)
    campaign = bench.start(FULL)
    order = rig.eve_sees(bench.target, Leaf.ORDER)
    bench.wait_state("downloading")
    bench.command(campaign, "abort")
    bench.wait(lambda: bench.counts(campaign) == {"cancelled": 1}, "cancelled")
    bench.wait(lambda: bench.status["state"] in ("cancelled", "idle"), "the agent heard of it")
    bench.link.bytes_per_s = None
    rig.eve.publish(order.topic, order.payload, retain=True)
    bench.wait(lambda: "stale-counter" in bench.words(), "the refusal in words")
    assert bench.status["state"] in ("cancelled", "idle")
    assert bench.counts(campaign) == {"cancelled": 1}


def test_a_replayed_permit_activates_nothing(rig: Rig) -> None:
    bench = rig.board("old-permit")
    first = bench.start(FULL)
    permit = rig.eve.wait_for(lambda seen: seen.topic == topics.of_target(bench.target, bench.target, Leaf.PERMIT), 30)
    bench.assert_verified_once(first)
    second = bench.start(SLOW_TRIAL)
    bench.command(second, "pause")
    bench.wait(lambda: bench.status["state"] in ("asking", "staged"), "staged and told to wait")
    boot = bench.status["boot"]["boot_id"]
    until = time.monotonic() + 3
    while time.monotonic() < until:
        rig.eve.publish(permit.topic, permit.payload)
        time.sleep(0.1)
    assert bench.status["boot"]["boot_id"] == boot
    assert bench.view["running_version"] == FULL
    assert bench.attempted(second) == 0
    bench.command(second, "resume")
    bench.assert_verified_once(second)


def test_a_forged_ack_loses_no_report(rig: Rig) -> None:
    bench = rig.board("fake-ack")
    campaign = bench.start(SLOW_TRIAL)
    bench.wait_state("trial")
    rig.lab.kill_server()
    bench.wait(lambda: bench.status["state"] != "trial", "the end of the trial")
    time.sleep(1)  # what the server said last has come
    waiting = bench.status["waiting_reports"]
    assert waiting > 0
    report = next(
        seen
        for seen in reversed(rig.eve.seen)
        if seen.topic == topics.of_target(bench.target, bench.target, Leaf.REPORT) and b"payloadType" in seen.payload
    )
    ack = Ack(
        target=bench.target,
        agent=bench.target,
        journal=bench.status["journal"],
        seq=1_000,
        report_hash="0" * 64,
        issued_at=int(time.time()),
    )
    forged = seal(ack, ACK_KIND, CryptoSigner.generate_ecdsa())
    for payload in (forged, b"{}", b"\xff" * 100, report.payload):
        rig.eve.publish(topics.of_target(bench.target, bench.target, Leaf.ACK), payload)
    time.sleep(1)
    assert bench.status["waiting_reports"] >= waiting
    rig.lab.start_server()
    bench.assert_verified_once(campaign)


def test_an_order_for_another_device_is_refused_and_reported(rig: Rig) -> None:
    one, other = rig.board("mine"), rig.board("not-mine")
    campaign = one.start(FULL)
    order = rig.eve_sees(one.target, Leaf.ORDER)
    rig.eve.publish(topics.of_target(other.target, other.target, Leaf.ORDER), order.payload, retain=True)
    one.assert_verified_once(campaign)
    other.wait(lambda: "wrong-target" in other.words(), "the refusal in words")
    assert other.view["running_version"] == FACTORY
    assert other.status["state"] == "idle"


def test_a_forged_report_and_a_forged_presence_move_no_assignment(rig: Rig) -> None:
    bench = rig.board("fake-report", bytes_per_s=5e5)
    campaign = bench.start(FULL)
    bench.wait_state("downloading")
    genuine = next(
        json.loads(seen.payload)
        for seen in reversed(rig.eve.seen)
        if seen.topic == topics.of_target(bench.target, bench.target, Leaf.REPORT) and b"payloadType" in seen.payload
    )
    genuine["signatures"][0]["sig"] = genuine["signatures"][0]["sig"][::-1]
    rig.eve.publish(topics.of_target(bench.target, bench.target, Leaf.REPORT), json.dumps(genuine).encode())
    rig.eve.publish(topics.presence(bench.target), b'{"session":"x","online":false}', retain=True)
    rig.eve.publish(topics.of_target(bench.target, bench.target, Leaf.REPORT), b"\x00" * 100_000)
    assert bench.counts(campaign) == {"downloading": 1}
    bench.link.bytes_per_s = None
    bench.assert_verified_once(campaign)
