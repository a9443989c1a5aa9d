"""Sites that reach nothing but the broker, from chances: who they are, and how slowly a release comes there."""

import re
from collections.abc import Mapping

import pytest

from firmware.errors import RefusedError
from simulator.virtual.blocks import CREDIT_BYTES, BlockPace, best_rate
from simulator.virtual.device import Link
from simulator.virtual.world import World
from tests.simulator.virtual.test_befalls import befalls, captives, done_s, played, rows

IMAGE = 30_000_000
SITE_RATE = 1 << 20


def alone(world: World) -> set[str]:
    """Who reaches nothing but the broker."""
    return {one.id for one in world.members(world.seed) if one.is_mqtt_only}


def staged_s(world: World) -> Mapping[str, float]:
    """When each asked first, seconds after the beginning."""
    run, _ = played(world)
    return {name: (row.committed_at or 0.0) - world.begins for name, row in rows(run).items()}


def test_a_site_is_captive_or_has_the_broker_alone_or_reaches_all() -> None:
    world = befalls(link="captive: 30%, mqtt_only: 40%", seed=3)
    sites = {one.id: one.site for one in world.members(world.seed)}
    held, by_broker = captives(world), alone(world)
    assert not held & by_broker
    assert by_broker
    assert not {sites[name] for name in by_broker} & {sites[name] for name in sites if name not in by_broker}
    assert captives(befalls(link="captive: 30%", seed=3)) == held  # as it was before


def test_a_share_of_the_sites_is_a_share() -> None:
    found = [len(alone(befalls(link="captive: 30%, mqtt_only: 40%", seed=seed))) for seed in range(1, 60)]
    assert sum(found) / len(found) / 12 == pytest.approx(0.4, abs=0.1)
    assert alone(befalls(link="captive: 60%, mqtt_only: 40%")) | captives(befalls(link="captive: 60%")) == {
        f"lamp-{number:06}" for number in range(12)
    }


@pytest.mark.parametrize(
    ("link", "what"),
    [
        ("mqtt_only: often", ["fleet[0].link.mqtt_only", "a share"]),
        ("mqtt_only: 60%, captive: 50%", ["fleet[0].link.mqtt_only", "100% at most"]),
    ],
)
def test_shares_that_cannot_be_are_refused(link: str, what: list[str]) -> None:
    with pytest.raises(RefusedError, match=r"befalls.yaml, line 5: .*" + ".*".join(map(re.escape, what))):
        befalls(link=link)


def test_an_image_that_the_servers_pace_can_never_bring_is_refused_where_nothing_else_comes() -> None:
    """In six days a quick link brings any image, and a credit that goes there and back for two hours 19 MB."""
    befalls(link="latency: 1h, mqtt_only: 99%")
    with pytest.raises(RefusedError, match=r"releases\[0\].image must be smaller"):
        befalls(link="latency: 1h, mqtt_only: 100%")


def test_four_devices_of_a_site_share_what_the_server_sends_there() -> None:
    quick = staged_s(befalls())
    assert max(quick.values()) - min(quick.values()) < 5
    slow = staged_s(befalls(link="latency: 0s, mqtt_only: 100%"))
    [others] = {
        frozenset(round(slow[f"lamp-{site + 3 * turn:06}"] - min(slow.values())) for turn in range(4))
        for site in range(3)
    }
    each_s = IMAGE / SITE_RATE
    assert sorted(others) == pytest.approx([0, each_s, 2 * each_s, 3 * each_s], abs=5)
    assert max(slow.values()) - max(quick.values()) == pytest.approx(4 * each_s - 3, abs=5)  # a link alone needs three


def test_who_reaches_http_waits_for_nobody_and_nothing_else_differs() -> None:
    world = befalls(link="mqtt_only: 50%")
    took_s, quick = staged_s(world), staged_s(befalls())
    assert {name for name, at in took_s.items() if at > quick[name] + 10} == alone(world) != set()
    assert {name for name, at in took_s.items() if at == quick[name]} == set(quick) - alone(world)


def test_a_slower_link_binds_before_the_servers_pace_does() -> None:
    took_s = {
        link: done_s(played(befalls(link=f"{link}, latency: 0s"))[1]) for link in ("mqtt_only: 0%", "mqtt_only: 100%")
    }
    assert took_s["mqtt_only: 100%"] > took_s["mqtt_only: 0%"] + 60
    slow = befalls("flash: {bytes_per_s: 50 kB}", link="mqtt_only: 100%, latency: 0s")
    assert done_s(played(slow)[1]) == pytest.approx(done_s(played(befalls("flash: {bytes_per_s: 50 kB}"))[1]), abs=5)


def test_a_pace_is_that_of_the_site_of_all_and_of_a_credit_on_its_way() -> None:
    quick, far = Link(latency_s=0.0), Link(latency_s=2.0)
    assert best_rate(quick) == SITE_RATE
    assert best_rate(far) == CREDIT_BYTES / 4
    pace = BlockPace()
    assert [pace.takes_s("s", quick, SITE_RATE, at) for at in (0.0, 0.0, 1.5, 99.0)] == [1.0, 2.0, 1.5, 1.0]
    assert pace.takes_s("t", far, SITE_RATE, 99.0) == 16.0
    many = BlockPace()
    assert [many.takes_s(f"s{n}", quick, SITE_RATE, 0.0) for n in range(33)][-1] == pytest.approx(33 / 16)
