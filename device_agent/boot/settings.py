"""`[boot]` of `agent.toml`: which boot loader the device has, and how often it boots what. Paths are absolute or of the
agent's folder."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from device_agent.boot.ledger import MAX_COUNT, MAX_SPARE, Limits
from device_agent.boot.restart import REBOOT

Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Spare = Annotated[int, Meta(ge=0, le=MAX_SPARE)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]
PathText = Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[^\x00]*\Z")]
Command = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(min_length=1, max_length=16)]


class Simulated(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="simulated"):
    """The file-backed board in `board`, whose boot loader has its own limits."""

    min_uptime_s: Seconds = 120.0


class _Real(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`attempts`: boots of a trial. `boots`: boots of a committed release that never stays up for `min_uptime_s`, before the
    previous one is taken. `spare`: clean shutdowns that cost no attempt. `program_port`: what `{port}` in health checks means."""

    attempts: Count = 3
    boots: Count = 8
    spare: Spare = MAX_SPARE
    min_uptime_s: Seconds = 120.0
    reboot: Command = REBOOT
    program_port: Annotated[int, Meta(ge=1, le=65535)] | None = None

    @property
    def limits(self) -> Limits:
        return Limits(tries=self.attempts, left=self.boots, spare=self.spare)


class Grub(_Real, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="grub"):
    """`environment`: the folder of the environment blocks, on FAT or ext4."""

    environment: PathText = "/boot/otaria"


class UBoot(_Real, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="u-boot"):
    """`state`: the raw partition of the two copies, for an environment that is not redundant. Without it: the redundant one that
    `config`, the file of `fw_setenv`, names."""

    config: PathText = "/etc/fw_env.config"
    state: PathText | None = None


class SystemdBootSettings(
    _Real, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="systemd-boot"
):
    """`entries`: `loader/entries` of the partition that systemd-boot reads. `templates`: the folder of `a.conf` and `b.conf`."""

    entries: PathText = "/efi/loader/entries"
    templates: PathText = "/etc/otaria/entries"


Boot = Simulated | Grub | UBoot | SystemdBootSettings
"""Told apart by `kind`."""


def placed(directory: Path, text: str) -> Path:
    """A path of the configuration."""
    return directory / text
