"""A board of two slot sets, `root` and `app`, with real processes: both switch together, and both come back together.

The program in `root` reads the `app` of its own slot and is well only beside the one of its own release. So a slot that is made
of two releases fails its check, whichever of the two sets was left behind.
"""

import io
import json
import tarfile
import urllib.request
from collections.abc import Iterator

import pytest

from firmware.images.slot_image import build_slot_image
from server.transport.broker import find_mosquitto
from simulator.lab import PRODUCT, Firmware, Lab
from tests.e2e.rig import FACTORY, GOOD, Bench, Rig, payload_of

pytestmark = pytest.mark.xdist_group("several-slots")
NEXT, ILL = "2.0.0", "3.0.0"
PAYLOAD_BYTES = 1 << 20
PROGRAM = """
import json, sys, tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "%s"
FILES = dict(word.split("=", 1) for word in sys.argv[2:])


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        with tarfile.open(FILES["app"]) as archive:
            app = json.load(archive.extractfile("app.json"))
        fine = app["version"] == VERSION and app["well"]
        self.send_response(200 if fine else 500)
        self.end_headers()
        self.wfile.write(json.dumps({"root": VERSION, "app": app["version"]}).encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A laboratory with three releases of two images each; the app of the last one is ill."""
    kind = "mosquitto" if find_mosquitto() else "embedded"
    lab = Lab(tmp_path_factory.mktemp("several"), broker=kind, hostile=True)
    try:
        lab.prepare()
        lab.start_server()
        for counter, version in enumerate((FACTORY, NEXT, ILL), start=1):
            publish(lab, version, counter)
        assert lab.broker is not None
        eve = lab.broker.eve()
        yield Rig(lab=lab, eve=eve)
        eve.close()
    finally:
        lab.close()


@pytest.fixture
def rig(house: Rig) -> Iterator[Rig]:
    yield house
    house.clear()


def publish(lab: Lab, version: str, counter: int) -> None:
    root, app = lab.directory / f"{version}.img", lab.directory / f"{version}-app.img"
    payload = payload_of("zlib")[:PAYLOAD_BYTES] + version.encode()
    build_slot_image(
        root,
        product=PRODUCT,
        version=version,
        counter=counter,
        program=(PROGRAM % version).encode(),
        payload=[("data.bin", payload)],
    )
    with tarfile.open(app, "w") as archive:
        for name, data in (
            ("app.json", json.dumps({"version": version, "well": version != ILL}).encode()),
            ("app.bin", payload_of("bz2")[:PAYLOAD_BYTES] + version.encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    lab.publish(Firmware(version=version, counter=counter, path=root, health=GOOD, others={"app": app}))


def image(rig: Rig, version: str, slot_set: str) -> bytes:
    name = f"{version}.img" if slot_set == "root" else f"{version}-{slot_set}.img"
    return (rig.lab.directory / name).read_bytes()


def holds(bench: Bench, letter: str) -> tuple[str, ...]:
    """Which release each set of a slot starts with, byte for byte: `root`, `app`."""
    found = []
    for name, slot_set in ((f"slot-{letter}.img", "root"), (f"slot-{letter}.app.img", "app")):
        data = (bench.board.directory / name).read_bytes()
        versions = (FACTORY, NEXT, ILL)
        found.append(next((one for one in versions if data.startswith(image(bench.rig, one, slot_set))), "none"))
    return tuple(found)


def says(bench: Bench) -> dict[str, str]:
    """What the running program says about itself and its app."""
    port = json.loads((bench.board.directory / "run" / "status.json").read_bytes())["program_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
        value: dict[str, str] = json.load(answer)
        return value


@pytest.mark.timeout(400)
def test_both_sets_switch_together_and_fall_back_together(rig: Rig) -> None:
    bench = rig.board("pair", others={"app": rig.lab.directory / f"{FACTORY}-app.img"})
    assert says(bench) == {"root": FACTORY, "app": FACTORY}
    before = bench.link.received
    good = bench.start(NEXT, wait="2m", deltas=4)
    bench.wait(lambda: bench.view["running_version"] == NEXT, "the release", 120.0)
    bench.wait(lambda: bench.counts(good) == {"verified": 1}, "verified and counted once", 120.0)
    assert (holds(bench, "a"), holds(bench, "b")) == ((FACTORY, FACTORY), (NEXT, NEXT))
    assert says(bench) == {"root": NEXT, "app": NEXT}
    legs = {leg["slot"]: leg["need"] for leg in rig.lab.campaign(good)["downloads"]["legs"]}
    assert legs == {"root": "made", "app": "made"}
    assert bench.link.received - before < PAYLOAD_BYTES, "the images did not come by their deltas"
    running = bench.status["running"]
    assert [part["slot"] for part in running["images"]] == ["app", "root"]
    assert running["sha256"] == rig.lab.rest.get(f"/releases/{PRODUCT}/{NEXT}")["sha256"]

    ill = bench.start(ILL)
    bench.wait(lambda: bench.counts(ill) == {"fell_back": 1}, "fell back", 120.0)
    assert f'{{"root": "{ILL}", "app": "{ILL}"}}' in bench.words(), "it ran both and said so"
    assert holds(bench, "b") == (NEXT, NEXT)
    bench.wait(lambda: says(bench) == {"root": NEXT, "app": NEXT}, "the old pair again")
