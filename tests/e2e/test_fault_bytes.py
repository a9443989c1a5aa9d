"""Wrong bytes: artifacts truncated, changed, too long; an expired catalogue; flipped bytes in slots."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Timestamp

from tests.e2e.rig import FACTORY, FULL, SIBLING, SLOW_TRIAL, Rig, flip

MIDDLE = 3 << 20


def artifact(rig: Rig, version: str) -> Path:
    """The stored image of a release."""
    release = rig.lab.rest.get(f"/releases/gateway/{version}")
    digest = release["images"][0]["file"]["sha256"]
    return next(path for path in (rig.lab.state / "artifacts").rglob(f"*{digest}*") if path.is_file())


def truncated(data: bytes) -> bytes:
    return data[:MIDDLE]


def changed(data: bytes) -> bytes:
    return data[:MIDDLE] + bytes([data[MIDDLE] ^ 1]) + data[MIDDLE + 1 :]


def too_long(data: bytes) -> bytes:
    return data + b"more"


@pytest.mark.parametrize("damage", [truncated, changed, too_long])
def test_a_damaged_artifact_is_refused_with_its_reason(rig: Rig, damage: Callable[[bytes], bytes]) -> None:
    stored = artifact(rig, FULL)
    good = stored.read_bytes()
    bench = rig.board(f"bytes-{damage.__name__.replace('_', '-')}")
    slot = bench.active_slot().read_bytes()
    try:
        stored.chmod(0o600)
        stored.write_bytes(damage(good))
        campaign = bench.start(FULL)
        kind = f"artifact-{damage.__name__.replace('_', '-')}"
        bench.wait(lambda: kind in bench.words() or bench.view["reason_kind"] == kind, f"the reason {kind}")
        bench.wait(lambda: sum(bench.counts(campaign).values()) == 1, "counted")
        assert set(bench.counts(campaign)) <= {"failed", "refused", "downloading"}
        assert bench.view["running_version"] == FACTORY
        assert bench.active_slot().read_bytes() == slot
    finally:
        stored.write_bytes(good)
    again = bench.start(FULL, suffix="-again") if bench.view["state"] != "downloading" else campaign
    bench.wait(lambda: bench.counts(again) == {"verified": 1}, "the good artifact verified")


def test_an_expired_catalogue_starts_nothing_and_says_why(rig: Rig) -> None:
    bench = rig.board("expired")
    for version in (FULL, SLOW_TRIAL, SIBLING):  # a delta that is made later would sign a fresh catalogue
        rig.lab.wait_for_deltas(version)
    path = rig.lab.repository / "metadata" / "timestamp.json"
    fresh: Metadata[Timestamp] = Metadata.from_bytes(path.read_bytes())
    stale: Metadata[Timestamp] = Metadata.from_bytes(path.read_bytes())
    stale.signed.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    stale.signed.version += 1
    signer = signer_of((rig.lab.repository / "keys" / "online" / "timestamp.pem").read_bytes())
    stale.sign(signer)
    fresh.signed.version += 2
    fresh.sign(signer)
    try:
        path.write_bytes(stale.to_bytes())
        campaign = bench.start(FULL)
        bench.wait(lambda: "catalogue-expired" in bench.words() + bench.view["reason_kind"], "the reason")
        assert bench.view["running_version"] == FACTORY
        assert bench.attempted(campaign) == 0
    finally:
        path.write_bytes(fresh.to_bytes())
    if bench.view["state"] in ("refused", "failed"):
        campaign = bench.start(FULL, suffix="-again")
    bench.assert_verified_once(campaign)


def signer_of(pem: bytes) -> CryptoSigner:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return CryptoSigner(load_pem_private_key(pem, None))  # type: ignore[arg-type]


def test_a_byte_flipped_in_the_staged_slot_is_found_before_activation(rig: Rig) -> None:
    bench = rig.board("flip-staged")
    campaign = bench.start(FULL)
    bench.command(campaign, "pause")
    bench.wait(lambda: bench.status["state"] in ("asking", "staged"), "staged and told to wait")
    bench.board.power_cut()
    flip(bench.other_slot(), MIDDLE)
    bench.board.power_on()
    bench.wait(lambda: bench.view["presence"], "back")
    bench.command(campaign, "resume")
    bench.assert_verified_once(campaign)
    assert bench.slots()[0] == FULL


def test_a_byte_flipped_in_the_active_slot_makes_the_delta_useless_but_not_the_update(rig: Rig) -> None:
    bench = rig.board("flip-source")
    first = bench.start(SLOW_TRIAL)
    bench.assert_verified_once(first)
    rig.lab.wait_for_deltas(SIBLING)
    before = bench.link.received
    flip(bench.active_slot(), MIDDLE)
    second = bench.start(SIBLING)
    bench.assert_verified_once(second)
    assert bench.link.received - before > 3 << 20, "the full image was not used"
    assert bench.slots()[0] == SIBLING


def test_an_intact_source_uses_the_delta(rig: Rig) -> None:
    bench = rig.board("good-source")
    first = bench.start(SLOW_TRIAL)
    bench.assert_verified_once(first)
    rig.lab.wait_for_deltas(SIBLING)
    before = bench.link.received
    second = bench.start(SIBLING)
    bench.assert_verified_once(second)
    assert bench.link.received - before < 1 << 20, "the delta was not used"
