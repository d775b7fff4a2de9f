"""Read YAML by its nodes, so that each fault of the document can name its line and its key.

A `Place` is a node, the line where a reader looks for it, and its path from the top. Reading a
wrong type notes a fault and gives an empty value, so that one pass finds every fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import yaml

from torchkiln.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

_STRING: Final = "tag:yaml.org,2002:str"
_NULL: Final = "tag:yaml.org,2002:null"


@dataclass(frozen=True, order=True)
class Fault:
    """What is wrong at a line (from 1) and a key path (`variants.cu117.torch`)."""

    line: int
    key: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A value of the document; all places of a document share one list of faults."""

    node: yaml.Node
    line: int
    key: str
    faults: list[Fault]

    def fault(self, text: str) -> None:
        """Note that something is wrong here."""
        self.faults.append(Fault(self.line, self.key, text))

    def fault_if(self, text: str | None) -> None:
        """Note what a rule found wrong here, if anything."""
        if text:
            self.fault(text)

    def text(self) -> str:
        """Return the string that stands here, or "" and a fault."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.tag == _STRING:
            value: str = self.node.value
            if not value.strip():
                self.fault("is empty")
            return value.strip()
        if isinstance(self.node, yaml.ScalarNode) and self.node.tag != _NULL:
            self.fault(f'expected a string, put it in quotes: "{self.node.value}"')
        else:
            self.fault(f"expected a string, found {_kind(self.node)}")
        return ""

    def items(self) -> list[Place]:
        """Return the places of the list that stands here."""
        if not isinstance(self.node, yaml.SequenceNode):
            self.fault(f"expected a list, found {_kind(self.node)}")
            return []
        return [
            Place(
                node=node,
                line=node.start_mark.line + 1,
                key=f"{self.key}[{number}]",
                faults=self.faults,
            )
            for number, node in enumerate(self.node.value)
        ]

    def entries(self) -> dict[str, Place]:
        """Return the places of the mapping that stands here; a key given twice is a fault."""
        if not isinstance(self.node, yaml.MappingNode):
            self.fault(f"expected a mapping, found {_kind(self.node)}")
            return {}
        found: dict[str, Place] = {}
        for key_node, node in self.node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(line, self.key, "a key must be plain text"))
                continue
            name = key_node.value
            key = f"{self.key}.{name}" if self.key else name
            place = Place(node=node, line=line, key=key, faults=self.faults)
            if name in found:
                place.fault(f"given twice, first on line {found[name].line}")
            else:
                found[name] = place
        return found

    def fields(self, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Place]:
        """Return the entries under known keys; unknown and missing keys are faults."""
        known = [*required, *optional]
        entries = self.entries()
        for name, place in entries.items():
            if name not in known:
                place.fault(f"unknown key{did_you_mean(name, known)}")
        if isinstance(self.node, yaml.MappingNode):
            for name in required:
                if name not in entries:
                    self.fault(f"missing key: `{name}`")
        return {name: place for name, place in entries.items() if name in known}


def compose(text: str, faults: list[Fault]) -> Place:
    """Return the top of the document; raise `yaml.YAMLError` where it is no YAML."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    empty = yaml.ScalarNode(tag=_NULL, value="")
    return Place(node=node or empty, line=1, key="", faults=faults)


def _kind(node: yaml.Node) -> str:
    """Return what a node holds, in words."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if node.tag == _NULL else f"`{node.value}`"
