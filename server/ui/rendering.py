"""Templates: Jinja2 with autoescape and no access to anything but the values it is handed, behind a strict CSP."""

from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined

from server.ports import Clock
from server.ui import wording
from server.ui.sessions import Session

HERE = Path(__file__).parent
STATIC = HERE / "static"
STATIC_TYPES = {
    "otaria.css": "text/css; charset=utf-8",
    "otaria.js": "text/javascript; charset=utf-8",
    "otaria.svg": "image/svg+xml",
}
CSP = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Templates:
    """Renders the pages of this folder."""

    def __init__(self, *, clock: Clock, compiled: BytecodeCache | None = None) -> None:
        """`compiled`: keeps compiled templates for others than this one, too."""
        self._clock = clock
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            bytecode_cache=compiled,
        )
        self._environment.filters.update(
            spoken=wording.spoken,
            span=wording.span,
            stamp=wording.stamp,
            clock_time=wording.clock_time,
            clock_times=wording.clock_times,
            day=wording.day,
            size=wording.size,
            plural=wording.plural,
            clause=wording.clause,
        )
        self._environment.globals.update(
            campaign_sentence=wording.campaign_sentence,
            cohort_sentence=wording.cohort_sentence,
            savings_sentence=wording.savings_sentence,
            tones=wording.TONES,
            campaign_tone=wording.campaign_tone,
            verb_words=wording.VERB_WORDS,
            standstill=wording.STANDSTILL,
            fact=wording.fact,
            forecast_sentence=wording.forecast_sentence,
        )

    def page(
        self, name: str, request: web.Request, session: Session | None, *, status: int = 200, **values: Any
    ) -> web.Response:
        """Render one page."""
        now = self._clock.now()
        template = self._environment.get_template(name)
        text = template.render(
            **values, session=session, path=request.path, now=now, ago=lambda at: wording.ago(at, now), status=status
        )
        headers = {"Content-Security-Policy": CSP, "Cache-Control": "no-store"}
        return web.Response(text=text, status=status, content_type="text/html", headers=headers)
