"""Whatever an agent reports, the server can read: a report it refused would hold up all after it for ever."""

import hashlib
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from device_agent.config import CONFIG_FILE, MAX_LABELS_BYTES, load_config
from device_agent.core.commands import Tell
from device_agent.core.states import Standing
from device_agent.metrics.book import Book, batch
from device_agent.notary import KeyNotary
from device_agent.outbox import Outbox
from device_agent.reports import Facts, enqueue, enqueue_inventory, enqueue_metrics, enqueue_packages
from firmware.protocol.envelope import open_envelope
from firmware.protocol.metrics import MAX_HOURS, MAX_METRICS, MetricHour, Told
from firmware.protocol.order import Counter
from firmware.protocol.packages import MAX_PARTS, PART_BYTES, PackagesPart
from firmware.protocol.report import MAX_REPORT_BYTES, REPORT_KIND, Inventory, Reason, Report
from firmware.protocol.words import MAX_TEXT, Action, AgentState
from tests.crash.world import BOARD, IDENTITY, DepotCatalogue, World
from tests.device_agent.core.playbook import Player, held

SIGNER = CryptoSigner.generate_ed25519()
FACTS = Facts(identity=IDENTITY, notary=KeyNotary(DepotCatalogue(World().depot), SIGNER), at=1)


def read(outbox: Outbox) -> Report:
    """The last report, as the server reads it."""
    keys = {SIGNER.public_key.keyid: SIGNER.public_key}
    return open_envelope(outbox.entries[-1].envelope, REPORT_KIND, Report, keys, max_bytes=MAX_REPORT_BYTES).message


@pytest.mark.parametrize("text", ["x" * 5000, "\x00" * 5000, "\U0001f9ad" * 5000, "name \udcff of a file"])
def test_any_reason_fits_a_report(text: str) -> None:
    standing = Player().ordered().standing
    tell = Tell(state=AgentState.FAILED, held=held(name="a" * 64), reason=Reason(kind="storage-fault", text=text))
    report = read(enqueue(Outbox(journal="j"), tell, standing, FACTS))
    assert report.reason is not None
    assert 0 < len(report.reason.text) <= MAX_TEXT


def test_largest_labels_that_are_accepted_fit_a_report(tmp_path: Path) -> None:
    value = "\\u0001" * 28  # 6 bytes of JSON each
    (tmp_path / CONFIG_FILE).write_text("[labels]\n" + "".join(f'label{n} = "{value}"\n' for n in range(64)))
    labels = load_config(tmp_path).labels
    inventory = Inventory(hardware="b" * 128, agent_version="v" * 128, labels=labels, capabilities=["c" * 128] * 8)
    trouble = Reason(kind="journal-damaged", text="\x01" * 1024)
    report = read(enqueue_inventory(Outbox(journal="j"), inventory, trouble, Standing(), FACTS))
    assert report.inventory == inventory
    assert MAX_LABELS_BYTES < MAX_REPORT_BYTES


def test_the_most_metrics_that_an_agent_tells_at_once_fit_a_report() -> None:
    values = {f"{number:02}".ljust(64, "x"): Told(65535, -0.1234567890123456e18) for number in range(MAX_METRICS)}
    book = Book(hours=tuple(MetricHour(hour=hour, values=values) for hour in range(MAX_HOURS)), dropped=(1 << 53) - 1)
    metrics = batch(book, -1)
    assert metrics is not None
    assert read(enqueue_metrics(Outbox(journal="j"), metrics, Player().ordered().standing, FACTS)).metrics == metrics


def test_order_with_many_unknown_critical_fields_does_not_silence_the_agent() -> None:
    world = World()
    crit = [f"{n:02}-" + "x" * 60 for n in range(32)]
    world.server.order(Action.INSTALL, world.new, crit=crit)
    world.run()
    assert world.server.told[-1].reason is not None
    assert world.server.told[-1].reason.kind == "not-understood"
    world.server.order(Action.INSTALL, world.new, counter=Counter(epoch=1, n=2))
    world.run()
    assert world.server.states()[-1] == "committed"


def test_what_runs_is_read_from_its_slot_when_the_journal_does_not_tell() -> None:
    """The journal was lost in the middle of a trial: the boot after it comes back to a slot that no journal knows."""
    world = World()
    world.server.order(Action.INSTALL, world.new)
    world.run(until=lambda: world.boots[-1].outcome == "trial")
    world.after_cut("all")
    world.disk.files[BOARD.agent / "journal.json"] = b"{"
    world.server.highest.clear()
    world.run()
    running = world.server.told[-1].running
    assert running.sha256 is not None
    assert running.sha256 in {hashlib.sha256(one.image).hexdigest() for one in (world.old, world.new)}
    assert all(report.running.version for report in world.server.told[-3:])


def test_the_largest_part_of_a_package_list_fits_a_report() -> None:
    sha = "f" * 64
    part = PackagesPart(base=sha, now=sha, index=MAX_PARTS - 1, count=MAX_PARTS, data=bytes(PART_BYTES))
    standing = Player().ordered().standing
    assert read(enqueue_packages(Outbox(journal="j" * 64), [part], standing, FACTS)).packages == part
