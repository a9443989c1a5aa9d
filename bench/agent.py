"""A real `otaria-agent run` on a real server: from its start until the broker announces it, and what it keeps resident."""

import subprocess
import sys
import time

from bench.measure import MIB, pss_bytes, rss_bytes
from bench.plan import Plan
from bench.result import Outcome, against_limit
from firmware.protocol import topics
from firmware.protocol.codec import convert, parse_json
from firmware.protocol.report import MAX_PRESENCE_BYTES, Presence
from server.transport.broker import find_mosquitto
from simulator.hostile import Eve, Seen
from simulator.images import RELEASES, build_demo_images
from simulator.lab import Board, Lab

ROUNDS = 5
START_LIMIT_S, IDLE_LIMIT_MIB = 1.0, 30.0
SETTLE_S = 3.0
"""How long an agent is left alone before its memory is read."""

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
            starts, pss, rss = zip(*(_start(lab, board, watcher) for _ in range(plan.rounds(ROUNDS))), strict=True)
        finally:
            watcher.close()
    finally:
        lab.close()
    return [
        against_limit("agent.start", "s until connected", starts, START_LIMIT_S, f"limit {START_LIMIT_S:g} s"),
        against_limit("agent.idle.pss", "MiB", pss, IDLE_LIMIT_MIB, f"limit {IDLE_LIMIT_MIB:g} MiB"),
        against_limit("agent.idle.rss", "MiB", rss, IDLE_LIMIT_MIB, f"limit {IDLE_LIMIT_MIB:g} MiB (of PSS)"),
    ]


def _watcher(lab: Lab) -> Eve:
    if lab.broker is None:
        raise RuntimeError("This laboratory has no broker of its own to watch.")
    return lab.broker.eve()


def _first_boot(lab: Lab, board: Board, watcher: Eve) -> None:
    """Let the boot loader boot the factory image once, so that the agent finds a booted board. Ends by a power cut, because
    then the last will says when the broker has noticed."""
    board.power_on()
    _wait_for(lab, board, watcher, online=True, since=0)
    heard = len(watcher.seen)
    board.power_cut()
    _wait_for(lab, board, watcher, online=False, since=heard)


def _start(lab: Lab, board: Board, watcher: Eve) -> tuple[float, float, float]:
    """Seconds until connected, then PSS and RSS in MiB after a while without anything to do."""
    heard, began = len(watcher.seen), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "device_agent.cli", "--dir", str(board.agent_directory), "run"],
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(lab, board, watcher, online=True, since=heard)
        took_s = time.perf_counter() - began
        time.sleep(SETTLE_S)
        memory = pss_bytes(process.pid) / MIB, rss_bytes(process.pid) / MIB
        heard = len(watcher.seen)
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
    _wait_for(lab, board, watcher, online=False, since=heard)
    return (took_s, *memory)


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
