"""`python -m simulator.hostile_embedded CONFIG`: the embedded broker, run by an attacker who gave an account to herself."""

import sys
from collections.abc import Callable

from server.transport import access, embedded
from simulator.hostile import EVE


def corrupt(rule: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    """The access rule, except that Eve may do everything."""
    return lambda name, topic: name == EVE or rule(name, topic)


if __name__ == "__main__":
    for name in ("may_publish", "may_receive", "may_subscribe"):
        setattr(access, name, corrupt(getattr(access, name)))
    sys.exit(embedded.main(sys.argv[1:]))
