from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkiln import compat
from torchkiln.catalog import Catalog, load, parse, select
from torchkiln.errors import CatalogError

ROOT = Path(__file__).parents[2]
GOOD = """\
base:
  release: bookworm
  python: "3.11"
  packages: [ca-certificates, python3]
indexes:
  pytorch-cpu: https://download.pytorch.org/whl/cpu/
variants:
  cpu:
    torch: 2.13.0
    index: pytorch-cpu
    packages: [numpy, pip]
  cu117:
    torch: 2.0.1
    cuda: "11.7"
    packages:
      - numpy<2
      - setuptools<70
      - torchaudio==2.0.2
      - torchvision==0.15.2
"""
NEWER = """\
  cu130:
    torch: 2.14.1
    cuda: "13.0"
    packages: [numpy]
"""


def faults(text: str) -> list[str]:
    """Return the lines that `parse` reports for `text`."""
    with pytest.raises(CatalogError) as caught:
        parse(text, "v.yaml")
    return caught.value.why.splitlines()


@pytest.fixture
def catalog() -> Catalog:
    return parse(GOOD, "v.yaml")


def test_the_committed_catalog_has_a_variant_for_every_cuda_since_11_7() -> None:
    catalog = load(ROOT / "images" / "variants.yaml")
    found = [(one.id, one.torch, one.cuda, one.index) for one in catalog.variants]

    assert [
        ("cpu", "2.13.0", None, "pytorch-cpu"),
        ("cu117", "2.0.1", "11.7", None),
        ("cu118", "2.7.1", "11.8", "pytorch-cu118"),
        ("cu121", "2.4.1", "12.1", None),
        ("cu124", "2.6.0", "12.4", None),
        ("cu126", "2.7.1", "12.6", None),
        ("cu128", "2.10.0", "12.8", None),
        ("cu129", "2.8.0", "12.9", "pytorch-cu129"),
        ("cu130", "2.14.1", "13.0", None),
        ("cu132", "2.15.0", "13.2", None),
    ] == found


def test_the_committed_catalog_says_of_every_cuda_when_it_ended() -> None:
    catalog = load(ROOT / "images" / "variants.yaml")

    assert {one.id: one.ended for one in catalog.variants} == {
        one.id: compat.end_of(one.cuda) if one.cuda else None for one in catalog.variants
    }


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (['ended: "2023-10-05"', "replacement: cu130"], 'CUDA 11.7 ended on "2023-10-04"'),
        (['ended: "2023-10-04"'], "`ended` and `replacement` go together"),
        (["replacement: cu130"], "`ended` and `replacement` go together"),
        (
            ['ended: "2023-10-04"', "replacement: cu103"],
            "not a variant after this one: `cu103`, did you mean `cu130`?",
        ),
        (
            ['ended: "2023-10-04"', "replacement: cpu"],
            "not a variant after this one: `cpu`",
        ),
    ],
)
def test_the_end_of_a_variant_is_what_is_known_and_leads_to_a_later_one(
    lines: list[str], fault: str
) -> None:
    text = GOOD.replace('cuda: "11.7"', "\n    ".join(['cuda: "11.7"', *lines])) + NEWER

    assert any(fault in line for line in faults(text))


def test_the_end_of_a_variant_is_read() -> None:
    lines = ['cuda: "11.7"', 'ended: "2023-10-04"', "replacement: cu130"]
    found = parse(GOOD.replace(lines[0], "\n    ".join(lines)) + NEWER, "variants.yaml")

    variant = found.variant("cu117")
    assert ("2023-10-04", "cu130") == (variant.ended, variant.replacement)


def test_a_cuda_that_goes_on_has_no_end() -> None:
    text = GOOD + NEWER.replace('cuda: "13.0"', 'cuda: "13.0"\n    ended: "2026-01-01"')

    assert any("CUDA 13.0 has not ended" in line for line in faults(text))


def test_a_catalog_is_read_in_the_order_of_the_file(catalog: Catalog) -> None:
    assert ["cpu", "cu117"] == [variant.id for variant in catalog.variants]
    assert ("ca-certificates", "python3") == catalog.base.packages
    assert ("numpy<2", "setuptools<70", "torchaudio==2.0.2", "torchvision==0.15.2") == (
        catalog.variant("cu117").packages
    )


def test_an_index_has_no_slash_at_its_end(catalog: Catalog) -> None:
    assert {"pytorch-cpu": "https://download.pytorch.org/whl/cpu"} == catalog.indexes


@pytest.mark.parametrize(
    ("old", "new", "place", "text"),
    [
        (
            '  python: "3.11"',
            "  python: 3.11",
            "3: base.python",
            'expected a string, put it in quotes: "3.11"',
        ),
        (
            "    packages: [numpy, pip]",
            "    packages: numpy",
            "11: variants.cpu.packages",
            "expected a list, found `numpy`",
        ),
        (
            "    torch: 2.13.0",
            "    torch:",
            "9: variants.cpu.torch",
            "expected a string, found nothing",
        ),
        (
            "    torch: 2.0.1",
            "    torch: 2.0.l",
            "13: variants.cu117.torch",
            "not a version like `2.0.1`: `2.0.l`, did you mean `2.0.1`?",
        ),
        (
            "    torch: 2.0.1",
            "    torch: 2.0.7",
            "13: variants.cu117.torch",
            "there is no release 2.0.7 of torch, did you mean `2.0.1`?",
        ),
        (
            "[numpy, pip]",
            "[numpy, NumPy]",
            "11: variants.cpu.packages[1]",
            "`numpy` is given twice, first on line 11",
        ),
        (
            "[numpy, pip]",
            "[torch, numpy]",
            "11: variants.cpu.packages[0]",
            "torch's version is the key `torch` of the variant",
        ),
        (
            "[numpy, pip]",
            "['numpy @ https://example.org/numpy.whl']",
            "11: variants.cpu.packages[0]",
            "`numpy @ https://example.org/numpy.whl` names a URL, but wheels come from an index",
        ),
        (
            "  cu117:",
            "  cu118:",
            "12: variants.cu118",
            "the id disagrees with `cuda`: a variant with CUDA 11.7 is `cu117`",
        ),
        (
            '    cuda: "11.7"',
            '    cuda: "117"',
            "14: variants.cu117.cuda",
            "not a CUDA version like `11.7`: `117`, did you mean `11.7`?",
        ),
        (
            '  cu117:\n    torch: 2.0.1\n    cuda: "11.7"',
            '  cu121:\n    torch: 2.0.1\n    cuda: "12.1"',
            "14: variants.cu121.cuda",
            "torch 2.0.1 never had CUDA 12.1, it had: 11.7, 11.8",
        ),
        (
            '  cu117:\n    torch: 2.0.1\n    cuda: "11.7"',
            '  cu118:\n    torch: 2.0.1\n    cuda: "11.8"',
            "14: variants.cu118.cuda",
            (
                "the default index has torch 2.0.1 for CUDA 11.7 alone, name an `index` "
                "that has it for CUDA 11.8"
            ),
        ),
        (
            "    index: pytorch-cpu\n",
            "",
            "8: variants.cpu",
            (
                "the default index has torch 2.13.0 for CUDA 13.0 alone, name an `index` "
                "that has it for the CPU"
            ),
        ),
        (
            "    index: pytorch-cpu",
            "    index: pytorch-cup",
            "10: variants.cpu.index",
            "unknown index: `pytorch-cup`, did you mean `pytorch-cpu`?",
        ),
        (
            "      - numpy<2",
            "      - numpy",
            "16: variants.cu117.packages[0]",
            (
                "torch 2.0.1 needs `numpy<2`: its wheels were built against NumPy 1, "
                "with 2 `Tensor.numpy()` fails"
            ),
        ),
        (
            "      - setuptools<70\n",
            "",
            "12: variants.cu117",
            (
                "torch 2.0.1 needs `setuptools<70`: `torch.utils.cpp_extension` needs "
                "its pkg_resources"
            ),
        ),
        (
            "torchaudio==2.0.2",
            "torchaudio",
            "18: variants.cu117.packages[2]",
            "torch 2.0.1 goes with `torchaudio==2.0.2`",
        ),
        (
            "torchvision==0.15.2",
            "torchvision==0.16.0",
            "19: variants.cu117.packages[3]",
            "torch 2.0.1 goes with `torchvision==0.15.2`",
        ),
        (
            "release: bookworm",
            "release: bookwurm",
            "2: base.release",
            "not a known Debian release: `bookwurm`, did you mean `bookworm`?",
        ),
        (
            "[ca-certificates, python3]",
            "[ca-certificates, python 3]",
            "4: base.packages[1]",
            "not the name of a Debian package: `python 3`",
        ),
        (
            "https://download.pytorch.org/whl/cpu/",
            "download.pytorch.org",
            "6: indexes.pytorch-cpu",
            "not the URL of an index: `download.pytorch.org`",
        ),
        (
            "  cu117:",
            "  cpu:",
            "12: variants.cpu",
            "given twice, first on line 8",
        ),
        (
            "    index: pytorch-cpu",
            "    torch: 2.13.0\n    index: pytorch-cpu",
            "10: variants.cpu.torch",
            "given twice, first on line 9",
        ),
    ],
)
def test_a_fault_names_its_line_its_key_and_the_right_thing(
    old: str, new: str, place: str, text: str
) -> None:
    assert 1 == GOOD.count(old)
    assert [f"v.yaml:{place}: {text}"] == faults(GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "    torch: 2.0.1",
            "    tourch: 2.0.1",
            [
                "v.yaml:12: variants.cu117: missing key: `torch`",
                "v.yaml:13: variants.cu117.tourch: unknown key, did you mean `torch`?",
            ],
        ),
        (
            "variants:",
            "variant:",
            [
                "v.yaml:1: missing key: `variants`",
                "v.yaml:7: variant: unknown key, did you mean `variants`?",
            ],
        ),
        (
            '"3.11"',
            '"3.12"',
            [
                "v.yaml:3: base.python: Debian bookworm has Python 3.11, not 3.12",
                (
                    "v.yaml:13: variants.cu117.torch: torch 2.0.1 has no wheels for "
                    "Python 3.12, it has: 3.8, 3.9, 3.10, 3.11"
                ),
            ],
        ),
    ],
)
def test_one_mistake_can_be_two_faults(old: str, new: str, expected: list[str]) -> None:
    assert expected == faults(GOOD.replace(old, new))


def test_what_is_no_requirement_is_quoted_with_its_place() -> None:
    [line] = faults(GOOD.replace("[numpy, pip]", "[numpy>=, pip]"))

    assert line.startswith("v.yaml:11: variants.cpu.packages[0]: not a requirement: `numpy>=`: ")


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("numpy<2", "numpy").replace("bookworm", "buster").replace("cpu:\n", "gpu:\n")
    )
    lines = faults(text)

    assert [2, 8, 16] == [int(line.split(":")[1]) for line in lines]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["v.yaml:1: expected a mapping, found nothing"]),
        ("- cpu\n", ["v.yaml:1: expected a mapping, found a list"]),
        ("base:\n  a: [1\n", ["v.yaml:3: not YAML: expected ',' or ']', but got '<stream end>'"]),
        (GOOD.replace("variants:", "variants: {}\nx:"), ["v.yaml:7: variants: holds no variant"]),
        (f"{GOOD}? [a, b]\n: c\n", ["v.yaml:20: a key must be plain text"]),
    ],
)
def test_what_is_no_catalog_at_all_has_a_line_too(text: str, expected: list[str]) -> None:
    assert expected == [line for line in faults(text) if "unknown key" not in line]


@settings(deadline=None)
@given(st.data())
def test_whatever_is_cut_out_of_a_catalog_ends_in_a_catalog_or_in_a_catalog_error(
    data: st.DataObject,
) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, len(GOOD)))
    filling = data.draw(st.text(max_size=8))
    try:
        parse(GOOD[:start] + filling + GOOD[end:], "v.yaml")
    except CatalogError as error:
        assert all(line.startswith(("v.yaml:", "  ")) for line in error.why.splitlines())  # noqa: PT017


@pytest.mark.parametrize("host", ["[::1", "::1]", "[numpy]"])
def test_brackets_that_hold_no_address_make_no_url(host: str) -> None:
    text = GOOD.replace("https://download.pytorch.org/whl/cpu/", f'"https://{host}/whl/cpu"')

    assert any("indexes.pytorch-cpu: not the URL of an index" in one for one in faults(text))


def test_a_torch_newer_than_the_facts_is_let_through() -> None:
    variants = parse(GOOD.replace("2.13.0", "2.99.0"), "v.yaml").variants

    assert "2.99.0" == variants[0].torch


def test_a_catalog_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"base: \xe9\n")

    with pytest.raises(CatalogError, match=r"the catalog cannot be read: .*/latin\.yaml"):
        load(tmp_path / "latin.yaml")
    with pytest.raises(CatalogError, match=r"the catalog cannot be read: .*/none\.yaml"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize("cuda", ["117", "11.7", "cu117", "CU117"])
def test_a_cuda_variant_has_three_names(catalog: Catalog, cuda: str) -> None:
    assert "cu117" == select(catalog, cpu=False, cuda=cuda).id


def test_the_cpu_variant_has_a_flag_of_its_own(catalog: Catalog) -> None:
    assert "cpu" == select(catalog, cpu=True, cuda=None).id


def test_the_flag_of_a_variant_selects_it(catalog: Catalog) -> None:
    assert ["--cpu", "--cuda 117"] == [variant.flag for variant in catalog.variants]


@pytest.mark.parametrize(
    ("cpu", "cuda", "what"),
    [
        (False, None, "give one of `--cpu` and `--cuda`"),
        (True, "117", "give one of `--cpu` and `--cuda`, not both"),
        (False, "118", "there is no variant for `--cuda 118`, did you mean `--cuda 117`?"),
        (False, "1.17", "there is no variant for `--cuda 1.17`, did you mean `--cuda 117`?"),
        (False, "", "there is no variant for `--cuda `"),
        (False, "cpu", "there is no variant for `--cuda cpu`"),
    ],
)
def test_flags_that_name_no_variant_are_told_what_exists(
    catalog: Catalog, *, cpu: bool, cuda: str | None, what: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        select(catalog, cpu=cpu, cuda=cuda)

    assert what == caught.value.what
    assert "--cpu       torch 2.13.0\n--cuda 117  torch 2.0.1" == caught.value.why


def test_an_unknown_id_is_answered_with_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(CatalogError) as caught:
        catalog.variant("cu118")

    assert "there is no variant `cu118`, did you mean `cu117`?" == caught.value.what


def test_adding_a_variant_is_one_edit() -> None:
    entry = dedent(
        """\
          cu121:
            torch: 2.4.1
            cuda: "12.1"
            packages: [numpy, torchaudio==2.4.1, torchvision==0.19.1]
        """
    )
    catalog = parse(GOOD + "".join(f"  {line}\n" for line in entry.splitlines()), "v.yaml")

    assert "2.4.1" == select(catalog, cpu=False, cuda="121").torch
