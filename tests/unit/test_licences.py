from __future__ import annotations

from email.parser import HeaderParser
from typing import Any

import pytest

from torchkiln.proof.licences import of_deb, of_wheel

HEAD = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"


def said(entries: tuple[dict[str, Any], ...]) -> list[str]:
    """Return expressions as they are and names in brackets."""
    return [one.get("expression") or f"[{one['license']['name']}]" for one in entries]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: mit OR apache-2.0", ["MIT OR Apache-2.0"]),
        ("License: Apache-2.0", ["Apache-2.0"]),
        ("License: BSD-3", ["[BSD-3]"]),
        ("License: NVIDIA Proprietary Software", ["[NVIDIA Proprietary Software]"]),
        ("Classifier: License :: OSI Approved :: BSD License", ["[BSD License]"]),
        (f"License: {'all of the text ' * 20}\nClassifier: License :: X :: Y", ["[Y]"]),
        ("License-Expression: no licence of SPDX", ["[no licence of SPDX]"]),
        ("Name: silent", []),
    ],
)
def test_a_wheel_has_an_expression_where_it_gives_one_and_else_a_name(
    metadata: str, expected: list[str]
) -> None:
    """`BSD License` is no SPDX licence: which of them is meant is not for us to say."""
    assert expected == said(of_wheel(HeaderParser().parsestr(f"{metadata}\n\n")))


@pytest.mark.parametrize(
    ("synopses", "expected"),
    [
        (["GPL-2+", "Expat"], "GPL-2.0-or-later AND MIT"),
        (["LGPL-2.1", "GPL-3"], "GPL-3.0-only AND LGPL-2.1-only"),
        (["GPL-2+ or BSD-3-clause"], "(GPL-2.0-or-later OR BSD-3-Clause)"),
        (["GPL-2 and Expat", "Expat"], "GPL-2.0-only AND MIT"),
        (["public-domain"], "LicenseRef-public-domain"),
        (["GPL-3+ with Bison exception"], "LicenseRef-GPL-3-or-later-with-Bison-exception"),
        (["A or B, and C"], "LicenseRef-A-or-B-and-C"),
    ],
)
def test_a_debian_package_has_all_its_files_licences_in_spdx_terms(
    synopses: list[str], expected: str
) -> None:
    stanzas = [f"\nFiles: {place}\nLicense: {one}\n" for place, one in enumerate(synopses)]

    found = said(of_deb("demo", HEAD + "".join(stanzas)))

    assert [expected] == found


def test_every_expression_can_be_parsed() -> None:
    standard = pytest.importorskip("license_expression")
    stanza = "\nFiles: *\nLicense: GPL-2+ with a (rare) exception or Expat\n"

    (expression,) = said(of_deb("demo", HEAD + stanza))

    assert ["LicenseRef-GPL-2-or-later-with-a-rare-exception", "MIT"] == sorted(
        str(one) for one in standard.get_spdx_licensing().license_keys(expression)
    )


@pytest.mark.parametrize("text", ["", "This is the GNU C Library.\n\nSee GPL.\n", HEAD])
def test_a_copyright_file_in_free_form_is_named_for_people(text: str) -> None:
    assert ["[see /usr/share/doc/demo/copyright]"] == said(of_deb("demo", text))
