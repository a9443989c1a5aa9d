"""The models make the system calls that the real things make: our own effects, and libubootenv's `fw_setenv`, under `strace`."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from device_agent.effects import FileEffects, FileMedia
from tests.crash import fw_env_model
from tests.crash.disk import Medium, System

CALLS = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate,sync,syncfs,msync"
LINE = re.compile(r"(?:\d+ +)?(?P<name>[a-z0-9_]+)\((?P<rest>.*)\) += (?P<answer>-?\d+)")
PATH = re.compile(r'^(?:AT_FDCWD(?:<[^>]*>)?, )?(?:\d+<(?P<held>[^>]*)>|"(?P<named>[^"]*)")')
Step = tuple[str, str]

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.crash.test_straces import use
use(Path(sys.argv[1]))
"""


def use(folder: Path, system: System | None = None) -> None:
    """Every verb of the effects that changes something but `settle`, which would freeze the file system under the tests."""
    effects, media = (FileEffects(), FileMedia()) if system is None else (FileEffects(system), FileMedia(system))
    for content in (b"one", b"two, longer"):
        effects.replace(folder / "journal", content)
        effects.append(folder / "patch", content)
    effects.write_at(folder / "slot", 3, b"x" * 700)
    effects.fsync(folder / "slot")
    medium = media.open(folder / "slot", writing=True)
    medium.write_at(5, b"y" * 600)
    medium.flush()
    medium.close()
    effects.unlink(folder / "patch")


def test_the_effects_make_the_calls_that_the_disk_model_counts(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    folder.mkdir()
    (folder / "slot").write_bytes(bytes(4096))
    root = Path(__file__).parents[2]
    seen = traced([sys.executable, "-c", SCRIPT, str(folder), str(root)], folder, present={"slot"})
    system = System(Medium({f"{folder}/slot": bytes(4096)}))
    use(folder, system)
    modelled = [(kind.removesuffix(" folder"), path) for kind, path in system.trace]
    assert seen == modelled
    assert [kind for kind, _ in seen[:5]] == ["create", "write", "fsync", "rename", "fsync"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.rpartition("/")[2]: bytes(node.data) for path, node in system.names.items()
    }


def test_fw_setenv_writes_the_other_copy_whole_and_flushes_it(tmp_path: Path) -> None:
    """The tool's calls and bytes, from three starts: either copy the newer one, and one of them torn."""
    old, new = (fw_env_model.encode({"bootdelay": "0", "otaria_gone": "1"}, flag) for flag in (4, 5))
    for number, copies in enumerate(([old, new], [new, old], [old, new[:-1] + b"\1"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = [folder / "env0", folder / "env1"]
        for path, data in zip(paths, copies, strict=True):
            path.write_bytes(data)
        config = folder / "fw_env.config"
        config.write_text("".join(f"{path} 0x0 {fw_env_model.SIZE:#x}\n" for path in paths))
        system = System(Medium({str(path): path.read_bytes() for path in (*paths, config)}))
        argv, script = ["fw_setenv", "-c", str(config), "-s", "-"], b"otaria_slot=B\notaria_gone=\notaria_id=t1\n"
        seen = traced(argv, folder, present={"env0", "env1"}, script=script)
        fw_env_model.tool(system, argv, script)
        assert seen == system.trace
        assert [path.read_bytes() for path in paths] == [bytes(system.names[str(path)].data) for path in paths]
        printed = subprocess.run(["fw_printenv", "-c", str(config)], capture_output=True, check=True, timeout=30).stdout
        assert sorted(printed.splitlines()) == sorted(
            fw_env_model.tool(system, ["fw_printenv", "-c", str(config)], b"").splitlines()
        )


def traced(argv: Sequence[str], folder: Path, *, present: set[str], script: bytes = b"") -> list[Step]:
    """What a command does to the files of a folder, in order. `present`: names that are there before."""
    run = ["strace", "-f", "-y", "-s", "4", "-o", str(folder.parent / "trace"), "-e", f"trace={CALLS}", *argv]
    subprocess.run(run, input=script, check=True, timeout=60, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    there = {str(folder / name) for name in present}
    steps = []
    for line in (folder.parent / "trace").read_text(errors="replace").splitlines():
        step = _step(line, there)
        if step is not None and step[1].startswith(str(folder)):
            steps.append(step)
    return steps


def _step(line: str, there: set[str]) -> Step | None:
    found = LINE.match(line)
    if found is None or int(found["answer"]) < 0:
        return None
    name, path = found["name"], PATH.match(found["rest"])
    where = "" if path is None else path["held"] or path["named"] or ""
    if name == "openat":
        return _opened(where, found["rest"], there)
    if name.startswith("rename"):
        new = re.findall(r'"([^"]*)"', found["rest"])[1]
        there.discard(where)
        there.add(new)
        return "rename", new
    if name.startswith("unlink"):
        there.discard(where)
        return "unlink", where
    kind = {"pwrite64": "write", "write": "write", "fsync": "fsync"}.get(name, name)
    return kind, where


def _opened(path: str, flags: str, there: set[str]) -> Step | None:
    if "O_CREAT" in flags and path not in there:
        there.add(path)
        return "create", path
    return ("truncate", path) if "O_TRUNC" in flags else None
