"""`agent.toml`: what an operator may set. It is optional, every field has a default, unknown fields are refused.

Paths are relative to the agent's directory. What enrolment learnt is in `identity.json`, not here.
"""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from device_agent.appliances.settings import Appliance, require_usable
from device_agent.boot.settings import Boot, Simulated
from device_agent.core.values import DataPolicy, OwnWatch, Tuning
from device_agent.install.addresses import store_address
from device_agent.local.settings import AbsolutePath, HookSettings, LocalSettings, policy_of, require_sensible
from device_agent.metrics.settings import MetricSettings, require_measurable
from device_agent.packages.settings import DeviceTarget, HostTarget, Target
from device_agent.post import Pace
from device_agent.slots.places import Size, SlotTables, parse_size, places_of
from firmware.checks import MAX_CHECKS, HealthCheck, require_understood
from firmware.errors import RefusedError, UnavailableError
from firmware.manifest import Schema
from firmware.protocol.codec import canonical
from firmware.protocol.words import Label

if TYPE_CHECKING:  # a worker reads the configuration too, and has no use for the core
    from device_agent.runtime import Settings
    from device_agent.upkeep import UpkeepPace

CONFIG_FILE = "agent.toml"
MAX_BYTES = 8 << 20
"""A site agent may have many appliances, of a kilobyte each."""
MAX_LABELS_BYTES = 12288
"""All labels as JSON: with the rest of an inventory they fit into one report."""

SERVER_SOURCE, MQTT_SOURCE = "server", "mqtt"
"""Words that stand for the server's own listener, and for blocks over the broker."""

Address = Annotated[str, Meta(min_length=1, max_length=1024)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=86400)]


class Intervals(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds. Each pair is the least and most wait of a jittered, doubling retry. `upkeep_s`: between two looks at certificate
    and way; `upkeep_cut_off_s`: while the broker can't be reached; `upkeep_least_s`: at the least.
    `worker_idle_s`: how long a worker process without anything to do is kept."""

    ask_min_s: PositiveSeconds = 5.0
    ask_max_s: PositiveSeconds = 60.0
    retry_min_s: PositiveSeconds = 5.0
    retry_max_s: PositiveSeconds = 900.0
    resend_min_s: PositiveSeconds = 10.0
    resend_max_s: PositiveSeconds = 300.0
    reconnect_min_s: PositiveSeconds = 1.0
    reconnect_max_s: PositiveSeconds = 60.0
    progress_s: PositiveSeconds = 2.0
    doorbell_spread_s: PositiveSeconds = 5.0
    soak_s: PositiveSeconds = 3600.0
    upkeep_s: PositiveSeconds = 21600.0
    upkeep_cut_off_s: PositiveSeconds = 60.0
    upkeep_least_s: PositiveSeconds = 30.0
    worker_idle_s: PositiveSeconds = 10.0


class Health(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device itself wants of whatever release it runs, beside what the release wants. Seconds; see `OwnWatch`."""

    checks: Annotated[list[HealthCheck], Meta(max_length=MAX_CHECKS)] = []
    min_uptime_s: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    soak_s: Annotated[int, Meta(ge=0, le=86400)] = 0
    every_s: Annotated[float, Meta(gt=0, le=3600)] | None = None
    may_fail: Annotated[int, Meta(ge=0, le=1000)] | None = None
    heartbeat_s: Annotated[int, Meta(ge=0, le=86400)] | None = None
    failures: Annotated[int, Meta(ge=1, le=100)] | None = None
    on_regression: Literal["report", "rollback"] | None = None


class HardwareDog(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hardware watchdog: its `device` (empty: none), armed for trials or `always`, and the timeout asked of it in seconds."""

    device: Annotated[str, Meta(max_length=256, pattern=r"^(/[^\x00]*)?\Z")] = ""
    timeout_s: Annotated[int, Meta(ge=5, le=3600)] = 60
    always: bool = False


class DataSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Data beside the slots. `directory`: where its folders are (empty: there is none). `schema`: what is there from the factory.
    `link`: where what runs finds its folder, in a file system that a reboot empties. `keep_previous_s`: see `DataPolicy`."""

    directory: AbsolutePath = ""
    schema: Schema = 1
    link: AbsolutePath = "/run/otaria-agent/data"
    keep_previous_s: Annotated[float, Meta(ge=0, le=10 * 366 * 86400)] | None = None


class LogSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Logs on request. `allow`: whether the server may ask for them. `boot_argv`: prints the log of a boot, for people."""

    allow: bool = True
    boot_argv: Annotated[list[Annotated[str, Meta(max_length=512)]], Meta(max_length=32)] = []


class SourceTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A source with its own TLS authority. `ca`: a PEM file; none: those of the system."""

    url: Address
    ca: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[^\x00]*\Z")] | None = None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`target`: what is updated: a device, or the host itself. `slots`: where the slots are, by slot and slot set; empty: the
    files of the board. `board`: the board's directory. `boot`: the device's boot loader. `appliances`: the boxes that are updated
    over SSH; then the agent is a site agent, and none of its own device.
    `sources`: where artifacts come from, the best first: `server`, `mqtt`, or addresses. `download_rate`: bytes per second,
    0 for no limit. `labels`: facts about this target that campaigns may select by."""

    target: Target = DeviceTarget()
    slots: SlotTables = {}
    sources: Annotated[list[Address | SourceTable], Meta(min_length=1, max_length=8)] = msgspec.field(
        default_factory=lambda: [SERVER_SOURCE]
    )
    download_rate: Size = 0
    board: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[^\x00]*\Z")] = ".."
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    labels: Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=64)] = {}
    intervals: Intervals = Intervals()
    boot: Boot = Simulated()
    health: Health = Health()
    watchdog: HardwareDog = HardwareDog()
    hooks: HookSettings = HookSettings()
    local: LocalSettings = LocalSettings()
    data: DataSettings = DataSettings()
    logs: LogSettings = LogSettings()
    metrics: MetricSettings = MetricSettings()
    appliances: Annotated[list[Appliance], Meta(max_length=10_000)] = []


def load_config(directory: Path) -> Config:
    """Read `agent.toml` of an agent's directory; defaults when there is none. Raises `RefusedError` (`bad-config`)."""
    path = directory / CONFIG_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise UnavailableError("bad-config", f"{path} can't be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise RefusedError("bad-config", f"{path} has more than {MAX_BYTES} bytes.")
    try:
        raw = tomllib.loads(data.decode())
        config = msgspec.convert(raw, Config, strict=True)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:  # ValueError: also a number of 5,000 digits
        raise RefusedError("bad-config", f"{path}: {error}. Correct it and start again.") from error
    try:
        require_understood(config.health.checks)
        require_sensible(config.hooks, config.local)
        require_measurable(config.metrics.measured)
        require_usable(config.appliances)
    except RefusedError as error:
        raise RefusedError("bad-config", f"{path}: {error.text}") from error
    checks = [*raw.get("health", {}).get("checks", [])]
    checks += [one["check"] for one in raw.get("local", {}).get("conditions", [])]
    strange = sorted({name for check in checks for name in check} - (set(HealthCheck.__struct_fields__) - {"other"}))
    if strange:
        raise RefusedError("bad-config", f"{path}: a health check has no field {', '.join(strange)[:200]}.")
    places_of(config.slots)
    parse_size(config.download_rate)
    for url in source_urls(config):
        store_address(url)
    size = len(canonical(config.labels))
    if size > MAX_LABELS_BYTES:
        raise RefusedError("bad-config", f"{path}: the labels take {size} bytes; at most {MAX_LABELS_BYTES} fit.")
    return config


def source_urls(config: Config) -> list[str]:
    """The addresses among the sources."""
    named = [one if isinstance(one, str) else one.url for one in config.sources]
    return [name for name in named if name not in (SERVER_SOURCE, MQTT_SOURCE)]


def runtime_settings(config: Config, agent_version: str) -> "Settings":
    """The runtime's settings out of the configuration."""
    wait = config.intervals
    from device_agent.runtime import Settings

    return Settings(
        tuning=Tuning(
            retry_min_s=wait.retry_min_s,
            retry_max_s=wait.retry_max_s,
            ask_min_s=wait.ask_min_s,
            ask_max_s=wait.ask_max_s,
            soak_s=wait.soak_s,
            own_watch=_own_watch(config.health),
            consent_required=config.local.consent == "required",
            max_defer_s=config.local.max_defer_s,
            data=_data_policy(config.data),
            clear_first=policy_of(config.hooks, config.local).asks_before_activation,
        ),
        agent_version=agent_version,
        labels=dict(config.labels),
        pace=Pace(resend_min_s=wait.resend_min_s, resend_max_s=wait.resend_max_s),
        progress_s=wait.progress_s,
        doorbell_spread_s=wait.doorbell_spread_s,
        own_checks=tuple(config.health.checks),
        min_uptime_s=config.boot.min_uptime_s,
        survey_s=config.target.survey_s if isinstance(config.target, HostTarget) else None,
    )


def upkeep_pace(config: Config) -> "UpkeepPace":
    """How often certificate and way are looked at."""
    wait = config.intervals
    from device_agent.upkeep import UpkeepPace

    return UpkeepPace(every_s=wait.upkeep_s, cut_off_s=wait.upkeep_cut_off_s, least_s=wait.upkeep_least_s)


def _data_policy(data: DataSettings) -> DataPolicy | None:
    return DataPolicy(factory_schema=data.schema, keep_s=data.keep_previous_s) if data.directory else None


def _own_watch(health: Health) -> OwnWatch:
    return OwnWatch(**{name: getattr(health, name) for name in OwnWatch.__struct_fields__})
