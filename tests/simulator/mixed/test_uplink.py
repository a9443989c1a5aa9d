"""The mixed demo's uplinks: what a site says really goes through its routers."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simulator.appliances.box import Box
from simulator.mixed.uplink import Uplink


@contextmanager
def uplink(directory: Path, port: int) -> Iterator[tuple[Uplink, Box, list[Box]]]:
    identity = {"https_url": f"https://127.0.0.1:{port}", "mqtt_port": port, "agent": "a"}
    (directory / "identity.json").write_text(json.dumps(identity))
    edge, *cores = (Box(directory=directory / name, alive=True) for name in ("edge", "core-a", "core-b"))
    one = Uplink(directory, edge=edge, cores=cores)
    one.adopt(directory)
    try:
        yield one, edge, cores
    finally:
        one.close()


def passes(port: int, server: socket.socket) -> bool:
    """Whether a word comes through."""
    with socket.create_connection(("127.0.0.1", port), 30) as near:
        near.settimeout(30)
        server.settimeout(0.5)
        try:
            far, _ = server.accept()
        except TimeoutError:
            return False
        with far:
            far.sendall(b"hello")
            return near.recv(5) == b"hello"


def until(wanted: bool, port: int, server: socket.socket) -> None:
    deadline = time.monotonic() + 60
    while passes(port, server) is not wanted:
        assert time.monotonic() < deadline, f"It stayed {not wanted}."


def test_it_lets_through_while_the_edge_and_one_core_are_up(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        uplink(tmp_path, server.getsockname()[1]) as (one, edge, cores),
    ):
        known = json.loads((tmp_path / "identity.json").read_text())
        port = known["mqtt_port"]
        assert known["agent"] == "a"
        assert port != server.getsockname()[1] != int(known["https_url"].rpartition(":")[2])
        cores[0].alive = False
        assert one.is_up
        assert passes(port, server)
        assert one.cuts == 0
        cores[1].alive = False
        until(False, port, server)
        cores[0].alive = True
        until(True, port, server)
        edge.alive = False
        until(False, port, server)
        assert one.cuts == 2


def test_what_is_under_way_breaks_off(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        uplink(tmp_path, server.getsockname()[1]) as (_, edge, _cores),
    ):
        port = json.loads((tmp_path / "identity.json").read_text())["mqtt_port"]
        with socket.create_connection(("127.0.0.1", port), 30) as near:
            far, _address = server.accept()
            with far:
                edge.alive = False
                near.settimeout(30)
                assert near.recv(1) == b""
