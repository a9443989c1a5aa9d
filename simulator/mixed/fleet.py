"""Puts the sites together: enrols everybody, nearest to the server first, and gives everybody power."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from simulator.appliances.box import Box, Times, make_box
from simulator.appliances.hall import powered
from simulator.appliances.image import ImageFacts, make_image
from simulator.appliances.server import BoxServer
from simulator.board import Board
from simulator.lab import HARDWARE as BOARD
from simulator.lab import Lab
from simulator.mixed import hosts
from simulator.mixed.hosts import Host, Racks
from simulator.mixed.observer import Probe, answers_well, greets
from simulator.mixed.sites import APPLIANCE, DEVICE, HOST, Member, labels_of, layers
from simulator.mixed.uplink import NOWHERE, Uplink
from simulator.site_agent import SiteAgent

VENDOR = "sonic"
ROUTER_HARDWARE = "sonic-m1"
OLD_ROUTER, NEW_ROUTER = "202205.1", "202311.2"
AT_ONCE = 3
"""Enrolments at the same time."""
TIMES = Times(boot_s=3.0, install_s=0.5)
INTERVALS = """
[intervals]
ask_min_s = 0.5
ask_max_s = 2.0
retry_min_s = 0.5
retry_max_s = 2.0
resend_min_s = 1.0
resend_max_s = 5.0
reconnect_min_s = 0.2
reconnect_max_s = 1.0
doorbell_spread_s = 0.2

"""


@dataclass(kw_only=True)
class Fleet:
    """Everybody by name: their target's id, and what of them is in our hands."""

    members: Sequence[Member]
    boxes: Mapping[str, BoxServer]
    targets: dict[str, str] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    boards: dict[str, Board] = field(default_factory=dict)
    sites: dict[str, SiteAgent] = field(default_factory=dict)
    uplinks: dict[str, Uplink] = field(default_factory=dict)

    def probes(self, daemons_port: int) -> dict[str, Probe]:
        """How to ask each, itself, whether it is up."""
        return {
            **{name: partial(greets, partial(_port_of, server)) for name, server in self.boxes.items()},
            **{name: partial(answers_well, lambda: daemons_port, f"/{name}") for name in self.hosts},
            **{
                name: partial(answers_well, partial(_program_port, one), "/health") for name, one in self.boards.items()
            },
        }

    def close(self) -> None:
        """End what is ours; the laboratory ends its boards."""
        for agent in self.sites.values():
            agent.kill()
        for host in self.hosts.values():
            host.close()
        for uplink in self.uplinks.values():
            uplink.close()

    def logs(self) -> str:
        """What everybody said last."""
        said = {
            **{name: one.log() for name, one in self.sites.items()},
            **{name: one.log() for name, one in self.hosts.items()},
            **{name: one.log() for name, one in self.boards.items()},
        }
        return "\n".join(f"--- {name}\n{text[-1500:]}" for name, text in said.items())


@contextmanager
def fleet_of(lab: Lab, members: Sequence[Member], rack: Racks, firmware: Path) -> Iterator[Fleet]:
    """Everybody enrolled and up, each behind its site's uplink. `firmware`: what the devices have from the factory."""
    image = make_image(lab.directory / "router-old.img", ImageFacts(kind=VENDOR, version=OLD_ROUTER))
    boxes = [_box(lab.directory / "boxes", one, image) for one in members if one.kind == APPLIANCE]
    with ExitStack() as stack:
        servers = stack.enter_context(powered(boxes))
        fleet = Fleet(members=members, boxes={server.box.directory.name: server for server in servers})
        stack.callback(fleet.close)
        _build(lab, fleet, rack, firmware)
        for layer in layers(members):
            _enrol(lab, fleet, layer)
        _connect(fleet)
        for site in fleet.sites.values():
            site.start()
        for host in fleet.hosts.values():
            host.start()
        for board in fleet.boards.values():
            board.power_on()
        yield fleet


def _box(home: Path, member: Member, image: Path) -> Box:
    return make_box(home / member.name, VENDOR, serial=f"SN-{member.name}", model="M-1", image=image, times=TIMES)


def _build(lab: Lab, fleet: Fleet, rack: Racks, firmware: Path) -> None:
    """Everything but the claims: roots, slots, and the site agents' settings."""
    for site in dict.fromkeys(one.site for one in fleet.members):
        mine = {one.name: fleet.boxes[one.name] for one in fleet.members if one.site == site and one.kind == APPLIANCE}
        fleet.sites[site] = SiteAgent(lab.directory / "sites" / site, mine, settings=INTERVALS)
    for one in fleet.members:
        if one.kind == HOST:
            fleet.hosts[one.name] = rack.host(one.name, INTERVALS)
        if one.kind == DEVICE:
            board = fleet.boards[one.name] = lab.make_board(one.name, firmware)
            (board.agent_directory / "agent.toml").write_text(INTERVALS)


def _enrol(lab: Lab, fleet: Fleet, layer: Sequence[Member]) -> None:
    """Some at a time, with labels that name those above them."""
    hardware = {APPLIANCE: ROUTER_HARDWARE, HOST: hosts.HARDWARE, DEVICE: BOARD}

    def enrol(one: Member) -> str:
        labels = labels_of(one, fleet.targets)
        return lab.enrol(one.name, _home(fleet, one), hardware[one.kind], labels=labels)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(enrol, layer))
    fleet.targets.update(zip((one.name for one in layer), found, strict=True))


def _home(fleet: Fleet, member: Member) -> Path:
    if member.kind == APPLIANCE:
        return fleet.sites[member.site].home(member.name)
    return (fleet.hosts if member.kind == HOST else fleet.boards)[member.name].agent_directory


def _connect(fleet: Fleet) -> None:
    """From now on everybody at a site reaches the server through the site's routers."""
    for site in fleet.sites:
        mine = [one for one in fleet.members if one.site == site]
        cores, edges = ([fleet.boxes[one.name].box for one in mine if one.role == role] for role in ("core", "edge"))
        fleet.uplinks[site] = Uplink(_home(fleet, mine[0]), edge=edges[0], cores=cores)
        for one in mine:
            fleet.uplinks[site].adopt(_home(fleet, one))


def _port_of(server: BoxServer) -> int:
    return server.port


def _program_port(board: Board) -> int:
    """Where the program in the board's active slot listens. Raises `OSError` or `ValueError` while nobody knows."""
    status = json.loads((board.directory / "run" / "status.json").read_bytes())
    return int(status["program_port"] or NOWHERE)
