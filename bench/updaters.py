"""The peers of an installation: RAUC's service on a bus of its own, and SWUpdate, both from Debian, both with a signed update.

RAUC checks the signature over the whole bundle, then copies its image to the device and calls fsync. SWUpdate checks the
signature of its description and, while it streams to the device, the image's hash; it does not flush. Neither reads back.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from firmware.errors import UnavailableError

NEEDED = ("rauc", "swupdate", "dbus-daemon", "openssl", "mksquashfs", "losetup")
START_S, RUN_S = 10.0, 600.0
_CPIO_MAGIC = b"070702"


def missing_programs() -> list[str]:
    """The programs that are not here."""
    return [name for name in NEEDED if shutil.which(name) is None]


def make_key(folder: Path) -> None:
    """A key and its certificate, which both peers trust."""
    _run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "400", "-subj", "/CN=bench"),
        *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
    )


class Rauc:
    """`rauc install` of one image; a service that serves only us."""

    def __init__(self, folder: Path, image: Path, slots: Sequence[Path]) -> None:
        content = folder / "bundle"
        content.mkdir()
        os.link(image, content / "root.img")
        (content / "manifest.raucm").write_text(
            "[update]\ncompatible=bench\nversion=1\n\n[bundle]\nformat=plain\n\n[image.rootfs]\nfilename=root.img\n"
        )
        (folder / "mnt").mkdir()
        self._config, self._bundle = folder / "system.conf", folder / "update.raucb"
        self._config.write_text(
            f"[system]\ncompatible=bench\nbootloader=noop\nstatusfile={folder}/status\nmountprefix={folder}/mnt\n\n"
            f"[keyring]\npath={folder}/cert.pem\ncheck-purpose=any\n\n"
            f"[slot.rootfs.0]\ndevice={slots[0]}\ntype=raw\nbootname=A\n\n"
            f"[slot.rootfs.1]\ndevice={slots[1]}\ntype=raw\nbootname=B\n"
        )
        _run("rauc", "bundle", "--cert", folder / "cert.pem", "--key", folder / "key.pem", content, self._bundle)
        self._environment: dict[str, str] = {}

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Run the service meanwhile."""
        with contextlib.ExitStack() as ends:
            bus = ends.enter_context(_running("dbus-daemon", "--session", "--nofork", "--print-address"))
            address = (bus.stdout.readline() if bus.stdout else b"").decode().strip()
            self._environment = {"DBUS_SESSION_BUS_ADDRESS": address, "DBUS_STARTER_BUS_TYPE": "session"}
            arguments = ("rauc", f"--conf={self._config}", "--override-boot-slot=A", "service")
            ends.enter_context(_running(*arguments, environment=self._environment))
            self._wait()
            yield

    def install(self) -> None:
        """Install into the second slot."""
        _run("rauc", f"--conf={self._config}", "install", self._bundle, environment=self._environment)

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return _run("rauc", f"--conf={self._config}", "status", environment=self._environment)
            except UnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)


class SwUpdate:
    """`swupdate -i` of one image, streamed straight to the device."""

    def __init__(self, folder: Path, image: Path, device: Path) -> None:
        self._folder, self._update = folder, folder / "update.swu"
        with image.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        description = folder / "sw-description"
        description.write_text(
            'software = { version = "1.0"; hardware-compatibility: [ "1.0" ]; images: ( { filename = "root.img"; '
            f'type = "raw"; installed-directly = true; device = "{device}"; sha256 = "{digest}"; }} ); }}\n'
        )
        _run(
            *("openssl", "cms", "-sign", "-binary", "-nosmimecap", "-outform", "DER", "-in", description),
            *("-out", folder / "sw-description.sig", "-signer", folder / "cert.pem", "-inkey", folder / "key.pem"),
        )
        members = {
            "sw-description": description,
            "sw-description.sig": folder / "sw-description.sig",
            "root.img": image,
        }
        with self._update.open("wb") as out:
            for number, (name, path) in enumerate(members.items()):
                out.write(_cpio(number, name, path.read_bytes()))
            out.write(_cpio(len(members), "TRAILER!!!", b""))

    def install(self) -> None:
        """Install to the device. SWUpdate makes its sockets in TMPDIR, and a socket's path must be short."""
        with tempfile.TemporaryDirectory(prefix="swu-") as sockets:
            _run(
                *("swupdate", "-k", self._folder / "cert.pem", "-H", "bench:1.0", "-M", "-m", "-i", self._update),
                environment={"TMPDIR": sockets},
            )


def _cpio(number: int, name: str, data: bytes) -> bytes:
    """A member of a cpio archive with checksums, as SWUpdate wants it."""
    total = sum(sum(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20)) & 0xFFFFFFFF
    fields = (number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, total)
    head = _CPIO_MAGIC + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def _run(*arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [*map(str, arguments)], capture_output=True, env=os.environ | (environment or {}), timeout=RUN_S, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-1000:]
        raise UnavailableError("peer-failed", f"{arguments[0]} failed with {done.returncode}: {said}")


@contextlib.contextmanager
def _running(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | (environment or {})
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
