"""`otaria-agent status | grep -q trial`: a reader that leaves early is not complained about."""

import os
import subprocess
import sys

import pytest

SAYS = "import sys; from device_agent import cli; cli._health = lambda _: sys.stdout.write({text!r}) and 0; cli.main(['health'])"


@pytest.mark.parametrize(("text", "code"), [("few words", 0), ("x" * 100_000, 1)])
def test_nothing_is_said_when_the_reader_has_left(text: str, code: int) -> None:
    """What fits into the buffer is written when the command is done; what doesn't ends the command."""
    with subprocess.Popen(
        [sys.executable, "-c", SAYS.format(text=text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == code
