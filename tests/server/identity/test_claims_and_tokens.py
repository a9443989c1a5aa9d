"""Claim tokens and API tokens: what is stored, what is refused, who may do what."""

import hashlib
from pathlib import Path

import pytest

from firmware.errors import RefusedError
from firmware.protocol.enrol import parse_claim
from server.errors import DeniedError, NotFoundError
from server.identity.api_tokens import ApiTokens, covers
from server.identity.roots import Roots
from server.ports import Database, Role
from tests.enrolment import ROOT_1, desk_of
from tests.identity_store import SettableClock, clock, database

__all__ = ["clock", "database"]


async def test_a_claim_token_pins_authority_and_root_and_its_secret_is_not_stored(
    database: Database, clock: SettableClock, tmp_path: Path
) -> None:
    desk = desk_of(database, clock, tmp_path, url="https://fleet.example:8443")
    stored, text = await desk.claims.create_claim(uses=2, expires_s=60, labels={"site": "berlin"}, by="anna")
    claim = parse_claim(text)
    assert text.startswith("otc1.")
    assert (claim.url, claim.id) == ("https://fleet.example:8443", stored.id)
    assert claim.ca == desk.authorities.services.fingerprint
    assert claim.root == hashlib.sha256(ROOT_1).hexdigest()
    kept = (await database.read(lambda unit: unit.identities.claims()))[0]
    assert kept == stored
    assert kept.secret_sha256 == hashlib.sha256(claim.secret.encode()).hexdigest()
    assert (kept.uses_left, kept.expires_at, kept.created_by) == (2, clock.time + 60, "anna")
    assert claim.secret not in repr(kept)


@pytest.mark.parametrize(
    "wrong",
    [
        {"uses": 0},
        {"uses": 100_001},
        {"expires_s": 59},
        {"expires_s": 10**9},
        {"labels": {str(n): "x" for n in range(33)}},
        {"labels": {"site": "x" * 129}},
        {"labels": {"agent.site": "berlin"}},
    ],
)
async def test_a_claim_out_of_bounds_is_refused(
    database: Database, clock: SettableClock, tmp_path: Path, wrong: dict[str, object]
) -> None:
    desk = desk_of(database, clock, tmp_path)
    wanted: dict[str, object] = {"uses": 1, "expires_s": 60, "labels": {}, "by": "anna", **wrong}
    with pytest.raises(RefusedError) as caught:
        await desk.claims.create_claim(**wanted)  # type: ignore[arg-type]
    assert caught.value.kind == "bad-claim"
    assert not await database.read(lambda unit: unit.identities.claims())


def test_without_a_root_there_is_nothing_to_pin(tmp_path: Path) -> None:
    for metadata in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RefusedError, match="otaria keys init"):
            Roots(metadata).newest()


def test_the_newest_root_is_by_number(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        (tmp_path / f"{version}.root.json").write_bytes(str(version).encode())
    assert Roots(tmp_path).newest() == b"10"


async def test_an_api_token_is_recognised_until_it_expires(database: Database, clock: SettableClock) -> None:
    tokens = ApiTokens(database, clock=clock)
    secret = await tokens.create("ci", Role.OPERATOR, expires_s=60)
    assert secret.startswith("otp1_")
    found = await tokens.authenticate(secret)
    assert (found.name, found.role, found.secret_sha256) == (
        "ci",
        Role.OPERATOR,
        hashlib.sha256(secret.encode()).hexdigest(),
    )
    clock.time += 60
    with pytest.raises(DeniedError) as caught:
        await tokens.authenticate(secret)
    assert caught.value.kind == "unauthenticated"


@pytest.mark.parametrize("secret", ["", "otp1_", "otp1_" + "A" * 43, "x" * 10_000, "otp1_\ud83d\ude00", "Bearer x"])
async def test_an_unknown_api_token_is_refused(database: Database, clock: SettableClock, secret: str) -> None:
    tokens = ApiTokens(database, clock=clock)
    await tokens.create("ci", Role.ADMIN)
    with pytest.raises(DeniedError) as caught:
        await tokens.authenticate(secret)
    assert caught.value.kind == "unauthenticated"


async def test_a_role_covers_itself_and_looking_and_admin_everything(database: Database, clock: SettableClock) -> None:
    tokens = ApiTokens(database, clock=clock)
    secret = await tokens.create("ci", Role.OPERATOR)
    assert (await tokens.authorise(secret, Role.VIEWER)).name == "ci"
    with pytest.raises(DeniedError) as caught:
        await tokens.authorise(secret, Role.APPROVER)
    assert caught.value.kind == "forbidden"
    assert {(role, needed) for role in Role for needed in Role if covers(role, needed)} == {
        *((Role.ADMIN, needed) for needed in Role),
        *((role, Role.VIEWER) for role in Role),
        *((role, role) for role in Role),
    }


@pytest.mark.parametrize(
    ("name", "expires_s"), [("", None), ("x" * 129, None), ("a\nb", None), ("ok", 0.0), ("ok", -1.0)]
)
async def test_a_bad_api_token_is_not_made(
    database: Database, clock: SettableClock, name: str, expires_s: float | None
) -> None:
    with pytest.raises(RefusedError):
        await ApiTokens(database, clock=clock).create(name, Role.VIEWER, expires_s=expires_s)


async def admins(database: Database, clock: SettableClock) -> tuple[ApiTokens, str]:
    """Tokens of two administrators, and the secret of the first."""
    tokens = ApiTokens(database, clock=clock)
    secret = await tokens.create("anna", Role.ADMIN)
    await tokens.create("ben", Role.ADMIN, expires_s=60)
    return tokens, secret


async def test_another_role_holds_at_once_for_all_tokens_of_somebody(database: Database, clock: SettableClock) -> None:
    tokens, _ = await admins(database, clock)
    secrets = [await tokens.create("bob", Role.VIEWER) for _ in range(2)]
    changed = await tokens.change("bob", Role.APPROVER, by="anna")
    assert [one.role for one in changed] == [Role.APPROVER] * 2
    assert {(await tokens.authenticate(secret)).role for secret in secrets} == {Role.APPROVER}
    line = (await database.read(lambda unit: unit.audit.latest(limit=1)))[0]
    assert (line.kind, line.text, line.actor) == ("access-changed", "bob has the role approver now.", "anna")
    with pytest.raises(NotFoundError):
        await tokens.change("nobody", Role.VIEWER, by="anna")


async def test_who_is_deactivated_stays_in_the_list_and_may_be_let_in_again(
    database: Database, clock: SettableClock
) -> None:
    tokens, _ = await admins(database, clock)
    secrets = [await tokens.create("bob", Role.VIEWER, expires_s=life) for life in (None, 30)]
    ended = await tokens.deactivate("bob", by="anna")
    assert {one.expires_at for one in ended} == {clock.time}
    for secret in secrets:
        with pytest.raises(DeniedError):
            await tokens.authenticate(secret)
    clock.time += 5
    assert {one.expires_at for one in await tokens.deactivate("bob", by="anna")} == {clock.time - 5}, "once"
    again = await tokens.create("bob", Role.VIEWER)
    assert (await tokens.authenticate(again)).name == "bob"
    with pytest.raises(NotFoundError):
        await tokens.deactivate("nobody", by="anna")


async def test_one_token_ends_and_the_others_stay(database: Database, clock: SettableClock) -> None:
    tokens, secret = await admins(database, clock)
    other = await tokens.create("anna", Role.ADMIN)
    mine = await tokens.authenticate(secret)
    assert (await tokens.expire(mine.id, by="anna")).expires_at == clock.time
    assert (await tokens.authenticate(other)).name == "anna"
    with pytest.raises(DeniedError):
        await tokens.authenticate(secret)
    with pytest.raises(NotFoundError):
        await tokens.expire("p-none", by="anna")


async def test_somebody_always_stays_who_may_administer(database: Database, clock: SettableClock) -> None:
    tokens, secret = await admins(database, clock)
    anna = await tokens.authenticate(secret)
    clock.time += 60  # the token of ben has expired: anna is the last
    before = await tokens.list()
    for act in (
        lambda: tokens.remove("anna", by="ben"),
        lambda: tokens.change("anna", Role.VIEWER, by="ben"),
        lambda: tokens.deactivate("anna", by="ben"),
        lambda: tokens.expire(anna.id, by="anna"),
    ):
        with pytest.raises(RefusedError) as caught:
            await act()
        assert caught.value.kind == "last-admin"
        assert await tokens.list() == before
    await tokens.create("carl", Role.ADMIN)
    await tokens.change("anna", Role.VIEWER, by="carl")


async def test_nobody_changes_or_ends_their_own_access(database: Database, clock: SettableClock) -> None:
    tokens, _ = await admins(database, clock)
    for act in (
        lambda: tokens.change("anna", Role.VIEWER, by="anna"),
        lambda: tokens.deactivate("anna", by="anna"),
        lambda: tokens.remove("anna", by="anna"),
    ):
        with pytest.raises(RefusedError) as caught:
            await act()
        assert caught.value.kind == "own-token"
