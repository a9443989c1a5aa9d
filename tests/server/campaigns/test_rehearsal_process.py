"""The process that rehearses: it is asked and believed over pipes, and it ends when it is told to, breaks, or takes too long."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from firmware.errors import RefusedError, UnavailableError
from server.campaigns.rehearsal import Rehearsal, Task
from server.campaigns.rehearsal_process import RehearsalProcess
from server.campaigns.strategy_file import parse_campaign

TASK = Task(
    spec=parse_campaign('{name: spring, product: lamp, version: "2.0.0", strategy: standard}'),
    fleet=(),
    begins=0.0,
    days=1.0,
    replicas=2,
    most=2,
    image_bytes=1,
)
BAND = '{"p10": null, "p50": 1.5, "p90": 2.0}'
RESULT = (
    f'{{"targets": 1, "sampled": 1, "replicas": 2, "done_s": {BAND}, "verified": {BAND}, "unreached": {BAND}, '
    '"cohorts": [], "blast": [], "binds": {}, "broken": 0}'
)
PLAYS = f"""
import json, sys
task = json.loads(sys.stdin.read())
assert task["spec"]["name"] == "spring" and sys.argv[1:] == ["1000", "30"]
for n in (1, 2):
    print(json.dumps({{"done": n}}), flush=True)
result = json.loads('''{RESULT}''')
print(json.dumps({{"done": 3, "result": {{**result, "replicas": 1}}}}))
print(json.dumps({{"result": result, "is_last": True}}))
"""


def stage(code: str, *, seconds: int = 30) -> RehearsalProcess:
    return RehearsalProcess(["-c", code], memory_bytes=1000, seconds=seconds)


async def nobody(done: int, so_far: Rehearsal | None) -> None:
    """Listens to nothing."""


async def test_it_hands_over_the_task_and_tells_how_far_it_is() -> None:
    told: list[tuple[int, int | None]] = []

    async def tell(done: int, so_far: Rehearsal | None) -> None:
        told.append((done, so_far.replicas if so_far else None))

    found = await stage(PLAYS).rehearse(TASK, tell)
    assert told == [(1, None), (2, None), (3, 1)]
    assert (found.targets, found.replicas, found.done_s.p10, found.done_s.p50) == (1, 2, None, 1.5)


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ('print(\'{"kind": "nothing-selected", "text": "Nobody fits."}\')', RefusedError, "Nobody fits."),
        ("import sys; sys.exit('No module named simulator')", UnavailableError, "ended with 1: No module named"),
        ("import os; os._exit(0)", UnavailableError, "it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", UnavailableError, "ended with -9"),
    ],
)
async def test_what_goes_wrong_is_told(code: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        await stage(code).rehearse(TASK, nobody)


async def test_one_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    code = f"import os, signal, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); signal.pause()"
    with pytest.raises(UnavailableError, match="more than 1 s"):
        await stage(code, seconds=1).rehearse(TASK, nobody)
    _assert_gone(tmp_path)


async def test_one_that_nobody_wants_any_more_is_killed(tmp_path: Path) -> None:
    code = (
        f"import os, signal, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "print('{\"done\": 1}', flush=True); signal.pause()"
    )
    began = asyncio.Event()

    async def tell(done: int, so_far: Rehearsal | None) -> None:
        began.set()

    running = asyncio.create_task(stage(code).rehearse(TASK, tell))
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    _assert_gone(tmp_path)


def _assert_gone(tmp_path: Path) -> None:
    if (tmp_path / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)


async def test_it_does_not_get_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTARIA_HSM_PIN", "1234")
    monkeypatch.setenv("LANG", "C.UTF-8")
    tells = "import os, sys; sys.exit(repr([os.environ.get(name) for name in ('OTARIA_HSM_PIN', 'LANG')]))"
    with pytest.raises(UnavailableError, match=r"\[None, 'C.UTF-8'\]"):
        await stage(tells).rehearse(TASK, lambda _: None)
