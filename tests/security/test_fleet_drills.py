"""The drills of docs/howto/drills.md about a fleet: the same commands, typed against a real server, broker and real agents."""

import shutil
from pathlib import Path

import pytest

from device_agent.enrol import enrol
from firmware.errors import RefusedError
from server.identity.authority import Authorities
from simulator.lab import HARDWARE
from tests.security.fleet import FACTORY, copied, fleet_on

DRILLS = Path(__file__).parents[2] / "docs" / "howto" / "drills.md"
DEEP = pytest.mark.deep
BROKERS = ("mosquitto", pytest.param("embedded", marks=DEEP))
DEEP_BROKERS = (pytest.param("mosquitto", marks=DEEP), pytest.param("embedded", marks=DEEP))
pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_sleeper_with_an_expired_certificate_comes_back(
    tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet_on(tmp_path, broker, capsys) as fleet:
        awake, asleep = fleet.board("early", power=False), fleet.board("sleeper", power=False)
        fleet.age(awake, 2.5)
        fleet.age(asleep, 7)
        before = fleet.certificate(asleep).not_valid_after_utc
        for board in (awake, asleep):
            board.power_on()
            fleet.until(lambda board=board: "certificate-renewed" in fleet.trail(board), "the renewal", board)
            fleet.until(lambda board=board: fleet.view(board)["running_version"] == FACTORY, "its report", board)
        assert fleet.certificate(asleep).not_valid_after_utc > before
        assert not (asleep.agent_directory / "tls.key").exists()
        campaign = fleet.campaign(asleep)
        fleet.until(lambda: fleet.counts(campaign) == {"verified": 1}, "an update with the new certificate", asleep)


@pytest.mark.parametrize("broker", BROKERS)
def test_drill_device_decommissioned(tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is tried with the old board afterwards: to connect, to fetch, to renew, to enrol again under the old name."""
    with fleet_on(tmp_path, broker, capsys) as fleet:
        board = fleet.board("old-pump")
        fleet.until(lambda: fleet.online(board), "its presence", board)
        campaign = fleet.campaign(board)
        assert fleet.types("campaign", "pause", campaign, *fleet.access(), "--reason", "to hold it there") == 0, (
            fleet.err
        )
        fleet.until(lambda: fleet.view(board)["state"] in ("asking", "staged"), "its waiting for a permit", board)
        old, files = board.target, copied(board.agent_directory, tmp_path / "thief")

        assert fleet.types("fleet", "decommission", old, "--reason", "the pump was replaced") == 0, fleet.err
        assert f"{old} is decommissioned" in fleet.out

        assert fleet.counts(campaign) == {"skipped": 1}
        assert fleet.view(board)["reason"] == "admin took it out of the fleet. the pump was replaced"
        fleet.until(lambda: not fleet.online(board), "the end of its session", board)
        fleet.until(lambda: "state cancelled" in board.log(), "its obedience to the last order", board)
        with pytest.raises(RefusedError, match=f"{old} was decommissioned, and that is for ever; enrol anew"):
            fleet.renews(files)
        assert not fleet.is_served(files)
        assert not fleet.is_connected(files)
        fleet.until(lambda: fleet.retained(old) == [], "the removal of its retained messages", board)
        trail = fleet.trail(board)
        assert {"agent-enrolled", "skipped", "target-decommissioned"} <= set(trail)
        assert fleet.types("fleet", "decommission", old) == 0
        assert fleet.types("fleet", "release", old) == 1
        assert "that is for ever" in fleet.err
        assert fleet.trail(board) == trail

        # The board is used again: with its old files it is nobody, emptied and with a new token it is another target.
        board.power_off()
        claim = fleet.lab.claim(uses=1)
        with pytest.raises(RefusedError) as caught:
            enrol(board.agent_directory, claim, HARDWARE)
        assert caught.value.kind == "already-enrolled"
        for file in board.agent_directory.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        enrol(board.agent_directory, claim, HARDWARE)
        board.power_on()
        assert board.target != old
        fleet.until(lambda: fleet.view(board)["running_version"] == FACTORY, "the new target's report", board)


@pytest.mark.parametrize("broker", DEEP_BROKERS)
def test_a_revoked_device_loses_its_connection(tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tried: to stay connected, and to come back with the stolen certificate, also after the broker was started anew."""
    with fleet_on(tmp_path, broker, capsys) as fleet:
        board, other = fleet.board("stolen"), fleet.board("bystander")
        fleet.until(lambda: fleet.online(board) and fleet.online(other), "both connections", board)
        assert fleet.types("fleet", "revoke", board.target, "--reason", "stolen") == 0, fleet.err
        fleet.until(lambda: not fleet.online(board), "the end of its session", board)
        board.power_off()
        assert not fleet.is_connected(board.agent_directory)
        fleet.restart()
        assert not fleet.is_connected(board.agent_directory)
        fleet.until(lambda: fleet.online(other), "the bystander's return", other)
        campaign = fleet.campaign(other)
        fleet.until(lambda: fleet.counts(campaign) == {"verified": 1}, "the bystander's update", other)


@pytest.mark.parametrize("broker", DEEP_BROKERS)
def test_a_quarantined_device_loses_its_connection_until_it_is_released(
    tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tried: to stay connected, and to come back with the same certificate."""
    with fleet_on(tmp_path, broker, capsys) as fleet:
        board, other = fleet.board("copied"), fleet.board("bystander")
        fleet.until(lambda: fleet.online(board) and fleet.online(other), "both connections", board)
        assert fleet.types("fleet", "quarantine", board.target, "--reason", "seen twice") == 0, fleet.err
        fleet.until(lambda: not fleet.online(board), "the end of its session", board)
        assert not fleet.is_connected(board.agent_directory)
        assert fleet.online(other)
        assert fleet.types("fleet", "release", board.target, "--reason", "the copy was destroyed") == 0, fleet.err
        fleet.until(lambda: fleet.online(board), "its return", board)


@pytest.mark.parametrize("broker", DEEP_BROKERS)
def test_drill_fleet_ca_rotated(tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tried with the old CA afterwards: to connect, to be served, to get a certificate of the new one."""
    with fleet_on(tmp_path, broker, capsys) as fleet:
        awake, asleep = fleet.board("awake"), fleet.board("asleep")
        asleep.power_off()
        stolen = Authorities.open_or_create(fleet.lab.state / "identity")
        first = fleet.certificate(awake).issuer

        assert fleet.types("fleet", "ca", "rotate", "fleet") == 0, fleet.err
        assert "Restart `otaria serve`" in fleet.out
        fleet.restart()
        fleet.until(lambda: fleet.certificate(awake).issuer != first, "the renewal from the new CA", awake)
        fleet.until(lambda: fleet.online(awake), "its return with it", awake)
        cas = {
            ca["standing"]: ca["targets"] for ca in fleet.shows("fleet", "ca", "show")["cas"] if ca["kind"] == "fleet"
        }
        assert cas == {"signs": 1, "accepted": 1}

        assert fleet.types("fleet", "ca", "retire", "fleet") == 1
        assert "1 target still has a certificate of the old fleet CA" in fleet.err
        forged = fleet.forged(stolen, awake)
        assert fleet.is_connected(forged)  # as long as the old CA is accepted, its thief connects
        assert fleet.types("fleet", "ca", "retire", "fleet", "--yes") == 0, fleet.err
        fleet.restart()
        fleet.until(lambda: fleet.online(awake), "its return after the old CA was retired", awake)
        assert not fleet.is_connected(forged)
        assert not fleet.is_served(forged)
        with pytest.raises(RefusedError) as caught:
            fleet.renews(forged)
        assert caught.value.kind == "bad-proof"

        asleep.power_on()
        fleet.until(lambda: fleet.certificate(asleep).issuer != first, "the sleeper's renewal", asleep)
        campaign = fleet.campaign(asleep)
        fleet.until(lambda: fleet.counts(campaign) == {"verified": 1}, "the sleeper's update", asleep)
        cas = {
            ca["standing"]: ca["targets"] for ca in fleet.shows("fleet", "ca", "show")["cas"] if ca["kind"] == "fleet"
        }
        assert cas == {"signs": 2, "retired": 0}


@pytest.mark.parametrize("broker", DEEP_BROKERS)
def test_drill_services_ca_rotated(tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tried with the old CA afterwards: to pose as the server. A sleeper learns of the new one from signed metadata alone."""
    with fleet_on(tmp_path, broker, capsys) as fleet:
        awake, asleep = fleet.board("awake"), fleet.board("asleep")
        asleep.power_off()
        first = fleet.view(awake)["services_cas"]

        assert fleet.types("fleet", "ca", "rotate", "services") == 0, fleet.err
        assert fleet.types("fleet", "ca", "show", "--pem", tmp_path / "cas") == 0, fleet.err
        old, new = (next((tmp_path / "cas").glob(f"services-{standing}-*.pem")) for standing in ("signs", "next"))
        assert fleet.types("fleet", "ca", "switch", "services") == 1
        assert "2 targets have not said that they trust the next services CA" in fleet.err
        fleet.tells(fleet.here(), old, new)
        fleet.restart()
        fleet.until(lambda: len(fleet.view(awake)["services_cas"]) == 2, "its trust in both", awake)
        assert fleet.types("fleet", "ca", "switch", "services") == 1
        assert "1 target has not said" in fleet.err
        assert fleet.types("fleet", "ca", "switch", "services", "--yes") == 0, fleet.err
        fleet.restart()
        fleet.until(lambda: fleet.online(awake), "its return", awake)
        fleet.tells(fleet.here(), new)
        fleet.restart()
        fleet.until(lambda: len(fleet.view(awake)["services_cas"]) == 1, "its farewell to the old one", awake)
        assert fleet.view(awake)["services_cas"] != first
        assert fleet.types("fleet", "ca", "retire", "services", "--yes") == 0, fleet.err
        fleet.restart()

        asleep.power_on()  # it pins a CA that signs nothing any more
        fleet.until(
            lambda: fleet.view(asleep)["services_cas"] == fleet.view(awake)["services_cas"], "its return", asleep
        )
        fleet.until(lambda: fleet.online(asleep) and fleet.online(awake), "both connections", asleep)
        campaign = fleet.campaign(asleep)
        fleet.until(lambda: fleet.counts(campaign) == {"verified": 1}, "the sleeper's update", asleep)


@pytest.mark.parametrize("broker", DEEP_BROKERS)
def test_drill_fleet_moved(tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tried: a typing error in the new address; and by the old server's owner, to keep the fleet with the older catalogue."""
    with fleet_on(tmp_path / "old", broker, capsys) as fleet:
        board, asleep = fleet.board("mover"), fleet.board("sleeper")
        asleep.power_off()
        assert fleet.types("fleet", "ca", "show", "--pem", tmp_path / "cas") == 0, fleet.err
        ca = next((tmp_path / "cas").glob("services-signs-*.pem"))
        before = copied(fleet.lab.repository / "metadata", tmp_path / "older-metadata")

        # A wrong address costs the device some seconds, and it says where it is.
        fleet.tells(("https://127.0.0.1:1", "127.0.0.1:1"), ca)
        fleet.restart()
        fleet.until(lambda: "trying another way" in board.log(), "its giving up", board)
        fleet.until(lambda: fleet.online(board), "its return to the old address", board)

        fleet.lab.stop_server()
        new = fleet.moved_to(tmp_path / "new")
        with new.serving():
            fleet.tells(new.here(), ca)
            new.takes_catalogue_of(fleet)
            new.restart()
            fleet.lab.start_server()
            fleet.until(lambda: new.view(board)["endpoint"] == new.here()[0], "its arrival", board)
            moved = new.shows("fleet", "endpoints")
            assert moved["endpoints"][new.here()[0]] == 1
            fleet.lab.stop_server()
            campaign = new.campaign(board)
            new.until(lambda: new.counts(campaign) == {"verified": 1}, "an update by the new server", board)

            # The old machine's owner shows the catalogue from before: nobody goes back.
            shutil.rmtree(fleet.lab.repository / "metadata")
            shutil.copytree(before, fleet.lab.repository / "metadata")
            fleet.lab.start_server()
            asleep.power_on()
            fleet.until(lambda: fleet.online(asleep), "the sleeper at the old address", asleep)
            assert new.online(board)
            assert new.view(board)["endpoint"] == new.here()[0]
            fleet.lab.stop_server()
            fleet.takes_catalogue_of(new)
            fleet.lab.start_server()
            new.until(lambda: new.view(asleep)["endpoint"] == new.here()[0], "the sleeper's arrival", asleep)
            fleet.lab.stop_server()


@pytest.mark.parametrize(
    ("drill", "commands"),
    [
        (
            "Fleet CA rotated",
            ["otaria fleet ca rotate fleet", "otaria fleet ca show", "otaria fleet ca retire fleet"],
        ),
        (
            "Services CA rotated",
            [
                "otaria fleet ca rotate services",
                "otaria fleet ca show --pem",
                "otaria keys endpoints --endpoint",
                "otaria keys sign",
                "otaria keys apply",
                "otaria fleet ca switch services",
                "otaria fleet ca retire services",
            ],
        ),
        (
            "Fleet moved to a new server and broker",
            [
                "otaria fleet ca show --pem",
                "otaria keys endpoints",
                "keys sign",
                "keys apply",
                "otaria fleet endpoints",
            ],
        ),
        (
            "Device decommissioned",
            [
                "otaria fleet decommission d-",
                "otaria fleet token create",
                "otaria-agent --dir /var/lib/otaria-agent enrol",
            ],
        ),
    ],
)
def test_the_document_says_what_the_fleets_drill_types(drill: str, commands: list[str]) -> None:
    section = DRILLS.read_text().partition(f"## {drill}\n")[2].partition("\n## ")[0]
    places = [section.find(command) for command in commands]
    assert -1 not in places
    assert places == sorted(places)
