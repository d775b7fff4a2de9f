"""What a distribution requires (PEP 508), read with the standard library alone.

Enough of it for torch: names, extras, versions, and markers, which have the grammar of Python's own
comparisons but for `~=` and `===`.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from torchkiln import releases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_REQUIREMENT: Final = re.compile(
    r"(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[^]]*)\])?\s*\(?(?P<versions>[^;)]*)\)?\s*(?:;(?P<marker>.*))?"
)
_OPERATORS: Final[dict[type[ast.cmpop], Callable[[str, str], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda part, whole: part in whole,
    ast.NotIn: lambda part, whole: part not in whole,
}
_ORDERS: Final[dict[type[ast.cmpop], Callable[[tuple[int, ...], tuple[int, ...]], bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A requirement of `name` (normalised), in some `versions`: `==2.1`, `<3,>=2`, "" for any."""

    name: str
    versions: str = ""
    extras: tuple[str, ...] = ()
    marker: str = ""

    def __str__(self) -> str:
        """Return it as pip takes it, for this machine."""
        extras = f"[{','.join(self.extras)}]" if self.extras else ""
        return f"{self.name}{extras}{self.versions}"

    def pins_other(self, version: str) -> bool:
        """Tell whether it pins one that `version` is not (PEP 440); a range is none."""
        match = re.fullmatch(r"==([\w.+!]+?)(\.\*)?", self.versions)
        if match is None:
            return False
        pinned, series = match.groups()
        if series:
            return not f"{version}.".startswith(f"{pinned}.")
        there = version if "+" in pinned else version.partition("+")[0]
        return _without_zeros(there) != _without_zeros(pinned)

    def holds(self, values: Mapping[str, str], extras: Iterable[str] = ()) -> bool:
        """Tell whether it is one where the variables of markers have `values`."""
        every = ["", *extras]
        return not self.marker or any(holds(self.marker, {**values, "extra": e}) for e in every)


def requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    """Read the Requires-Dist of a distribution; what cannot be read is none."""
    for line in lines:
        match = _REQUIREMENT.fullmatch(line.strip())
        if match is None:
            continue
        yield Requirement(
            name=normalised(match["name"]),
            versions=re.sub(r"\s", "", match["versions"]),
            extras=tuple(one.strip() for one in (match["extras"] or "").split(",") if one.strip()),
            marker=(match["marker"] or "").strip(),
        )


def normalised(name: str) -> str:
    """Return the name of a distribution as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def holds(marker: str, values: Mapping[str, str]) -> bool:
    """Tell whether `marker` holds; one that cannot be read does not."""
    try:
        return _holds(ast.parse(marker, mode="eval").body, values)
    except (SyntaxError, LookupError):
        return False


def _holds(node: ast.expr, values: Mapping[str, str]) -> bool:
    if isinstance(node, ast.BoolOp):
        every = (_holds(one, values) for one in node.values)
        return all(every) if isinstance(node.op, ast.And) else any(every)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise LookupError(ast.dump(node))
    kind = type(node.ops[0])
    left, right = (_text(one, values) for one in (node.left, node.comparators[0]))
    if kind in _ORDERS:
        return _ORDERS[kind](_numbers(left), _numbers(right))
    return _OPERATORS[kind](left, right)


def _without_zeros(version: str) -> str:
    """Return `13.0.3` of `13.0.3.0`, which are one version."""
    return re.sub(r"(\.0+)+$", "", version)


def _numbers(version: str) -> tuple[int, ...]:
    """Return (3, 9) of `3.9` and of `3.9.0`, which are one version (PEP 440)."""
    return releases.numbers(_without_zeros(version))


def _text(node: ast.expr, values: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise LookupError(ast.dump(node))
