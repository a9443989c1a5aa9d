"""Making orders: what the planner asked for in words, as one signed message for one target.

A counter is one above both what is stored and what the target echoed in a signed report, so that a server restored from
an old backup is not taken for a replay.
"""

from msgspec.structs import replace

from firmware.encryption.content_key import key_id
from firmware.errors import RefusedError
from firmware.protocol.codec import convert
from firmware.protocol.envelope import claimed
from firmware.protocol.order import Counter, DeltaRef, FileRef, Order, OrderedImage, ReleaseRef, WrappedKey
from firmware.protocol.unverified import payload_hash
from firmware.protocol.words import Action, ReasonKind
from server.campaigns.director import Director
from server.campaigns.legs import next_hop
from server.campaigns.paths import Fetch, Hop
from server.campaigns.unattended import for_unattended
from server.planner.rows import CampaignRow, ReleaseKey, TargetRow
from server.ports import DeltaRecord, ReleaseRecord, ReleaseState, StoredFile, StoredOrder, Unit

MAX_COUNT = (1 << 53) - 1
KEY_IS_CRITICAL = ["wrapped_key"]
"""An agent that does not know encryption refuses the order for it, before it fetches anything."""


def next_counter(unit: Unit, target: str, epoch: int) -> Counter:
    """The counter of a target's next order; raises `RefusedError` (`director-epoch-behind`, `counter-exhausted`) when the
    target has seen what this director cannot go above."""
    current = unit.orders.current(target)
    seen = [counter for counter in (current.counter if current else None, unit.orders.echoed(target)) if counter]
    if any(counter.epoch > epoch for counter in seen):
        raise RefusedError(
            "director-epoch-behind",
            f"{target} follows a later director epoch than {epoch}; publish targets with a higher director epoch.",
        )
    highest = max((counter.n for counter in seen if counter.epoch == epoch), default=0)
    if highest >= MAX_COUNT:
        raise RefusedError(
            "counter-exhausted", f"{target} echoes the highest counter there is; raise the director epoch to go on."
        )
    return Counter(epoch=epoch, n=highest + 1)


def make_order(
    unit: Unit,
    director: Director,
    campaign: CampaignRow,
    target: TargetRow,
    action: Action,
    now: float,
    *,
    out_until: float | None = None,
    max_rate: int | None = None,
) -> tuple[StoredOrder, ReleaseKey | None]:
    """Build and sign an order, for unattended use when it is out until some time; the caller stores it. `max_rate`: bytes per
    second that it lets be fetched. With it the release that it installs on the way to the campaign's own, when it does.

    Raises `RefusedError` when it cannot be: `release-unknown`, `release-withdrawn`, `wrong-hardware`, `quarantined`,
    `no-path`, as `next_counter`, as `windows_of`, or for an encrypted release as `ReleaseKeys.wrap_for`.
    """
    if target.quarantined and action is Action.INSTALL:
        raise RefusedError("quarantined", f"{target.id} is quarantined or revoked; clear that before it gets releases.")
    hop = _hop(unit, campaign, target) if action is Action.INSTALL else None
    release = hop.release if hop else None
    counter = next_counter(unit, target.id, director.epoch)
    key = _key(unit, director, release, target.id, target.hardware) if release else None
    message = Order(
        target=target.id,
        agent=target.agent,
        hardware=target.hardware,
        counter=counter,
        action=action,
        change_id=campaign.change_id,
        campaign=campaign.id,
        issued_at=int(now),
        expires_at=int(now) + campaign.strategy.order_ttl_s,
        release=_release_ref(release) if release else None,
        images=[_ordered(fetch) for fetch in hop.fetches] if hop else [],
        wrapped_key=key,
        crit=KEY_IS_CRITICAL if key else [],
        trial_s=campaign.strategy.trial_s,
        max_rate=max_rate,
    )
    if out_until is not None:
        message = for_unattended(unit, director, campaign, target, message, out_until)
    via = None if release is None or release.sha256 == campaign.release.sha256 else key_of(release)
    return _stored(message, director), via


def sign_again(unit: Unit, director: Director, current: StoredOrder, now: float, *, withdraw: bool) -> StoredOrder:
    """The stored order under the next counter and with a new life, or (`withdraw`) the order to do nothing in its place;
    the caller stores it. The key to an encrypted release is wrapped anew, for the target as it is now. Raises as `make_order`."""
    _, payload = claimed(current.envelope)  # our own, out of our own database
    before = convert(payload, Order)
    lives_s = before.expires_at - before.issued_at
    message = replace(
        before,
        counter=next_counter(unit, current.target, director.epoch),
        issued_at=int(now),
        expires_at=int(now) + lives_s,
    )
    if withdraw:
        message = replace(
            message,
            action=Action.NOTHING,
            release=None,
            images=[],
            wrapped_key=None,
            crit=[],
            unattended=False,
            windows=[],
            code_key=None,
        )
    elif before.release is not None and before.wrapped_key is not None:
        release = unit.releases.get(before.release.product, before.release.version)
        key = _key(unit, director, release, before.target, before.hardware) if release else None
        message = replace(message, wrapped_key=key)
    return _stored(message, director)


def holds_old_key(unit: Unit, current: StoredOrder) -> bool:
    """Whether the order brings a key that was wrapped for another encryption key than its target has announced since."""
    _, payload = claimed(current.envelope)
    wrapped = convert(payload, Order).wrapped_key
    view = unit.fleet.target(current.target) if wrapped else None
    if wrapped is None or view is None or view.encryption_key is None:
        return False
    return wrapped.key_id != key_id(view.encryption_key)


def _key(unit: Unit, director: Director, release: ReleaseRecord, target: str, hardware: str) -> WrappedKey | None:
    """The key to an encrypted release for this target; None when the release is not encrypted."""
    if release.encrypted_sha256 is None:
        return None
    if director.release_keys is None:
        raise RefusedError(
            "release-key-unusable", "This server holds no release key, so it orders no encrypted release."
        )
    return director.release_keys.wrap_for(unit, release, target=target, hardware=hardware)


def _stored(message: Order, director: Director) -> StoredOrder:
    return StoredOrder(
        target=message.target,
        agent=message.agent,
        counter=message.counter,
        hash=payload_hash(message),
        envelope=director.sign_order(message),
        campaign=message.campaign,
    )


def key_of(release: ReleaseRecord) -> ReleaseKey:
    """The release as the planner knows it."""
    return ReleaseKey(product=release.product, version=release.version, counter=release.counter, sha256=release.sha256)


def _hop(unit: Unit, campaign: CampaignRow, target: TargetRow) -> Hop:
    release = _release(unit, campaign, target)
    return next_hop(unit, target, release, min_saving=campaign.strategy.deltas.min_saving)


def _release(unit: Unit, campaign: CampaignRow, target: TargetRow) -> ReleaseRecord:
    key = campaign.release
    release = unit.releases.get(key.product, key.version)
    if release is None or release.sha256 != key.sha256:
        raise RefusedError(
            "release-unknown",
            f"{key.product} {key.version} is not published as the campaign knew it; publish it again.",
        )
    if release.state is ReleaseState.WITHDRAWN:
        raise RefusedError("release-withdrawn", f"{key.product} {key.version} was withdrawn; choose another release.")
    if target.hardware not in release.hardware:
        raise RefusedError(
            ReasonKind.WRONG_HARDWARE, f"{key.product} {key.version} is not made for the hardware {target.hardware}."
        )
    return release


def _ordered(fetch: Fetch) -> OrderedImage:
    delta = _delta_ref(fetch.delta) if fetch.delta else None
    return OrderedImage(slot=fetch.image.slot, file=_file_ref(fetch.image.stored), delta=delta)


def _delta_ref(record: DeltaRecord) -> DeltaRef:
    return DeltaRef(
        file=_file_ref(record.file),
        source_sha256=record.source_sha256,
        source_length=record.source_length,
        salt=record.salt,
    )


def _release_ref(release: ReleaseRecord) -> ReleaseRef:
    return ReleaseRef(
        product=release.product,
        version=release.version,
        counter=release.counter,
        manifest=_file_ref(release.manifest),
    )


def _file_ref(file: StoredFile) -> FileRef:
    return FileRef(path=file.path, length=file.length, sha256=file.sha256)
