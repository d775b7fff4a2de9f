from __future__ import annotations

from torchkiln.proof import debs
from torchkiln.proof.wheels import marker_environment, needed

LINUX = marker_environment("3.11", "3.11.2-6+deb12u9")


def test_a_requirement_counts_where_its_marker_holds_in_the_image() -> None:
    requires = {
        "torch": [
            "sympy",
            'nvidia-nccl; platform_system == "Linux"',
            'colorama; sys_platform == "win32"',
            'tomli; python_full_version < "3.11.1"',
        ],
        **{name: [] for name in ("sympy", "nvidia-nccl", "colorama", "tomli")},
    }

    assert {"sympy", "nvidia-nccl"} == needed(requires, ["torch"], LINUX)["torch"]


def test_an_extra_counts_where_something_needed_asks_for_it() -> None:
    requires = {
        "app": ["web[fast]"],
        "web": ['speed; extra == "fast"', 'docs; extra == "docs"'],
        "speed": [],
        "docs": [],
    }

    assert {"speed"} == needed(requires, ["app"], LINUX)["web"]
    assert {"docs", "speed"} == needed(requires, ["app", "web[docs]"], LINUX)["web"]


def test_distributions_that_need_each_other_come_to_an_end() -> None:
    requires = {"torch": ["triton"], "triton": ["torch"]}

    assert {"torch": {"triton"}, "triton": {"torch"}} == needed(requires, ["torch"], LINUX)


def test_a_requirement_in_no_valid_form_counts_by_its_name() -> None:
    """What uv has resolved may have been written before PEP 440 was heeded."""
    requires = {"old": ["numpy (>=1.2.*)", "six>dev"], "numpy": [], "six": []}

    assert {"numpy", "six"} == needed(requires, ["old"], LINUX)["old"]


def test_names_are_compared_in_their_normal_form() -> None:
    requires = {"app": ["Typing_Extensions"], "typing-extensions": []}

    assert {"typing-extensions"} == needed(requires, ["App"], LINUX)["app"]


def test_a_debian_package_needs_the_first_alternative_that_is_there() -> None:
    entries = {
        "app": {"Pre-Depends": "libc6 (>= 2.36)", "Depends": "gawk | mawk, perl:any, absent | sh"},
        "libc6": {},
        "mawk": {},
        "perl-base": {"Provides": "perl (= 5.36), sh"},
    }

    assert {"libc6", "mawk", "perl-base"} == debs.needed(entries)["app"]
