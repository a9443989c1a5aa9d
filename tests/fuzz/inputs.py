"""What is fuzzed: each parser of foreign bytes, with seeds to start from. A target returns a word and never raises."""

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Role, Root, Snapshot, Targets, Timestamp

from device_agent.local.requests import parse_request
from firmware.bundle.code import parse_code
from firmware.bundle.evidence import from_text, parse_line, to_line, to_text
from firmware.bundle.read import Bundle
from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.metadata import parse
from firmware.catalogue.store import FileStore
from firmware.delta.apply import apply_delta
from firmware.delta.format import DeltaEnds
from firmware.delta.make import make_delta
from firmware.encryption.chunked import Decryption, Encryption
from firmware.encryption.content_key import ContentKey
from firmware.errors import OtariaError, RefusedError
from firmware.images import archive, disk, elf, esp32, ext, fat, mcuboot, squashfs, wrapped
from firmware.images.facts import ImageFacts
from firmware.images.identify import recognise
from firmware.images.source import Source
from firmware.manifest import Image, Manifest, describe, encode_manifest, parse_manifest
from firmware.protocol.blocks import Block, Want, artifact_name, encode_block, encode_want, parse_block, parse_want
from tests.firmware.bundle.makers import IMAGE_SHA256, Held, whole
from tests.firmware.images import makers
from tests.fuzz.device_inputs import environments, signed

Run = Callable[[bytes], str]
MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Target:
    """`run` takes any bytes. `growth_bytes`: by so much the process may grow, `seconds` so long may one input take."""

    run: Run
    seeds: tuple[bytes, ...]
    growth_bytes: int = 32 * MEBIBYTE
    seconds: float = 5.0


def targets(scratch: Path) -> dict[str, Target]:
    """All targets by name; what they write may only go below `scratch`."""
    return {
        **_images(scratch),
        "manifest": Target(run=_manifest, seeds=(_a_manifest(),)),
        "local-request": Target(run=_local_request, seeds=(b'{"ask":"defer","seconds":7200}', b'{"ask":"status"}')),
        "want": Target(run=_frame(parse_want), seeds=(_A_WANT,)),
        "block": Target(run=_frame(parse_block), seeds=(_A_BLOCK,)),
        "delta": _delta(scratch),
        **_catalogue(scratch),
        "bundle": Target(run=_bundle, seeds=(whole(), whole([f"dev-{place}" for place in range(40)]))),
        "report-text": Target(run=_report_text, seeds=("".join(to_text(_REPORTS)).encode(),)),
        "report-line": Target(run=_report_line, seeds=(to_line(*_REPORTS[0]),)),
        "typed-code": Target(run=_typed_code, seeds=(b"0000-0000-0000-0000",)),
        "encrypted": Target(run=_decrypted, seeds=(_ENCRYPTED,)),
        **{name: Target(run=run, seeds=(seed,)) for name, (run, seed) in {**signed(), **environments()}.items()},
    }


# Bundles

_REPORTS = [("report", b'{"payload":"e30=","payloadType":"kind","signatures":[{"keyid":"ab","sig":"cd"}]}')]


def _bundle(data: bytes) -> str:
    """Open it and read all that is in it."""
    try:
        bundle = Bundle(Held(data))
        for target in bundle.orders():
            bundle.order(target)
        bundle.metadata("1.root.json", 1000)
        if bundle.length(IMAGE_SHA256) is not None:
            for _ in bundle.artifact(IMAGE_SHA256):
                pass
    except RefusedError as error:
        return error.kind
    return "taken"


def _report_text(data: bytes) -> str:
    try:
        from_text(data.decode("latin-1"))
    except RefusedError as error:
        return error.kind
    return "taken"


def _report_line(data: bytes) -> str:
    try:
        parse_line(data)
    except RefusedError as error:
        return error.kind
    return "taken"


def _typed_code(data: bytes) -> str:
    try:
        parse_code(data.decode("latin-1"))
    except RefusedError as error:
        return error.kind
    return "taken"


# Frames

_A_WANT = encode_want(Want(stream=7, offset=4096, credit=65536, name=artifact_name("ab" * 32)))
_A_BLOCK = encode_block(Block(stream=7, offset=4096, total=1 << 20, data=b"some bytes" * 20))


def _frame(parse: Callable[[bytes], object]) -> Run:
    def run(data: bytes) -> str:
        try:
            parse(data)
        except RefusedError as error:
            return error.kind
        return "taken"

    return run


_CONTENT_KEY = ContentKey.new()
_ENCRYPTION = Encryption(_CONTENT_KEY)
_ENCRYPTED = b"".join(_ENCRYPTION.encrypt([bytes(100_000)]))


def _decrypted(data: bytes) -> str:
    try:
        return str(sum(map(len, Decryption(_CONTENT_KEY, _ENCRYPTION.salt, 100_000).decrypt([data]))))
    except RefusedError as error:
        return error.kind


def _local_request(data: bytes) -> str:
    try:
        return type(parse_request(data)).__name__
    except RefusedError as error:
        return error.kind


# Images

_PLAIN = {
    "slot-image": archive.slot_image, "tar": archive.tar, "elf": elf.recognise, "squashfs": squashfs.recognise,
    "ext": ext.recognise, "fat": fat.recognise, "mcuboot": mcuboot.recognise, "esp32": esp32.recognise,
}  # fmt: skip
_CONTAINERS = {"gpt": disk.gpt, "mbr": disk.mbr, "wrapped": wrapped.recognise}


def _images(scratch: Path) -> dict[str, Target]:
    seeds = image_seeds(scratch)
    every = tuple(seed for group in seeds.values() for seed in group)
    out = {"images": Target(run=_whole, seeds=every)}
    for name, plain in _PLAIN.items():
        out[f"image-{name}"] = Target(run=_recogniser(lambda source, one=plain: one(source)), seeds=seeds[name])
    for name, container in _CONTAINERS.items():
        run = _recogniser(lambda source, one=container: one(source, recognise))
        out[f"image-{name}"] = Target(run=run, seeds=seeds[name])
    return out


def _sources(data: bytes) -> list[Source]:
    """The bytes as a file, and as the head of something whose end is not known."""
    return [Source(raw=lambda at, size: data[at : at + size], size_bytes=known) for known in (len(data), None)]


def _whole(data: bytes) -> str:
    return "/".join(_checked(recognise(source)) for source in _sources(data))


def _recogniser(one: Callable[[Source], ImageFacts | None]) -> Run:
    def run(data: bytes) -> str:
        return "/".join(_word(one, source) for source in _sources(data))

    return run


def _word(one: Callable[[Source], ImageFacts | None], source: Source) -> str:
    try:
        facts = one(source)
    except RefusedError as error:
        return error.kind
    return "none" if facts is None else _checked(facts)


def _checked(facts: ImageFacts) -> str:
    """The kind; all texts must be safe to print, and the whole must be short."""
    texts = [facts.kind, facts.version or "", *facts.details.values(), *facts.problems]
    texts += [text for part in facts.parts for text in (part.name, part.kind, *part.details.values())]
    assert all(text.isprintable() for text in texts), texts
    assert sum(map(len, texts)) < MEBIBYTE
    for inner in (facts.content, *(part.content for part in facts.parts)):
        if inner is not None:
            _checked(inner)
    return facts.kind


def image_seeds(scratch: Path) -> dict[str, tuple[bytes, ...]]:
    """Heads of images by recogniser, from the tools that are installed."""
    import gzip
    import lzma

    made = Path(tempfile.mkdtemp(dir=scratch))
    tar, slot = makers.tar(), makers.slot_image(made / "slot")
    program = makers.riscv_elf([(".text", 4096, b"\x13\0\0\0" * 40)])
    seeds = {"slot-image": (slot,), "tar": (tar,), "elf": (program,)}
    seeds["mcuboot"] = (makers.mcuboot(made / "mcu", "--security-counter", "3", payload=b"\x5a" * 900).read_bytes(),)
    seeds["esp32"] = (_small_esp32(),)
    for name, tool, make in _TOOLS:
        there = shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")
        seeds[name] = (make(made / name).read_bytes()[: 20 << 10],) if there else (bytes(4096),)
    kept = [seed[0] for seed in seeds.values()]
    seeds["wrapped"] = tuple(pack(data) for data in kept for pack in (gzip.compress, lzma.compress, makers.zstd))
    seeds["wrapped"] += tuple(pack(bytes(8 << 20)) for pack in (gzip.compress, makers.zstd))
    return seeds


def _small_esp32() -> bytes:
    """One segment with a descriptor, the checksum and the hash, as in Espressif's description of the format."""
    body = makers.APP_DESCRIPTOR
    data = b"\xe9\x01\x02\x20" + bytes(8) + b"\x05\0" + bytes(9) + b"\x01"
    data += (0x3C000020).to_bytes(4, "little") + len(body).to_bytes(4, "little") + body
    fold = 0xEF
    for byte in body:
        fold ^= byte
    data += bytes(15 - len(data) % 16) + bytes([fold])
    return data + hashlib.sha256(data).digest()


_TOOLS: tuple[tuple[str, str, Callable[[Path], Path]], ...] = (
    ("ext", "mkfs.ext4", makers.ext),
    ("squashfs", "mksquashfs", makers.squashfs),
    ("fat", "mkfs.vfat", makers.fat),
    ("gpt", "sfdisk", lambda path: makers.disk(path, "label: gpt\nstart=40,size=8,type=L,name=x\n", 64 << 10)),
    ("mbr", "sfdisk", lambda path: makers.disk(path, "label: dos\nd1: start=8,size=9,type=83\n", 64 << 10)),
)


# Manifests and deltas


def _a_manifest() -> bytes:
    facts = describe([b"x" * 100])
    image = Image(path="releases/p/1/i", length=facts.length, sha256=facts.sha256, windows=facts.windows)
    return encode_manifest(Manifest(product="p", version="1", counter=1, hardware=["h"], images=[image]))


def _manifest(data: bytes) -> str:
    try:
        manifest = parse_manifest(data)
    except RefusedError as error:
        return error.kind
    encoded = encode_manifest(manifest)
    assert encode_manifest(parse_manifest(encoded)) == encoded
    return "parsed"


def _delta(scratch: Path) -> Target:
    made = Path(tempfile.mkdtemp(dir=scratch))
    old = random.Random(1).randbytes(40_000)
    new = old[:9000] + b"new" * 100 + old[12_000:] + bytes(byte ^ 3 for byte in old[:5000])
    for name, content in (("old", old), ("new", new)):
        (made / name).write_bytes(content)
    make_delta(made / "old", made / "new", made / "patch")
    old_hash, new_hash = hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest()
    ends = DeltaEnds(source_length=len(old), source_sha256=old_hash, output_length=len(new), output_sha256=new_hash)

    def read(offset: int, size: int) -> bytes:
        assert offset >= 0
        assert 0 <= size <= len(old) - offset
        return old[offset : offset + size]

    def run(data: bytes) -> str:
        given = 0
        try:
            for block in apply_delta(BytesIO(data), read, expect=ends):
                given += len(block)
                assert given <= len(new)
        except RefusedError as error:
            return error.kind
        assert given == len(new)
        return "applied"

    return Target(run=run, seeds=((made / "patch").read_bytes(),), growth_bytes=48 * MEBIBYTE)


# The catalogue


def _catalogue(scratch: Path) -> dict[str, Target]:
    """Two targets: the parser alone, and a whole refresh with bytes that hold the right signature wherever they can."""
    signer = CryptoSigner.generate_ecdsa()
    roles = {name: Role([signer.public_key.keyid], 1) for name in ("root", "timestamp", "snapshot", "targets")}
    root = Root(keys={signer.public_key.keyid: signer.public_key}, roles=roles)
    bodies = {"root": root, "timestamp": Timestamp(), "snapshot": Snapshot(), "targets": Targets()}
    served = {}
    for name, body in bodies.items():
        metadata = Metadata(body)
        metadata.sign(signer)
        served["timestamp.json" if name == "timestamp" else f"1.{name}.json"] = metadata.to_bytes()
    seeds = tuple(served.values())

    def refresh(data: bytes) -> str:
        name, forged = _signed(data, signer)
        files = {**served, name: forged} if name else served
        here = Path(tempfile.mkdtemp(dir=scratch))
        client = CatalogueClient(FileStore(here), lambda wanted, limit: _limited(files.get(wanted), limit))
        try:
            CatalogueClient.initialise(FileStore(here), served["1.root.json"])
            client.refresh(0.0)
            client.file("releases/p/1/i")
        except OtariaError as error:
            return error.kind
        finally:
            shutil.rmtree(here)
        return "refreshed"

    return {"metadata": Target(run=_metadata, seeds=seeds), "catalogue": Target(run=refresh, seeds=seeds)}


def _limited(data: bytes | None, limit: int) -> bytes | None:
    return None if data is None else data[: limit + 1]


def _signed(data: bytes, signer: CryptoSigner) -> tuple[str, bytes]:
    """The file that the bytes want to be, with a right signature if they are JSON with a body; else as a timestamp, raw."""
    try:
        body = json.loads(data)["signed"]
        name = {"root": "2.root.json", "snapshot": "1.snapshot.json", "targets": "1.targets.json"}.get(body["_type"])
        signature = signer.sign(encode_canonical(body).encode()).to_dict()
    except Exception:  # noqa: BLE001  # whatever it is, it can't be signed, and is served as it is
        return "timestamp.json", data
    return name or "timestamp.json", json.dumps({"signed": body, "signatures": [signature]}).encode()


def _metadata(data: bytes) -> str:
    words = []
    for kind in (Root, Timestamp, Snapshot, Targets):
        try:
            parse(data, kind, "fuzzed", max_bytes=MEBIBYTE)
            words.append("parsed")
        except RefusedError as error:
            words.append(error.kind)
    return "/".join(words)
