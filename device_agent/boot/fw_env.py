"""A ledger in U-Boot's own environment, through libubootenv's `fw_printenv` and `fw_setenv`.

All variables are set in one run of `fw_setenv -s -`, which writes the older of the two copies whole and flushes it (seen
with strace, libubootenv 0.3.2): after a power cut the old environment or the new one is there. With one copy a torn write
would leave U-Boot's defaults, so an environment without redundancy is refused.
"""

from pathlib import Path

from device_agent.boot.cells import Stored
from device_agent.boot.ledger import PREFIX, Ledger, from_variables, to_variables
from device_agent.ports import Effects
from firmware.errors import RefusedError, UnavailableError

TOOL_S = 30.0
MAX_CONFIG_BYTES = 65536
MAX_PRINTED_BYTES = 1 << 20


class FwEnv:
    """`Store` in a redundant U-Boot environment that the tools' configuration names."""

    def __init__(self, effects: Effects, config: Path) -> None:
        self._effects, self._config = effects, config

    def load(self) -> Stored | None:
        """None when neither copy is whole, or none of it is ours."""
        try:
            printed = self._effects.run(["fw_printenv", "-c", str(self._config)], timeout_s=TOOL_S)
        except OSError:
            return None
        lines = printed[:MAX_PRINTED_BYTES].decode(errors="replace").splitlines()
        ledger = from_variables(dict(line.partition("=")[::2] for line in lines if line.startswith(PREFIX)))
        return None if ledger is None else Stored(ledger=ledger, is_sound=True)

    def save(self, ledger: Ledger) -> None:
        """One run of `fw_setenv`, then a flush of both copies. Raises `RefusedError` (`boot-environment-single`)."""
        devices = self._devices()
        script = "".join(f"{name}={value}\n" for name, value in to_variables(ledger).items())
        self._effects.run(["fw_setenv", "-c", str(self._config), "-s", "-"], data=script.encode(), timeout_s=TOOL_S)
        for device in devices:
            self._effects.fsync(device)

    def create(self, ledger: Ledger) -> None:
        """Put the ledger's variables beside those that U-Boot has; an environment that was never saved must be saved there
        first."""
        try:
            self.save(ledger)
        except OSError as error:
            text = f"The U-Boot environment can't be written ({error.strerror}); run `saveenv` in U-Boot once, then try again."
            raise UnavailableError("boot-environment-lost", text) from error

    def _devices(self) -> list[Path]:
        """The copies, of which there must be two."""
        try:
            text = self._effects.read_at(self._config, 0, MAX_CONFIG_BYTES).decode(errors="replace")
        except OSError as error:
            raise UnavailableError("bad-config", f"{self._config} can't be read: {error.strerror}.") from error
        lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if len(lines) != 2:
            raise RefusedError(
                "boot-environment-single",
                f"{self._config} names {len(lines)} copies of the environment and two are needed, because a torn write of a "
                "single one leaves U-Boot's defaults; add the redundant copy, or name a `state` partition in [boot].",
            )
        return [Path(line[0]) for line in lines]
