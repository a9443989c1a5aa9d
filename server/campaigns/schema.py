"""The JSON Schema (draft 7) of campaign files, for editors and scripts. `parse_campaign` has the last word.

Rules
- The schema refuses nothing that the parser accepts. What it can't say (sums, cycles, what a server has), the parser says.
- Bounds and words are the parser's own; tests hold every key of the parser against the schema, and the other way round.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from firmware.protocol.logs import What
from firmware.protocol.words import ID_PATTERN, VERSION_PATTERN
from firmware.windows import DAYS
from server.campaigns import selection_file
from server.campaigns.schema_gates import gate
from server.campaigns.schema_values import (
    LABEL,
    array,
    duration,
    integer,
    mapping,
    number,
    one_of,
    pattern,
    positive,
    share,
    text,
    whole,
)
from server.planner import (
    approval_policy,
    download_policy,
    gate_policy,
    group_policy,
    plain,
    policy,
    precondition_policy,
    retry_policy,
    times,
)
from server.planner.budgets import UNLIMITED
from server.planner.selection import MEMBERSHIPS
from server.planner.surroundings import AGENT_LABEL

DRAFT = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]


def campaign_schema() -> Schema:
    """The schema of a campaign file, as plain values for `json.dumps`."""
    found = mapping(
        {
            "name": pattern(ID_PATTERN, "The campaign's id: lower-case letters, digits and dashes."),
            "product": pattern(ID_PATTERN, "The product whose release it is."),
            "version": pattern(VERSION_PATTERN, "The release, in quotes: 2.0 without them is a number."),
            "selection": _selection(),
            "start_at": text(
                "A moment with its offset, such as 2026-12-01T02:00+01:00; it starts then at the earliest."
            ),
            "strategy": _strategy(),
        },
        needs=("name", "product", "version", "strategy"),
    )
    return {"$schema": DRAFT, "title": "Otaria campaign", **found}


def _selection() -> Schema:
    out = array(
        mapping(_match(), "Whom it leaves out."), 0, selection_file.MAX_EXCLUDED, "Who fits one of these is left out."
    )
    fields = {**_match(), "exclude": out, "membership": one_of(MEMBERSHIPS, "live: whoever fits later comes in later.")}
    return mapping(fields, "Targets that have all of this; left out: all whose hardware fits.")


def _match() -> dict[str, Schema]:
    value = {"type": "string", "maxLength": selection_file.MAX_VALUE}
    labels = {
        "type": "object",
        "maxProperties": selection_file.MAX_LABELS,
        "propertyNames": {"maxLength": selection_file.MAX_NAME},
        "additionalProperties": {"anyOf": [value, array(value, 1, selection_file.MAX_LISTED)]},
        "description": "The value of each, or a list of values.",
    }
    listed, targets = selection_file.MAX_LISTED, selection_file.MAX_TARGETS
    return {
        "labels": labels,
        "hardware": array(text("", 1, selection_file.MAX_VALUE), 1, listed, "One of these hardware ids."),
        "versions": array(pattern(VERSION_PATTERN), 1, listed, "It runs one of these versions now."),
        "targets": array(pattern(ID_PATTERN), 1, targets, "It is one of these."),
    }


def _strategy() -> Schema:
    own = mapping(_fields(), "The rules by which it goes.")
    own["anyOf"] = [{"required": ["extends"]}, {"required": ["name", "cohorts"]}]
    return {"description": "A ready-made strategy, or one of your own.", "anyOf": [one_of(policy.READY_MADE), own]}


def _fields() -> dict[str, Schema]:
    return {
        "extends": one_of(policy.READY_MADE, "Start from this one; the keys beside it replace its keys whole."),
        "name": pattern(ID_PATTERN, "For people."),
        "cohorts": array(_cohort(), 1, policy.MAX_COHORTS, "In order; the last takes the rest."),
        "budgets": array(_budget(), 0, group_policy.MAX_BUDGETS, "How many may be down at once."),
        "rates": array(_rate(), 0, group_policy.MAX_BUDGETS, "How many may restart in a time."),
        "rollback_rates": array(_rate(), 0, group_policy.MAX_BUDGETS, "The same for rollbacks."),
        "downloads": array(_download(), 0, download_policy.MAX_DOWNLOADS, "How many may download at once."),
        "bandwidth": array(_bandwidth(), 0, download_policy.MAX_DOWNLOADS, "Bytes per second of all who download."),
        "approvals": _approvals(),
        "emergency": _emergency(),
        "stage_ahead": integer(0, policy.MAX_COHORTS, "So many cohorts after the open one download and stage already."),
        "order": one_of(group_policy.ORDERS, "leaves-first: a gateway goes after what is behind it."),
        "after": array(_after(), 0, group_policy.MAX_AFTER, "Campaigns that come first."),
        "requires": array(_require(), 0, group_policy.MAX_REQUIRES, "Versions that are needed first."),
        "skew": mapping({"by": LABEL, "most": integer(1, 100)}, "How far releases of a group may be apart.", ("by",)),
        "together": mapping({"by": LABEL}, "Groups that go whole or not at all.", ("by",)),
        "patience": positive("Silent for this long after its order: moved to late."),
        "horizon": positive("Not committed this long after its permit: missing, a failure."),
        "healthy": duration("Committed for this long without a regression: verified."),
        "permit_valid": whole("How long a permit lives on the device's clock."),
        "trial": whole("How long a trial boot may take to commit."),
        "order_ttl": {"anyOf": [{"const": policy.AUTO}, whole()], "description": "When an order expires."},
        "retry": whole("After how long a target that was told to wait asks again."),
        "deltas": _deltas(),
        "unattended": _unattended(),
        "preconditions": array(
            _precondition(), 0, precondition_policy.MAX_PRECONDITIONS, "What must be true before a restart."
        ),
        "verify": _verify(),
        "priority": integer(-policy.MAX_PRIORITY, policy.MAX_PRIORITY, "The higher takes a target first."),
        "retries": _retries(),
        "timeouts": _timeouts(),
        "max_attempts": integer(1, 100, "Permits per installation."),
        "late_max_failures": integer(0, UNLIMITED, "Failures in late before the campaign pauses."),
        "on_failure": one_of(policy.ON_FAILURE, "What a failed gate does."),
        "on_drift": one_of(policy.ON_DRIFT, "What becomes of a target whose version was changed by hand."),
        "on_suspect": one_of(policy.ON_SUSPECT, "What a release that becomes suspect does to the campaign."),
        **_calendar(),
    }


def _calendar() -> dict[str, Schema]:
    return {
        "timezone": text("Whose clock is meant for targets without a label timezone.", 1),
        "windows": array(_time(), 0, times.MAX_RULES, "When targets may restart."),
        "freezes": array(_time(), 0, times.MAX_RULES, "When they may not; a freeze beats a window."),
        "takes": positive("How long a target is expected to be away."),
        "reserve": duration("Time kept for its way back."),
        "rollback_any_time": _flag("Whether rollbacks disregard windows and freezes."),
    }


def _cohort() -> Schema:
    fields: dict[str, Schema] = {
        "name": {**pattern(ID_PATTERN), "not": {"const": "late"}},
        "count": integer(1, UNLIMITED, "So many targets."),
        "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "gate": gate(),
        "gates": array(gate(), 1, gate_policy.MAX_GATES, "Several tests; all must pass."),
        "reachable": _flag("Its size means targets that are expected to come within the patience."),
        "first": _labels("Targets with all of these labels go into this cohort before others."),
    }
    found = mapping(fields, needs=("name",))
    found["allOf"] = [{"not": {"required": pair}} for pair in (["count", "percent"], ["gate", "gates"])]
    return found


def _labels(description: str) -> Schema:
    return {
        "description": description,
        "type": "object",
        "maxProperties": plain.MAX_LABELS,
        "propertyNames": LABEL,
        "additionalProperties": {"type": "string", "maxLength": plain.MAX_LABEL},
    }


def _budget() -> Schema:
    fields: dict[str, Schema] = {
        "by": LABEL,
        "limit": integer(1, UNLIMITED, "So many at once."),
        "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        "at_least": integer(0, UNLIMITED, "But so many, where the share comes to less."),
        "keep": integer(1, UNLIMITED, "So many of a redundancy set stay up."),
        "offline_counts": _flag("Whether members that are offline count as down."),
    }
    found = mapping(fields, needs=("by",))
    found["oneOf"] = [{"required": [key]} for key in ("limit", "percent", "keep")]
    return found


def _rate() -> Schema:
    fields: dict[str, Schema] = {
        "by": LABEL,
        "count": integer(1, UNLIMITED, "So many restarts"),
        "every": positive("in so long."),
        "grow": number(1, 100, "The rate is multiplied by this"),
        "after": integer(1, UNLIMITED, "whenever so many more have verified"),
        "most": integer(1, UNLIMITED, "up to this."),
    }
    return mapping(fields, needs=("count", "every"))


def _download() -> Schema:
    return mapping({"by": LABEL, "limit": integer(1, UNLIMITED, "So many at once.")}, needs=("by", "limit"))


def _bandwidth() -> Schema:
    rate = {
        "anyOf": [
            integer(download_policy.LEAST_RATE, download_policy.MOST_RATE),
            pattern(download_policy.RATE.pattern),
        ],
        "description": "Bytes per second, or a text such as 2MB/s.",
    }
    return mapping({"by": LABEL, "limit": rate}, needs=("by", "limit"))


def _approvals() -> Schema:
    rule = mapping(
        {
            "need": integer(1, approval_policy.MAX_APPROVALS),
            "targets": integer(0, UNLIMITED),
            "labels": _labels("Some have these."),
        },
        needs=("need",),
    )
    rule["anyOf"] = [{"required": ["targets"]}, {"required": ["labels"]}]
    fields = {
        "need": integer(0, approval_policy.MAX_APPROVALS, "So many must agree to any campaign."),
        "rules": array(rule, 0, approval_policy.MAX_APPROVAL_RULES, "For campaigns of more risk."),
        "expires": positive("Not agreed to in that time, it is a draft again."),
    }
    return mapping(fields, "Who must agree before it starts.")


def _emergency() -> Schema:
    fields = {
        "reserve": duration("For how long it has the next token of a full group, at most a day."),
        "remind": positive("After how long the approvals that it owes are asked for again first; at least 10m."),
    }
    return {"description": "It starts at once and owes its approvals.", "anyOf": [_flag(""), mapping(fields)]}


def _after() -> Schema:
    states = one_of(group_policy.STATES)
    return mapping({"campaign": pattern(ID_PATTERN), "state": states, "soak": duration()}, needs=("campaign",))


def _require() -> Schema:
    fields = {
        "of": one_of(group_policy.HOLDERS),
        "product": pattern(ID_PATTERN),
        "label": LABEL,
        "at_least": pattern(VERSION_PATTERN),
    }
    found = mapping(fields, needs=("at_least",))
    found["oneOf"] = [{"required": ["product"]}, {"required": ["label"]}]
    return found


def _deltas() -> Schema:
    fields = {
        "wait": duration("How long the first cohort waits for them, at most."),
        "min_saving": share(policy.LEAST_SAVING, 1, "The share of the full image that one must save."),
        "at_most": integer(0, policy.MAX_DELTAS, "So many are made."),
    }
    return mapping(fields, "How deltas are made and offered.")


def _precondition() -> Schema:
    size = pattern(precondition_policy.SIZE.pattern)
    space = {"anyOf": [integer(1, precondition_policy.MAX_BYTES), size]}
    bound = _labels("It binds only targets that have all of these.")
    bound |= {"minProperties": 1, "propertyNames": {"allOf": [LABEL, {"not": {"pattern": f"^{AGENT_LABEL}"}}]}}
    whom = {"for": mapping({"labels": bound}, needs=("labels",))}
    word = mapping({"word": pattern(ID_PATTERN), "max_age": positive(), **whom}, needs=("word",))
    per = {**LABEL, "not": {"pattern": f"^{AGENT_LABEL}"}}
    check = mapping({"check": pattern(ID_PATTERN), "per": per, "max_age": positive(), **whom}, needs=("check",))
    logs = {
        "evidence": array(one_of(What), 1, len(What), "Its logs of these kinds are asked for and kept first."),
        "within": positive("How long they are waited for."),
        "when_missing": one_of(precondition_policy.WITHOUT_EVIDENCE, "What becomes of it when they haven't come then."),
        **whom,
    }
    evidence = mapping(logs, needs=("evidence", "within"))
    return {
        "anyOf": [word, check, evidence, mapping({"free_space": space, "label": LABEL, **whom}, needs=("free_space",))]
    }


def _verify() -> Schema:
    fields = {
        "word": pattern(ID_PATTERN, "The name of the word, such as monitoring."),
        "within": positive("How long after a target was healthy it is waited for."),
        "when_missing": one_of(precondition_policy.WHEN_MISSING, "What it means when none has come by then."),
    }
    return mapping(fields, "A word from outside that it takes to be verified.", ("word", "within"))


def _retries() -> Schema:
    fields = {
        "most": integer(0, retry_policy.MOST_RETRIES, "So many retries of a target."),
        "first": positive("How long the first one waits."),
        "factor": number(1, retry_policy.MOST_FACTOR, "By what each wait is longer than the one before."),
        "most_wait": positive("No wait is longer than this."),
        "jitter": share(0, 1, "Each wait is shortened by a share of up to this."),
    }
    return mapping(fields, "What failed for a reason that says nothing about the release is tried again.", ("most",))


def _timeouts() -> Schema:
    fields = {
        "download": positive("How long it may download."),
        "activation": positive("From the permit to the trial boot."),
        "commit": positive("From the trial boot to the commit."),
    }
    return mapping(fields, "How long a phase may take.")


def _unattended() -> Schema:
    fields = {
        "expires": whole("How long an order may be followed once it is given out."),
        "accept_codes": _flag("Whether a typed code counts like a signed report."),
        "when_silent": one_of(policy.WHEN_SILENT, "What it means when no report has come by then."),
    }
    return mapping(fields, "For sites without a network.")


def _time() -> Schema:
    """A window or a freeze. YAML makes a date of 2026-12-20; for an editor it is a text."""
    why = text("Why.", 0, times.MAX_WHY)
    clock = pattern(times.CLOCK.pattern, "In quotes: YAML makes a number of 22:00.")
    weekly = {"days": array(one_of(DAYS), 0, len(DAYS)), "start": clock, "end": clock, "why": why}
    cron = {"cron": text("Five fields.", 9, times.MAX_CRON), "lasts": positive(), "why": why}
    dates = {"from": text("A day or a moment."), "to": text("A day or a moment."), "why": why}
    shapes: Sequence[tuple[Mapping[str, Schema], tuple[str, str]]] = (
        (weekly, ("start", "end")),
        (cron, ("cron", "lasts")),
        (dates, ("from", "to")),
    )
    return {"anyOf": [mapping(fields, needs=needs) for fields, needs in shapes]}


def _flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}
