"""Servers under a real Otaria: each has an agent's directory and, while it runs, the agent; and what people ask about them."""

import contextlib
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from device_agent.boot.leash import leashed
from firmware.patch_set import parse_patch_set
from server.cli import run as run_otaria
from simulator.lab import PRODUCT, Lab

HARDWARE = "debian-12-amd64"
PATIENCE_S = 120.0
INTERVALS = """
[intervals]
ask_min_s = 0.2
ask_max_s = 1.0
retry_min_s = 0.2
retry_max_s = 2.0
resend_min_s = 0.5
resend_max_s = 3.0
reconnect_min_s = 0.1
reconnect_max_s = 1.0
"""
STRATEGY = """
name: {name}
product: {product}
version: "{version}"
selection: {{labels: {{host: "{host}"}}}}
strategy:
  name: patches
  cohorts:
    - {{name: all}}
  patience: {patience}
  trial: {trial}
  horizon: {horizon}
  healthy: 1s
  retry: 1s
  on_failure: pause
"""
QUICK = {"patience": "90s", "trial": "60s", "horizon": "80s"}
"""For packages that are installed in no time."""


class Server:
    """One host. `folder` is its own, `enter` the words before a command that run it inside of the host, if it has an inside.
    `hurry`: how long the steps of its campaigns may take."""

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        settings: str,
        *,
        enter: Sequence[str] = (),
        hurry: Mapping[str, str] = QUICK,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.lab, self.folder, self.directory = lab, folder, folder / "agent"
        self._enter, self._hurry, self._patience_s = list(enter), dict(hurry), patience_s
        self.directory.mkdir()
        claim = folder / "claim"
        claim.write_text(lab.claim(uses=1, labels={"host": folder.name}))
        command = [sys.executable, "-m", "device_agent.cli", "--dir", str(self.directory)]
        subprocess.run(
            [*command, "enrol", "--claim", f"@{claim}", "--hardware", HARDWARE], check=True, capture_output=True
        )
        (self.directory / "agent.toml").write_text(settings + INTERVALS)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [*self._enter, sys.executable, "-m", "device_agent.cli", "--dir", str(self.directory), "run"]
        with (self.directory / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(leashed(command), stdout=log, stderr=log, start_new_session=True)
        (self.folder / "agent.pid").write_text(str(self._process.pid))

    def tend(self) -> bool:
        """Start the agent again if it ended, as a host's init does; whether it had."""
        ended = self._process is not None and self._process.poll() is not None
        if ended:
            self.start()
        return ended

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def target(self) -> str:
        return str(json.loads((self.directory / "identity.json").read_text())["target"])

    @property
    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.lab.rest.get(f"/fleet/{self.target}")
        return dict(view.get("target", view))

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        self.lab.wait(condition, self._patience_s, what, on_failure=self.explain)

    def explain(self) -> str:
        log = (self.directory / "agent.log").read_text(errors="replace")[-3000:]
        return f"{self.view}\n{log}\n{self.words()}"

    def told(self, *command: str) -> dict[str, Any]:
        """What a command of the server's people says; nothing when it fails."""
        access = ("--server", self.lab.run_info["people_url"], "--token-file", str(self.lab.state / "admin.token"))
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = run_otaria([*command, *access, "--json"])
        return json.loads(said.getvalue()) if code == 0 else {}

    @property
    def packages(self) -> dict[str, str]:
        """Those that the server holds of it; none before they were told."""
        found = self.told("fleet", "packages", self.target).get("packages", [])
        return {one["name"]: one["version"] for one in found}

    def pending_set(self, *options: str) -> Path:
        """The set that is made of what is pending on it, in a file."""
        out = self.directory / "pending.json"
        self.told("release", "patch-set", "--group", f"label.host:{self.folder.name}", *options, "-o", str(out))
        return out

    def words(self) -> str:
        records = self.lab.rest.get(f"/audit?target={self.target}&limit=500")["audit"]
        return "\n".join(f"{record['kind']}: {record['text']}" for record in records)

    def campaign(self, version: str) -> str:
        name = f"patches-{version.replace('.', '-')}"
        return self.lab.apply_campaign(
            STRATEGY.format(name=name, host=self.folder.name, product=PRODUCT, version=version, **self._hurry)
        )

    def counts(self, campaign: str) -> dict[str, int]:
        totals: Counter[str] = Counter()
        for cohort in self.lab.campaign(campaign)["cohorts"]:
            totals.update(cohort["counts"])
        return dict(+totals)


def named_in(document: Path) -> dict[str, str]:
    """The versions of a patch set, by package."""
    return {one.name: one.version for one in parse_patch_set(document.read_bytes()).packages}
