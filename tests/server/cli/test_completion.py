"""Shells complete commands and options, as the how-to says."""

import os
import subprocess
import sys

START = "from server.entry import main; import sys; sys.argv[0] = 'otaria'; main()"


def completed(words: str, count: int) -> list[str]:
    env = {**os.environ, "_OTARIA_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = subprocess.run(
        [sys.executable, "-c", START], env=env, capture_output=True, text=True, check=False, timeout=60
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_options_of_a_command_are_completed() -> None:
    assert "--query" in completed("otaria fleet list --", 3)
