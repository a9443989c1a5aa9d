"""The parts that work by themselves between the database and the broker, wired to each other: what is stored wakes the engine,
what is decided wakes the publisher."""

from collections.abc import Callable
from dataclasses import dataclass

from firmware.protocol.topics import Leaf, parse
from server.campaigns.acks import Acks
from server.campaigns.blocks import BlockService
from server.campaigns.checks import Checks
from server.campaigns.comparing import Comparer
from server.campaigns.deltas import DeltaFactory
from server.campaigns.engine import Engine
from server.campaigns.enlisting import Enlisting
from server.campaigns.eviction import Evictions
from server.campaigns.forecasting import Forecaster
from server.campaigns.indicators import Indicators
from server.campaigns.ingest import Ingest
from server.campaigns.preparation import Preparation
from server.campaigns.presence_watch import PresenceWatch
from server.campaigns.publisher import Publisher
from server.campaigns.rehearsal_process import RehearsalProcess
from server.campaigns.rehearsing import RehearsalService
from server.campaigns.releases import ReleaseService
from server.campaigns.rousing import Rousing
from server.campaigns.service import CampaignService
from server.foundation import Foundation
from server.leadership import FencedTransport
from server.observe.checks import open_checks
from server.observe.prometheus import PrometheusSli
from server.shelves.lookout import Lookout
from server.transport.mqtt import AiomqttTransport, OnMessage
from server.transport.takeover import Takeover
from server.uploads import Uploads
from server.webhooks.addresses import Addresses
from server.webhooks.delivery import Deliveries
from server.webhooks.desk import WebhookDesk
from server.webhooks.post import Poster
from server.webhooks.signing import WebhookSecrets

REHEARSE = ("-m", "simulator.rehearse_process")
"""What rehearses, as a process of its own: the server imports nothing of it."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What speaks with the broker: hears agents, and hands out blocks."""

    transport: FencedTransport
    watch: PresenceWatch
    ingest: Ingest
    blocks: BlockService


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What tells others over HTTP what happens."""

    deliveries: Deliveries
    poster: Poster
    desk: WebhookDesk


@dataclass(frozen=True, kw_only=True)
class Core:
    """All of them."""

    line: Line
    hooks: Hooks
    engine: Engine
    publisher: Publisher
    releases: ReleaseService
    preparation: Preparation
    indicators: Indicators
    checks: Checks
    rousing: Rousing
    enlisting: Enlisting
    comparer: Comparer
    desk: CampaignService
    evictions: Evictions
    forecaster: Forecaster
    rehearsals: RehearsalService
    uploads: Uploads
    lookout: Lookout

    def look_who_is_shut_out(self) -> None:
        """Somebody may have been quarantined, released or shut out for ever."""
        self.publisher.wake()
        self.evictions.wake()


def core_of(base: Foundation) -> Core:
    """Make them all; none works yet."""
    line = _line(base, on_stored=lambda: wake())
    publisher = Publisher(base.database, base.clock, line.transport, epoch=base.director.epoch)
    engine = Engine(base.database, base.clock, base.director, on_outbox=publisher.wake)
    evictions = Evictions(
        base.database,
        base.clock,
        Takeover(base.addresses.mqtt_host, base.addresses.mqtt_port, base.authorities),
        renew_lists=base.renew_revocations,
        on_outbox=publisher.wake,
    )
    wake = _waking(line.ingest, engine, publisher, evictions)
    releases = _releases(base, publisher)
    preparation = Preparation(database=base.database, maker=releases, engine=engine, clock=base.clock)
    return Core(
        line=line,
        hooks=_hooks(base),
        engine=engine,
        publisher=publisher,
        releases=releases,
        preparation=preparation,
        indicators=Indicators(database=base.database, port=_monitor(base), engine=engine, clock=base.clock),
        rousing=Rousing(base.database, base.clock, base.director, engine, on_outbox=publisher.wake),
        checks=Checks(database=base.database, port=open_checks(base.settings.checks, base.clock), clock=base.clock),
        enlisting=Enlisting(base.database, engine),
        comparer=Comparer(base.database, engine, base.clock),
        desk=CampaignService(
            base.database, base.clock, engine, on_started=preparation.wake, checks=base.settings.checks.urls
        ),
        evictions=evictions,
        forecaster=Forecaster(base.database, base.clock),
        rehearsals=RehearsalService(base.database, base.clock, RehearsalProcess(REHEARSE)),
        uploads=_uploads(base),
        lookout=Lookout(base.artifacts.reach),
    )


def _line(base: Foundation, on_stored: Callable[[], None]) -> Line:
    """`on_stored` is told when messages were stored."""
    ingest = Ingest(
        base.database, base.clock, base.director, answer=lambda acks: answers.send(acks), on_stored=on_stored
    )
    watch = PresenceWatch(base.database, base.clock, lambda: transport.connected)
    leadership = base.leadership
    link = AiomqttTransport(
        base.endpoint,
        _hand_out(ingest, lambda: blocks),
        on_link=watch.linked,
        may_connect=lambda: leadership.leads,
    )
    transport = FencedTransport(link, leadership)
    answers = Acks(base.director, transport)
    blocks = BlockService(
        database=base.database,
        artifacts=base.artifacts,
        metadata=base.repository.metadata,
        publish=transport.publish,
        rates=base.settings.blocks,
    )
    return Line(transport=transport, watch=watch, ingest=ingest, blocks=blocks)


def _hand_out(ingest: Ingest, blocks: Callable[[], BlockService]) -> OnMessage:
    """Wants go to the block service, everything else to the inbox."""

    async def hand_out(topic: str, payload: bytes, retained: bool) -> None:
        taker = blocks().on_want if parse(topic).leaf is Leaf.WANT else ingest.on_message
        await taker(topic, payload, retained)

    return hand_out


def _waking(ingest: Ingest, engine: Engine, publisher: Publisher, evictions: Evictions) -> Callable[[], None]:
    """Wakes who has work when messages were stored; copies of devices are there to be shut out."""
    copies = 0

    def wake() -> None:
        nonlocal copies
        engine.wake()
        publisher.wake()
        if ingest.dropped.get("clone", 0) != copies:
            copies = ingest.dropped["clone"]
            evictions.wake()

    return wake


def _releases(base: Foundation, publisher: Publisher) -> ReleaseService:
    return ReleaseService(
        database=base.database,
        repository=base.repository,
        artifacts=base.artifacts,
        factory=DeltaFactory(),
        release_keys=base.director.release_keys,
        clock=base.clock,
        on_outbox=publisher.wake,
    )


def _hooks(base: Foundation) -> Hooks:
    settings = base.settings.webhooks
    addresses, secrets = Addresses(settings.private), WebhookSecrets(base.settings.online_keys)
    poster = Poster(addresses, ca_file=settings.ca_file, timeout_s=settings.timeout_s)
    deliveries = Deliveries(
        database=base.database, clock=base.clock, secrets=secrets, posts=poster, source=settings.source
    )
    desk = WebhookDesk(
        database=base.database, clock=base.clock, secrets=secrets, addresses=addresses, wake=deliveries.wake
    )
    return Hooks(deliveries=deliveries, poster=poster, desk=desk)


def _monitor(base: Foundation) -> PrometheusSli:
    """Where indicators are read; where nothing is configured none is known."""
    sli = base.settings.sli
    return PrometheusSli(sli.url or "", sli.queries if sli.url else {})


def _uploads(base: Foundation) -> Uploads:
    most = base.settings.http.max_artifact_bytes
    return Uploads(base.artifacts, base.clock, base.settings.limits, max_bytes=most)
