"""Where the `otaria` console script begins: says what to install when only the agent's few dependencies are here."""

import sys


def main() -> None:
    """Run the command line, or exit with 1 and a sentence."""
    try:
        from server.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(
            f"otaria: this machine lacks {error.name}, which the server's commands need: pip install 'otaria[server]'"
        )
    run()
