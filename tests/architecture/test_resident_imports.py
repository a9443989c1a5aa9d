"""What stays resident imports nothing that needs keys, the catalogue, HTTPS or patches: all that is the worker's."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import securesystemslib.signer

from device_agent.worker.client import SIGNERS, worker_command

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


def test_the_worker_leaves_out_what_only_tokens_and_clouds_need() -> None:
    command = worker_command(Path("/nowhere"))
    code = command[command.index("-c") + 1].replace("; main(sys.argv[2:])", "")
    assert "botocore" in modules("import device_agent.worker.app"), "the environment has what is to be left out"
    loaded = modules(code)
    assert "tuf" in loaded
    assert loaded & {"asn1crypto", "botocore", "s3transfer"} == set()  # what pkcs11 and boto3 bring


def test_whatever_securesystemslib_may_find_is_left_out() -> None:
    known = {"cryptography", "securesystemslib", *sys.stdlib_module_names}
    sources = Path(securesystemslib.signer.__file__).parent.glob("*.py")
    found = {
        name
        for source in sources
        for name in tried(ast.parse(source.read_text()))
        if name.partition(".")[0] not in known
    }
    assert {"boto3", "pkcs11.util.ec"} <= found
    left_out = {name for name in found if any(f"{name}.".startswith(f"{one}.") for one in SIGNERS)}
    assert found - left_out == {"botocore.exceptions"}, "this comes after boto3, which isn't found"


def tried(module: ast.Module) -> Iterator[str]:
    """What a module imports on its own import, if it is there."""
    for block in module.body:
        for node in block.body if isinstance(block, ast.Try) else ():
            if isinstance(node, ast.ImportFrom):
                yield node.module or ""
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
