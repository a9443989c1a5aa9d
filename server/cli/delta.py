"""`otaria delta`: make, apply and inspect deltas by hand, without the server."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from firmware.atomic import atomic_output
from firmware.delta.apply import apply_delta
from firmware.delta.format import DEFAULT_LEVEL, HEADER_BYTES, DeltaHeader, read_header
from firmware.delta.image_file import ImageFile, open_image
from firmware.errors import RefusedError
from firmware.protocol.words import ReasonKind
from server.cli.output import emit, json_option

OnProgress = Callable[[int, int], None]
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
_WRITABLE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def delta() -> None:
    """Make, apply and inspect deltas between two images.

    Example: otaria delta make old.img new.img -o update.otd
    """


@delta.command()
@click.argument("old", type=_EXISTING)
@click.argument("new", type=_EXISTING)
@click.option("-o", "--output", type=_WRITABLE, required=True, help="Where the patch goes.")
@click.option("--level", type=click.IntRange(1, 22), default=DEFAULT_LEVEL, show_default=True, help="zstd's level.")
@json_option
def make(old: Path, new: Path, output: Path, level: int, as_json: bool) -> None:
    """Make a patch that turns OLD into NEW.

    Example: otaria delta make gateway-1.img gateway-2.img -o 1-to-2.otd
    """
    from firmware.delta.make import make_delta  # its numpy takes memory that applying can do without

    _check_output(output, old, new)
    with _progress("Making the delta", quiet=as_json) as progress:
        facts = make_delta(old, new, output, level=level, progress=progress)
    share = 100 * facts.length / max(1, facts.ends.output_length)
    emit(
        {"patch": str(output), "length": facts.length, "sha256": facts.sha256, **asdict(facts.ends)},
        as_json=as_json,
        text=f"{output}: {facts.length:,} bytes, {share:.1f} % of {new.name}, made in {facts.seconds:.1f} s.",
    )


@delta.command()
@click.argument("old", type=_EXISTING)
@click.argument("patch", type=_EXISTING)
@click.option("-o", "--output", type=_WRITABLE, required=True, help="Where the new image goes.")
@json_option
def apply(old: Path, patch: Path, output: Path, as_json: bool) -> None:
    """Make the new image from OLD and PATCH. It appears whole and checked, or not at all.

    Example: otaria delta apply gateway-1.img 1-to-2.otd -o gateway-2.img
    """
    _check_output(output, old, patch)
    header = _header_of(patch)
    with open_image(old) as source, _progress("Applying the delta", quiet=as_json) as progress:
        _check_source(source, header)
        _write_output(source, patch, header, output, progress)
    ends = header.ends
    emit(
        {"image": str(output), "length": ends.output_length, "sha256": ends.output_sha256},
        as_json=as_json,
        text=f"{output}: {ends.output_length:,} bytes, sha256 {ends.output_sha256}.",
    )


@delta.command()
@click.argument("patch", type=_EXISTING)
@json_option
def inspect(patch: Path, as_json: bool) -> None:
    """Show what a patch says about itself: the images it joins and the memory it takes. Nothing of it is verified here.

    Example: otaria delta inspect 1-to-2.otd --json
    """
    header, length = _header_of(patch), patch.stat().st_size
    facts = {"format": "otd1", "length": length, "window_bytes": 1 << header.window_log, **asdict(header.ends)}
    emit(facts, as_json=as_json, text="\n".join(f"{name:14} {value}" for name, value in facts.items()))


def _check_output(output: Path, *inputs: Path) -> None:
    for path in inputs:
        if output.exists() and output.samefile(path):
            raise click.UsageError(f"The output would overwrite {path}; give it another name.")
    if not output.parent.is_dir():
        raise click.UsageError(f"There is no directory {output.parent}; make it first.")


def _header_of(patch: Path) -> DeltaHeader:
    with patch.open("rb") as file:
        return read_header(file.read(HEADER_BYTES))


def _check_source(source: ImageFile, header: DeltaHeader) -> None:
    if (source.length, source.sha256) != (header.ends.source_length, header.ends.source_sha256):
        raise RefusedError(
            ReasonKind.WRONG_SOURCE,
            f"{source.path} is not the image this patch starts from; that one has sha256 {header.ends.source_sha256}.",
        )


def _write_output(source: ImageFile, patch: Path, header: DeltaHeader, output: Path, progress: OnProgress) -> None:
    with patch.open("rb") as file, atomic_output(output) as out:
        for block in apply_delta(file, source.read, expect=header.ends):
            out.write(block)
            progress(out.tell(), header.ends.output_length)


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[OnProgress]:
    """A progress bar on stderr when a person watches; otherwise nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
