"""What stays resident imports nothing that needs keys, the catalogue, HTTPS or patches: all that is the worker's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.worker.client import worker_command

HEAVY = {"cryptography", "tuf", "securesystemslib", "urllib3", "zstandard", "bsdiff4", "asyncio"}
SHOW = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
RESIDENT = """
import device_agent.app, device_agent.cli
from device_agent.config import Config, runtime_settings, upkeep_pace
runtime_settings(Config(), "1"), upkeep_pace(Config())
"""


def modules(code: str) -> set[str]:
    """The top-level modules that are there after the code ran in a process of its own."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{SHOW}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_resident_process_imports_nothing_heavy() -> None:
    assert modules(RESIDENT) & HEAVY == set()


@pytest.mark.parametrize("name", ["cryptography", "tuf", "securesystemslib", "urllib3", "zstandard", "bsdiff4"])
def test_the_worker_does_so_that_the_test_above_looks_for_the_right_thing(name: str) -> None:
    assert name in modules("import device_agent.worker.app")


def test_the_worker_leaves_out_what_only_tokens_need() -> None:
    command = worker_command(Path("/nowhere"))
    code = command[command.index("-c") + 1].replace("; main(sys.argv[2:])", "")
    loaded = modules(code)
    assert "tuf" in loaded
    assert "asn1crypto" not in loaded  # what pkcs11 brings
