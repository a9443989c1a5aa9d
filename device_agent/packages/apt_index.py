"""What apt says of the archives, read. Pure: texts in, values out."""

import re
from collections.abc import Sequence

from msgspec.structs import replace

from firmware.deb_index import paragraphs, source_of
from firmware.host_packages import Offered

_UPGRADE = re.compile(
    r"(?P<name>[^\s/:]+)/(?P<suites>\S+) (?P<after>\S+) (?P<arch>\S+) \[upgradable from: (?P<before>[^\]\s]+)\]"
)
_SECURITY = re.compile(r"security", re.I)


def parse_offers(text: str) -> list[Offered]:
    """The lines of `apt list --upgradable`: what is installed and has a newer candidate."""
    found = []
    for line in text.splitlines():
        match = _UPGRADE.match(line)
        if match is not None:
            found.append(
                Offered(
                    name=match["name"],
                    arch=match["arch"],
                    before=match["before"],
                    version=match["after"],
                    is_security=_SECURITY.search(match["suites"]) is not None,
                )
            )
    return found


def with_files(offers: Sequence[Offered], text: str) -> list[Offered]:
    """The offers, with what the archives' indexes (`apt-cache show`) say of their files and sources."""
    stanzas = {
        (one.get("Package", ""), one.get("Version", ""), one.get("Architecture", "")): one for one in paragraphs(text)
    }
    out = []
    for offer in offers:
        one = stanzas.get((offer.name, offer.version, offer.arch), {})
        source, source_version = source_of(one) if one else (offer.name, offer.version)
        size = one.get("Size", "0")
        out.append(
            replace(
                offer,
                length=int(size) if size.isdecimal() else 0,
                sha256=one.get("SHA256", ""),
                source=source,
                source_version=source_version,
            )
        )
    return out
