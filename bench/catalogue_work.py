"""One catalogue refresh and one look-up, in this process: `python -m bench.catalogue_work WHOSE METADATA STORE PATH`.

`WHOSE` is `ours` or `ngclient` (python-tuf's). Metadata is read from a directory in place of a network. Prints `seconds` without
imports, and `peak_bytes` of this process with them.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.measure import peak_bytes, seconds

Refresh = Callable[[], object]


def ours(metadata: Path, store: Path, path: str) -> Refresh:
    """The device's client on its crash-safe store."""
    from firmware.catalogue.client import CatalogueClient
    from firmware.catalogue.store import FileStore

    def fetch(name: str, max_bytes: int) -> bytes | None:
        file = metadata / name
        return file.read_bytes()[: max_bytes + 1] if file.is_file() else None

    def refresh() -> object:
        client.refresh(time.time())
        return client.file(path)

    files = FileStore(store)
    CatalogueClient.initialise(files, (metadata / "1.root.json").read_bytes())
    client = CatalogueClient(files, fetch, prefetch=())  # as the agent has it
    return refresh


def ngclient(metadata: Path, store: Path, path: str) -> Refresh:
    """python-tuf's client, as its documentation sets it up."""
    from tuf.api.exceptions import DownloadHTTPError
    from tuf.ngclient import FetcherInterface, Updater

    class Files(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            file = metadata / url.rpartition("/")[2]
            if not file.is_file():
                raise DownloadHTTPError("not found", 404)
            yield file.read_bytes()

    store.mkdir()
    updater = Updater(
        str(store), "file://metadata/", fetcher=Files(), bootstrap=(metadata / "1.root.json").read_bytes()
    )

    def refresh() -> object:
        updater.refresh()
        return updater.get_targetinfo(path)

    return refresh


def main(arguments: list[str]) -> None:
    """Do it and say what it took."""
    whose, metadata, store, path = arguments
    refresh = {"ours": ours, "ngclient": ngclient}[whose](Path(metadata), Path(store), path)
    found: list[object] = []
    took_s = seconds(lambda: found.append(refresh()))
    if found == [None]:
        raise RuntimeError(f"{path} is not in the catalogue.")
    print(json.dumps({"seconds": took_s, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main(sys.argv[1:])
