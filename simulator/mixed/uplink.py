"""The only way from a site to the server, which really leads through its routers: it breaks when they do.

Everything at the site talks to broker and server through here. It lets through while the edge router and one core router are up.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from device_agent.identity import IDENTITY_FILE
from simulator.appliances.box import Box
from simulator.slow_link import SlowLink

LOOK_S = 0.05
NOWHERE = 0
"""A port that nobody can connect to."""


class Uplink:
    """Forwards to broker and server as an enrolled agent knows them, while the routers are up. `cuts`: how often it broke."""

    def __init__(self, known: Path, *, edge: Box, cores: Sequence[Box]) -> None:
        """`known`: that agent's directory."""
        self.cuts = 0
        self._edge, self._cores = edge, cores
        identity = json.loads((known / IDENTITY_FILE).read_text())
        self._ports = (int(identity["mqtt_port"]), int(identity["https_url"].rpartition(":")[2]))
        self._links = [SlowLink(port) for port in self._ports]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="uplink", daemon=True)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        """Whether the routers let anything through now."""
        return self._edge.alive and any(core.alive for core in self._cores)

    def adopt(self, agent_directory: Path) -> None:
        """Let an enrolled agent reach broker and server through here."""
        path = agent_directory / IDENTITY_FILE
        broker, https = (link.port for link in self._links)
        known = json.loads(path.read_text())
        path.write_text(json.dumps(known | {"https_url": f"https://127.0.0.1:{https}", "mqtt_port": broker}))

    def close(self) -> None:
        """Break it for good."""
        self._over.set()
        self._thread.join(5)
        for link in self._links:
            link.close()

    def _follow(self) -> None:
        was_up = True
        while not self._over.wait(LOOK_S):
            if (is_up := self.is_up) is not was_up:
                self.cuts += was_up
                for link, port in zip(self._links, self._ports, strict=True):
                    link.lead_to(port if is_up else NOWHERE)
                was_up = is_up
