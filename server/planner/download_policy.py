"""How many may download at once, from plain values. Refusals as in `server.planner.plain`."""

from server.planner import plain
from server.planner.budgets import UNLIMITED
from server.planner.strategy import DownloadPolicy

MAX_DOWNLOADS = 8


def parse_downloads(value: object, where: str) -> tuple[DownloadPolicy, ...]:
    """The limits on downloads; raises `RefusedError` (`bad-strategy`)."""
    items = plain.sequence(value, where, 0, MAX_DOWNLOADS)
    found = tuple(_download(item, f"{where}[{index}]") for index, item in enumerate(items))
    names = [one.by for one in found]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise plain.bad(f"{where}[{index}].by", f"be different from the others' ({name} was used before)")
    return found


def _download(value: object, where: str) -> DownloadPolicy:
    fields = plain.mapping(value, where)
    plain.known(fields, ("by", "limit"), where)
    by = fields.get("by")
    if not isinstance(by, str) or not plain.LABEL.fullmatch(by):
        raise plain.bad(f"{where}.by", "be 'campaign' or the name of a label, such as site")
    return DownloadPolicy(by=by, limit=plain.integer(fields.get("limit"), f"{where}.limit", 1, UNLIMITED))
