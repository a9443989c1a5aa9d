"""Taking in what a host tells of its packages. What doesn't lead from what is held to what was signed changes nothing; the host
learns from the ack what is held, and tells the whole."""

from firmware.errors import RefusedError
from firmware.host_packages import PENDING, Chunk, Offered, Telling, applied, chunk_sha256, digest_of, unpack
from firmware.protocol.packages import PackagesPart
from server.ports import HostHeld, Unit


def take_packages(unit: Unit, target: str, part: PackagesPart, now: float) -> None:
    """Take in a part; the last of them makes the host's packages what was told. Raises `RefusedError` (`malformed`, `too-large`,
    `packages-differ`) for what can't be."""
    packages = unit.packages
    if part.base == part.now:
        return
    data = packages.gather(target, part)
    if data is None or part.now == packages.digest(target):
        return
    if part.base and part.base != packages.digest(target):
        return
    told = unpack(data)
    whole = not part.base
    after = applied({} if whole else packages.chunks(target, sorted(told.touches)), told)
    hashes = {} if whole else {n: name for n, name in packages.chunk_hashes(target).items() if n not in after}
    hashes |= {number: chunk_sha256(chunk) for number, chunk in after.items() if chunk}
    if digest_of(told.facts, hashes) != part.now:
        raise RefusedError("packages-differ", "The packages that were told are not those that were named.")
    packages.put(
        _held(unit, target, told, after.get(PENDING, {} if whole else None), part.now, now), after, whole=whole
    )


def _held(unit: Unit, target: str, told: Telling, pending: Chunk | None, digest: str, now: float) -> HostHeld:
    before = unit.packages.held(target) if pending is None else None
    number, security = (before.pending, before.security) if before is not None else (0, 0)
    if pending is not None:
        number = len(pending)
        security = sum(one.is_security for one in pending.values() if isinstance(one, Offered))
    return HostHeld(target=target, digest=digest, facts=told.facts, pending=number, security=security, told_at=now)
