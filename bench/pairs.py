"""The pairs of images that deltas are measured on: tars of real software in two versions, the same on every call.

The real pair is made of Debian packages, which apt fetches and the cache keeps: the oldest and the newest version that the
archive has of libc6, libssl3 and the network drivers and file systems of its kernel. Members are sorted; owners, modes and times
are the packages' own.
"""

import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware.atomic import atomic_output
from firmware.errors import UnavailableError
from firmware.protocol.words import ReasonKind
from simulator.images import NEWER, OLDER, fetch

MIN_REAL_BYTES, MAX_SMALL_BYTES = 100_000_000, 8_000_000
LIBRARIES = ("libc6", "libssl3")
MODULES = ("/kernel/drivers/net/", "/kernel/fs/")
_KERNEL = r"linux-image-(\d+)\.(\d+)\.(\d+)-(\d+)-{architecture}"
_CHOSEN = "pair.json"
_APT_TIMEOUT_S = 600
_EPOCH_S = 1_700_000_000
"""When all members of the small pair were changed, since wheels hold no times worth keeping."""

Member = tuple[tarfile.TarInfo, bytes]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two images, and in words what they are made of."""

    name: str
    old: Path
    new: Path
    contents: str


def small_pair(cache: Path, out: Path) -> Pair:
    """Pillow's code in two versions, less than 8 MB. Raises as `simulator.images.fetch`."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for wheel in (OLDER, NEWER):
        paths.append(out / f"small-{wheel.version}.tar")
        _write_tar(paths[-1], _wheel_members(fetch(wheel, cache), "PIL/"))
    _check_size(paths, lambda size: size <= MAX_SMALL_BYTES)
    old, new = paths
    return Pair(
        name="small", old=old, new=new, contents=f"Pillow {OLDER.version} and {NEWER.version}, without libraries"
    )


def real_pair(cache: Path, out: Path) -> Pair:
    """Debian's packages in two versions, at least 100 MB. Raises `UnavailableError` (`unreachable`) when apt gives none."""
    out.mkdir(parents=True, exist_ok=True)
    packages = _packages(cache / "debian")
    paths = [out / "real-old.tar", out / "real-new.tar"]
    for path, files in zip(paths, packages, strict=True):
        _write_tar(path, (member for file in files for member in _package_members(file)))
    _check_size(paths, lambda size: size >= MIN_REAL_BYTES)
    old, new = paths
    names = [", ".join(file.name.removesuffix(".deb") for file in files) for files in packages]
    return Pair(name="real", old=old, new=new, contents=" and ".join(names))


def _check_size(paths: Iterable[Path], is_right: Callable[[int], bool]) -> None:
    for path in paths:
        if not is_right(path.stat().st_size):
            raise RuntimeError(f"{path.name} has {path.stat().st_size:,} bytes, which is not the size it should have.")


def _write_tar(path: Path, members: Iterable[Member]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry, content in members:
            archive.addfile(entry, io.BytesIO(content))


def _wheel_members(wheel: Path, folder: str) -> Iterator[Member]:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if name.startswith(folder) and not name.endswith("/")):
            content = archive.read(name)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), _EPOCH_S
            yield entry, content


def _package_members(package: Path) -> Iterator[Member]:
    """What a package installs, sorted by name; of a kernel only `MODULES`."""
    unpacked = _run("dpkg-deb", "--fsys-tarfile", str(package))
    is_kernel = package.name.startswith("linux-image-")
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
        for entry in sorted(archive, key=lambda entry: entry.name):
            if not is_kernel or any(part in entry.name for part in MODULES):
                content = archive.extractfile(entry) if entry.isreg() else None
                yield entry, content.read() if content else b""


def _packages(cache: Path) -> tuple[list[Path], list[Path]]:
    """The files of the old packages and of the new ones, fetched if the cache lacks them."""
    cache.mkdir(parents=True, exist_ok=True)
    chosen = cache / _CHOSEN
    if not chosen.exists():
        architecture = _run("dpkg", "--print-architecture").decode().strip()
        kernels = _kernels(architecture)
        versions = {name: _versions(name) for name in (*LIBRARIES, *kernels)}
        old = [*(f"{name}={versions[name][-1]}" for name in LIBRARIES), f"{kernels[0]}={versions[kernels[0]][0]}"]
        new = [*(f"{name}={versions[name][0]}" for name in LIBRARIES), f"{kernels[-1]}={versions[kernels[-1]][0]}"]
        names = [_fetched(wanted, cache) for wanted in (old, new)]
        with atomic_output(chosen) as file:
            file.write(json.dumps(names).encode())
    sides = [[cache / name for name in side] for side in json.loads(chosen.read_text())]
    missing = [path.name for side in sides for path in side if not path.is_file()]
    if missing:
        chosen.unlink()
        raise _unreachable(f"the cache has lost {missing[0]}; run it again to fetch a new pair")
    return sides[0], sides[1]


def _kernels(architecture: str) -> list[str]:
    """The archive's kernel packages of one series, oldest first."""
    pattern = _KERNEL.format(architecture=re.escape(architecture))
    listed = _run("apt-cache", "search", "--names-only", f"^{pattern}$".replace(r"\d", "[0-9]")).decode()
    found = [match for line in listed.splitlines() if (match := re.fullmatch(pattern, line.split(" ")[0]))]
    numbers = sorted(tuple(map(int, match.groups())) for match in found)
    series = [each for each in numbers if each[:3] == numbers[0][:3]]
    if len(series) < 2:
        raise _unreachable("apt knows no two kernels of one series; run `apt-get update`")
    return ["linux-image-{}.{}.{}-{}-".format(*each) + architecture for each in series]


def _versions(package: str) -> list[str]:
    """The versions that apt can fetch, newest first."""
    lines = _run("apt-cache", "madison", package).decode().splitlines()
    versions = [line.split("|")[1].strip() for line in lines if line.rstrip().endswith("Packages")]
    if not versions:
        raise _unreachable(f"apt knows no {package}; run `apt-get update`")
    return versions


def _fetched(wanted: Sequence[str], cache: Path) -> list[str]:
    """Fetch packages, each `name=version`, into the cache; the names of the files in the same order."""
    names = []
    for each in wanted:
        print(f"fetching {each} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as folder:
            _run("apt-get", "download", "--quiet", each, folder=Path(folder))
            (file,) = Path(folder).glob("*.deb")
            file.replace(cache / file.name)
            names.append(file.name)
    return names


def _run(*command: str, folder: Path | None = None) -> bytes:
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=_APT_TIMEOUT_S, cwd=folder)
    except (OSError, subprocess.SubprocessError) as error:
        words = (getattr(error, "stderr", None) or b"").decode("utf-8", "replace").strip().splitlines()
        kinds = [re.sub(r"\S+://\S+", "the archive", line) for line in words if line.startswith("E:")]
        raise _unreachable(f"`{' '.join(command[:2])}` failed: {(kinds or [type(error).__name__])[0]}") from error
    return done.stdout


def _unreachable(why: str) -> UnavailableError:
    return UnavailableError(
        ReasonKind.UNREACHABLE, f"Two versions of Debian's packages could not be had with apt: {why}."
    )
