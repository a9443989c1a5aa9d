"""Bearer tokens of people and scripts: `otp1_` and 256 random bits, stored as their sha256, each with a role."""

from collections.abc import Sequence

from firmware.errors import RefusedError
from server.errors import DeniedError, NotFoundError
from server.identity.secrets import hashed, new_id, new_secret
from server.ports import ApiToken, Clock, Database, Role, Unit

PREFIX = "otp1_"
MAX_CHARS = 256


class ApiTokens:
    """Makes and recognises API tokens."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, name: str, role: Role, *, expires_s: float | None = None, by: str = "") -> str:
        """Store a new token; returns its secret, which is kept nowhere. Raises `RefusedError` (`bad-token`)."""
        if not 1 <= len(name) <= 128 or not name.isprintable():
            raise RefusedError("bad-token", "A token needs a name of 1 to 128 printable characters.")
        if expires_s is not None and expires_s <= 0:
            raise RefusedError("bad-token", "A token must live longer than no time at all.")
        secret = PREFIX + new_secret()
        expires_at = None if expires_s is None else self._clock.now() + expires_s
        token = ApiToken(id=new_id("p"), secret_sha256=hashed(secret), name=name, role=role, expires_at=expires_at)

        def work(unit: Unit) -> None:
            unit.identities.add_api_token(token)
            text = f"{name} was given access as {role}."
            unit.audit.add(at=self._clock.now(), kind="access-given", text=text, actor=by)

        await self._database.write(work)
        return secret

    async def list(self, *, after: tuple[str, str] | None = None, limit: int | None = None) -> Sequence[ApiToken]:
        """Tokens by name and id, also those that have expired; those after that one, so many (None: all)."""
        return await self._database.read(lambda unit: unit.identities.api_tokens(after=after, limit=limit))

    async def remove(self, name: str, *, by: str) -> None:
        """Take a person's or script's tokens away. Raises `NotFoundError`, and `RefusedError` (`own-token`) for one's own."""
        if name == by:
            raise RefusedError("own-token", "You can't take your own token away; let another administrator do it.")

        def work(unit: Unit) -> int:
            removed = unit.identities.remove_api_tokens(name)
            _need_an_admin(unit, self._clock.now())
            if removed:
                text = f"The access of {name} was taken away."
                unit.audit.add(at=self._clock.now(), kind="access-removed", text=text, actor=by)
            return removed

        if not await self._database.write(work):
            raise _nobody(name)

    async def change(self, name: str, role: Role, *, by: str) -> Sequence[ApiToken]:
        """Give somebody another role, whose tokens have it at once; returns them. Raises `NotFoundError`, and `RefusedError`:
        `own-token` for oneself, `last-admin` where nobody would be left who may do everything."""
        if name == by:
            raise RefusedError("own-token", "You can't change your own role; let another administrator do it.")

        def work(unit: Unit) -> Sequence[ApiToken]:
            now = self._clock.now()
            if not unit.identities.change_api_tokens(name, role):
                raise _nobody(name)
            _need_an_admin(unit, now)
            unit.audit.add(at=now, kind="access-changed", text=f"{name} has the role {role} now.", actor=by)
            return _of(unit, name)

        return await self._database.write(work)

    async def deactivate(self, name: str, *, by: str) -> Sequence[ApiToken]:
        """Let all tokens of somebody end now; who it was stays in the list. Raises as `change` does."""
        if name == by:
            raise RefusedError("own-token", "You can't end your own access; let another administrator do it.")

        def work(unit: Unit) -> Sequence[ApiToken]:
            now = self._clock.now()
            ended, tokens = unit.identities.expire_api_tokens(now, name=name), _of(unit, name)
            if not tokens:
                raise _nobody(name)
            _need_an_admin(unit, now)
            if ended:
                unit.audit.add(at=now, kind="access-expired", text=f"The access of {name} was ended.", actor=by)
            return tokens

        return await self._database.write(work)

    async def expire(self, token: str, *, by: str) -> ApiToken:
        """Let one token end now, also one's own. Raises `NotFoundError`, and `RefusedError` (`last-admin`)."""

        def work(unit: Unit) -> ApiToken:
            now = self._clock.now()
            ended = unit.identities.expire_api_tokens(now, token=token)
            found = next((one for one in unit.identities.api_tokens() if one.id == token), None)
            if found is None:
                raise NotFoundError(f"There is no token {token}; `otaria people list` shows those there are.")
            _need_an_admin(unit, now)
            if ended:
                text = f"The token {token} of {found.name} was ended."
                unit.audit.add(at=now, kind="access-expired", text=text, actor=by)
            return found

        return await self._database.write(work)

    async def authenticate(self, secret: str) -> ApiToken:
        """The token with this secret; raises `DeniedError` (`unauthenticated`) when it is unknown or expired."""
        token = None
        if secret.startswith(PREFIX) and len(secret) <= MAX_CHARS and secret.isascii():
            digest = hashed(secret)
            token = await self._database.read(lambda unit: unit.identities.api_token(digest))
        if token is None or not is_good(token, self._clock.now()):
            raise DeniedError(
                "unauthenticated", "The API token is unknown or has expired; ask an administrator for one."
            )
        return token

    async def authorise(self, secret: str, needed: Role) -> ApiToken:
        """As `authenticate`, and its role must cover `needed`; raises `DeniedError` (`forbidden`)."""
        token = await self.authenticate(secret)
        if not covers(token.role, needed):
            raise DeniedError("forbidden", f"The token {token.name} has the role {token.role}; this needs {needed}.")
        return token


def is_good(token: ApiToken, now: float) -> bool:
    """Whether a token opens anything now."""
    return token.expires_at is None or token.expires_at > now


def _need_an_admin(unit: Unit, now: float) -> None:
    """Raises `RefusedError` (`last-admin`) when nobody is left who may let anybody in."""
    if not any(one.role is Role.ADMIN and is_good(one, now) for one in unit.identities.api_tokens()):
        text = "That would leave nobody who may administer this server; give another person the role admin first."
        raise RefusedError("last-admin", text)


def _of(unit: Unit, name: str) -> Sequence[ApiToken]:
    return [one for one in unit.identities.api_tokens() if one.name == name]


def _nobody(name: str) -> NotFoundError:
    return NotFoundError(f"Nobody called {name} has a token; `otaria people list` shows who has.")


def covers(role: Role, needed: Role) -> bool:
    """Administrators may do everything, everybody may look; otherwise a role covers itself, so that duties stay apart."""
    return role is Role.ADMIN or needed is Role.VIEWER or role is needed
