"""How quickly a file comes in blocks over the broker, which is all that devices of some sites reach.

Rules
- The server gives each site, and all of them together, so many bytes per second (`server.config.BlockRates`). Whoever asks while
  others of the site load waits until these have theirs: all of them need as long as if they took turns.
- An agent lets so much be under way (`device_agent.install.blocks.BlockPatience`), and says that it came before there is more.
"""

from typing import Protocol

from device_agent.install.blocks import BlockPatience
from server.config import BlockRates

CREDIT_BYTES = BlockPatience().credit_bytes


class Way(Protocol):
    """What is asked of a link."""

    @property
    def latency_s(self) -> float: ...


def best_rate(link: Way, rates: BlockRates | None = None) -> float:
    """Bytes per second for a device that is the only one: the server's, or what one credit after the other comes to."""
    rates = rates or BlockRates()
    most = float(min(rates.site_bytes_per_s, rates.bytes_per_s))
    return min(most, CREDIT_BYTES / (2 * link.latency_s)) if link.latency_s else most


class BlockPace:
    """What the server has to send to all sites; each asks it when it begins to load."""

    def __init__(self, rates: BlockRates | None = None) -> None:
        self._rates = rates or BlockRates()
        self._free_at: dict[str, float] = {}

    def takes_s(self, site: str, link: Way, size: int, at: float) -> float:
        """How long so many bytes take a device of a site that asks `at`, were its own link as quick as any."""
        turns = (
            self._turn(site, size / self._rates.site_bytes_per_s, at),
            self._turn("", size / self._rates.bytes_per_s, at),
        )
        return max(size / best_rate(link, self._rates), *(end - at for end in turns))

    def _turn(self, of: str, takes_s: float, at: float) -> float:
        """When what is begun `at` was sent, after all that was asked for before."""
        self._free_at[of] = end = max(at, self._free_at.get(of, 0.0)) + takes_s
        return end
