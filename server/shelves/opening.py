"""Opens the artifact store that the settings name."""

from collections.abc import Callable
from contextlib import closing

from firmware.errors import RefusedError
from server.artifacts import ArtifactStore
from server.config import Settings
from server.ports import Shelf
from server.shelves.files import FileShelf
from server.shelves.moving import MovingShelf


def open_artifacts(settings: Settings, measured: Callable[[Shelf], Shelf]) -> ArtifactStore:
    """The store with its shelf, as `measured` makes it. Raises as `open_shelf`."""
    wanted = settings.artifacts
    return ArtifactStore(
        settings.state / "artifacts",
        measured(open_shelf(settings)),
        threads=wanted.connections if wanted.store == "s3" else 0,
        spool_bytes=wanted.spool_bytes,
    )


def open_shelf(settings: Settings) -> Shelf:
    """Where whole artifacts rest. Raises `RefusedError` (`s3-missing`) and `StoreError` (`store-credentials-missing`)."""
    files = FileShelf(settings.state / "artifacts")
    if settings.artifacts.store == "files":
        return files
    try:
        from server.shelves.s3 import S3Shelf  # an extra, and heavy: only for who uses it
    except ImportError as error:
        text = "Artifacts in S3 need a library that is not installed: pip install 'otaria[s3]'."
        raise RefusedError("s3-missing", text) from error
    return MovingShelf(files, S3Shelf(settings.artifacts))


def check_artifacts(settings: Settings) -> None:
    """Prove that the store takes, gives and removes. Raises as `open_shelf`, and `StoreError`."""
    with closing(open_shelf(settings)) as shelf:
        shelf.check()
