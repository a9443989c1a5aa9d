"""An artifact of any size goes into a bucket and out of it in the same memory: measured as the high-water mark of a process of
its own that takes it as a stream, puts it, and passes it through to somebody who downloads it."""

import hashlib
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from server.shelves.s3 import PART_BYTES
from tests.s3_store import Store, spoilt_line

LENGTH = 256 << 20
ROOM_BYTES = 4 * PART_BYTES
"""A part, what the library and the sockets hold of it, and a few windows."""
BLOCK = bytes(range(256)) * 4096

PROGRAM = """
import asyncio, hashlib, sys
from pathlib import Path
from aiohttp import web
from multidict import CIMultiDict
from server.artifacts import ArtifactStore
from server.config_artifacts import ArtifactSettings
from server.http.passing import Passing
from server.shelves.s3 import S3Shelf

endpoint, bucket, keys, folder, blocks, sha256 = sys.argv[1:]
BLOCK = bytes(range(256)) * 4096

def high_water_bytes():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

async def chunks():
    for _ in range(int(blocks)):
        yield bytes(BLOCK)

async def main():
    settings = ArtifactSettings(store="s3", endpoint=endpoint, bucket=bucket, credentials_file=Path(keys), timeout_s=60.0)
    store = ArtifactStore(Path(folder), S3Shelf(settings), threads=4)
    passing = Passing(store, most=4)
    app = web.Application()
    app.router.add_get("/", lambda request: passing.answer(request, sha256, CIMultiDict(), whose="a"))
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    before = high_water_bytes()
    await store.receive(chunks(), sha256, max_bytes=1 << 40)
    print(site.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(high_water_bytes() - before, flush=True)
    await runner.cleanup()
    store.close()

asyncio.run(main())
"""


def window(_: int, head: bytes) -> bytes | None:
    """A window, answered on the way: moto would read the whole object for each."""
    found = re.search(rb"(?i)\r\nrange: bytes=(\d+)-(\d+)", head)
    if not head.startswith(b"GET") or found is None:
        return None
    start, end = int(found[1]), int(found[2]) + 1
    body = (BLOCK * 2)[start % len(BLOCK) :][: end - start]
    says = (f"Content-Length: {end - start}", f"Content-Range: bytes {start}-{end - 1}/{LENGTH}", "Connection: close")
    return "\r\n".join(("HTTP/1.1 206 Partial Content", *says, "\r\n")).encode() + body


@pytest.mark.timeout(300)
def test_memory_does_not_grow_with_the_artifact(s3_store: Store, tmp_path: Path) -> None:
    blocks, whole = LENGTH // len(BLOCK), hashlib.sha256()
    for _ in range(blocks):
        whole.update(BLOCK)
    given = (s3_store.make_bucket(), s3_store.keys, tmp_path / "store", blocks, whole.hexdigest())
    with (
        spoilt_line(s3_store, window) as line,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{line.port}", *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        port, found, length = int(process.stdout.readline()), hashlib.sha256(), 0
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            while piece := answer.read(1 << 20):
                found.update(piece)
                length += len(piece)
        process.stdin.close()
        grown = int(process.stdout.readline())
        assert process.wait(60) == 0
    assert (length, found.hexdigest()) == (LENGTH, whole.hexdigest())
    assert grown < ROOM_BYTES
