"""systemd's own programs on the entries that the back end writes, and on the model of systemd-boot that the contract tests
boot with.

`bootctl list` sorts entries with systemd's own implementation of the specification; `systemd-bless-boot` reads and changes
the counters. Both want a file system that looks like an ESP, and the second one EFI variables: they get them in a mount
namespace of their own. `test_systemd_boot_in_qemu.py`
boots systemd-boot itself.
"""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from device_agent.boot.entries import Entry, parse, rescue_name, write, write_rescue
from device_agent.boot.ledger import Phase
from device_agent.ports import Slot
from tests.boot import sd_boot_model
from tests.contract.boot_benches import SystemdBootBench
from tests.contract.power import UnsyncedEffects

BLESS = Path("/lib/systemd/systemd-bless-boot")
TEMPLATE = "linux /vmlinuz\noptions quiet\n"
LIST = """\
set -e
mount -t tmpfs tmpfs "$1"
mkdir -p "$1/EFI" "$1/loader/entries"
touch "$1/vmlinuz"
for set in "$2"/*/; do
    rm -f "$1"/loader/entries/*
    cp "$set"*.conf "$1/loader/entries/"
    SYSTEMD_RELAX_ESP_CHECKS=1 bootctl --esp-path="$1" list --json=short > "$set/listed.json" 2> "$set/said"
done
"""
BLESSING = """\
set -e
mount -t tmpfs tmpfs "$1"
for name in usr proc sys/firmware/efi/efivars esp/EFI esp/loader/entries etc dev; do mkdir -p "$1/$name"; done
for name in bin lib lib64 sbin; do [ ! -L "/$name" ] || ln -s "usr/$name" "$1/$name"; done
mount --rbind /usr "$1/usr"
mount --rbind /proc "$1/proc"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/esp"
mkdir -p "$1/esp/EFI" "$1/esp/loader/entries"
cp "$2"/*.conf "$1/esp/loader/entries/"
cp "$2/variable" "$1/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
SYSTEMD_RELAX_ESP_CHECKS=1 chroot "$1" /lib/systemd/systemd-bless-boot --path=/esp "$3" 2>/dev/null
ls "$1/esp/loader/entries"
"""


def can_make_namespaces() -> bool:
    run = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(run, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.skipif(not shutil.which("bootctl"), reason="bootctl (systemd-boot) is not here"),
    pytest.mark.skipif(not can_make_namespaces(), reason="mount namespaces are not allowed here"),
]


def listed(folder: Path, sets: list[dict[str, str]]) -> list[list[dict[str, object]]]:
    """What `bootctl list` says of each set of files."""
    places = [folder / "sets" / f"{number:04}" for number in range(len(sets))]
    for place, files in zip(places, sets, strict=True):
        place.mkdir(parents=True)
        for name, text in files.items():
            (place / name).write_text(text)
    esp = folder / "esp"
    esp.mkdir()
    run = ["unshare", "--mount", "sh", "-c", LIST, "sh", str(esp), str(folder / "sets")]
    subprocess.run(run, check=True, capture_output=True, timeout=60)
    for place in places:
        assert "Unknown line" not in (place / "said").read_text()
    return [[json.loads(line) for line in (place / "listed.json").read_text().splitlines()] for place in places]


def some_entry(dice: random.Random, slot: Slot, number: int) -> Entry:
    return Entry(
        slot=slot,
        number=number,
        left=dice.choice([0, 0, 1, 3, 9]),
        done=dice.choice([0, 1, 2, 12]),
        version=dice.choice([1, 2, 9, 10]),
        phase=dice.choice([Phase.TRIAL, Phase.COMMITTED]),
        total=3,
        trial_id=dice.choice(["", "t-1_x"]),
        canary="0a1b2c3d",
    )


def test_the_model_sorts_as_bootctl_does(tmp_path: Path) -> None:
    dice, sets = random.Random(20260102), []
    for _ in range(60):
        numbers = dice.sample(range(1, 30), 4)
        entries = [some_entry(dice, dice.choice(list(Slot)), number) for number in numbers]
        files = {entry.name: write(entry, TEMPLATE) for entry in entries}
        if dice.random() < 0.5:
            files[rescue_name(entries[0].slot)] = write_rescue(entries[0], TEMPLATE)
        sets.append(files)
    found = listed(tmp_path, sets)
    for number, said in enumerate(found):
        place = tmp_path / "sets" / f"{number:04}"
        assert [Path(str(one["path"])).name for one in said] == sd_boot_model.entries_in_order(place), number


def test_bootctl_reads_every_entry_that_the_back_end_writes(tmp_path: Path) -> None:
    entry = some_entry(random.Random(1), Slot.B, 7)
    (said,) = listed(tmp_path, [{entry.name: write(entry, TEMPLATE)}])
    assert said[0]["id"] == "otaria-b-7.conf"
    assert (said[0]["triesLeft"], said[0].get("triesDone", 0)) == (entry.left, entry.done)
    assert said[0]["options"] == f"quiet otaria.slot=B otaria.canary=0a1b2c3d otaria.trial={entry.trial_id}".rstrip()
    assert parse(entry.name, write(entry, TEMPLATE)) == entry


def blessed(folder: Path, entries: Path, name: str, verb: str) -> list[str]:
    """What `systemd-bless-boot` says, or how the files are named after it."""
    root, files = folder / f"root-{verb}", folder / f"files-{verb}"
    root.mkdir()
    shutil.copytree(entries, files)
    path = f"\\loader\\entries\\{name}\0".encode("utf-16le")
    (files / "variable").write_bytes((6).to_bytes(4, "little") + path)
    run = ["unshare", "--mount", "sh", "-c", BLESSING, "sh", str(root), str(files), verb]
    done = subprocess.run(run, check=True, capture_output=True, timeout=30, text=True)
    return done.stdout.split()


@pytest.mark.skipif(not BLESS.exists(), reason="systemd-bless-boot (systemd-boot) is not here")
def test_systemd_bless_boot_understands_a_trial_and_marks_it_as_we_do(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    bench = SystemdBootBench(tmp_path / "bench")
    bench.boot()
    bench.control(UnsyncedEffects()).try_slot(Slot.B, "t1", deadline_s=1)
    (armed,) = [path.name for path in bench.entries.glob("otaria-b-*")]
    assert armed.endswith("+2.conf")
    bench.boot()
    (running,) = [path.name for path in bench.entries.glob("otaria-b-*")]
    assert running.endswith("+1-1.conf")
    # LoaderBootCountPath holds the name that systemd-boot gave it.
    assert blessed(tmp_path, bench.entries, running, "status")[0] == "indeterminate"
    bad = [name for name in blessed(tmp_path, bench.entries, running, "bad") if name.startswith("otaria-b")]
    bench.control(UnsyncedEffects()).give_up("t1")
    (ours,) = [path.name for path in bench.entries.glob("otaria-b-*")]
    assert [name.partition("+")[2] for name in bad] == [ours.partition("+")[2]] == ["0-1.conf"]
