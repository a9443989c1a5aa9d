"""How many may download at once, and how many bytes, from plain values. Refusals as in `server.planner.plain`."""

import re

from server.planner import plain
from server.planner.budgets import UNLIMITED
from server.planner.precondition_policy import size_bytes
from server.planner.strategy import BandwidthPolicy, DownloadPolicy

MAX_DOWNLOADS = 8
LEAST_RATE = 1024
"""Bytes per second that each target must be left: below that no image arrives."""
MOST_RATE = 1 << 40
RATE = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,3})? ?(?:kB|MB|GB|KiB|MiB|GiB)/s")


def parse_downloads(value: object, where: str) -> tuple[DownloadPolicy, ...]:
    """The limits on downloads; raises `RefusedError` (`bad-strategy`)."""
    items = plain.sequence(value, where, 0, MAX_DOWNLOADS)
    found = tuple(_download(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [one.by for one in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise plain.bad(f"{where}[{index}].by", f"be different from the others' ({name} was used before)")
    return found


def parse_bandwidth(value: object, where: str) -> tuple[BandwidthPolicy, ...]:
    """The limits on bytes per second; raises `RefusedError` (`bad-strategy`)."""
    items = plain.sequence(value, where, 0, MAX_DOWNLOADS)
    found = tuple(_bandwidth(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [one.by for one in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise plain.bad(f"{where}[{index}].by", f"be different from the others' ({name} was used before)")
    return found


def check(downloads: tuple[DownloadPolicy, ...], bandwidth: tuple[BandwidthPolicy, ...]) -> None:
    """Raise `RefusedError` (`bad-strategy`) for a bandwidth that can't be shared out among those who may download at once."""
    places = {policy.by: policy.limit for policy in downloads}
    for index, policy in enumerate(bandwidth):
        where = f"bandwidth[{index}]"
        if policy.by not in places:
            text = f"have an entry in downloads by {policy.by} beside it, which says among how many it is shared out"
            raise plain.bad(where, text)
        share = policy.limit // places[policy.by]
        if share < LEAST_RATE:
            text = f"leave each of the {places[policy.by]} that may download at once {LEAST_RATE} bytes per second"
            raise plain.bad(f"{where}.limit", f"{text}, not {share}")


def _bandwidth(value: object, where: str) -> BandwidthPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("by", "limit"), where)
    by, limit = fields.get("by"), fields.get("limit")
    if not isinstance(by, str) or not plain.LABEL.fullmatch(by):
        raise plain.bad(f"{where}.by", "be 'campaign' or the name of a label, such as site")
    if isinstance(limit, str) and RATE.fullmatch(limit):
        limit = size_bytes(limit.removesuffix("/s"))
    if isinstance(limit, bool) or not isinstance(limit, int) or not LEAST_RATE <= limit <= MOST_RATE:
        raise plain.bad(
            f"{where}.limit", f"be bytes per second, from {LEAST_RATE}, or a text such as 2MB/s or 500KiB/s"
        )
    return BandwidthPolicy(by=by, limit=limit)


def _download(value: object, where: str) -> DownloadPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("by", "limit"), where)
    by = fields.get("by")
    if not isinstance(by, str) or not plain.LABEL.fullmatch(by):
        raise plain.bad(f"{where}.by", "be 'campaign' or the name of a label, such as site")
    return DownloadPolicy(by=by, limit=plain.integer(fields.get("limit"), f"{where}.limit", 1, UNLIMITED))
