"""The demo's images, made of real software: three releases of the product `gateway`.

The payload is the unpacked content of two published releases of Pillow, with its compiled code and libraries, as data: it is the
same on every machine. The slot's program, which the board runs and the health check probes, is in `programs/`.

| version | payload | program |
|---|---|---|
| 1.0.0 | Pillow 12.0.0 | reads the bus frame by frame |
| 2.0.0 | Pillow 12.1.0 | reads a round of frames at once |
| 3.0.0 | Pillow 12.1.0 | the same uncopied, with a genuine fault: the last frame of a round is lost, as its self-test finds |
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.images.slot_image import build_slot_image
from firmware.manifest import HealthCheck
from firmware.protocol.words import ReasonKind

PRODUCT = "gateway"
PREFETCH = "python -m simulator.images --cache DIR"
HEALTH = (HealthCheck(kind="http", url="http://127.0.0.1:{port}/health", timeout_s=5.0, tries=3),)
"""What the manifests of all three releases ask for."""

_PROGRAMS = Path(__file__).parent / "programs"
_DOWNLOAD_TIMEOUT_S = 300
_WHEEL_TAGS = "cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A published release of a package, pinned: its name, version and the sha256 of its wheel."""

    package: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.package}-{self.version}-{_WHEEL_TAGS}.whl"


@dataclass(frozen=True, kw_only=True)
class DemoImage:
    """A built image, and what its release's manifest says beside it."""

    version: str
    counter: int
    path: Path
    health: list[HealthCheck]


OLDER = Wheel(
    package="pillow", version="12.0.0", sha256="bee2a6db3a7242ea309aa7ee8e2780726fed67ff4e5b40169f2c940e7eb09227"
)
NEWER = Wheel(
    package="pillow", version="12.1.0", sha256="1f345e7bc9d7f368887c712aa5054558bad44d2a301ddf9248599f4161abc7c0"
)
DemoRelease = tuple[str, int, Wheel]
"""Version, release counter and payload."""

RELEASES: tuple[DemoRelease, ...] = (("1.0.0", 1, OLDER), ("2.0.0", 2, NEWER), ("3.0.0", 3, NEWER))

Download = Callable[[Wheel, Path], None]
"""Puts a wheel's file into a directory; raises `UnavailableError`."""


def build_demo_images(cache: Path, out: Path, releases: Sequence[DemoRelease] = RELEASES) -> list[DemoImage]:
    """The three images, in order, as `out/gateway-VERSION.img`; what `cache` lacks is fetched from the package index.

    Deterministic: equal on every machine and every call. Raises `UnavailableError` (`unreachable`) when the index cannot be
    reached, `RefusedError` (`artifact-changed`) when it gives another file than the one pinned, and `OSError`.
    """
    out.mkdir(parents=True, exist_ok=True)
    return [_build(version, counter, fetch(wheel, cache), out) for version, counter, wheel in releases]


def fetch(wheel: Wheel, cache: Path, download: Download | None = None) -> Path:
    """The path of a pinned wheel in the cache, where it is put if it is missing or damaged. Errors as `build_demo_images`."""
    path = cache / wheel.filename
    if path.is_file() and _sha256(path) == wheel.sha256:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as name:
        (download or pip_download)(wheel, Path(name))
        fetched = Path(name) / wheel.filename
        if not fetched.is_file():
            raise UnavailableError(
                ReasonKind.UNREACHABLE,
                f"The package index gave no {wheel.filename}; put that file into {cache} by hand and try again.",
            )
        if _sha256(fetched) != wheel.sha256:
            raise RefusedError(
                ReasonKind.ARTIFACT_CHANGED,
                f"{wheel.filename} from the package index is not the published file; check which index pip is set to use.",
            )
        fetched.replace(path)
    return path


def pip_download(wheel: Wheel, directory: Path) -> None:
    """Fetch a wheel with pip as it is configured, by name and version. Raises `UnavailableError` (`unreachable`)."""
    platforms = [f"--platform={tag}" for tag in ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64")]
    python = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += [*python, *platforms, f"--dest={directory}", f"{wheel.package}=={wheel.version}"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_DOWNLOAD_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(
            ReasonKind.UNREACHABLE,
            f"{wheel.package} {wheel.version}, of which the demo's images are made, could not be fetched with pip"
            f" ({_last_words(error)}). Check the network and pip's settings, or fetch it elsewhere with"
            f" `{PREFETCH}` and bring that directory here.",
        ) from error


def _build(version: str, counter: int, wheel: Path, out: Path) -> DemoImage:
    path = out / f"{PRODUCT}-{version}.img"
    build_slot_image(
        path,
        product=PRODUCT,
        version=version,
        counter=counter,
        program=(_PROGRAMS / f"{PRODUCT}-{version}.py").read_bytes(),
        payload=_content(wheel),
    )
    return DemoImage(version=version, counter=counter, path=path, health=list(HEALTH))


def _content(wheel: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                yield f"payload/{entry.filename}", archive.read(entry)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_words(error: Exception) -> str:
    said = getattr(error, "stderr", None) or b""
    lines = said.decode("utf-8", "replace").strip().splitlines() or [str(error)]
    return lines[-1][:300]


def main(arguments: list[str]) -> int:
    """Prefetch: fill the cache, so that the demo needs no network later. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulator.images", description="Fetch what the demo's images are made of."
    )
    parser.add_argument("--cache", type=Path, required=True, help="the directory to keep the packages in")
    options = parser.parse_args(arguments)
    try:
        for wheel in (OLDER, NEWER):
            print(fetch(wheel, options.cache))
    except OtariaError as error:
        print(f"{error.text} ({error.kind})", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
