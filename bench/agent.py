"""A real `otaria-agent run` on a real server: from its start until the broker announces it, and what it keeps resident and takes
of a processor while it has nothing to do. All its processes count; what counts as idle begins when its worker has ended."""

import subprocess
import sys
import time
from dataclasses import dataclass

from bench.measure import MIB, cpu_s, family, family_pss_bytes, rss_bytes
from bench.plan import Plan
from bench.result import Outcome, against_limit
from firmware.protocol import topics
from firmware.protocol.codec import convert, parse_json
from firmware.protocol.report import MAX_PRESENCE_BYTES, Presence
from server.transport.broker import find_mosquitto
from simulator.board import Board
from simulator.hostile import Eve, Seen
from simulator.images import RELEASES, build_demo_images
from simulator.lab import Lab

ROUNDS = 5
START_LIMIT_S, IDLE_LIMIT_MIB = 1.0, 30.0
IDLE_LIMIT_CORE = 0.1
WORKER_IDLE_S = 2.0
"""So long these agents keep a worker, so that the rounds are short; what is resident afterwards does not depend on it."""
WATCHED_S = 60
"""How long an idle agent's processor time is watched, in the first round; before that it had no worker for as long."""

TIMEOUT_S, POLL_S = 60.0, 0.002


def agent(plan: Plan) -> list[Outcome]:
    """Cold start and idle memory, against the limits the project has set itself."""
    image = build_demo_images(plan.cache, plan.scratch / "images", RELEASES[:1])[0].path
    kind = "mosquitto" if find_mosquitto() else "embedded"
    lab = Lab(plan.scratch / "lab", broker=kind, hostile=True)  # its broker lets us watch presence
    try:
        lab.prepare()
        lab.start_server()
        board = lab.board("one", image)
        watcher = _watcher(lab)
        try:
            _first_boot(lab, board, watcher)
            rounds = [
                _start(lab, board, watcher, watched_s=0 if turn else plan.size(WATCHED_S))
                for turn in range(plan.rounds(ROUNDS))
            ]
        finally:
            watcher.close()
    finally:
        lab.close()
    return [
        against_limit(
            "agent.start",
            "s until connected",
            [one.start_s for one in rounds],
            START_LIMIT_S,
            f"limit {START_LIMIT_S:g} s",
        ),
        against_limit(
            "agent.idle.pss", "MiB", [one.pss_mib for one in rounds], IDLE_LIMIT_MIB, f"limit {IDLE_LIMIT_MIB:g} MiB"
        ),
        against_limit(
            "agent.idle.rss",
            "MiB",
            [one.rss_mib for one in rounds],
            IDLE_LIMIT_MIB,
            f"limit {IDLE_LIMIT_MIB:g} MiB (of PSS)",
        ),
        against_limit(
            "agent.idle.cpu", "% of a core", [rounds[0].core_percent], IDLE_LIMIT_CORE, f"limit {IDLE_LIMIT_CORE:g} %"
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one round found."""

    start_s: float
    pss_mib: float
    rss_mib: float
    core_percent: float


def _watcher(lab: Lab) -> Eve:
    if lab.broker is None:
        raise RuntimeError("This laboratory has no broker of its own to watch.")
    return lab.broker.eve()


def _first_boot(lab: Lab, board: Board, watcher: Eve) -> None:
    """Let the boot loader boot the factory image once, so that the agent finds a booted board. Ends by a power cut, because
    then the last will says when the broker has noticed."""
    (board.agent_directory / "agent.toml").write_text(f"[intervals]\nworker_idle_s = {WORKER_IDLE_S}\n")
    board.power_on()
    _wait_for(lab, board, watcher, online=True, since=0)
    heard = len(watcher.seen)
    board.power_cut()
    _wait_for(lab, board, watcher, online=False, since=heard)


def _start(lab: Lab, board: Board, watcher: Eve, *, watched_s: float) -> _Found:
    """Start an agent, and look at it when it is connected, has no worker any more and does nothing."""
    heard, began = len(watcher.seen), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "device_agent.cli", "--dir", str(board.agent_directory), "run"],
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(lab, board, watcher, online=True, since=heard)
        took_s = time.perf_counter() - began
        _wait_until_alone(process.pid, watched_s or 2 * WORKER_IDLE_S)
        found = _Found(
            start_s=took_s,
            pss_mib=family_pss_bytes(process.pid) / MIB,
            rss_mib=rss_bytes(process.pid) / MIB,
            core_percent=_core_percent(process.pid, watched_s) if watched_s else 0.0,
        )
        heard = len(watcher.seen)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
    _wait_for(lab, board, watcher, online=False, since=heard)
    return found


def _wait_until_alone(pid: int, quiet_s: float) -> None:
    """Until an agent's worker has come and gone, and none has come for so long."""
    deadline, since = time.monotonic() + TIMEOUT_S + 3 * quiet_s, time.monotonic()
    while time.monotonic() - since < quiet_s:
        if len(family(pid)) > 1:
            since = time.monotonic()
        if time.monotonic() > deadline:
            raise RuntimeError("The agent has a worker again and again, and nothing to do.")
        time.sleep(POLL_S * 10)


def _core_percent(pid: int, watched_s: float) -> float:
    """How much of a processor it takes, in percent of one core."""
    began, before = time.monotonic(), cpu_s(pid)
    time.sleep(watched_s)
    return 100 * (cpu_s(pid) - before) / (time.monotonic() - began)


def _wait_for(lab: Lab, board: Board, watcher: Eve, *, online: bool, since: int) -> None:
    """Until the agent (or its last will) says this about its presence, after the first `since` messages."""
    topic, deadline = topics.presence(board.target), time.monotonic() + TIMEOUT_S
    while not any(_says(message, topic, online) for message in watcher.seen[since:]):
        if time.monotonic() > deadline:
            raise RuntimeError(f"No presence in {TIMEOUT_S:g} s. {board.log()} {lab.server_log()}")
        time.sleep(POLL_S)


def _says(message: Seen, topic: str, online: bool) -> bool:
    return (
        message.topic == topic
        and convert(parse_json(message.payload, max_bytes=MAX_PRESENCE_BYTES), Presence).online is online
    )
