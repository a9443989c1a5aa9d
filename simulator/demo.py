"""`make demo`: a fleet updates itself, then a bad release is stopped at the canary and every touched device falls back.

Everything is the real thing: the commands that users type, the server, a broker, agents in processes of their own with
file-backed slots and a boot loader that runs what the slot holds; the rest of the fleet are real agent cores over memory.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agent.boot.leash import leashed
from firmware.errors import OtariaError
from simulator.board import LabError
from simulator.images import DemoImage, build_demo_images
from simulator.lab import HARDWARE, Firmware, Lab
from simulator.telling import ENDED, Narrator, counts_of, in_flight, line_of, program_version

BOARDS = 3
DEVICES = 50
ON_THE_WAY = ("ordered", "downloading", "staged", "asking", "activating", "trial", "committed")
READY_TIMEOUT_S = 90.0
CAMPAIGN_TIMEOUT_S = 180.0
STRATEGY = """
strategy:
  name: demo
  cohorts:
    - {name: canary, count: CANARY, first: {ring: canary}, gate: {kind: all, min_verified: CANARY}}
    - {name: wave, percent: 30, gate: {kind: rate, max_failure_rate: 0.05}}
    - {name: rest, gate: {kind: rate, max_failure_rate: 0.05}}
  budgets:
    - {by: campaign, limit: 20}
  patience: 60s
  trial: 60s
  horizon: 60s
  healthy: 2s
  retry: 2s
  on_failure: abort
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the person asked for."""

    cache: Path
    devices: int
    boards: int
    broker: str
    stay: bool
    as_json: bool


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns 0 when it showed what it promises, 1 when it did not."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    narrator = Narrator()
    with tempfile.TemporaryDirectory(prefix="otaria-demo-") as name:
        lab = Lab(Path(name), broker=options.broker, say=lambda text: narrator.say(text))
        try:
            return Demo(lab, narrator, options).run()
        except OtariaError as error:
            print(f"\nThe demo failed: {error}\n{lab.server_log()}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            lab.close()


class Demo:
    """The story, chapter by chapter."""

    def __init__(self, lab: Lab, narrator: Narrator, options: Options) -> None:
        self._lab, self._narrator, self._options = lab, narrator, options
        self._swarm_process: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Tell it, print the summary and, unless told to exit, stay up until Ctrl-C."""
        one, two, three = self._images()
        self._found(one)
        with self._fleet(one):
            self._publish(two)
            first = self._campaign("update-to-2", two)
            self._publish(three)
            second = self._campaign("update-to-3", three)
            summary = self._summary([first, second])
            self._tell(summary, self._why_not("update-to-3"))
            if self._options.stay:
                self._narrator.title(f"Look around: {self._lab.run_info['people_url']}  (Ctrl-C ends everything)")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
        if self._options.as_json:
            print(json.dumps(summary, sort_keys=True))
        return 0 if summary["as_promised"] else 1

    def _images(self) -> list[DemoImage]:
        self._narrator.title("Images: two published versions of real software, and a program for the slot")
        images = build_demo_images(self._options.cache, self._options.cache / "images")
        for image in images:
            self._narrator.say(f"{image.path.name}  {image.path.stat().st_size / 1e6:.1f} MB")
        return images

    def _found(self, first: DemoImage) -> None:
        self._narrator.title("Keys, catalogue and server")
        self._lab.prepare()
        self._lab.start_server()
        info = self._lab.run_info
        self._narrator.say(f"The server runs, with {info['broker_kind']} as its broker.")
        self._narrator.say(
            f"Pages: {info['people_url']}   token: {(self._lab.state / 'admin.token').read_text().strip()}"
        )
        self._publish(first)

    def _publish(self, image: DemoImage) -> None:
        self._narrator.title(f"Release {image.version}")
        started = self._narrator.seconds
        self._lab.publish(Firmware(version=image.version, counter=image.counter, path=image.path, health=image.health))
        for delta in self._lab.wait_for_deltas(image.version):
            self._narrator.say(
                f"Delta from {delta['from_version']}: {delta['length'] / 1e6:.2f} MB instead of"
                f" {image.path.stat().st_size / 1e6:.1f} MB, {self._narrator.seconds - started:.1f} s after publishing began."
            )

    @contextmanager
    def _fleet(self, factory: DemoImage) -> Iterator[None]:
        """Boards with real agents, and simulated devices in a process of their own."""
        self._narrator.title("The fleet")
        simulated = self._options.devices - self._options.boards
        swarm = self._swarm_process = self._swarm(factory, simulated)
        try:
            for number in range(self._options.boards):
                self._lab.board(
                    f"board-{number + 1}", factory.path, labels={"site": "bench", "ring": "canary"}
                ).power_on()
            self._lab.wait(self._all_report, READY_TIMEOUT_S, "the whole fleet to report", on_failure=self._logs)
            self._narrator.say(
                f"{self._options.devices} devices run {factory.version}: {self._options.boards} boards with an agent"
                f" process and slots in files, {simulated} simulated ones."
            )
            yield
        finally:
            swarm.terminate()
            with suppress(subprocess.TimeoutExpired):
                swarm.wait(timeout=15)
            swarm.kill()

    def _swarm(self, factory: DemoImage, count: int) -> "subprocess.Popen[bytes]":
        claim = self._lab.directory / "claim-simulated.txt"
        claim.write_text(self._lab.claim(uses=count, labels={"site": "simulated"}))
        arguments = ["sim", "fleet", "--claim-file", str(claim), "--devices", str(count), "--hardware", HARDWARE]
        arguments += ["--image", str(factory.path), "--dir", str(self._lab.directory / "simulated"), "--json"]
        self._narrator.say(f"$ otaria sim fleet --devices {count} …")
        with (self._lab.directory / "simulator.log").open("ab") as log:
            return subprocess.Popen(
                leashed([sys.executable, "-c", "from server.cli import main; main()", *arguments]),
                stdout=log,
                stderr=log,
            )

    def _all_report(self) -> bool:
        fleet = self._lab.rest.fleet()
        return len(fleet) == self._options.devices and all(target["running_version"] for target in fleet)

    def _campaign(self, name: str, image: DemoImage) -> dict[str, Any]:
        boards = self._options.boards
        self._narrator.title(f"Campaign {name}: the boards first, as its canary, then waves; stop at the first failure")
        strategy = STRATEGY.replace("CANARY", str(boards))
        campaign = self._lab.apply_campaign(f"name: {name}\nproduct: gateway\nversion: {image.version}\n{strategy}")
        last = ""
        deadline = time.monotonic() + CAMPAIGN_TIMEOUT_S
        while True:
            view = self._lab.campaign(campaign)
            if (line := line_of(view)) != last:
                self._narrator.say(line)
                last = line
            if view["state"] in ENDED and not in_flight(view):
                self._narrator.say(f"{view['state'].upper()}: {view['reason']}")
                return view
            if self._swarm_process is not None and self._swarm_process.poll() is not None:
                raise LabError("simulator-died", f"The simulator ended by itself: {self._logs()}")
            if time.monotonic() > deadline:
                raise LabError(
                    "timeout", f"The campaign {name} did not end: {line}\n{self._stuck(name)}\n{self._logs()}"
                )
            time.sleep(0.25)

    def _stuck(self, campaign: str) -> str:
        """Why each target that is on its way isn't moving."""
        rows = self._lab.rest.get(f"/campaigns/{campaign}/assignments?limit=500")["assignments"]
        targets = [row["target"] for row in rows if row["state"] in ON_THE_WAY][:10]
        return "\n".join(f"{target}: {self._lab.rest.get(f'/fleet/{target}/explain')['text']}" for target in targets)

    def _why_not(self, campaign: str) -> str:
        """One true sentence about a device that the stopped campaign never touched."""
        page = self._lab.rest.get(f"/campaigns/{campaign}/assignments?cohort=2&limit=1")
        target = page["assignments"][0]["target"]
        self._narrator.say(f"$ otaria campaign explain {target}")
        answer = self._lab.rest.get(f"/fleet/{target}/explain")
        text = str(answer["text"])
        self._narrator.say(text)
        return f"Why isn't {target} on 3.0.0? {text}"

    def _summary(self, campaigns: list[dict[str, Any]]) -> dict[str, Any]:
        first, second = (counts_of(view) for view in campaigns)
        total = first + second
        healed = self._lab.wait(self._everyone_is_back, 30, "every device to run 2.0.0 again", on_failure=self._logs)
        as_promised = (
            first["verified"] == self._options.devices
            and second["fell_back"] > 0
            and second["fell_back"] + second["cancelled"] == campaigns[1]["cohorts"][0]["size"]
            and campaigns[1]["cohorts"][0]["verdict"] == "fail"
            and campaigns[1]["cohorts"][1]["state"] == "closed"
        )
        return {
            "devices": self._options.devices,
            "verified": total["verified"],
            "fell_back": total["fell_back"],
            "cancelled": total["cancelled"],
            "failed": total["failed"] + total["refused"] + total["missing"] + total["regressed"],
            "unreached": total["expired"] + first["ordered"] + sum(v["cohorts"][-1]["size"] for v in campaigns),
            "campaigns": [
                {"id": v["id"], "version": v["release"]["version"], "state": v["state"], "reason": v["reason"]}
                for v in campaigns
            ],
            "seconds": round(self._narrator.seconds, 1),
            "as_promised": bool(as_promised and healed),
        }

    def _everyone_is_back(self) -> bool:
        """By the server's account, and by asking the program that each board runs out of its slot."""
        reported = all(target["running_version"] == "2.0.0" for target in self._lab.rest.fleet())
        return reported and all(program_version(board) == "2.0.0" for board in self._lab.boards)

    def _tell(self, summary: dict[str, Any], why: str) -> None:
        self._narrator.title("Summary")
        called = f", {summary['cancelled']} called back before" if summary["cancelled"] else ""
        print(
            f"  {summary['devices']} devices · {summary['verified']} verified on 2.0.0 ·"
            f" {summary['fell_back']} touched by 3.0.0, all fell back{called} · {summary['failed']} failed ·"
            f" {summary['unreached']} unreached · {summary['seconds']} s"
        )
        for campaign in summary["campaigns"]:
            print(f"  {campaign['id']}: {campaign['state']}. {campaign['reason']}")
        print("  The program in every board's active slot answers as 2.0.0.")
        print(f"  {why}", flush=True)

    def _logs(self) -> str:
        path = self._lab.directory / "simulator.log"
        boards = "\n".join(board.log() for board in self._lab.boards)
        return f"{path.read_text(errors='replace')[-3000:]}\n{boards}"


def _options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end after the summary instead of staying up")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object, as the last line")
    parser.add_argument("--devices", type=int, default=DEVICES, help="size of the fleet, boards included")
    parser.add_argument("--boards", type=int, default=BOARDS, help="how many are real agent processes")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "otaria", help="where wheels are kept")
    parsed = parser.parse_args(arguments)
    if not 1 <= parsed.boards < parsed.devices <= 1000 or parsed.devices < 10:
        parser.error("--devices must be 10 to 1000, and --boards at least 1 and fewer than that")
    return Options(
        cache=parsed.cache,
        devices=parsed.devices,
        boards=parsed.boards,
        broker=parsed.broker,
        stay=not parsed.exit,
        as_json=parsed.json,
    )


if __name__ == "__main__":
    sys.exit(main())
