"""The text of a scenario: plain YAML, strictly read, whose lines refusals can name."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from firmware.errors import RefusedError
from server.campaigns.places import line_of
from server.campaigns.strategy_file import PlainLoader

KIND = "bad-scenario"
MAX_BYTES = 256 * 1024


def load(text: str, source: str, keys: Sequence[str]) -> tuple[Mapping[str, Any], Node]:
    """What it says, and where. Raises `RefusedError` (`bad-scenario`)."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise RefusedError(KIND, f"{source} is larger than {MAX_BYTES // 1024} KiB; a scenario needs a page.")
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RefusedError(KIND, f"{source}{line}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(KIND, f"{source} is not valid YAML: {str(error).splitlines()[0][:200]}.") from error
    if root is None or not isinstance(value, dict):
        raise RefusedError(KIND, f"{source}: a scenario is a mapping with the keys {', '.join(keys)}.")
    return value, root


class _Loader(PlainLoader):
    """Without aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "a scenario has no aliases", self.get_mark())
        return super().compose_node(parent, index)


def line_in(root: Node, where: str) -> int:
    """How many lines of the file are before the text at `where`: it begins in the line after its key when it is a block."""
    line, node = line_of(root, where) or 1, _node(root, where)
    return line if isinstance(node, ScalarNode) and node.style in ("|", ">") else line - 1


def _node(root: Node, where: str) -> Node | None:
    node: Node | None = root
    for step in re.findall(r"[^.\[\]]+", where):
        if isinstance(node, MappingNode):
            node = next((below for key, below in node.value if key.value == step), None)
        else:
            node = None if node is None else node.value[int(step)]
    return node
