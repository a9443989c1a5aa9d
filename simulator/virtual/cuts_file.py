"""A scenario's power cuts at chosen operations, read strictly."""

from server.planner import plain
from server.planner.plain import bad
from simulator.virtual import world_values as values
from simulator.virtual.cuts import BEFORE, OPERATIONS, TAKES_TIME, WHENS, WITHIN, Cut

MOST_TIMES = 10


def cuts_of(value: object, where: str) -> tuple[Cut, ...]:
    """Of one lot, each operation once at most. Raises `RefusedError` (`bad-strategy`, as all of `plain`)."""
    found: tuple[Cut, ...] = values.listed(value, where, 0, len(OPERATIONS), _cut)
    named = [cut.at for cut in found]
    for n, at in enumerate(named):
        if at in named[:n]:
            raise bad(f"{where}[{n}].at", f"be another operation: {at} is named before, and `times` says how often")
    return found


def _cut(value: object, where: str) -> Cut:
    fields = plain.mapping(value, where)
    plain.known(fields, ("at", "when", "share", "times"), where)
    values.needed(fields, ("at",), where)
    at = plain.one_of(fields["at"], f"{where}.at", tuple(OPERATIONS))
    when = plain.one_of(fields.get("when", BEFORE), f"{where}.when", WHENS)
    if when == WITHIN and at not in TAKES_TIME:
        only = " and ".join(TAKES_TIME)
        raise bad(f"{where}.when", f"be before or after: {at} is done whole or not at all, and only {only} takes time")
    share = values.share(fields, "share", where, 1.0)
    if share == 0:
        raise bad(f"{where}.share", "be more than nothing, or nobody's power is cut there")
    times = plain.integer(fields.get("times", 1), f"{where}.times", 1, MOST_TIMES)
    return Cut(at=at, when=when, share=share, times=times)
