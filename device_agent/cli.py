"""`otaria-agent`: the agent's own command. Exit codes: 0 done, 1 the thing asked for failed, 2 wrong use."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from device_agent.stdout import reader_left
from firmware.errors import OtariaError, RefusedError, UnavailableError
from firmware.logs import log_to_stderr

if TYPE_CHECKING:
    from device_agent.local.requests import Request

MAX_CLAIM_FILE_BYTES = 8192
MAX_PEM_FILE_BYTES = 32768
DEFAULT_DIRECTORY = "/var/lib/otaria-agent"
MAX_DEFER_S = 366 * 86400
Command = Callable[[argparse.Namespace], int]


class _UsageError(Exception):
    """Wrong use; the sentence says what is right."""


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, so that `--json` holds for wrong use too."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}. See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Errors are a sentence on stderr, or one JSON object with `--json`."""
    as_json = "--json" in arguments
    try:
        parsed = _parser().parse_args(arguments)
        command: Command = parsed.command
        ended = command(parsed)
        reader_left()
        return ended
    except _UsageError as error:
        return _failed("usage", str(error), as_json, code=2)
    except OtariaError as error:
        return _failed(error.kind, error.text, as_json)
    except OSError as error:
        if reader_left():
            return 1
        where = f": {error.filename}" if error.filename else ""
        return _failed("os-error", f"{error.strerror or error}{where}", as_json)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="otaria-agent",
        description="Updates its device: fetches signed releases, tries them in the other slot, commits or falls back.",
        epilog="Example: otaria-agent --dir board/agent status --json",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(DEFAULT_DIRECTORY),
        metavar="DIR",
        help=f"the agent's directory with its keys, agent.toml and journal (default: {DEFAULT_DIRECTORY})",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add(commands, "run", _run, "run the agent until SIGTERM", "otaria-agent --dir board/agent run")
    _add_enrol(commands)
    _add(commands, "status", _status, "show state and running release", "otaria-agent --dir board/agent status")
    _add(
        commands,
        "health",
        _health,
        "run the running release's health checks now",
        "otaria-agent --dir board/agent health",
    )
    _add_local(commands)
    _add_bundle(commands)
    _add_data(commands)
    _add_packages(commands)
    _add_boot(commands)
    _add_board(commands)
    _add_appliances(commands)
    return parser


def _add_local(commands: Any) -> None:
    defer = _add(
        commands, "defer", _defer, "put off restarts into a new release", "otaria-agent --dir board/agent defer 2h"
    )
    defer.add_argument("time", metavar="TIME", type=_duration, help="how long: 90s, 30m, 2h or 1d")
    consent = _add(
        commands, "consent", _consent, "agree to the order that waits", "otaria-agent --dir board/agent consent"
    )
    consent.add_argument("--order", metavar="HASH", help="only if the present order is this one")
    text = "commit the trial as soon as its checks pass"
    _add(commands, "commit", _commit, text, "otaria-agent --dir board/agent commit")
    text = "go back to the previous release"
    _add(commands, "rollback", _rollback, text, "otaria-agent --dir board/agent rollback")


def _duration(text: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    number = text[:-1]
    if unit is None or not (number.isascii() and number.isdigit()) or not 0 < int(number[:9]) * unit <= MAX_DEFER_S:
        raise argparse.ArgumentTypeError("a time is a whole number with s, m, h or d, such as 2h")
    return float(int(number[:9]) * unit)


def _add(commands: Any, name: str, command: Command, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=f"Example: {example}"
    )
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON value for scripts")
    parser.set_defaults(command=command)
    return parser


def _add_enrol(commands: Any) -> None:
    example = "otaria-agent --dir board/agent enrol --claim @claim.txt --hardware demo-board"
    parser = _add(commands, "enrol", _enrol, "get an identity with a claim token, or with a key that is known", example)
    right = parser.add_mutually_exclusive_group(required=True)
    right.add_argument("--claim", help="the claim token, or @FILE that holds it")
    right.add_argument("--introduction", help="what known devices are given, or @FILE that holds it; needs --key")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the device's own private key, in PEM")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="its factory certificate and chain, in PEM")
    parser.add_argument("--hardware", required=True, help="the hardware id that releases name")


def _add_bundle(commands: Any) -> None:
    example = "otaria-agent --dir /var/lib/otaria-agent install /media/stick/spring.bundle --wait"
    install = _add(commands, "install", _install, "install from an offline bundle", example)
    install.add_argument("file", type=Path, metavar="FILE", help="the bundle, as the server wrote it")
    install.add_argument("--wait", action="store_true", help="stay until the update has ended")
    report = _add(
        commands,
        "report",
        _report,
        "give out the reports that wait, for a server that is not reached",
        "otaria-agent --dir /var/lib/otaria-agent report --to /media/stick/otaria-reports",
    )
    way = report.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, metavar="DIR", help="write them into this folder")
    way.add_argument("--text", action="store_true", help="print them as text")
    way.add_argument("--qr", action="store_true", help="draw them as QR codes")
    way.add_argument("--code", action="store_true", help="show the code to type: how the last order ended, no more")


def _add_data(commands: Any) -> None:
    example = 'cd "$(otaria-agent data path --wait 60s)"'
    parser = _add(commands, "data", _data, "say where what runs keeps its data", example)
    parser.add_argument("what", choices=("path",), help="the folder of the data that belongs to what runs")
    parser.add_argument("--wait", metavar="TIME", type=_duration, default=0.0, help="wait so long while it is migrated")


def _add_packages(commands: Any) -> None:
    text = "show a host's packages, what is pending, and what waits for a restart"
    packages = _add(
        commands, "packages", _packages, text, "otaria-agent --dir /var/lib/otaria packages --refresh --json"
    )
    packages.add_argument("--refresh", action="store_true", help="ask the archives first what they offer")


def _add_boot(commands: Any) -> None:
    example = "otaria-agent --dir /var/lib/otaria boot check"
    parser = _add(commands, "boot", _boot, "make, check or tell the boot loader's environment", example)
    parser.add_argument(
        "what",
        choices=("make", "check", "shut-down"),
        help="make the first environment, check that the boot loader uses it, or note a clean shutdown",
    )
    parser.add_argument("--slot", choices=("A", "B"), default="A", help="with make: the committed slot (default: A)")


def _add_board(commands: Any) -> None:
    example = "otaria-agent board board --image release-1.img --hardware demo-board"
    parser = _add(commands, "board", _board, "power a file-backed board until SIGTERM", example)
    parser.add_argument("board", type=Path, metavar="BOARD", help="the board's directory")
    parser.add_argument(
        "--image",
        action="append",
        metavar="[SET=]FILE",
        help="first make the board, with this slot image in slot A; repeat with SET= for more slot sets",
    )
    parser.add_argument("--hardware", help="hardware id of the board to make")
    parser.add_argument("--capacity", type=int, metavar="BYTES", help="size of each slot (default: twice the image's)")


def _run(arguments: argparse.Namespace) -> int:
    from device_agent.app import run as run_agent

    log_to_stderr(logging.WARNING, sparing=True)
    run_agent(arguments.dir)
    return 0


def _enrol(arguments: argparse.Namespace) -> int:
    from device_agent.enrol import enrol, enrol_with_key

    word = arguments.claim or arguments.introduction
    if word.startswith("@"):
        with Path(word[1:]).open("rb") as file:
            word = file.read(MAX_CLAIM_FILE_BYTES).decode(errors="replace").strip()
    if arguments.claim:
        identity = enrol(arguments.dir, word, arguments.hardware)
    elif arguments.key is None:
        raise RefusedError("key-missing", "Name the device's own private key with --key.")
    else:
        certificates = _read(arguments.certificate) if arguments.certificate else b""
        key = _read(arguments.key)
        identity = enrol_with_key(arguments.dir, word, key, arguments.hardware, certificates=certificates)
    text = f"Enrolled as {identity.agent}; {_what_starts(arguments.dir)}."
    return _say(msgspec.to_builtins(identity), text, arguments.as_json)


def _what_starts(directory: Path) -> str:
    """How the agent of this directory is started: a box's by its site agent."""
    from device_agent.appliances.settings import BOXES

    if directory.absolute().parent.name == BOXES:
        return f"its site agent takes it along, by `otaria-agent --dir {directory.parent.parent} run`"
    return f"start it with `otaria-agent --dir {directory} run`"


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_PEM_FILE_BYTES)


def _status(arguments: argparse.Namespace) -> int:
    from device_agent.local.client import ask
    from device_agent.local.requests import Status
    from device_agent.status import agent_status, status_text

    try:
        status = ask(arguments.dir, Status())
    except UnavailableError:  # then what it left on the disk is as good
        status = agent_status(arguments.dir)
    return _say(status, status_text(status), arguments.as_json)


def _health(arguments: argparse.Namespace) -> int:
    from device_agent.check import check_running
    from device_agent.local.client import ask
    from device_agent.local.requests import Health

    try:
        answer = ask(arguments.dir, Health(), answer_s=3600.0)
        healthy, text = bool(answer["healthy"]), str(answer["text"])
    except UnavailableError:  # then the checks are run here
        result = check_running(arguments.dir)
        healthy, text = result.healthy, result.text
    _say({"healthy": healthy, "text": text}, text, arguments.as_json)
    return 0 if healthy else 1


def _defer(arguments: argparse.Namespace) -> int:
    from device_agent.local.requests import Defer

    return _asked(arguments, Defer(seconds=arguments.time), "Put off")


def _consent(arguments: argparse.Namespace) -> int:
    from device_agent.local.requests import Consent

    return _asked(arguments, Consent(order=arguments.order), "Agreed")


def _commit(arguments: argparse.Namespace) -> int:
    from device_agent.local.requests import Commit

    return _asked(arguments, Commit(), "It commits when its checks pass")


def _rollback(arguments: argparse.Namespace) -> int:
    from device_agent.local.requests import Rollback

    return _asked(arguments, Rollback(), "It goes back")


def _asked(arguments: argparse.Namespace, request: "Request", done: str) -> int:
    from device_agent.local.client import ask
    from device_agent.status import status_text

    status = ask(arguments.dir, request)
    return _say(status, f"{done}.\n{status_text(status)}", arguments.as_json)


def _install(arguments: argparse.Namespace) -> int:
    from device_agent.bundle.commands import ENDED, install
    from device_agent.status import status_text

    def tell(status: dict[str, Any]) -> None:
        if not arguments.as_json:
            print(f"{status['state'].replace('_', ' ')} …", flush=True)

    log_to_stderr(logging.WARNING, sparing=True)
    status = install(arguments.dir, arguments.file, tell, wait=arguments.wait)
    _say(status, status_text(status), arguments.as_json)
    return 0 if status["state"] not in ENDED - {"committed"} else 1


def _report(arguments: argparse.Namespace) -> int:
    from device_agent.bundle import commands

    if arguments.to is not None:
        path = commands.reports_to(arguments.dir, arguments.to)
        return _say({"file": str(path)}, f"Written to {path}.", arguments.as_json)
    if arguments.code:
        code = commands.code_of(arguments.dir)
        return _say({"code": code}, code, arguments.as_json)
    parts = commands.reports_as_text(arguments.dir)
    if arguments.qr and not arguments.as_json:
        from device_agent.bundle.pictures import draw

        return draw(parts)
    return _say({"text": parts}, "\n".join(parts), arguments.as_json)


def _data(arguments: argparse.Namespace) -> int:
    from device_agent.config import load_config
    from device_agent.data.store import shown

    settings = load_config(arguments.dir).data
    if not settings.directory:
        raise RefusedError("no-data", "This device keeps no data for its releases: agent.toml has no [data] directory.")
    path = str(shown(Path(settings.link), wait_s=arguments.wait))
    return _say({"path": path}, path, arguments.as_json)


def _packages(arguments: argparse.Namespace) -> int:
    from device_agent.packages.opening import look_at_packages

    facts = look_at_packages(arguments.dir.absolute(), refresh=arguments.refresh)
    pending = facts["pending"]
    security = sum(one["is_security"] for one in pending)
    lines = [f"{len(facts['packages'])} packages, {len(pending)} pending, {security} of them for security"]
    lines += [
        f"{one['name']} {one['before']} to {one['version']}{' (security)' if one['is_security'] else ''}"
        for one in pending
    ]
    lines.append(f"kernel {facts['kernel']}; restart: {facts['restart_needed'] or 'not needed'}")
    lines += [f"to be restarted: {name}" for name in facts["services_to_restart"]]
    return _say(facts, "\n".join(lines), arguments.as_json)


def _boot(arguments: argparse.Namespace) -> int:
    from device_agent.boot import tool

    directory = arguments.dir.absolute()
    if arguments.what == "make":
        text = tool.make(directory, arguments.slot)
    else:
        text = tool.check(directory) if arguments.what == "check" else tool.shut_down(directory)
    return _say({"text": text}, text, arguments.as_json)


def _board(arguments: argparse.Namespace) -> int:
    from device_agent.boot.supervisor import main as power
    from device_agent.slots.files import create_board
    from firmware.contents import ROOT_SET, named_file

    if arguments.image is not None:
        if arguments.hardware is None:
            raise _UsageError("--image needs --hardware as well. See `otaria-agent board --help`.")
        images = dict(named_file(text) for text in arguments.image)
        if ROOT_SET not in images or len(images) != len(arguments.image):
            raise _UsageError("Each slot set takes one --image, and one of them is of no set or of `root`.")
        asked: int | None = arguments.capacity
        capacity_bytes = 2 * max(path.stat().st_size for path in images.values()) if asked is None else asked
        create_board(arguments.board, images.pop(ROOT_SET), capacity_bytes, arguments.hardware, images)
    return power(arguments.board)


def _add_appliances(commands: Any) -> None:
    text = "ask the boxes of a site agent what they are and run; changes nothing"
    parser = _add(commands, "appliances", _appliances, text, "otaria-agent --dir site appliances core-1")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; else all in agent.toml")


def _appliances(arguments: argparse.Namespace) -> int:
    from device_agent.appliances.asked import as_lines, ask_boxes

    said = ask_boxes(arguments.dir, arguments.names)
    _say(said, as_lines(said), arguments.as_json)
    return 1 if any("error" in one for one in said) else 0


def _say(value: Any, text: str, as_json: bool) -> int:
    print(json.dumps(value, sort_keys=True) if as_json else text)
    return 0


def _failed(kind: str, text: str, as_json: bool, *, code: int = 1) -> int:
    message = json.dumps({"error": kind, "text": text}) if as_json else f"otaria-agent: {text} ({kind})"
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
