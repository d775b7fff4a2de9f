from __future__ import annotations

import pytest

from torchkiln.commands import BuildOptions, Where, _check
from torchkiln.errors import EngineError, SandboxError
from torchkiln.layer_cache import Caches


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (BuildOptions(engine="podman"), "no engine `podman` builds images"),
        (BuildOptions(engine="docker", load="docker"), "are for the engine `kiln`"),
        (BuildOptions(engine="docker", verify=True), "are for the engine `kiln`"),
        (
            BuildOptions(engine="docker", caches=Caches(places=())),
            "`--cache-from` is for the engine `kiln`",
        ),
        (BuildOptions(builder="far"), "`--builder` is for the engine `docker`"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: BuildOptions, text: str) -> None:
    with pytest.raises(EngineError, match=text):
        _check(options)


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions(),
        BuildOptions(load="podman", verify=True),
        BuildOptions(engine="docker", builder="far"),
    ],
)
def test_options_that_go_together_are_not(options: BuildOptions) -> None:
    _check(options)


def test_the_sandbox_does_not_let_gpus_be_chosen() -> None:
    assert Where().in_sandbox
    assert not Where(engine="docker", gpus="all").in_sandbox
    with pytest.raises(SandboxError, match="passes every GPU"):
        assert Where(gpus="all").in_sandbox
