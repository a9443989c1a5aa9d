"""What a campaign that is to be undone goes back to by installing it; where no slot can be gone back to, it is the only way."""

from collections import Counter

from server.planner.rows import CampaignRow
from server.planner.words import NO_PREVIOUS
from server.ports import Before, ReleaseRecord, ReleaseState, Unit


def way_back(unit: Unit, row: CampaignRow) -> tuple[ReleaseRecord | None, list[str]]:
    """The active release that most of the campaign's targets had before, and those that run its own release."""
    runs = unit.campaigns.running_release(row.id)
    found: dict[str, ReleaseRecord] = {}
    targets: Counter[str] = Counter()
    for before, number in Counter(runs.values()).items():
        release = _release_before(unit, row.release.product, before)
        if release is not None and release.state is ReleaseState.ACTIVE and release.sha256 != row.release.sha256:
            found[release.version] = release
            targets[release.version] += number
    return (found[targets.most_common(1)[0][0]] if found else None), list(runs)


def why_undone(row: CampaignRow, targets: int) -> dict[str, str]:
    """The kind and the sentence of why a campaign is to be undone by another one."""
    if row.suspect:
        return {"reason_kind": "release-suspect", "reason": row.suspect}
    have = "1 target has" if targets == 1 else f"{targets} targets have"
    return {"reason_kind": NO_PREVIOUS, "reason": f"It was rolled back, and {have} no intact slot to go back to."}


def _release_before(unit: Unit, product: str, before: Before) -> ReleaseRecord | None:
    if before.version is not None:
        return unit.releases.get(product, before.version)
    release = None if before.sha256 is None else unit.releases.holding(before.sha256)
    return release if release is not None and release.product == product else None
