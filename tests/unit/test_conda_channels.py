from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from torchkiln.conda.channels import channels
from torchkiln.errors import CondaError

if TYPE_CHECKING:
    from pathlib import Path

ALIAS = "https://alias/"


def here(name: str, **environ: str) -> str:
    """Return where this machine gets a channel."""
    (channel,) = channels([name, "nodefaults"], ALIAS, environ)
    assert f"{ALIAS}{name}/" == channel.url
    return channel.here


def test_a_channel_is_at_its_own_address_where_nothing_is_configured() -> None:
    assert "https://alias/conda-forge/" == here("conda-forge")


def test_the_settings_of_conda_say_where_a_channel_is(tmp_path: Path) -> None:
    (tmp_path / ".condarc").write_text(
        "channel_alias: https://mirror/conda/\n"
        "custom_channels: {nvidia: 'https://other/x'}\n"
        "mirrored_channels: {pytorch: ['https://${USER}@third/pytorch', 'https://fourth/']}\n"
    )
    home = {"HOME": str(tmp_path), "USER": "me"}

    assert "https://mirror/conda/conda-forge/" == here("conda-forge", **home)
    assert "https://other/x/nvidia/" == here("nvidia", **home)
    assert "https://me@third/pytorch/" == here("pytorch", **home)
    assert "https://env/conda-forge/" == here("conda-forge", CONDA_CHANNEL_ALIAS="https://env")


def test_a_later_file_wins_and_mappings_are_merged(tmp_path: Path) -> None:
    (tmp_path / ".condarc").write_text("custom_channels: {a: 'https://one', b: 'https://one'}\n")
    (tmp_path / "mine").write_text("custom_channels: {b: 'https://two'}\n")
    both = {"HOME": str(tmp_path), "CONDARC": str(tmp_path / "mine")}

    assert ("https://one/a/", "https://two/b/") == (here("a", **both), here("b", **both))


@pytest.mark.parametrize("text", ["channel_alias: [", "just words"])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ".condarc").write_text(text)

    with pytest.raises(CondaError, match="configuration cannot be read") as caught:
        here("a", HOME=str(tmp_path))

    assert str(tmp_path / ".condarc") in caught.value.what
