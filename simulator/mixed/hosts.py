"""Servers: each has a root that dpkg keeps, an agent that patches it, and a daemon that its packages stop and start.

`web` depends on `libtls`. Its scripts do what those of daemons do: stop it before new files come, start it afterwards, which
takes a while. On a server with the file `etc/web/old-format` the new one does not start.
"""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from device_agent.boot.leash import leashed
from simulator.debs import Deb, apt_conf, build_deb, fill_archive, make_root, served

HARDWARE = "debian-12-amd64"
PRODUCT = "server-os"
OLD, NEW = "1.0", "2.0"
RELEASE = "2026.11"
OLD_FORMAT = "etc/web/old-format"
STATE = "run/web"
STOP = f'rm -f "$DPKG_ROOT/{STATE}"'
START = f'sleep 3; mkdir -p "$DPKG_ROOT/run"; echo started > "$DPKG_ROOT/{STATE}"'
PICKY = f'[ ! -e "$DPKG_ROOT/{OLD_FORMAT}" ] || {{ echo "web 2.0 cannot read /{OLD_FORMAT}" >&2; exit 9; }}'
SETTINGS = """\
[target]
kind = "host"
root = "{root}"
apt_config = "{conf}"
needrestart = []
keep_free_mib = 1

[[health.checks]]
kind = "http"
url = "{health}"
"""


class Host:
    """One server: its root, its agent's directory and, while it runs, the agent."""

    def __init__(self, folder: Path, *, template: Path, archive: str, daemons: str, settings: str) -> None:
        self.folder, self.root, self.agent_directory = folder, folder / "root", folder / "agent"
        shutil.copytree(template, self.root)
        conf = folder / "apt.conf"
        apt_conf(conf, self.root, archive)
        self.agent_directory.mkdir()
        text = SETTINGS.format(root=self.root, conf=conf, health=f"{daemons}/{folder.name}")
        (self.agent_directory / "agent.toml").write_text(f"{text}\n{settings}")
        self._process: subprocess.Popen[bytes] | None = None

    def keep_old_format(self) -> None:
        """Let it be the server on which the new version does not start."""
        path = self.root / OLD_FORMAT
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def start(self) -> None:
        """Start the agent; it ends with the calling thread."""
        command = [sys.executable, "-m", "device_agent.cli", "--dir", str(self.agent_directory), "run"]
        with (self.folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(leashed(command), stdout=log, stderr=log, start_new_session=True)

    def close(self) -> None:
        """Kill the agent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(15)

    def versions(self) -> dict[str, str]:
        """What dpkg says is installed and whole."""
        command = ["dpkg-query", f"--admindir={self.root / 'var/lib/dpkg'}", "-W"]
        form = "-f=${Package} ${Version} ${db:Status-Status}\n"
        said = subprocess.run([*command, form], check=True, capture_output=True, text=True).stdout
        rows = [line.split() for line in said.splitlines()]
        return {name: version for name, version, status in rows if status == "installed"}

    def log(self) -> str:
        """What the agent said last."""
        path = self.folder / "agent.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""


class Racks:
    """What all servers need of the world: the packages, an archive with the new ones, and a place where their daemons listen."""

    def __init__(self, home: Path, *, archive: str, port: int) -> None:
        self.home, self.archive, self.port = home, archive, port
        self.template = home / "template"

    def host(self, name: str, settings: str) -> Host:
        """A new server, with the old packages."""
        return Host(
            self.home / "hosts" / name,
            template=self.template,
            archive=f"{self.archive}/archive",
            daemons=f"http://127.0.0.1:{self.port}",
            settings=settings,
        )

    @property
    def index(self) -> Path:
        """The archive's index, which names lengths and hashes."""
        return self.home / "archive" / "Packages"


@contextmanager
def racks(home: Path) -> Iterator[Racks]:
    """Build the packages, and serve archive and daemons."""
    built = home / "built"
    built.mkdir(parents=True)
    (home / "hosts").mkdir()
    debs = [deb for version in (OLD, NEW) for deb in _packages(built, version)]
    make_root(home / "template", [deb for deb in debs if deb.version == OLD])
    fill_archive(home / "archive", debs)
    with served(home) as archive, _daemons(home / "hosts") as port:
        yield Racks(home, archive=archive, port=port)


def _packages(folder: Path, version: str) -> list[Deb]:
    start = START if version == OLD else f"{PICKY}\n{START}"
    return [
        build_deb(folder, "libtls", version),
        build_deb(
            folder,
            "web",
            version,
            fields=f"Depends: libtls (>= {version})\n",
            scripts={"prerm": STOP, "postinst": start},
        ),
    ]


@contextmanager
def _daemons(hosts: Path) -> Iterator[int]:
    """The port at which the daemon of each server answers, as long as its packages have it started."""

    class Daemon(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = Path(self.path).name
            self.send_response(200 if (hosts / name / "root" / STATE).exists() else 503)
            self.end_headers()

        def log_message(self, *said: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Daemon) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield int(server.server_port)
        server.shutdown()
        thread.join()
