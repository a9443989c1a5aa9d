"""`make demo-mixed`: servers, devices and routers at three sites get new versions together, and no pair is ever broken.

Everything is the real thing: the commands that users type, the server, a broker, agents in processes of their own, apt and dpkg
on the servers' own roots, boards with slots in files, and site agents that log in to emulated routers over SSH. Whatever a site
says to the server goes through its routers. One router does not come up with its new image, and on one server the new version
does not start: both go back, and whoever is redundant to them waits for that.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from firmware.errors import OtariaError
from simulator.appliances.image import ImageFacts, make_image
from simulator.board import LabError
from simulator.debs import TOOLS
from simulator.images import RELEASES, DemoImage, build_demo_images
from simulator.lab import Firmware, Lab
from simulator.mixed import hosts
from simulator.mixed.campaigns import DEVICES, PARTS, PATCHES, ROUTER, ROUTERS
from simulator.mixed.fleet import NEW_ROUTER, OLD_ROUTER, ROUTER_HARDWARE, VENDOR, Fleet, fleet_of
from simulator.mixed.hosts import Racks, racks
from simulator.mixed.observer import Account, Observer
from simulator.mixed.sites import APPLIANCE, DEVICE, HOST, KINDS, SITES, everybody, pairs, paths
from simulator.telling import ENDED, Narrator, counts_of, in_flight, line_of, program_version

BAD_ROUTER, BAD_HOST = "ulm-core-a", "wien-web-2"
READY_TIMEOUT_S = 180.0
CAMPAIGNS_TIMEOUT_S = 600.0
SETTLE_TIMEOUT_S = 60.0
MOST_CHARS = 300
"""Of an explanation."""
VERSIONS = {PATCHES.name: hosts.RELEASE, DEVICES.name: RELEASES[1][0], ROUTERS.name: NEW_ROUTER}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the person asked for."""

    cache: Path
    broker: str
    stay: bool
    as_json: bool


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; returns 0 when it showed what it promises, 1 when it did not."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    narrator = Narrator()
    with tempfile.TemporaryDirectory(prefix="otaria-demo-") as name:
        lab = Lab(Path(name), broker=options.broker)
        try:
            _require_tools()
            with racks(lab.directory / "racks") as rack:
                return Demo(lab, rack, narrator, options).run()
        except OtariaError as error:
            print(f"\nThe demo failed: {error}\n{lab.server_log()}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0
        finally:
            lab.close()


class Demo:
    """The story, chapter by chapter."""

    def __init__(self, lab: Lab, rack: Racks, narrator: Narrator, options: Options) -> None:
        self._lab, self._rack, self._narrator, self._options = lab, rack, narrator, options
        self._members = everybody()

    def run(self) -> int:
        """Tell it, print the summary and, unless told to exit, stay up until Ctrl-C."""
        old, new = build_demo_images(self._options.cache, self._options.cache / "images", RELEASES[:2])
        self._found()
        self._publish(old, new)
        self._narrator.title(f"The fleet: {len(self._members)} targets at {', '.join(SITES)}")
        with fleet_of(self._lab, self._members, self._rack, old.path) as fleet:
            self._gather(fleet)
            self._spoil(fleet)
            account = Account(pairs=pairs(self._members), paths=paths(self._members))
            observer = Observer(fleet.probes(self._rack.port), account, self._narrator.say)
            try:
                views = self._campaigns(fleet)
            finally:
                observer.close()
            summary = self._summary(fleet, views, account)
            self._tell(summary)
            if self._options.stay:
                self._narrator.title(f"Look around: {self._lab.run_info['people_url']}  (Ctrl-C ends everything)")
                with suppress(KeyboardInterrupt):
                    threading.Event().wait()
        if self._options.as_json:
            print(json.dumps(summary, sort_keys=True))
        return 0 if summary["as_promised"] else 1

    def _found(self) -> None:
        self._narrator.title("Keys, catalogue and server")
        self._lab.prepare(*(part.product for part in PARTS))
        self._lab.start_server()
        info = self._lab.run_info
        self._narrator.say(f"The server runs, with {info['broker_kind']} as its broker.")
        token = (self._lab.state / "admin.token").read_text().strip()
        self._narrator.say(f"Pages: {info['people_url']}   token: {token}")

    def _gather(self, fleet: Fleet) -> None:
        self._narrator.say(
            "Everybody is enrolled, whoever is nearer to the server first, with labels for pair and gateways."
        )
        self._lab.wait(
            lambda: not self._silent(),
            READY_TIMEOUT_S,
            "everybody to report",
            on_failure=lambda: f"Silent: {self._silent()}",
        )
        number = Counter(one.kind for one in self._members)
        self._narrator.say(
            f"{number[APPLIANCE]} routers behind {len(SITES)} site agents, {number[HOST]} servers and"
            f" {number[DEVICE]} devices are up; {len(pairs(self._members))} pairs among them."
        )

    def _silent(self) -> list[str]:
        """Who has not said yet what it runs."""
        fleet = self._lab.rest.fleet()
        said = {one["labels"]["name"] for one in fleet if one["running_version"] or one["labels"].get("agent.running")}
        return [one.name for one in self._members if one.name not in said]

    def _publish(self, old: DemoImage, new: DemoImage) -> None:
        self._narrator.title("Releases: a patch set, a firmware and a router image")
        lab = self._lab
        packages = [f"libtls={hosts.NEW}", f"web={hosts.NEW}"]
        lab.publish_patches(
            hosts.RELEASE, 1, packages, self._rack.index, product=hosts.PRODUCT, hardware=hosts.HARDWARE
        )
        for image in (old, new):
            lab.publish(Firmware(version=image.version, counter=image.counter, path=image.path, health=image.health))
        path = make_image(lab.directory / "router.img", ImageFacts(kind=VENDOR, version=NEW_ROUTER))
        lab.publish(Firmware(version=NEW_ROUTER, counter=1, path=path), product=ROUTER, hardware=[ROUTER_HARDWARE])
        self._narrator.say(f"{packages} as {hosts.RELEASE}; {new.path.name}; {VENDOR} {NEW_ROUTER}")

    def _spoil(self, fleet: Fleet) -> None:
        fleet.boxes[BAD_ROUTER].box.faults.wont_boot = NEW_ROUTER
        fleet.hosts[BAD_HOST].keep_old_format()
        self._narrator.say(
            f"Nobody knows it yet: {BAD_ROUTER} will not come up with {NEW_ROUTER}, nor web {hosts.NEW} on {BAD_HOST}."
        )

    def _campaigns(self, fleet: Fleet) -> dict[str, dict[str, Any]]:
        """Start the set and follow it to its end; the last view of each."""
        self._narrator.title("Three campaigns at once, under the same budgets; what the observer sees in between")
        ids = {}
        for part in PARTS:
            ids[part.name] = self._lab.apply_campaign(part.text(VERSIONS[part.name]))
        lines: dict[str, str] = {}
        why = Why(self._lab, fleet, self._narrator)
        deadline = time.monotonic() + CAMPAIGNS_TIMEOUT_S
        while True:
            views = {name: self._lab.campaign(campaign) for name, campaign in ids.items()}
            for name, view in views.items():
                if (line := line_of(view)) != lines.get(name):
                    self._narrator.say(f"{name:8}  {line.removeprefix('all: ')}")
                    lines[name] = line
            if all(view["state"] in ENDED and not in_flight(view) for view in views.values()):
                return views
            if time.monotonic() > deadline:
                raise LabError("timeout", f"The campaigns did not end: {lines}\n{why.everybody()}\n{fleet.logs()}")
            why.ask_one()
            time.sleep(0.25)

    def _summary(self, fleet: Fleet, views: dict[str, dict[str, Any]], account: Account) -> dict[str, Any]:
        total = sum((counts_of(view) for view in views.values()), Counter[str]())
        truth = self._truth(fleet)
        by_kind = {part.kind: _numbers(counts_of(views[part.name])) for part in PARTS}
        unseen = [one.name for one in self._members if one.pair and not account.fell[one.name]]
        as_promised = (
            total["verified"] == len(self._members) - 2
            and total["fell_back"] == 2
            and truth == self._wanted()
            and not account.broken_pairs
            and not account.broken_paths
            and not unseen
        )
        return {
            "devices": len(self._members),
            **_numbers(total),
            "kinds": {kind: by_kind[kind] for kind in KINDS},
            "pairs": account.lowest,
            "pairs_broken": len(account.broken_pairs),
            "paths_broken": sorted(f"{name} with {above}" for name, above in account.broken_paths),
            "uplink_cuts": sum(uplink.cuts for uplink in fleet.uplinks.values()),
            "observations": account.rounds,
            "unseen": unseen,
            "campaigns": [
                {"id": v["id"], "version": v["release"]["version"], "state": v["state"], "reason": v["reason"]}
                for v in views.values()
            ],
            "seconds": round(self._narrator.seconds, 1),
            "as_promised": as_promised,
        }

    def _truth(self, fleet: Fleet) -> dict[str, str]:
        """What everybody runs, by its own word: flash, dpkg, and the program in the slot."""
        self._lab.wait(lambda: self._settled(fleet), SETTLE_TIMEOUT_S, "everybody to be up", on_failure=fleet.logs)
        return {
            **{name: server.box.flash.running for name, server in fleet.boxes.items()},
            **{name: host.versions().get("web", "") for name, host in fleet.hosts.items()},
            **{name: program_version(board) or "" for name, board in fleet.boards.items()},
        }

    def _settled(self, fleet: Fleet) -> bool:
        return all(probe() for probe in fleet.probes(self._rack.port).values())

    def _wanted(self) -> dict[str, str]:
        new = {APPLIANCE: NEW_ROUTER, HOST: hosts.NEW, DEVICE: VERSIONS[DEVICES.name]}
        return {one.name: new[one.kind] for one in self._members} | {BAD_ROUTER: OLD_ROUTER, BAD_HOST: hosts.OLD}

    def _tell(self, summary: dict[str, Any]) -> None:
        self._narrator.title("Summary")
        for kind, numbers in summary["kinds"].items():
            print(
                f"  {kind:9}  {numbers['verified']} verified, {numbers['fell_back']} fell back, {numbers['failed']} failed"
            )
        print(f"  Up at once, at the least, of each pair: {' '.join(f'{k} {n}' for k, n in summary['pairs'].items())}")
        print(
            f"  {summary['observations']} rounds of asking everybody: {summary['pairs_broken']} pairs broken,"
            f" {len(summary['paths_broken'])} times somebody down behind somebody down;"
            f" the sites were cut off {summary['uplink_cuts']} times, by their own edge routers."
        )
        for campaign in summary["campaigns"]:
            print(f"  {campaign['id']}: {campaign['state']}. {campaign['reason']}")
        print(f"  {summary['seconds']} s", flush=True)


class Why:
    """Asks the server why somebody who waits does, a target at a time, and tells each kind of reason once."""

    def __init__(self, lab: Lab, fleet: Fleet, narrator: Narrator) -> None:
        self._lab, self._narrator = lab, narrator
        self._names = list(fleet.targets.items())
        self._told: set[str] = set()
        self._at = 0

    def ask_one(self) -> None:
        """Ask about the next target."""
        name, target = self._names[self._at % len(self._names)]
        self._at += 1
        answer = self._lab.rest.get(f"/fleet/{target}/explain")
        kind = str(answer["kind"])
        if kind not in self._told:
            self._told.add(kind)
            text = shorten(str(answer["text"]), MOST_CHARS, placeholder=" …")
            self._narrator.say(f"$ otaria campaign explain {name}: {text}")

    def everybody(self) -> str:
        """Why each isn't moving."""
        return "\n".join(
            f"{name}: {self._lab.rest.get(f'/fleet/{target}/explain')['text']}" for name, target in self._names
        )


def _numbers(counts: Counter[str]) -> dict[str, int]:
    """As `make demo` counts."""
    named = {name: counts[name] for name in ("verified", "fell_back", "cancelled")}
    failed = sum(counts[name] for name in ("failed", "refused", "missing", "regressed"))
    return {**named, "failed": failed, "unreached": counts.total() - sum(named.values()) - failed}


def _require_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise LabError("no-apt", f"The servers of this demo need {', '.join(missing)}: run it on Debian or Ubuntu.")


def _options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="make demo-mixed", description=__doc__)
    parser.add_argument("--exit", action="store_true", help="end after the summary instead of staying up")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object, as the last line")
    parser.add_argument("--broker", choices=("auto", "mosquitto", "embedded"), default="auto")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "otaria", help="where wheels are kept")
    parsed = parser.parse_args(arguments)
    return Options(cache=parsed.cache, broker=parsed.broker, stay=not parsed.exit, as_json=parsed.json)


if __name__ == "__main__":
    sys.exit(main())
