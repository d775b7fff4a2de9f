from __future__ import annotations

from torchkiln import errors
from torchkiln.errors import CatalogError, KilnError

INVOKES_OWN = {0, 1, 2}


def outcomes() -> list[type[KilnError]]:
    return [
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, KilnError) and found is not KilnError
    ]


def test_each_outcome_has_an_exit_code_of_its_own() -> None:
    codes = [outcome.exit_code for outcome in outcomes()]

    assert len(set(codes)) == len(codes)
    assert not INVOKES_OWN & set(codes)


def test_an_error_says_what_and_why_and_after_a_blank_line_what_to_do() -> None:
    error = CatalogError("no such variant: cu999", "cpu\ncu117", "./kiln build --cpu")

    assert str(error) == (
        "error: no such variant: cu999\n  cpu\n  cu117\n\nhint: ./kiln build --cpu"
    )


def test_an_error_without_cause_and_hint_is_one_line() -> None:
    assert str(CatalogError("no such variant: cu999")) == "error: no such variant: cu999"


def test_words_from_outside_give_a_terminal_no_commands() -> None:
    error = CatalogError("no such file: \x1b[31mx", "a\x07\nb\tc", "rm \x1b]0;x")

    assert str(error) == ("error: no such file: \\x1b[31mx\n  a\\x07\n  b\tc\n\nhint: rm \\x1b]0;x")
