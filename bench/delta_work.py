"""One way of making or applying a delta, once, in this process: `python -m bench.delta_work WAY OLD NEW OUT`.

Prints what it took: `seconds`, `peak_bytes` of this process and what it started, and the `bytes` it wrote. Only `otd1` applies
its own patch once before it calls it one, and only `apply` reads the whole source before it begins; both are inside the time.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from bench.measure import peak_bytes, seconds

LEVEL = 19
WINDOW_LOG = 27
BLOCK_BYTES = 1 << 20


def otd1(old: Path, new: Path, out: Path, level: int = LEVEL) -> None:
    """Ours, as the server makes it."""
    from firmware.delta.make import make_delta

    make_delta(old, new, out, level=level)


def bsdiff(old: Path, new: Path, out: Path) -> None:
    """bsdiff4 over the whole images, its three streams through zstd."""
    import bsdiff4.core
    import zstandard

    streams = bsdiff4.core.diff(old.read_bytes(), new.read_bytes())
    out.write_bytes(zstandard.ZstdCompressor(level=LEVEL).compress(b"".join(streams)))


def patch_from(old: Path, new: Path, out: Path) -> None:
    """zstd with the old image as its dictionary and long matches, as `zstd --patch-from` does."""
    import zstandard

    dictionary = zstandard.ZstdCompressionDict(old.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    settings = zstandard.ZstdCompressionParameters.from_level(LEVEL, window_log=WINDOW_LOG, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=settings)
    out.write_bytes(compressor.compress(new.read_bytes()))


def hdiffpatch(old: Path, new: Path, out: Path) -> None:
    """hdiffpatch, its patch through zstd."""
    from hdiffpatch import ZStdConfig, diff

    out.write_bytes(diff(old.read_bytes(), new.read_bytes(), ZStdConfig(level=LEVEL), validate=False))


def xdelta3(old: Path, new: Path, out: Path) -> None:
    """xdelta3 at its best level, as it comes."""
    subprocess.run(["xdelta3", "-9", "-e", "-f", "-s", str(old), str(new), str(out)], check=True)


def no_delta(_old: Path, new: Path, out: Path) -> None:
    """The new image through zstd, without the old one."""
    import zstandard

    out.write_bytes(zstandard.ZstdCompressor(level=LEVEL).compress(new.read_bytes()))


def apply(old: Path, patch: Path, out: Path) -> None:
    """Ours: check the source's hash, apply, sync. The output's hash is checked on the way."""
    from firmware.delta.apply import apply_delta
    from firmware.delta.format import HEADER_BYTES, read_header
    from firmware.delta.image_file import open_image

    with patch.open("rb") as file, open_image(old) as source, out.open("wb") as target:
        ends = read_header(file.read(HEADER_BYTES)).ends
        file.seek(0)
        for block in apply_delta(file, source.read, expect=ends):
            target.write(block)
        _sync(target.fileno(), target.flush)


def copy(_old: Path, new: Path, out: Path) -> None:
    """The least that putting an image into place can take: copy it, sync, and hash it."""
    digest = hashlib.sha256()
    with new.open("rb") as file, out.open("wb") as target:
        while block := file.read(BLOCK_BYTES):
            target.write(block)
            digest.update(block)
        _sync(target.fileno(), target.flush)


def commands(_old: Path, new: Path, out: Path) -> None:
    """The same with the commands that everybody has."""
    for command in (["cp", str(new)], ["sync"], ["sha256sum"]):
        subprocess.run([*command, str(out)], check=True, stdout=subprocess.DEVNULL)


WAYS: dict[str, Callable[[Path, Path, Path], None]] = {
    "otd1": otd1,
    **{f"otd1-{level}": partial(otd1, level=level) for level in (3, 9, 15, 17, 22)},
    "bsdiff": bsdiff,
    "patch-from": patch_from,
    "hdiffpatch": hdiffpatch,
    "xdelta3": xdelta3,
    "no-delta": no_delta,
    "apply": apply,
    "copy": copy,
    "commands": commands,
}


MODULES = {
    "otd1": ("firmware.delta.make",),
    "apply": ("firmware.delta.apply", "firmware.delta.image_file"),
    "bsdiff": ("bsdiff4.core", "zstandard"),
    "patch": ("zstandard",),
    "hdiffpatch": ("hdiffpatch",),
}
"""What is imported before the time begins."""


def main(arguments: list[str]) -> None:
    """Do it and say what it took."""
    way, (old, new, out) = WAYS[arguments[0]], map(Path, arguments[1:])
    for module in MODULES.get(arguments[0].partition("-")[0], ()):
        import_module(module)
    took_s = seconds(lambda: way(old, new, out))
    peak = peak_bytes() + (resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
    print(json.dumps({"seconds": took_s, "peak_bytes": peak, "bytes": out.stat().st_size}))


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)


if __name__ == "__main__":
    main(sys.argv[1:])
