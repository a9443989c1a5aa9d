"""What came of a soak, as one value for programs and as one page for people: no scripts, and nothing from any other host."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import msgspec

from simulator.soak.books import Violation
from simulator.soak.gauges import Sample
from simulator.soak.run import Outcome

WIDTH, HEIGHT, LEFT, BOTTOM = 900, 180, 60, 22
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")
MOST_POINTS = 600
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#1f2328;background:#fff}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #d0d7de}
pre{background:#f6f8fa;padding:.8em;overflow:auto}.bad{color:#b00020}.good{color:#116329}svg{width:100%;height:auto}
figure{margin:1.5em 0}figcaption{font-weight:600}
"""


def value(outcome: Outcome) -> dict[str, Any]:
    """For programs."""
    conductor, gauges = outcome.conductor, outcome.gauges
    return {
        "devices": outcome.devices,
        "hours": outcome.hours,
        "chaos": outcome.chaos,
        "seed": outcome.seed,
        "seconds": round(outcome.seconds, 1),
        "connected_s": round(outcome.connected_s, 2),
        "kb_per_device": round(outcome.kb_per_device, 1),
        "violations": outcome.ledger.broken,
        "by_kind": dict(outcome.ledger.counts),
        "first_violations": [
            {"kind": one.kind, "at_s": round(one.at_s, 1), "text": one.text, "trace": list(one.trace)}
            for one in outcome.ledger.kept
        ],
        "campaigns": [msgspec.to_builtins(one) for one in conductor.rounds],
        "strikes": [
            {
                "at_s": round(one.at_s, 1),
                "kind": str(one.kind),
                "devices": len(one.members),
                "for_s": round(one.for_s, 1),
            }
            for one in outcome.strikes
        ],
        "reports": outcome.reports,
        "trail_records": outcome.trail_records,
        "permits_followed": outcome.followed,
        "most_down": outcome.most_down["fleet"],
        "most_down_by": {by: outcome.most_down[by] for by in outcome.limits},
        "budgets": dict(outcome.limits),
        "flatness": list(gauges.flatness()),
        "permits_in_the_trail": outcome.permits,
        "hostile_messages": outcome.replayed,
        "refused_on_a_full_disk": outcome.refused,
        "simulator": {
            "judgement": list(gauges.judgement()),
            "most_lag_s": round(gauges.most_lag_s, 2),
            "late_share": gauges.late / max(gauges.heard, 1),
            "busy_share": gauges.busy / max(gauges.heard, 1),
        },
        "troubles": list(outcome.troubles[:100]),
        "samples": [msgspec.to_builtins(one) for one in _thinned(gauges.samples)],
        "again": again(outcome),
    }


def again(outcome: Outcome) -> str:
    """The command that does the same again."""
    return f"otaria sim soak --devices {outcome.devices} --hours {outcome.hours:g} --chaos {outcome.chaos} --seed {outcome.seed}"


def page(outcome: Outcome) -> str:
    """For people."""
    samples = _thinned(outcome.gauges.samples)
    verdict = "nothing that must hold was broken" if outcome.is_whole else f"{outcome.ledger.broken} violations"
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Soak: {outcome.devices} devices</title><style>{STYLE}</style>",
        f"<h1>Soak: {outcome.devices:,} devices, {_duration(outcome.seconds)}, chaos {escape(outcome.chaos)}</h1>",
        f"<p class={'good' if outcome.is_whole else 'bad'}><strong>{escape(verdict)}</strong></p>",
        f"<p>The same again: <code>{escape(again(outcome))}</code></p>",
        _facts(outcome),
        *(_violation(one) for one in outcome.ledger.kept),
        "<h2>Over time</h2>",
        *_plots(samples, outcome),
        "<h2>Campaigns</h2>",
        _campaigns(outcome),
        "<h2>Faults</h2>",
        _faults(outcome),
    ]
    return "\n".join(parts) + "\n"


def _facts(outcome: Outcome) -> str:
    gauges = outcome.gauges
    rows = [
        ("connected in", f"{outcome.connected_s:.1f} s"),
        ("memory of the simulator", f"{outcome.kb_per_device:.0f} KB for each connected device"),
        (
            "campaigns",
            f"{len(outcome.conductor.rounds)}, of which {sum(one.is_bad for one in outcome.conductor.rounds)} bad",
        ),
        ("permits followed", f"{outcome.followed:,}"),
        ("down at once by permits, at most", _most_down(outcome)),
        ("signed reports stored", f"{outcome.reports:,}"),
        ("records of the trail", f"{outcome.trail_records:,}, exported and verified; {outcome.permits:,} are permits"),
        ("memory and open files", " ".join(gauges.flatness())),
        ("messages of the hostile broker", f"{outcome.replayed:,}"),
        ("changes refused, in words, on a full disk", f"{outcome.refused:,}"),
        ("the simulator itself", " ".join(gauges.judgement())),
    ]
    return _table(("", ""), rows)


def _most_down(outcome: Outcome) -> str:
    most, limits = outcome.most_down, outcome.limits
    return (
        f"{most['campaign']:,} of a campaign, where {limits['campaign']:,} may; {most['site']} of a site, "
        f"where {limits['site']} may; {most['fleet']:,} in all"
    )


def _violation(one: Violation) -> str:
    trace = f"<pre>{escape(chr(10).join(one.trace))}</pre>" if one.trace else ""
    return f"<p class=bad>After {one.at_s:.0f} s, {escape(one.kind)}: {escape(one.text)}</p>{trace}"


def _campaigns(outcome: Outcome) -> str:
    rows = [
        (
            one.campaign,
            one.version + (" (bad)" if one.is_bad else ""),
            f"{one.state}: {one.reason}" if one.reason else one.state,
            f"{one.began_s:.0f} s",
            "" if one.ended_s is None else f"{one.ended_s - one.began_s:.0f} s",
            ", ".join(f"{state} {number}" for state, number in one.counts.items()),
        )
        for one in outcome.conductor.rounds
    ]
    return _table(("campaign", "release", "ended", "began after", "took", "targets"), rows)


def _faults(outcome: Outcome) -> str:
    rows = [
        (f"{one.at_s:.0f} s", str(one.kind), len(one.members) or "", f"{one.for_s:.0f} s") for one in outcome.strikes
    ]
    return _table(("after", "what", "devices", "for"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    heads = "".join(f"<th>{escape(one)}" for one in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows)
    return f"<table>{f'<tr>{heads}' if any(head) else ''}{body}</table>"


def _plots(samples: Sequence[Sample], outcome: Outcome) -> Iterable[str]:
    marks = [(one.at_s, str(one.kind)) for one in outcome.strikes if not one.members]
    curves: Sequence[tuple[str, Sequence[tuple[str, Callable[[Sample], float]]]]] = (
        ("Devices", (("connected", lambda one: one.connected), ("down by a permit", lambda one: one.down))),
        (
            "Where their agents are",
            tuple((state, _number_in(state)) for state in _states(samples)),
        ),
        ("Reports stored", (("reports", lambda one: one.stored),)),
        (
            "Memory, MiB",
            (
                ("server", lambda one: one.server_mib),
                ("broker", lambda one: one.broker_mib),
                ("simulator", lambda one: one.simulator_mib),
            ),
        ),
        ("Processors", (("server", lambda one: one.server_cpu), ("simulator", lambda one: one.simulator_cpu))),
        ("Open files", (("server", lambda one: one.server_files), ("broker", lambda one: one.broker_files))),
        ("Seconds that the simulator was late", (("lag", lambda one: one.lag_s),)),
    )
    for title, lines in curves:
        yield plot(title, [(name, [(one.at_s, float(get(one))) for one in samples]) for name, get in lines], marks)


def _number_in(state: str) -> Callable[[Sample], float]:
    return lambda one: one.states.get(state, 0)


def _states(samples: Sequence[Sample]) -> Sequence[str]:
    seen = {state for one in samples for state in one.states}
    return [state for state in ("downloading", "asking", "trial", "committed", "fellback", "off") if state in seen]


def plot(
    title: str, lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Lines over seconds, as SVG; `marks`: thin lines with a word for who points at them."""
    points = [point for _, line in lines for point in line]
    if not points:
        return ""
    end, top = max(at for at, _ in points) or 1.0, max(max(number for _, number in points), 1e-9)

    def across(at: float) -> float:
        return LEFT + at / end * (WIDTH - LEFT - 8)

    def up(number: float) -> float:
        return HEIGHT - BOTTOM - number / top * (HEIGHT - BOTTOM - 24)

    out = [f"<figure><figcaption>{escape(title)}</figcaption>", f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img>"]
    out.append(f"<title>{escape(title)}</title>")
    for at, word in marks:
        if at <= end:
            out.append(
                f"<line x1={across(at):.1f} x2={across(at):.1f} y1=20 y2={HEIGHT - BOTTOM} stroke='#d0d7de'>"
                f"<title>{escape(word)}</title></line>"
            )
    for (name, line), colour in zip(lines, COLOURS * 2, strict=False):
        path = " ".join(f"{across(at):.1f},{up(number):.1f}" for at, number in line)
        out.append(
            f"<polyline fill=none stroke='{colour}' stroke-width=1.5 points='{path}'><title>{escape(name)}</title></polyline>"
        )
    for place, ((name, _), colour) in enumerate(zip(lines, COLOURS * 2, strict=False)):
        out.append(f"<text x={LEFT + place * 130} y=14 fill='{colour}' font-size=12>{escape(name)}</text>")
    out += [
        f"<text x=2 y={up(top) + 4:.0f} font-size=11>{_number(top)}</text>",
        f"<text x=2 y={up(0):.0f} font-size=11>0</text>",
        f"<text x={WIDTH - 70} y={HEIGHT - 5} font-size=11>{_duration(end)}</text>",
        f"<line x1={LEFT} x2={WIDTH - 8} y1={HEIGHT - BOTTOM} y2={HEIGHT - BOTTOM} stroke='#57606a'/>",
        "</svg></figure>",
    ]
    return "".join(out)


def _thinned(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[:: max(1, -(-len(samples) // MOST_POINTS))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
