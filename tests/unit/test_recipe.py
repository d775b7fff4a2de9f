from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from torchkiln.recipe import recipe

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def module(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


def test_a_changed_line_of_any_module_changes_the_recipe(tmp_path: Path) -> None:
    one, two = module(tmp_path / "one.py", "a = 1\n"), module(tmp_path / "two.py", "b = 1\n")
    before = recipe(one, two)

    assert before == recipe(one, two)
    assert before != recipe(one, module(tmp_path / "two.py", "b = 2\n"))


def test_moving_text_from_one_module_to_the_next_changes_the_recipe(tmp_path: Path) -> None:
    first = recipe(module(tmp_path / "a.py", "x\n"), module(tmp_path / "b.py", "yz\n"))
    second = recipe(module(tmp_path / "c.py", "x\ny"), module(tmp_path / "d.py", "z\n"))

    assert first != second
