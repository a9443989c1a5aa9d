"""`python -m bench.listeners PORT FIRST NUMBER`: so many connected devices that wait for orders, each on a socket of its own.

Says `ready` when all have subscribed, and then prints at which time on the machine's monotonic clock the last of them had its.
"""

import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

from bench.crowd import name_of
from bench.hall import allow_files
from firmware.protocol import topics
from firmware.protocol.topics import Leaf
from simulator.hostile import HOST
from simulator.wire import packets as wire

DEADLINE_S = 300.0


@dataclass
class Listener:
    """One device's connection."""

    link: socket.socket
    stream: wire.Stream = field(default_factory=wire.Stream)
    has_order: bool = False


def listen(port: int, first: int, number: int) -> float:
    """When the last had its order. Raises `RuntimeError` when that took too long."""
    with selectors.DefaultSelector() as selector:
        for place in range(first, first + number):
            link = _connected(port, name_of(place))
            selector.register(link, selectors.EVENT_READ, Listener(link))
        print("ready", flush=True)
        left, deadline = number, time.monotonic() + DEADLINE_S
        while left:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{left} of {number} devices got no order.")
            for key, _ in selector.select(timeout=1.0):
                left -= _hear(key.data)
    return time.monotonic()


def _connected(port: int, name: str) -> socket.socket:
    link, stream = socket.create_connection((HOST, port)), wire.Stream()
    link.sendall(wire.connect(name))
    wire.await_packet(link, stream, wire.CONNACK)
    link.sendall(wire.subscribe(1, *topics.for_agent(name)))
    wire.await_packet(link, stream, wire.SUBACK)
    return link


def _hear(listener: Listener) -> bool:
    """Read what came; whether it is the first order."""
    before = listener.has_order
    for kind, flags, body in listener.stream.feed(listener.link.recv(wire.CHUNK)):
        if kind == wire.PUBLISH:
            topic, _, number = wire.message(flags, body)
            listener.link.sendall(wire.puback(number) if number else b"")
            listener.has_order = listener.has_order or topic.endswith(Leaf.ORDER)
    return listener.has_order and not before


def main(arguments: list[str]) -> None:
    """As the module says."""
    allow_files()
    print(listen(*map(int, arguments)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
