"""Retries and timeouts of a strategy, from plain values. Refusals as in `server.planner.plain`."""

from server.planner import plain
from server.planner.strategy import RetryPolicy, TimeoutPolicy

MOST_RETRIES = 20
MOST_FACTOR = 10
RETRY_KEYS = ("most", "first", "factor", "most_wait", "jitter")
TIMEOUT_KEYS = ("download", "activation", "commit")


def parse_retries(value: object, where: str) -> RetryPolicy:
    """How often and when an installation is tried again; raises `RefusedError` (`bad-strategy`)."""
    fields = plain.mapping(value, where)
    plain.known(fields, RETRY_KEYS, where)
    usual = RetryPolicy()
    policy = RetryPolicy(
        most=plain.integer(fields.get("most"), f"{where}.most", 0, MOST_RETRIES),
        first_s=plain.positive_duration(fields.get("first", usual.first_s), f"{where}.first"),
        factor=plain.number(fields.get("factor", usual.factor), f"{where}.factor", 1, MOST_FACTOR),
        most_wait_s=plain.positive_duration(fields.get("most_wait", usual.most_wait_s), f"{where}.most_wait"),
        jitter=plain.share(fields.get("jitter", usual.jitter), f"{where}.jitter", 0, 1),
    )
    if policy.most_wait_s < policy.first_s:
        raise plain.bad(f"{where}.most_wait", "be at least as long as first")
    return policy


def parse_timeouts(value: object, where: str) -> TimeoutPolicy:
    """How long each phase may take; raises `RefusedError` (`bad-strategy`)."""
    fields = plain.mapping(value, where)
    plain.known(fields, TIMEOUT_KEYS, where)
    seconds = {key: plain.positive_duration(item, f"{where}.{key}") for key, item in fields.items()}
    return TimeoutPolicy(**{f"{key}_s": item for key, item in seconds.items()})


def check(timeouts: TimeoutPolicy, *, horizon_s: float, trial_s: float, permit_valid_s: float) -> None:
    """Raises `RefusedError` (`bad-strategy`) for phases that could never end in time, or never matter."""
    for key, seconds in (("activation", timeouts.activation_s), ("commit", timeouts.commit_s)):
        if seconds is not None and seconds > horizon_s:
            raise plain.bad(f"timeouts.{key}", "be at most horizon, which ends every attempt")
    if timeouts.activation_s is not None and timeouts.activation_s <= permit_valid_s:
        raise plain.bad(
            "timeouts.activation", "be longer than permit_valid: a permit may be used until its last second"
        )
    if timeouts.commit_s is not None and timeouts.commit_s < trial_s:
        raise plain.bad(
            "timeouts.commit", "be at least as long as trial, or a good trial boot could be counted as silent"
        )
