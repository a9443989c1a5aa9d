"""A world on the wire: a real server, its database and a real Mosquitto, releases published, and devices before them."""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from firmware.errors import RefusedError, UnavailableError
from firmware.images.slot_image import build_slot_image
from server.transport.broker import find_mosquitto
from simulator.hostile import HostileBroker
from simulator.lab import Firmware, Lab
from simulator.postgresql import Cluster
from simulator.virtual.deeds import POSTGRESQL, SQLITE
from simulator.virtual.world import FACTORY, Member, Release
from simulator.wire.crew import Crew
from simulator.wire.hub import allow_files
from simulator.wire.keeper import Keeper
from simulator.wire.plan import Plan, Pulse, Tempo

PROGRAM = b"# a simulated device has no processor for this\n"
PAYLOAD = 96 * 1024
"""Bytes of an image beside its frame: what is fetched for real. How long that takes is the world's word."""
CHANGED = 24 * 1024
"""Of which so many are other ones in the next release."""
DEVICES_EACH = 5000
"""Devices in a process at most."""
FILES = 60_000


class Scene:
    """`members`: who is there from the beginning, and `later` who may join. `say` is told what is done; `published`: how many of
    the releases are from the beginning, all unless given. `shuts_out`: whether somebody will be, who then has to stay away from
    the broker. `database`: one of `DATABASES`. Nothing runs before `open`. Raises `UnavailableError` where a program is missing
    that it needs."""

    def __init__(
        self,
        directory: Path,
        *,
        product: str,
        members: Sequence[Member],
        later: Sequence[Member] = (),
        releases: Sequence[Release],
        seed: int,
        begins: float,
        tempo: Tempo,
        processes: int = 1,
        published: int | None = None,
        shuts_out: bool = False,
        database: str = SQLITE,
        on_pulse: Callable[[Pulse], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        if find_mosquitto() is None:
            raise UnavailableError(
                "no-mosquitto", "Mosquitto is missing: apt-get install mosquitto, and run this again."
            )
        self.directory, self.product, self.releases = directory, product, list(releases)
        self.members = {one.id: one for one in members}
        self._hardware = sorted({one.hardware for one in (*members, *later)})
        most = len(members) + len(later)
        self.database = Cluster() if database == POSTGRESQL else None
        self.lab = Lab(
            directory / "server",
            broker="mosquitto",
            hostile=True,
            most_agents=most + 100,
            database=self.database,
        )
        self._seed, self._begins, self._tempo = seed, begins, tempo
        self._processes = max(processes, -(-most // DEVICES_EACH))
        self._on_pulse, self._say = on_pulse, say
        self._published = len(releases) if published is None else published
        self._crew: Crew | None = None
        self._shuts_out = shuts_out
        self._keeper: Keeper | None = None

    @property
    def crew(self) -> Crew:
        if self._crew is None:
            raise RefusedError("not-open", "The scene is not open yet.")
        return self._crew

    @property
    def broker(self) -> HostileBroker:
        if self.lab.broker is None:
            raise RefusedError("not-open", "The scene has no broker yet.")
        return self.lab.broker

    @property
    def names(self) -> Mapping[str, str]:
        """By target, the world's name of it."""
        return {target: member for member, target in [*self.crew.targets.items()]}

    def open(self, on_enrolled: Callable[[int], None] = lambda _: None) -> None:
        """Start the server, publish the releases, enrol the devices. They have no power yet."""
        allow_files(FILES)
        self._say("starting the server, its database and Mosquitto")
        if self.database is not None:
            self.database.start()
        self.lab.prepare(self.product)
        self.lab.start_server()
        if self._shuts_out:
            self._keeper = Keeper(self.broker.revocation_lists, self.broker.read_lists)
            self._keeper.start()
        if self._published:
            self._say("publishing the releases")
        self._build(FACTORY, 1)
        for number, release in enumerate(self.releases[: self._published], start=2):
            self.publish(release, number)
        self._say("enrolling the devices")
        self._crew = Crew(list(self._plans()), self._on_pulse)
        self._crew.enrol(on_enrolled)

    def publish(self, release: Release, number: int) -> None:
        """Build, sign and publish a release under this counter; the devices know what it does to them if the scene's releases
        have it."""
        hardware = release.hardware or self._hardware
        path = self._build(release.version, number)
        firmware = Firmware(version=release.version, counter=number, path=path)
        self.lab.publish(firmware, product=self.product, hardware=hardware)

    def join(self, member: Member) -> None:
        """Let somebody with a claim token of its own enrol one more device; returns at once."""
        self.crew.join(member, self.lab.claim(uses=1, labels=dict(member.labels)))

    def take_out(self, member: str) -> None:
        """Take a device away, and its target out of the fleet for ever, as a person does whose device is replaced."""
        self.crew.leave((member,))
        self.lab.rest.post(f"/fleet/{self.crew.targets[member]}/decommission", {"reason": "It is replaced."})

    def close(self) -> None:
        if self._crew is not None:
            self._crew.close()
        if self._keeper is not None:
            self._keeper.stop()
        self.lab.close()
        if self.database is not None:
            self.database.close()

    def _build(self, version: str, counter: int) -> Path:
        """An image whose bytes are mostly those of the others."""
        path = self.directory / "images" / f"{version}.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        same = random.Random(self._seed).randbytes(PAYLOAD - CHANGED)  # noqa: S311 - filling, not secrets
        own = random.Random(f"{self._seed}/{version}").randbytes(CHANGED)  # noqa: S311
        payload: list[tuple[str, Path | bytes]] = [("payload/a", same), ("payload/b", own)]
        build_slot_image(path, product=self.product, version=version, counter=counter, program=PROGRAM, payload=payload)
        return path

    def _plans(self) -> Sequence[Plan]:
        claims = self._claims()
        members, each = list(self.members.values()), -(-len(self.members) // self._processes)
        plans = []
        for number in range(self._processes):
            own = tuple(members[number * each : (number + 1) * each])
            if not own:
                continue
            plans.append(
                Plan(
                    number=number,
                    directory=self.directory / f"devices-{number}",
                    product=self.product,
                    seed=self._seed,
                    begins=self._begins,
                    factory=self.directory / "images" / f"{FACTORY}.img",
                    members=own,
                    claims=tuple(claims[_key(one.labels)] for one in own),
                    releases=tuple(self.releases),
                    tempo=self._tempo,
                )
            )
        return plans

    def _claims(self) -> Mapping[tuple[tuple[str, str], ...], str]:
        """A claim token for each set of labels, with as many uses as devices have them."""
        uses: defaultdict[tuple[tuple[str, str], ...], int] = defaultdict(int)
        for one in self.members.values():
            uses[_key(one.labels)] += 1
        return {key: self.lab.claim(uses=number, labels=dict(key)) for key, number in uses.items()}


def _key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))
