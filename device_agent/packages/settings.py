"""`[target]` of `agent.toml`: what the agent updates. A device, or the host whose OS packages it installs."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from device_agent.boot.restart import REBOOT
from device_agent.drain.settings import DrainSettings
from device_agent.local.settings import AbsolutePath

Argv = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=1024)], ...], Meta(max_length=32)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class DeviceTarget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="device"):
    """A device with slots A and B."""


class HostTarget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="host"):
    """The host that the agent runs on. `restart`: whether it may be restarted for what was installed. `restart_services`:
    whether services that run files which are gone are. `way_back`: whether the present package files must be at hand before
    anything is installed. `snapshot`, `restore`: commands that take and bring back a snapshot of the file system.
    `previous_kernel`: one that lets the boot loader start the previous kernel once. `lock_s`: how long another package manager
    is waited for. `keep_free_mib`: what must stay free. `survey_s`: how often the packages are looked at. `root`, `apt_config`:
    another root than `/`, with its own apt.conf. `drain`: what takes the host out of service meanwhile."""

    restart: Literal["if-needed", "never"] = "if-needed"
    restart_services: bool = True
    way_back: Literal["required", "if-possible"] = "required"
    snapshot: Argv = ()
    restore: Argv = ()
    previous_kernel: Argv = ()
    needrestart: Argv = ("needrestart", "-b")
    reboot: Argv = REBOOT
    lock_s: Seconds = 600.0
    install_s: Seconds = 7200.0
    hook_s: Seconds = 600.0
    survey_s: Seconds = 3600.0
    keep_free_mib: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    root: AbsolutePath = "/"
    apt_config: AbsolutePath = ""
    drain: DrainSettings | None = None


Target = DeviceTarget | HostTarget
"""Told apart by `kind`."""
