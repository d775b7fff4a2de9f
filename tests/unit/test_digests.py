"""The one form of a hash and a size in words from outside, and the readers that hold to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_archives import image

from torchkiln import index, layer_records
from torchkiln.descriptors import descriptor, diff_ids
from torchkiln.digests import is_digest, is_sha256, parse_digest, parse_sha256, parse_size
from torchkiln.environment.record import RECORD, environment, read
from torchkiln.errors import ArchiveError, EnvError
from torchkiln.image_reader import read_layout
from torchkiln.store import Store

if TYPE_CHECKING:
    from pathlib import Path

HEX = "0123456789abcdef" * 4
PATH = "/home/me/.bashrc".rjust(64, "/")


def test_a_hash_and_a_digest_are_taken_as_they_are() -> None:
    assert (HEX, HEX) == (parse_sha256(HEX), parse_digest(f"sha256:{HEX}"))


@pytest.mark.parametrize(
    "value",
    [None, 1, b"0" * 64, "", HEX[1:], f"{HEX}0", HEX.upper(), f"{HEX}\n", PATH, "\u0660" * 64],
    ids=repr,
)
def test_what_is_none_is_refused_in_both_forms(value: object) -> None:
    assert not is_sha256(value)
    assert not is_digest(f"sha256:{value}")
    with pytest.raises(ValueError, match="invalid sha256: "):
        parse_sha256(value)
    with pytest.raises(ValueError, match="invalid digest: "):
        parse_digest(f"sha256:{value}")


@given(st.text(max_size=80))
def test_no_text_but_hex_digits_is_a_hash(text: str) -> None:
    assert is_sha256(text) == (len(text) == 64 and set(text) <= set("0123456789abcdef"))


@pytest.mark.parametrize("value", [HEX, f"sha512:{HEX}", f"sha256:sha256:{HEX}", f" sha256:{HEX}"])
def test_a_digest_has_its_algorithm_in_front(value: str) -> None:
    with pytest.raises(ValueError, match="invalid digest"):
        parse_digest(value)


@pytest.mark.parametrize("value", [-1, True, False, 1.0, "1", None, [1]], ids=repr)
def test_a_size_is_a_whole_number_from_0(value: object) -> None:
    assert [0, 1 << 40] == [parse_size(0), parse_size(1 << 40)]
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(value)


def test_an_error_shows_neither_control_characters_nor_a_book() -> None:
    with pytest.raises(ValueError, match="invalid sha256") as caught:
        parse_sha256("\x1b[2J" + "x" * 10_000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("entry", [None, [], "x", {}, {"digest": f"sha256:{HEX}"}], ids=repr)
def test_what_is_no_descriptor_is_an_error_of_the_document(entry: object) -> None:
    with pytest.raises(ValueError, match="invalid"):
        descriptor(entry)


def test_a_name_that_cannot_be_printed_names_no_layer() -> None:
    said = {"digest": f"sha256:{HEX}", "size": 1}
    for name in ("\x1b[2J", "", None):
        noted = {**said, "annotations": {"io.torchkiln.layer": name}}
        assert descriptor(noted).name("layer 1") in {"layer 1", "None"}
    assert "numpy" == descriptor({**said, "annotations": {"io.torchkiln.layer": "numpy"}}).name("")


@pytest.mark.parametrize(
    "said", [[PATH], [f"sha256:{PATH}"], [HEX], {"sha256": HEX}, "x"], ids=repr
)
def test_a_configuration_names_its_layers_by_digests(said: object) -> None:
    with pytest.raises(ValueError, match="invalid"):
        diff_ids({"rootfs": {"diff_ids": said}})


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_a_layout_of_others_reads_no_file_outside_of_it(tmp_path: Path, part: str) -> None:
    """With a path where the digest is, a report would show what the user may read."""
    layout = image(Store(tmp_path / "store"), "base").layout
    own = tmp_path / "own.json"
    own.write_text("{}")
    index_path = layout / "index.json"
    top = json.loads(index_path.read_bytes())
    digest = f"sha256:{'../' * 30}{own.relative_to('/')}"
    if part == "manifest":
        top["manifests"][0]["digest"] = digest
        index_path.write_text(json.dumps(top))
    else:
        (entry,) = top["manifests"]
        manifest = json.loads(
            (layout / entry["digest"].replace("sha256:", "blobs/sha256/")).read_bytes()
        )
        (manifest["config"] if part == "config" else manifest["layers"][0])["digest"] = digest
        index_path.write_text(json.dumps(manifest))

    with pytest.raises(ArchiveError, match="this is no OCI layout") as caught:
        read_layout(layout)
    assert "invalid digest" in caught.value.why


@pytest.mark.parametrize("value", ["", "0" * 63, PATH, "x" * 64])
def test_an_index_tells_a_hash_or_none(value: str) -> None:
    file = {"filename": "a-1-py3-none-any.whl", "url": "a", "hashes": {"sha256": value}}
    with pytest.raises(ValueError, match="invalid sha256"):
        index.parse_json({"files": [file]}, "https://example.org/")

    file["hashes"] = {"sha256": HEX.upper()}
    (link,) = index.parse_json({"files": [file]}, "https://example.org/")
    assert HEX == link.sha256
    with pytest.raises(ValueError, match="invalid size"):
        index.parse_json({"files": [file | {"size": -1}]}, "https://example.org/")


@pytest.mark.parametrize(
    "pin",
    [
        {"name": "a", "version": "1", "hashes": [PATH]},
        {"name": "a\n--index-url x", "version": "1", "hashes": [HEX]},
        {"name": "a", "version": "1 --pre", "hashes": [HEX]},
    ],
    ids=str,
)
def test_the_record_of_an_environment_holds_pins_alone(
    tmp_path: Path, pin: dict[str, object]
) -> None:
    """They become the lines of a requirements file."""
    env = environment(tmp_path)
    body = {"format": 1, "variant": "cpu", "manager": "pip", "lock": HEX, "python": "3.11"}
    env.own.mkdir(parents=True)
    (env.own / RECORD).write_text(json.dumps(body | {"pins": [pin]}))

    with pytest.raises(EnvError, match="the record of the environment cannot be read"):
        read(env)


def test_a_record_of_a_layer_is_read_as_it_was_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (layer,) = image(store, "base").layers
    layer_records.write(store, HEX, layer)

    assert layer == layer_records.read(store, HEX)
    assert layer_records.read(store, PATH) is None
