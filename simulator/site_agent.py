"""A site agent: its directory, its process, and the settings by which it reaches emulated boxes."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from device_agent.boot.leash import leashed
from simulator.appliances.server import PASSWORD, USER, BoxServer

TABLE = """
[[appliances]]
name = "{name}"
address = "127.0.0.1"
port = {port}
user = "{user}"
host_keys = ["{host_key}"]
dialect = "{dialect}"
serial = "{serial}"
model = "{model}"
password = {{file = "secret"}}
compare = ["interfaces", "neighbours"]
settle_s = 1
max_image = 10000000
"""


class SiteAgent:
    """One of them, for these boxes by name. `settings`: what `agent.toml` has besides."""

    def __init__(self, directory: Path, boxes: Mapping[str, BoxServer], *, settings: str) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        (directory / "boxes").mkdir(parents=True)
        secret = directory / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        tables = (_table(name, server) for name, server in boxes.items())
        (directory / "agent.toml").write_text(settings + "".join(tables))

    def home(self, name: str) -> Path:
        """The agent's directory of one box, which is to be enrolled."""
        return self.directory / "boxes" / name

    def start(self) -> None:
        """Start it; it ends with the calling thread."""
        command = [sys.executable, "-m", "device_agent.cli", "--dir", str(self.directory), "run"]
        with (self.directory / "site.log").open("ab") as log:
            self.process = subprocess.Popen(leashed(command), stdout=log, stderr=log)

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(15)

    def log(self) -> str:
        """What it said last."""
        path = self.directory / "site.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""


def _table(name: str, server: BoxServer) -> str:
    flash = server.box.flash
    return TABLE.format(
        name=name,
        port=server.port,
        user=USER,
        host_key=server.host_key,
        dialect=flash.kind,
        serial=flash.serial,
        model=flash.model,
    )
