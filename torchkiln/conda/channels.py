"""Where a channel's name leads: to its own address, and to the one that conda has for it here.

A lock names the former, so that it is the same bytes behind every mirror and holds no password;
what is fetched comes from the latter. The settings are those of conda: `channel_alias`,
`custom_channels` and mamba's `mirrored_channels` of its configuration files, and
CONDA_CHANNEL_ALIAS (docs.conda.io, "Using the .condarc conda configuration file").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

import yaml

from torchkiln.errors import CondaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# conda's order: later files win.
_FILES: Final = (
    "/etc/conda/.condarc",
    "/etc/conda/condarc",
    "$CONDA_ROOT/.condarc",
    "$XDG_CONFIG_HOME/conda/.condarc",
    "$HOME/.config/conda/.condarc",
    "$HOME/.conda/.condarc",
    "$HOME/.condarc",
    "$CONDA_PREFIX/.condarc",
    "$CONDARC",
)
NO_DEFAULTS: Final = "nodefaults"
"""No channel, but conda's word for not adding Anaconda's own to those that a file names."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel: `url` is its own address, `here` where this machine gets it; both end in `/`."""

    name: str
    url: str
    here: str


def channels(names: Iterable[str], alias: str, environ: Mapping[str, str]) -> tuple[Channel, ...]:
    """Return the channels `names`; those without a setting are at `alias`.

    A configuration file that is none raises `CondaError`.
    """
    settings = _settings(environ)
    return tuple(
        Channel(name=name, url=_join(alias, name), here=_here(name, alias, settings))
        for name in names
        if name != NO_DEFAULTS
    )


def _here(name: str, alias: str, settings: Mapping[str, Any]) -> str:
    mirrors = settings.get("mirrored_channels", {}).get(name)
    if mirrors:
        return _join(mirrors[0])
    if name in settings.get("custom_channels", {}):
        return _join(settings["custom_channels"][name], name)
    return _join(settings.get("channel_alias") or alias, name)


def _join(*parts: str) -> str:
    return "".join(f"{part.rstrip('/')}/" for part in parts)


def _settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what conda's files say and the environment overrides; mappings are merged."""
    found: dict[str, Any] = {}
    for path in _paths(environ):
        for key, value in _read(path, environ).items():
            merged = isinstance(value, dict) and isinstance(found.get(key), dict)
            found[key] = {**found[key], **value} if merged else value
    if alias := environ.get("CONDA_CHANNEL_ALIAS"):
        found["channel_alias"] = alias
    return found


def _paths(environ: Mapping[str, str]) -> Iterator[Path]:
    for name in _FILES:
        path = Template(name).safe_substitute(environ)
        if not path.startswith("$") and Path(path).is_file():
            yield Path(path)


def _read(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in a file; conda puts variables of the environment into its texts."""
    what = f"conda's configuration cannot be read: {path}"
    try:
        text = Template(path.read_text(encoding="utf-8")).safe_substitute(environ)
        found = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CondaError(what, str(error), "correct it, or remove it") from None
    if not isinstance(found, dict):
        raise CondaError(what, "it is no mapping of settings", "correct it, or remove it")
    return found
