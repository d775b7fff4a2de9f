from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from conda_channel import (
    CPU_TORCH,
    CUDA_TORCH,
    FORGE,
    NUMPY,
    VERSIONS,
    CondaPackage,
    cpu,
    cuda,
    make_channels,
    make_project,
)
from rattler.explicit_environment.environment import ExplicitEnvironmentSpec

from torchkiln.conda import rattler
from torchkiln.conda.lock import (
    channels_of,
    demand,
    lock_environment,
    lock_environments,
    read_lock,
    read_spec,
    shown,
    virtual_packages,
)
from torchkiln.conda.solve import Problem, solve
from torchkiln.errors import CondaError

if TYPE_CHECKING:
    from torchkiln.catalog import Variant
    from torchkiln.pipeline import Project

ROOT = Path(__file__).parents[2]
FILES = ("conda-linux-64.lock", "conda-lock.yml", "pixi.lock")


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The channels, which no test changes."""
    return make_channels(tmp_path_factory.mktemp("channels"))


def problem(project: Project, variant: Variant, **virtual: str) -> Problem:
    """Return what is solved where the virtual packages are `virtual` and nothing else."""
    spec = read_spec(project, variant)
    return Problem(
        variant=variant,
        spec=spec,
        channels=channels_of(project, spec),
        virtual={f"__{name}": f"{version}=0" for name, version in virtual.items()},
        cache=project.store.root,
    )


def torch(project: Project, variant: Variant) -> str:
    """Lock `variant` and return the build of torch that its lock has."""
    packages = lock_environment(project, variant).solution.packages
    return next(one.build for one in packages if one.name == "pytorch")


def test_three_lock_files_name_the_same_packages_by_hash(tmp_path: Path, channels: Path) -> None:
    variant = cuda()
    project = make_project(tmp_path, channels, variant)

    packages = lock_environment(project, variant).solution.packages

    explicit, conda_lock, pixi = (tmp_path / "envs/cu130" / name for name in FILES)
    urls = [entry.url for entry in ExplicitEnvironmentSpec.from_path(explicit).packages]
    document = yaml.safe_load(conda_lock.read_text())
    assert [f"{one.url}#{one.sha256}" for one in packages] == urls
    assert sorted(one.url for one in packages) == sorted(one["url"] for one in document["package"])
    assert {one.sha256 for one in packages} == {
        one["hash"]["sha256"] for one in document["package"]
    }
    assert {one.url for one in packages} == {one.url for one in read_lock(project, variant)}
    assert "version: 7" in pixi.read_text()
    # Dependencies first, and torch's build as asked.
    names = [one.name for one in packages]
    assert names.index("python") < names.index("numpy") < names.index("pytorch")
    assert CUDA_TORCH.build == next(one.build for one in packages if one.name == "pytorch")


def test_a_lock_is_the_same_bytes_behind_each_mirror_and_on_each_machine(
    tmp_path: Path, channels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, another store, an index of another time, another driver."""
    variants, texts = (cuda(), cpu()), []
    for name, override in (("one", ""), ("two", "99.0")):
        monkeypatch.setenv("CONDA_OVERRIDE_CUDA", override)
        place = channels if name == "one" else make_channels(tmp_path / "mirror")
        project = make_project(tmp_path / name, place, *variants)
        assert [] == lock_environments(project, variants)[1]
        folders = [tmp_path / name / "envs" / variant.id for variant in variants]
        texts.append([(folder / file).read_text() for folder in folders for file in FILES])

    assert texts[0] == texts[1]
    assert all("file://" not in text and str(tmp_path) not in text for text in texts[0])


def test_a_cuda_lock_says_which_driver_and_a_cpu_lock_none(tmp_path: Path, channels: Path) -> None:
    project = make_project(tmp_path, channels, cuda(), cpu())

    assert (CUDA_TORCH.build, CPU_TORCH.build) == (torch(project, cuda()), torch(project, cpu()))
    needs, none = (
        (tmp_path / "envs" / name / "pixi.lock").read_text() for name in ("cu130", "cpu")
    )
    assert "- __cuda=13.0=0\n" in needs
    assert "__cuda=" not in none
    assert "- __glibc=2.36=0\n" in needs


def test_who_sees_no_driver_gets_no_cpu_build_but_an_explanation(
    tmp_path: Path, channels: Path
) -> None:
    project = make_project(tmp_path, channels, cuda())

    with pytest.raises(CondaError) as caught:
        solve(problem(project, cuda(), glibc="2.36"))

    assert "the conda environment of `cu130` has no solution" == caught.value.what
    assert "__cuda *, for which no candidates were found" in caught.value.why
    assert caught.value.hint.endswith("export CONDA_OVERRIDE_CUDA=13.0")


def test_a_driver_that_is_too_old_is_named(tmp_path: Path, channels: Path) -> None:
    project = make_project(tmp_path, channels, cuda())

    with pytest.raises(CondaError) as caught:
        solve(problem(project, cuda(), cuda="12.8"))

    assert "cuda-version 13.0 would constrain" in caught.value.why
    assert "a driver for CUDA 12.8" in caught.value.hint


def test_a_spec_without_a_build_gets_the_cpu_build_which_is_refused(
    tmp_path: Path, channels: Path
) -> None:
    project = make_project(tmp_path, channels, cuda())
    asked = problem(project, cuda(), glibc="2.36")
    loose = replace(asked, spec=replace(asked.spec, core=("pytorch=2.13.0",)))

    with pytest.raises(CondaError, match=r"not for CUDA 13\.0: pytorch-2\.13\.0-cpu_mkl"):
        solve(loose)
    with pytest.raises(CondaError, match="not for the CPU: pytorch"):
        solve(replace(loose, variant=cpu(), virtual={"__cuda": "13.0=0", "__glibc": "2.36=0"}))

    solve(replace(loose, variant=cpu()))


@pytest.mark.parametrize(
    ("locked", "packages", "got"),
    [
        ("2.4.6", ("numpy",), "2.4.5"),  # the newest below, not 2.4.7
        ("2.4.6", ("numpy<2.4",), "1.26.4"),  # as the catalog has it
        ("1.0.0", ("numpy",), "2.4.7"),  # there is nothing below
    ],
)
def test_a_companion_that_no_channel_has_is_corrected_and_told(
    tmp_path: Path, channels: Path, locked: str, packages: tuple[str, ...], got: str
) -> None:
    variant = cuda(packages=packages)
    project = make_project(tmp_path, channels, variant, versions={"numpy": locked})

    lock = lock_environment(project, variant)

    text = f"numpy is {got}, not {locked}: no channel has it"
    assert [text] == [str(one) for one in lock.solution.corrections]
    assert all(f"# corrected: {text}\n" in (lock.folder / name).read_text() for name in FILES)
    assert ["numpy", locked, got] == shown(lock).splitlines()[2].split()[:3]


def test_a_companion_that_does_not_go_with_the_rest_is_corrected_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = CondaPackage(
        channel="conda-forge",
        name="numpy",
        version="2.4.6",
        build="py399_0",
        depends=("python 3.99.*",),
    )
    project = make_project(
        tmp_path,
        make_channels(tmp_path / "c", (*FORGE, other)),
        cuda(),
        versions=VERSIONS | {"numpy": "2.4.6"},
    )

    (corrected,) = lock_environment(project, cuda()).solution.corrections

    assert "numpy is 2.4.5, not 2.4.6: it does not go with the rest" == str(corrected)
    assert f"corrected: {corrected}\n" in capsys.readouterr().err


def test_torch_is_never_another(tmp_path: Path, channels: Path) -> None:
    variant = cuda(id="cu129", cuda="12.9")
    project = make_project(tmp_path, channels, variant)

    with pytest.raises(CondaError) as caught:
        lock_environment(project, variant)

    assert [
        "no channel has `pytorch=2.13.0=cuda129*`",
        f"there is of this version: 2.13.0 {CUDA_TORCH.build}, 2.13.0 {CPU_TORCH.build}",
    ] == caught.value.why.splitlines()
    assert "envs/cu129/requirements.txt" in caught.value.hint
    assert [] == [*tmp_path.glob("envs/cu129/*.lock"), *tmp_path.glob("envs/cu129/*.yml")]


def test_a_companion_that_the_catalog_pins_is_never_another(tmp_path: Path, channels: Path) -> None:
    variant = cuda(packages=("numpy==2.4.6",))
    project = make_project(tmp_path, channels, variant, versions={"numpy": "2.4.6"})

    with pytest.raises(CondaError) as caught:
        lock_environment(project, variant)

    assert "the catalog asks for `==2.4.6`" in caught.value.why
    assert "variants.cu130" in caught.value.hint


@pytest.mark.parametrize(
    ("variant", "build"),
    [
        (cuda(id="cu117", torch="2.0.1", cuda="11.7"), "py3.11_cuda11.7_cudnn8.5.0_0"),
        (cuda(id="cu118", torch="2.0.1", cuda="11.8"), "py3.11_cuda11.8_cudnn8.7.0_0"),
        (cpu(torch="2.0.1"), "py3.11_cpu_0"),
    ],
    ids=["cu117", "cu118", "cpu"],
)
def test_the_ended_channel_gives_the_build_that_is_asked_for(
    tmp_path: Path, channels: Path, variant: Variant, build: str
) -> None:
    project = make_project(tmp_path, channels, variant)

    assert build == torch(project, variant)
    packages = {one.name: one for one in read_lock(project, variant)}
    assert "2023.2.0" == packages["mkl"].version  # below 2024.1
    assert ("pytorch-cuda" in packages) is bool(variant.cuda)


def test_an_environment_of_wheels_locks_python_and_pip_and_says_so(
    tmp_path: Path, channels: Path
) -> None:
    variant = cuda(torch="2.99.0")
    project = make_project(tmp_path, channels, variant)

    lock = lock_environment(project, variant)

    assert {"pip", "python"} == {one.name for one in lock.solution.packages}
    assert "see requirements.txt" in (lock.folder / "pixi.lock").read_text()


def test_a_channel_out_of_reach_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    variants = (cuda(), cpu())
    project = make_project(tmp_path, tmp_path / "nowhere", *variants)
    before = sorted(tmp_path.rglob("envs/**/*"))

    locks, failures = lock_environments(project, variants)

    assert [] == locks
    with pytest.raises(CondaError) as caught:
        demand(failures)
    assert 1 == caught.value.why.count("the conda channel cannot be reached: conda-forge")
    assert "export CONDA_CHANNEL_ALIAS=" in caught.value.why
    assert before == sorted(tmp_path.rglob("envs/**/*"))


def test_a_package_without_a_sha256_is_neither_locked_nor_installed(tmp_path: Path) -> None:
    """Some mirrors drop it from the index, and nothing that they send could be checked."""
    place = make_channels(tmp_path / "channels")
    project = make_project(tmp_path, place, cpu())
    forget_hash(place, NUMPY)

    with pytest.raises(CondaError) as caught:
        lock_environment(project, cpu())

    assert "the channel's index tells no sha256 of: numpy-2.4.5-py311h64a7726_0" == (
        caught.value.what
    )
    assert [] == [*tmp_path.glob("envs/cpu/*.lock"), *tmp_path.glob("envs/cpu/conda-lock.yml")]


def forget_hash(channels: Path, package: CondaPackage) -> None:
    """Take a package's sha256 from its channel's index, which is left as plain JSON alone."""
    folder = (channels / package.file).parent
    index = json.loads((folder / "repodata.json").read_text())
    for kind in ("packages", "packages.conda"):
        if entry := index[kind].get(Path(package.file).name):
            del entry["sha256"]
    for path in folder.glob("repodata*"):
        path.unlink()
    (folder / "repodata.json").write_text(json.dumps(index))


def test_a_lock_of_another_spec_is_refused(tmp_path: Path, channels: Path) -> None:
    project = make_project(tmp_path, channels, cuda())
    with pytest.raises(CondaError, match=r"there is no conda lock: envs/cu130/pixi\.lock"):
        read_lock(project, cuda())
    lock_environment(project, cuda())

    changed = cuda(packages=("numpy",))
    project = make_project(tmp_path, channels, changed)

    with pytest.raises(CondaError, match="older than what it was made from") as caught:
        read_lock(project, changed)
    assert "./kiln lock --conda --cuda 130" == caught.value.hint


def test_each_spec_of_the_project_is_one_that_the_solver_can_read() -> None:
    names = sorted(ROOT.glob("envs/*/environment.yml"))
    for path in names:
        document = yaml.safe_load(path.read_text())
        for spec in filter(lambda one: isinstance(one, str), document["dependencies"]):
            name = spec.partition("=")[0].partition("<")[0]
            assert not rattler.fits(spec, f"not-{name}", "1"), spec
    assert len(names) >= 8


def test_py_rattler_is_imported_in_one_place_and_when_it_is_used() -> None:
    """It is 80 MB, and no requirement of `kiln`."""
    imports = re.compile(r"^\s*(import|from) rattler\b|import_module\(.rattler", re.MULTILINE)
    paths = [ROOT / "tasks.py", *sorted((ROOT / "torchkiln").rglob("*.py"))]
    assert [ROOT / "torchkiln/conda/rattler.py"] == [
        path for path in paths if imports.search(path.read_text(encoding="utf-8"))
    ]
    program = "import sys, tasks, torchkiln.conda.install; sys.exit('rattler' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_virtual_packages_are_stated_and_not_those_of_this_machine(
    tmp_path: Path, channels: Path
) -> None:
    project = make_project(tmp_path, channels, cuda())

    assert {
        "__archspec": "1=x86_64",
        "__cuda": "13.0=0",
        "__glibc": "2.36=0",
        "__linux": "4.18=0",
        "__unix": "0=0",
    } == virtual_packages(project.catalog.base, read_spec(project, cuda()))
