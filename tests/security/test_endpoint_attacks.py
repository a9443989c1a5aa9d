"""Attacks on where a fleet's server is: what is tried, which check stops it, and what a device believes afterwards."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from tuf.api.metadata import MetaFile

from firmware.catalogue import changes
from firmware.catalogue.adopt import adopt
from firmware.catalogue.ceremony import initialise
from firmware.catalogue.client import CatalogueClient
from firmware.catalogue.keyfiles import Keyring
from firmware.catalogue.publish import Repository, sign
from firmware.catalogue.store import FileStore
from firmware.errors import RefusedError
from firmware.protocol.endpoints import FIELD, Endpoint, Endpoints
from server.identity.authority import Authorities


@dataclass
class Site:
    """A catalogue whose `targets` names a server, and a device that has seen it."""

    directory: Path
    repository: Repository
    ca: str

    def tells(self, host: str) -> None:
        """The office signs that devices go there."""
        wanted = self.to(host)
        proposal = changes.endpoints(self.repository, wanted, now=time.time())
        proposal.sign(self.repository.keyring)
        adopt(self.repository, proposal, now=time.time())

    def to(self, host: str) -> Endpoints:
        endpoint = Endpoint(server=f"https://{host}:8443", broker=f"{host}:8883")
        return Endpoints(endpoints=[endpoint], services_ca=[self.ca])

    def device(self, name: str = "device") -> CatalogueClient:
        store = FileStore(self.directory / name)
        CatalogueClient.initialise(store, self.repository.root_bytes())
        return CatalogueClient(store, self.fetch)

    def fetch(self, name: str, max_bytes: int) -> bytes | None:
        path = self.repository.metadata / name
        return path.read_bytes() if path.is_file() else None

    def shows(self, version: int, targets: bytes) -> None:
        """Whoever owns the server has snapshot and timestamp signed over this `targets`, as the newest there is."""
        snapshot = MetaFile.from_data(version, targets, ["sha256"])
        self.repository._resign({"targets.json": snapshot}, time.time())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    repository = initialise(tmp_path / "server", products=["pump"], now=time.time())
    ca = Authorities.open_or_create(tmp_path / "identity").services.pem.decode()
    made = Site(directory=tmp_path, repository=repository, ca=ca)
    made.tells("first.example")
    return made


def host(device: CatalogueClient) -> str:
    found = device.endpoints()
    assert found is not None
    return found.endpoints[0].mqtt_host


def test_a_device_goes_where_the_office_says(site: Site) -> None:
    device = site.device()
    device.refresh(time.time())
    assert host(device) == "first.example"
    site.tells("second.example")
    device.refresh(time.time())
    assert host(device) == "second.example"
    again = CatalogueClient(FileStore(site.directory / "device"))
    again.load_cached(time.time())
    assert host(again) == "second.example"  # it is as durable as the catalogue


@pytest.mark.parametrize("role", ["director", "snapshot", "timestamp", "deltas"])
def test_endpoints_signed_by_the_servers_keys_are_refused(site: Site, role: str) -> None:
    """Tried: with every online key, to name an own server. Stopped by: `targets` is signed offline."""
    device = site.device()
    device.refresh(time.time())
    online = Keyring([site.directory / "server" / "keys" / "online"])
    body = site.repository.targets()
    body.version += 1
    body.unrecognized_fields[FIELD]["endpoints"] = [{"server": "https://thief.example", "broker": "thief.example:1"}]
    signer = site.repository.root().roles[role] if role in ("snapshot", "timestamp") else site.repository._role(role)
    forged = sign(body, online.enough(signer, role))
    (site.repository.metadata / f"{body.version}.targets.json").write_bytes(forged)
    site.shows(body.version, forged)
    with pytest.raises(RefusedError, match="signed by 0 of the 1 keys"):
        device.refresh(time.time())
    assert host(device) == "first.example"


def test_older_endpoints_are_refused(site: Site) -> None:
    """Tried: whoever owns the old server signs the catalogue from before the move as the newest. Stopped by: versions."""
    older = site.repository.targets()
    data = site.repository.bytes_of(f"{older.version}.targets.json")
    shutil.copytree(site.repository.metadata, site.directory / "older")
    device = site.device()
    site.tells("second.example")
    device.refresh(time.time())
    site.shows(older.version, data)
    with pytest.raises(RefusedError) as caught:
        device.refresh(time.time())
    assert caught.value.kind == "catalogue-refused"
    assert host(device) == "second.example"


def test_endpoints_of_a_later_version_of_otaria_are_not_taken(site: Site) -> None:
    """What this device can't read it does not follow; its catalogue is good all the same."""
    proposal = changes.endpoints(site.repository, site.to("second.example"), now=time.time())
    proposal.body("targets").unrecognized_fields[FIELD]["more"] = 1
    proposal.sign(site.repository.keyring)
    adopt(site.repository, proposal, now=time.time())
    device = site.device()
    device.refresh(time.time())
    with pytest.raises(RefusedError):
        device.endpoints()
    assert device.director_epoch() == 1


def test_the_same_again_is_no_proposal_and_none_needs_clearing(site: Site) -> None:
    with pytest.raises(RefusedError) as caught:
        site.tells("first.example")
    assert caught.value.kind == "no-change"
    proposal = changes.endpoints(site.repository, None, now=time.time())
    proposal.sign(site.repository.keyring)
    adopt(site.repository, proposal, now=time.time())
    device = site.device()
    device.refresh(time.time())
    assert device.endpoints() is None
