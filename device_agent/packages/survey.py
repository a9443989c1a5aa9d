"""What a host has, looked at now and then: whole, for the server to hold, and as labels, so that people filter by them and
campaigns select by them.

`packages.count`, `packages.pending`, `packages.security`: numbers. `packages.drift`: what is not as the committed patch set has
it. `restart.needed`: why. `restart.services`: how many. `kernel`: the one that runs. `drained`, where something takes the
host out of service: whether it is.
"""

import logging
from collections.abc import Mapping

from device_agent.packages.inventory import HostInventory, state_of, take_inventory
from device_agent.packages.ladder import Ledger
from device_agent.packages.plan import Change, Wanted, changes_to
from device_agent.packages.transaction import Transactions
from firmware.errors import OtariaError
from firmware.host_packages import HostState

log = logging.getLogger(__name__)
MAX_LABELS, MAX_VALUE, MAX_NAMED = 64, 128, 3


class Survey:
    """What was seen last; may be asked from any thread."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._seen: dict[str, str] = {}
        self.state: HostState | None = None

    def look(self) -> bool:
        """Look now; blocks. What can't be read leaves what was seen before. A host that was out of service for what is over is
        brought back first; False when that failed."""
        one = self._transactions
        if one.ledger.transaction is not None:
            return True
        in_service = one.bring_back()
        try:
            found = take_inventory(one.system, one.host)
            drifted = drift(one.ledger, one)
            self._seen, self.state = labels_of(found, [change.name for change in drifted]), state_of(found, drifted)
            if one.drainer is not None:
                self._seen = {"drained": "no" if in_service else "yes", **self._seen}
        except (OtariaError, OSError) as error:
            log.warning("the host's packages can't be looked at", extra={"reason": str(error)})
        return in_service

    def labels(self, given: Mapping[str, str]) -> dict[str, str]:
        """The operator's labels, and as many of the host's as fit beside them; the operator's word counts."""
        room = MAX_LABELS - len(given)
        own = [(name, value) for name, value in self._seen.items() if name not in given]
        return {**given, **dict(own[: max(room, 0)])}


def drift(ledger: Ledger, transactions: Transactions) -> list[Change]:
    """What would have to change for the committed set to be there again: what somebody changed since."""
    if ledger.way is None:
        return []
    wanted = [Wanted(name=move.name, arch=move.arch, version=move.new.version) for move in ledger.way.moves]
    return list(changes_to(wanted, transactions.system.installed(), transactions.system.native))


def labels_of(found: HostInventory, drifted: list[str]) -> dict[str, str]:
    """The facts, each short enough for a label."""
    more = f" and {len(drifted) - MAX_NAMED} more" if len(drifted) > MAX_NAMED else ""
    facts = {
        "packages.security": str(sum(one.is_security for one in found.pending.values())),
        "packages.pending": str(len(found.pending)),
        "packages.drift": (", ".join(drifted[:MAX_NAMED]) + more) or "none",
        "restart.needed": found.restart_needed or "no",
        "restart.services": str(len(found.services_to_restart)),
        "kernel": found.kernel,
        "packages.count": str(len(found.packages)),
    }
    return {name: value[:MAX_VALUE] for name, value in facts.items()}
