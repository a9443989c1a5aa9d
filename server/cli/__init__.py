"""The `otaria` command. Its groups are found by entry points, so that it imports only what is used.

Exit codes: 0 done, 1 the thing asked for failed, 2 wrong use.
"""

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from firmware.errors import OtariaError
from server.cli.output import report_error

GROUP = "otaria.commands"


class _Groups(click.Group):
    """Loads a group only when it is used: `otaria delta` should not pay for aiohttp."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(point.name for point in entry_points(group=GROUP))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = [point for point in entry_points(group=GROUP) if point.name == cmd_name]
        return _load(found[0]) if found else None


def _load(point: EntryPoint) -> click.Command:
    command: click.Command = point.load()
    return command


@click.group(cls=_Groups, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="otaria", prog_name="otaria")
def cli() -> None:
    """Signed firmware updates for fleets that are partly asleep.

    Example: otaria campaign show spring-rollout
    """


def main(argv: list[str] | None = None) -> None:
    """Entry point of the console script; turns typed errors into a sentence and an exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code. With `--json` errors are one JSON object on stderr too."""
    try:
        outcome: Any = cli.main(args=arguments, prog_name="otaria", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        report_error("usage", error.format_message(), as_json="--json" in arguments)
        return 2
    except click.Abort:
        report_error("aborted", "Stopped before it was done; nothing was changed.", as_json="--json" in arguments)
        return 1
    except OtariaError as error:
        report_error(error.kind, error.text, as_json="--json" in arguments)
        return 1
    except OSError as error:
        report_error(
            "os-error", f"{error.strerror or error}: {error.filename or ''}".strip(": "), as_json="--json" in arguments
        )
        return 1
    return outcome if isinstance(outcome, int) else 0
