"""A device whose new release brings another agent, which writes the journal in another schema."""

import json
from collections.abc import Callable
from functools import partial

from device_agent.core.states import Failed
from device_agent.lineage import OWN
from device_agent.ports import BootOutcome, Link
from device_agent.runtime import Runtime
from firmware.protocol.words import Action
from tests.crash.broken import require
from tests.crash.world import JOURNAL, World
from tests.device_agent.test_journal_lineage import TWO


class TwoAgents(World):
    """The agent in the slot with version 2.0 writes schema 2. In its trial it leaves the journal in the old one's."""

    def _agent(self, link: Link | None = None) -> Runtime:
        lineage = TWO if self.running_version() == "2.0" else OWN
        self.runtime_class = partial(Runtime, lineage=lineage)  # type: ignore[assignment]
        return super()._agent(link)

    def _one_boot(self, ended: Callable[[], bool]) -> bool:
        over = super()._one_boot(ended)
        if self.boots[-1].outcome is BootOutcome.TRIAL and self.at_rest() is False:
            require("lineage", self.record()["record"]["schema"] == 1, "a trial that isn't committed")
        return over

    def record(self) -> dict[str, dict[str, int]]:
        """The journal's bytes, parsed."""
        held: dict[str, dict[str, int]] = json.loads(self.disk.system.medium("none").files[JOURNAL])
        return held

    def has_failed(self) -> bool:
        """Whether the last order came to nothing."""
        assert self.runtime is not None
        return isinstance(self.runtime.standing.state, Failed)

    def there_and_back(self) -> None:
        """To 2.0 and by an order back again, from wherever it is."""
        assert self.server.last is not None
        if self.server.last.action is Action.INSTALL:
            self.run()
            if self.has_failed():
                return
            require("lineage", self.running_version() == "2.0", self.running_version())
            held = self.record()
            require("lineage", (held["record"]["schema"], held["later"]["schema"]) == (1, 2), held)
            self.server.order(Action.ROLLBACK)
        self.run()
        journals = {report.journal for report in self.server.told}
        require("lineage", len(journals) == 1 and self.record()["record"]["schema"] == 1, "a new journal was begun")
