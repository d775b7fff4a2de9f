"""The cuDNN that torch has loaded: torch says itself whether it can compute with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from torchkiln.doctor import library_path
from torchkiln.doctor.checks import check, ok, problem, skipped
from torchkiln.doctor.installer import conda, install, reinstall

if TYPE_CHECKING:
    from torchkiln.doctor.checks import Outcome
    from torchkiln.doctor.facts import Facts
    from torchkiln.doctor.torch_probe import TorchProbe

_LIBRARY: Final = re.compile(r"libcudnn\w*\.so[.\d]*")


@check("cudnn", area="environment", rank=64)
def cudnn(facts: Facts) -> Outcome:
    """Ask torch for its cuDNN, which it compares with the one that it was built with."""
    torch = facts.torch
    if torch is None or torch.failure or not torch.cuda:
        return skipped("there is no CUDA build of torch that can be imported")
    if not torch.cudnn:
        return ok("torch has no complaint about its cuDNN")
    loaded = f" ({torch.cudnn_library})" if torch.cudnn_library else ""
    return problem(
        f"{torch.cudnn.split('. ')[0]}{loaded}",
        cause="a convolution fails with this, and nothing before it",
        remedy=_remedy(facts, torch),
        link="pytorch/pytorch#80637",
    )


def _remedy(facts: Facts, torch: TorchProbe) -> str:
    """Return what lets torch find its own: off the path with others, else the pinned wheel."""
    environ, found = facts.subject.environ, facts.environment
    text = environ.get("LD_LIBRARY_PATH", "")
    guilty = library_path.folders(text, _LIBRARY)
    if torch.cudnn_library:
        loaded = Path(torch.cudnn_library).parent
        guilty = {folder: name for folder, name in guilty.items() if folder == loaded}
    if guilty:
        return library_path.without(text, guilty)
    there = found.find("torch") if found else None
    if found is None or there is None:
        return ""
    if found.by_conda(there):
        return conda(found, environ, "--force-reinstall", "cudnn")
    pins = [str(one) for one in found.required(there) if one.name.startswith("nvidia-cudnn-")]
    if not pins:
        return reinstall(found, environ, "torch")
    return install(found, environ, *pins, alone=True, again=True)
