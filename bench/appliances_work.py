"""`python -m bench.appliances_work ours|bare FILE`: sessions with emulated boxes, so many at once, in one process that does
nothing else; FILE holds a `Work`. Prints the seconds for all, the memory of one session, and the seconds of each.

`ours` takes each box from one image to the next as a site agent does, with its settings, dialects, durable courses and SSH, from
the look at who it is to the commit. `bare` is what asyncssh costs by itself: it logs in once, says as many commands to each box
as ours did, and uploads the same file the same way.

The last boxes are done first, one after the other, so that what is loaded once is there before memory is looked at.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
from msgspec import Struct

from bench.boxes import KINDS, MODEL, NEW, Known
from bench.measure import peak_bytes, rss_bytes
from device_agent.appliances.course import Step
from device_agent.appliances.credentials import CredentialFrom
from device_agent.appliances.dialect_file import built_in, filled
from device_agent.appliances.driver import BoxImage
from device_agent.appliances.settings import BOXES, Appliance
from device_agent.appliances.site import pilot_of
from device_agent.effects import FileEffects
from simulator.appliances.image import digests_of
from simulator.appliances.server import DIALOGUES, PASSWORD, USER
from simulator.appliances.upgrade import upgrade

ASKED = {"sonic": "show version", "iosxe": "show version", "openwrt": "uci export", "dual-image": "show images"}
"""What a bare session says again and again."""

Session = Callable[[], Awaitable[None]]


class Work(Struct, frozen=True, kw_only=True):
    """`images`: the file of the new image by kind. `commands`: by box, how many a bare session says."""

    directory: str
    boxes: list[Known]
    images: dict[str, str]
    at_once: int
    commands: dict[str, int] = {}


def main(arguments: list[str]) -> None:
    """As the module says."""
    work = msgspec.json.decode(Path(arguments[1]).read_bytes(), type=Work)
    sessions = {"ours": _ours, "bare": _bare}[arguments[0]](work)
    print(json.dumps(asyncio.run(_measured(sessions, work.at_once))), flush=True)


async def _measured(sessions: dict[str, Session], at_once: int) -> dict[str, Any]:
    """The last of them one by one; then the others, so many at once."""
    names, places, took = list(sessions), asyncio.Semaphore(at_once), dict[str, float]()

    async def hold(name: str) -> None:
        async with places:
            began = time.perf_counter()
            await sessions[name]()
            took[name] = time.perf_counter() - began

    for name in names[-len(KINDS) :]:
        await sessions[name]()
    gc.collect()
    before, began = rss_bytes(os.getpid()), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for name in names[: -len(KINDS)]:
            group.create_task(hold(name))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "session_bytes": (peak_bytes() - before) / at_once, "took": took}


def _ours(work: Work) -> dict[str, Session]:
    """A site agent's own way with each box. All pilots are made before anything is measured, as a site agent makes them."""
    directory, effects = Path(work.directory), FileEffects()
    secret = directory / "secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    images = {kind: _image(Path(path)) for kind, path in work.images.items()}

    def session(box: Known) -> Session:
        home = directory / BOXES / box.name
        home.mkdir(parents=True)
        pilot = pilot_of(directory, home, _settings(box), effects)

        async def take() -> None:
            story = await upgrade(pilot, images[box.kind])
            if story.course.step is not Step.COMMITTED:
                raise RuntimeError(f"{box.name} ended {story.course.step.value}: {story.texts} {story.course.why}")

        return take

    return {box.name: session(box) for box in work.boxes}


def _settings(box: Known) -> Appliance:
    return Appliance(
        name=box.name,
        address="127.0.0.1",
        port=box.port,
        user=USER,
        host_keys=(box.host_key,),
        dialect=box.kind,
        serial=box.serial,
        model=MODEL,
        password=CredentialFrom(file="secret"),
        single_image="one-way",
        compare=("interfaces",),
        settle_s=0,
    )


def _image(path: Path) -> BoxImage:
    return BoxImage(
        path=str(path), name=_remote_name(), version=NEW, length=path.stat().st_size, digests=digests_of(path)
    )


def _remote_name() -> str:
    return f"{NEW}.bin"


def _bare(work: Work) -> dict[str, Session]:
    """asyncssh alone."""

    def session(box: Known) -> Session:
        upload, local = built_in(box.kind).upload, work.images[box.kind]
        remote, prompt = filled(upload.to, {"name": _remote_name()}), DIALOGUES[box.kind][1]

        async def take() -> None:
            async with _connected(box) as line:
                if prompt is None:
                    for _ in range(work.commands[box.name]):
                        await line.run(ASKED[box.kind])
                else:
                    await _type(line, prompt, ASKED[box.kind], work.commands[box.name])
                if upload.by == "scp":
                    await asyncssh.scp(local, (line, remote))
                else:
                    async with line.start_sftp_client() as files:
                        await files.put(local, remote)

        return take

    return {box.name: session(box) for box in work.boxes}


def _connected(box: Known) -> Any:
    return asyncssh.connect(
        "127.0.0.1",
        box.port,
        username=USER,
        password=PASSWORD,
        known_hosts=([asyncssh.import_public_key(box.host_key)], [], []),
        client_keys=[],
        config=None,
        agent_path=None,
        encryption_algs="^aes128-gcm@openssh.com",
    )


async def _type(line: asyncssh.SSHClientConnection, prompt: str, command: str, times: int) -> None:
    async with line.create_process(term_type="vt100") as terminal:
        for _ in range(times):
            await terminal.stdout.readuntil(prompt)
            terminal.stdin.write(f"{command}\n")
        await terminal.stdout.readuntil(prompt)


if __name__ == "__main__":
    main(sys.argv[1:])
