"""A real PKCS#11 token for tests: SoftHSM 2 from Debian, one folder each, which can be unplugged and come back."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PIN = "2468"
MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
MODULE = next((path for path in MODULES if Path(path).exists()), None)


@dataclass(frozen=True, kw_only=True)
class SoftToken:
    """A token in a folder; `module` speaks to it."""

    label: str
    module: str
    folder: Path

    @property
    def uri(self) -> str:
        """RFC 7512, with the PIN in a file."""
        return f"pkcs11:token={self.label}?module-path={self.module}&pin-source=file:{self.pin_file}"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    def unplug(self) -> None:
        """Take it out, for every process that looks from now on and for this one."""
        (self.folder / "tokens").rename(self.folder / "away")
        (self.folder / "tokens").mkdir()
        self._look_again()

    def plug_in(self) -> None:
        (self.folder / "tokens").rmdir()
        (self.folder / "away").rename(self.folder / "tokens")
        self._look_again()

    def _look_again(self) -> None:
        import pkcs11

        pkcs11.lib(self.module).reinitialize()


@contextmanager
def soft_token(folder: Path, label: str) -> Iterator[SoftToken]:
    """A new token, to which this process and those it starts speak meanwhile; skips where SoftHSM is not installed."""
    if MODULE is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM 2 is not installed; on Debian: apt-get install softhsm2")
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: pip install 'otaria[hsm]'")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\n")
    token = SoftToken(label=label, module=MODULE, folder=folder)
    token.pin_file.write_text(PIN + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        made = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "1357"]
        subprocess.run(made, check=True, capture_output=True, env=os.environ)
        token._look_again()  # the library reads its settings when it begins, perhaps for another test
        yield token
