"""Gateway 2.1.0: takes meter readings off the field bus through the bus controller's own buffer, and answers for its own health.

It has a genuine fault: it reads that buffer once a round. The controller of an r1 board holds a round, that of an r2 board
only 16 frames, and hands over the rest at a second read.

Run from memory with the port to serve on as its argument.
"""

import json
import os
import struct
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PRODUCT = "gateway"
VERSION = "2.1.0"
READING = struct.Struct("<Hi")
FRAME_BYTES = READING.size + 4
BUFFERED_FRAMES = 16 if os.environ.get("OTARIA_HARDWARE", "").endswith("-r2") else 64
"""What the bus controller of this board hands over at one read."""

Reading = tuple[int, int]
"""A meter's number and its watt hours."""


def to_bus(readings: list[Reading]) -> bytes:
    """Frames as the meters send them: a reading and its CRC-32."""
    bodies = [READING.pack(*reading) for reading in readings]
    return b"".join(body + zlib.crc32(body).to_bytes(4, "little") for body in bodies)


def from_frame(frame: bytes) -> Reading:
    """The reading in one frame; raises ValueError when its CRC is wrong."""
    body, crc = frame[: READING.size], frame[READING.size :]
    if zlib.crc32(body) != int.from_bytes(crc, "little"):
        raise ValueError("a frame was damaged on the bus")
    meter, watt_hours = READING.unpack(body)
    return meter, watt_hours


def from_bus(data: bytes) -> list[Reading]:
    """The readings in all complete frames of one read."""
    count = len(data) // FRAME_BYTES
    return [from_frame(data[at * FRAME_BYTES : (at + 1) * FRAME_BYTES]) for at in range(count)]


def read_bus(waiting: bytes) -> bytes:
    """One read of the bus controller's buffer."""
    return waiting[: BUFFERED_FRAMES * FRAME_BYTES]


def self_test() -> dict[str, int]:
    """Send one round of 24 meters and count what comes back right."""
    sent = [(meter, 1000 * meter - 7) for meter in range(1, 25)]
    back = from_bus(read_bus(to_bus(sent)))
    return {"sent": len(sent), "right": len(set(sent) & set(back))}


class Health(BaseHTTPRequestHandler):
    """GET /health runs the self-test: 200 when every reading came back right, 500 otherwise."""

    def do_GET(self) -> None:
        if self.path != "/health":
            self.send_error(404)
            return
        test = self_test()
        healthy = test["sent"] == test["right"]
        body = json.dumps({"product": PRODUCT, "version": VERSION, "healthy": healthy, "self_test": test}).encode()
        self.send_response(200 if healthy else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: a gateway has no terminal."""


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
