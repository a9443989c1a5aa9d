"""Debian packages, a root that dpkg keeps, and an archive that serves them: real apt, real dpkg, no system touched."""

import functools
import hashlib
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware.errors import RefusedError

CONTROL = """\
Package: {name}
Version: {version}
Architecture: {arch}
Maintainer: Toys <toys@example.org>
Description: a toy
"""
CONF = """\
Dir "{root}/";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Bin::methods "/usr/lib/apt/methods";
Dir::Bin::dpkg "/usr/bin/dpkg";
Dir::Bin::solvers {{ "/usr/lib/apt/solvers"; }};
Dir::Bin::planners {{ "/usr/lib/apt/planners"; }};
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::http::Proxy "false";
Acquire::Retries "0";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Options {{ "--root={root}"; "--log={root}/var/log/dpkg.log"; }};
DPkg::Options {{ "--force-script-chrootless"; "--force-not-root"; "--force-unsafe-io"; }};
"""
FOLDERS = (
    "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/apt/lists/partial",
    "var/cache/apt/archives/partial", "var/log/apt", "etc/apt/apt.conf.d", "etc/apt/preferences.d",
    "etc/apt/sources.list.d", "etc/apt/trusted.gpg.d", "usr", "tmp",
)  # fmt: skip
TOOLS = ("apt-get", "dpkg", "dpkg-deb")
"""What Debian and Ubuntu have, and this needs."""


@dataclass(frozen=True, kw_only=True)
class Deb:
    """A package file that was built."""

    path: Path
    name: str
    version: str
    stanza: str
    sha256: str


def build_deb(
    folder: Path,
    name: str,
    version: str,
    *,
    fields: str = "",
    scripts: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    conffiles: Sequence[str] = (),
) -> Deb:
    """Build a package of all architectures. `scripts`: maintainer scripts by name, as shell."""
    tree = folder / f"tree-{name}-{version}"
    (tree / "DEBIAN").mkdir(parents=True)
    fields = fields if "Installed-Size" in fields else f"Installed-Size: 8\n{fields}"
    control = CONTROL.format(name=name, version=version, arch="all") + fields
    (tree / "DEBIAN" / "control").write_text(control)
    for script, body in (scripts or {}).items():
        (tree / "DEBIAN" / script).write_text(f"#!/bin/sh\nset -e\n{body}\n")
        (tree / "DEBIAN" / script).chmod(0o755)
    if conffiles:
        (tree / "DEBIAN" / "conffiles").write_text("".join(f"/{one}\n" for one in conffiles))
    for at, text in {f"usr/share/{name}/version": version, **(files or {})}.items():
        (tree / at).parent.mkdir(parents=True, exist_ok=True)
        (tree / at).write_text(text)
    path = folder / f"{name}_{version}_all.deb"
    _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(tree), str(path))
    shutil.rmtree(tree)
    return describe_deb(path, name, version, control)


def describe_deb(path: Path, name: str, version: str, control: str) -> Deb:
    """A package file as an archive's index tells of it."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    stanza = f"{control}Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {sha256}\n"
    return Deb(path=path, name=name, version=version, stanza=stanza, sha256=sha256)


def make_root(root: Path, debs: Iterable[Deb]) -> None:
    """A new root in which these packages are installed."""
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("status", "available"):
        (root / "var/lib/dpkg" / name).touch()
    options = (f"--root={root}", f"--log={root}/var/log/dpkg.log")
    force = ("--force-script-chrootless", "--force-not-root", "--force-unsafe-io")
    _run("dpkg", *options, *force, "--install", *(str(one.path) for one in debs))


def apt_conf(path: Path, root: Path, archive: str) -> None:
    """Write an apt.conf that makes apt and dpkg work on this root, and name the archive's address there."""
    path.write_text(CONF.format(root=root))
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] {archive}/ ./\n")


def fill_archive(archive: Path, debs: Iterable[Deb]) -> None:
    """Let an archive hold these packages and no others."""
    archive.mkdir(exist_ok=True)
    for path in archive.glob("*.deb"):
        path.unlink()
    offered = list(debs)
    for one in offered:
        shutil.copyfile(one.path, archive / one.path.name)
    (archive / "Packages").write_text("\n".join(one.stanza for one in offered))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which a folder is served over HTTP."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said: object) -> None:
        """Say nothing."""


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise RefusedError("packages-not-made", f"{argv[0]} ended with {done.returncode}: {said[-500:]}")
