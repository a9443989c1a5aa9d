"""The releases that the guests are updated to: good ones, and one for each way in which a new slot fails."""

from dataclasses import dataclass, field

from firmware.manifest import HealthCheck
from tests.boot.guest import Change

UNITS = "etc/systemd/system"
SELF_TEST = (HealthCheck(kind="command", argv=["/usr/lib/gateway/self-test"], timeout_s=60.0, tries=2, pause_s=1.0),)
FACTORY, GOOD, PANICS, UNHEALTHY, CORRUPT = "1.0.0", "2.0.0", "3.1.0", "3.2.0", "3.3.0"
SILENT, HANGS, FREEZES, CUT, LOOPS = "3.4.0", "3.5.0", "3.6.0", "4.0.0", "5.0.0"
SOURCE, NEXT, PREVIOUS, LAST = "6.0.0", "6.1.0", "7.0.0", "7.1.0"
CRASHES = "/var/lib/otaria-agent/crashes"
HANG_UNIT = """\
[Unit]
DefaultDependencies=no
After=otaria-early-watchdog.service
Before=sysinit.target

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sleep infinity
"""
FREEZE_UNIT = """\
[Unit]
After=otaria-agent.service

[Service]
ExecStart=/usr/lib/gateway/freeze
"""
NO_COMMIT = "#!/bin/sh\n# Whatever freezes the machine comes first.\nsleep 50\n"
FREEZE = """\
#!/bin/sh
sleep 5
# A program of the highest priority that never ends: on the one core nothing else runs any more, not even init.
echo -1 >/proc/sys/kernel/sched_rt_runtime_us
echo otaria-step:freezes: >/dev/console
exec chrt --fifo 99 /bin/sh -c 'while :; do :; done'
"""
CRASH_UNIT = f"""\
[Unit]
ConditionPathExists={CRASHES}
RequiresMountsFor=/var/lib/otaria-agent
Before=otaria-agent.service

[Service]
Type=oneshot
ExecStart=/usr/lib/gateway/crash
"""
CRASH = "#!/bin/sh\necho otaria-step:crashes: >/dev/console\nexec systemctl reboot --force --force\n"
CRASH_HOOK = f'#!/bin/sh\n: >{CRASHES}\nexec "$(dirname "$0")/say"\n'


@dataclass(frozen=True, kw_only=True)
class Release:
    """A version, and what is changed in its slot."""

    version: str
    counter: int
    change: Change = field(default_factory=Change)


def _with_unit(name: str, unit: str, target: str, more: dict[str, str | None] | None = None) -> Change:
    files = {f"{UNITS}/{name}.service": unit, **(more or {})}
    return Change(files=files, links={f"{UNITS}/{target}.wants/{name}.service": f"/{UNITS}/{name}.service"})


_CHANGES = {
    FACTORY: Change(),
    GOOD: Change(),
    PANICS: Change(files={"sbin/init": "#!/bin/sh\nexit 1\n"}),
    UNHEALTHY: Change(files={"usr/lib/gateway/self-test": "#!/bin/sh\necho the pump does not answer\nexit 1\n"}),
    CORRUPT: Change(),
    SILENT: Change(links={f"{UNITS}/otaria-agent.service": "/dev/null"}),
    HANGS: _with_unit("hang", HANG_UNIT, "sysinit.target"),
    FREEZES: _with_unit(
        "freeze",
        FREEZE_UNIT,
        "multi-user.target",
        {"usr/lib/gateway/freeze": FREEZE, "etc/otaria/hooks/before-commit": NO_COMMIT},
    ),
    CUT: Change(),
    LOOPS: _with_unit(
        "crash",
        CRASH_UNIT,
        "multi-user.target",
        {"usr/lib/gateway/crash": CRASH, "etc/otaria/hooks/after-commit": CRASH_HOOK},
    ),
    SOURCE: Change(),
    NEXT: Change(),
    PREVIOUS: Change(),
    LAST: Change(),
}
"""In the order in which the tests publish them: whoever signs them wants a product's counters to rise."""
RELEASES = {
    version: Release(version=version, counter=counter, change=change)
    for counter, (version, change) in enumerate(_CHANGES.items(), start=1)
}
