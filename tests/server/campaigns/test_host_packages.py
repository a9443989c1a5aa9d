"""What hosts tell of their packages, by signed reports into real tables: what is held, what an ack says, what is refused."""

from typing import Any

import msgspec
import pytest

from firmware.host_packages import HostFacts, HostState, PackageHere, host_state, pack, telling
from firmware.protocol.envelope import open_envelope
from firmware.protocol.packages import PackagesPart
from firmware.protocol.report import Ack
from firmware.protocol.topics import Leaf, of_target
from firmware.protocol.words import AgentState
from tests.server.campaigns.conftest import DIRECTOR


def state(version: str, kernel: str = "6.1") -> HostState:
    packages = [PackageHere(name=name, arch="all", version=version) for name in ("alpha", "beta", "gamma")]
    return host_state(HostFacts(kernel=kernel), packages, [])


ONE, TWO = state("1"), state("2")


def part(before: HostState | None, after: HostState, **changed: Any) -> PackagesPart:
    base = before.digest if before is not None else ""
    one = PackagesPart(base=base, now=after.digest, data=pack(telling(before, after)))
    return msgspec.structs.replace(one, **changed)


def held_by_acks(stage: Any) -> list[str | None]:
    keys = {DIRECTOR.public_key.keyid: DIRECTOR.public_key}
    topic = of_target("t1", "t1", Leaf.ACK)
    return [
        open_envelope(payload, "ack", Ack, keys).message.packages
        for published, payload in stage.broker.published
        if published == topic
    ]


async def digest(stage: Any) -> str:
    return await stage.database.read(lambda unit: unit.packages.digest("t1"))


async def tell(stage: Any, device: Any, *parts: PackagesPart) -> None:
    for one in parts:
        device.report(AgentState.IDLE, packages=one, order_hash=None)
        await stage.settle()


async def test_the_whole_and_a_difference_are_held_and_acks_say_what_is(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await tell(stage, device, part(None, ONE), part(ONE, TWO), part(TWO, TWO, data=b""))
    assert held_by_acks(stage) == [None, ONE.digest, TWO.digest, TWO.digest]
    assert await stage.database.read(lambda unit: unit.packages.chunks("t1")) == TWO.chunks


async def test_a_difference_from_something_else_changes_nothing_and_the_ack_says_what_is_held(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await tell(stage, device, part(None, ONE), part(TWO, state("3")))
    assert held_by_acks(stage)[-1] == ONE.digest == await digest(stage)
    await tell(stage, device, part(None, state("3")))
    assert await digest(stage) == state("3").digest


async def test_after_a_gap_the_ack_says_what_is_held(stage: Any) -> None:
    """As when the server was restored from a backup."""
    (device,) = await stage.enrol("t1")
    await tell(stage, device, part(None, ONE))
    device.seq += 3
    device.report(AgentState.IDLE, order_hash=None)
    await stage.settle()
    assert held_by_acks(stage)[-1] == ONE.digest


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (part(None, TWO, now=ONE.digest), "packages-differ"),
        (part(None, TWO, data=b"nothing"), "malformed"),
        (part(None, TWO, data=pack(telling(ONE, state("2", kernel="7")))), "packages-differ"),
    ],
)
async def test_what_is_not_what_was_named_is_left_out_and_on_the_trail(
    stage: Any, told: PackagesPart, why: str
) -> None:
    (device,) = await stage.enrol("t1")
    await tell(stage, device, told, part(None, ONE))
    assert held_by_acks(stage)[1:] == ["", ONE.digest]
    records = await stage.database.read(lambda unit: unit.audit.page(limit=100))
    assert [one.data["why"] for one in records if one.kind == "packages-refused"] == [why]
    assert device.outbox == []


async def test_packages_are_not_kept_twice(stage: Any) -> None:
    (device,) = await stage.enrol("t1")
    await stage.settle()
    device.report(AgentState.IDLE, packages=part(None, ONE), order_hash=None)
    for message in stage.waiting:
        await stage.ingest.on_message(*message)
    stage.waiting.clear()
    await stage.ingest.settle()
    (waiting,) = await stage.database.read(lambda unit: unit.inbox.unprocessed(10))
    assert await digest(stage) == ONE.digest
    assert "packages" not in waiting.body
