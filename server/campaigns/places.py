"""Where a place of a campaign file, such as `strategy.cohorts[1].percent`, stands in it."""

import re

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([0-9]+)\]")


def line_of(root: Node, where: str) -> int | None:
    """The line (from 1) of `where` below `root`, or of the nearest part of it that the file has; None when it has none.

    Keys may hold dots: the longest key that fits is followed.
    """
    found: int | None = None
    node: Node | None = root
    rest = where
    while rest and node is not None:
        key, node, rest = _follow(node, rest)
        if key is not None:
            found = key.start_mark.line + 1
    return found


def _follow(node: Node, rest: str) -> tuple[Node | None, Node | None, str]:
    """What says the next step of `rest`, what is below it, and the steps left."""
    if isinstance(node, MappingNode):
        for key, value in sorted(node.value, key=_length, reverse=True):
            tail = rest.removeprefix(".").removeprefix(key.value) if isinstance(key, ScalarNode) else rest
            if (
                isinstance(key, ScalarNode)
                and rest.removeprefix(".").startswith(key.value)
                and tail[:1] in ("", ".", "[")
            ):
                return key, value, tail
        return None, None, ""
    step = _STEP.match(rest)
    if isinstance(node, SequenceNode) and step and step[2] is not None and int(step[2]) < len(node.value):
        item = node.value[int(step[2])]
        return item, item, rest[step.end() :]
    return None, None, ""


def _length(pair: tuple[Node, Node]) -> int:
    return len(pair[0].value) if isinstance(pair[0], ScalarNode) else 0
