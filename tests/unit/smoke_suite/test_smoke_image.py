import json
from pathlib import Path
from typing import Any

import pytest
from image import Image, ImageError, Locked, read_image

BODY: dict[str, Any] = {
    "variant": "cu117",
    "torch": "2.0.1",
    "cuda": "11.7",
    "python": "3.11",
    "lock": {"wheels": [{"name": "torch", "version": "2.0.1", "file": "torch.whl", "size": 1}]},
}


def written(folder: Path, text: str) -> Path:
    """Write `text` as the description of an image."""
    path = folder / "image.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_description_is_read(tmp_path: Path) -> None:
    torch = Locked(name="torch", version="2.0.1")
    expected = Image(variant="cu117", torch="2.0.1", cuda="11.7", wheels=(torch,))

    assert expected == read_image(written(tmp_path, json.dumps(BODY)))


@pytest.mark.parametrize(("cuda", "promised"), [("11.7", True), (None, False)])
def test_an_image_promises_cuda_if_it_names_one(
    *, tmp_path: Path, cuda: str | None, promised: bool
) -> None:
    image = read_image(written(tmp_path, json.dumps(BODY | {"cuda": cuda})))

    assert promised == image.promises_cuda()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not JSON", "is not what it should be"),
        ("[]", "is not what it should be"),
        ('{"lock": {"wheels": []}}', "lacks the key 'variant'"),
        ('{"lock": {"wheels": [{"name": "torch"}]}}', "lacks the key 'version'"),
    ],
)
def test_a_file_that_is_no_description_is_refused_with_its_path(
    tmp_path: Path, text: str, told: str
) -> None:
    path = written(tmp_path, text)

    with pytest.raises(ImageError, match=told) as caught:
        read_image(path)

    assert str(path) in str(caught.value)


def test_a_missing_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no description of the image"):
        read_image(tmp_path / "image.json")


def test_a_description_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)
