from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from launches import DIGEST, IMAGE, KINDS, SCRIPTS, Recorder, launch, rendered

from torchkiln.launch import Kind, Launch, LaunchMount
from torchkiln.launch_code import CodeFile

if TYPE_CHECKING:
    from collections.abc import Mapping

SLURM: tuple[Kind, ...] = ("slurm-pyxis", "slurm-apptainer", "slurm-charliecloud")
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
DATA = LaunchMount(source="/data", target="/mnt", writable=True)
SHAPES = list(itertools.product((1, 2), (0, 4), ("", "/images/x"), (0, 90), ((), (DATA,))))


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """Programs that write down how they are called."""
    return Recorder(tmp_path)


@pytest.fixture
def images(recorder: Recorder) -> Recorder:
    """The same, with what the runtimes make of an image."""
    tree = recorder.here / f"torchkiln-{DIGEST[7:19]}" / "ch"
    tree.mkdir(parents=True)
    (tree / "environment").write_text("A=b\n")
    (recorder.here / f"torchkiln-{DIGEST[7:19]}.sif").touch()
    return recorder


@pytest.mark.parametrize("kind", SCRIPTS)
def test_every_script_is_bash_that_shellcheck_has_no_word_against(
    kind: Kind, tmp_path: Path
) -> None:
    for number, (nodes, gpus, file, seconds, mounts) in enumerate(SHAPES):
        one = launch(
            kind,
            nodes=nodes,
            gpus=gpus,
            file=file and file + {"slurm-charliecloud": ".sqsh"}.get(kind, ""),
            seconds=seconds,
            mounts=mounts,
        )
        (tmp_path / f"{number}.sh").write_text(rendered(one))
    scripts = sorted(tmp_path.iterdir())
    done = subprocess.run([SHELLCHECK, *scripts], capture_output=True, text=True, check=False)

    assert len(SHAPES) == len(scripts)
    assert (0, "") == (done.returncode, done.stdout)
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True)


def test_shellcheck_is_one_that_finds_a_missing_quote(tmp_path: Path) -> None:
    broken = rendered(launch("slurm-apptainer")).replace('"$PWD:/workspace"', "$PWD:/workspace")
    (tmp_path / "x.sh").write_text(broken)

    assert subprocess.run(
        [SHELLCHECK, tmp_path / "x.sh"], capture_output=True, check=False
    ).returncode


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
COMMANDS = st.lists(TEXT, max_size=4).map(lambda words: ("python", "train.py", *words))
FOLDERS = st.text(
    st.characters(exclude_characters=':,"', exclude_categories=["C", "Zl", "Zp"]), max_size=12
).map(lambda text: f"/{text}")


@pytest.mark.parametrize("kind", SCRIPTS)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(command=COMMANDS, folder=FOLDERS)
@example(command=("python", "a b", "'\"$HOME`id`\\\n!*", "", "--", "-x"), folder="/a'b $c\\")
def test_every_word_and_folder_reaches_the_runtime_as_it_was_given(
    images: Recorder, kind: Kind, command: tuple[str, ...], folder: str
) -> None:
    mount = LaunchMount(source=folder, target="/mnt", writable=True)
    *_, call = images.run(rendered(launch(kind, command, mounts=(mount,))))

    assert list(command[1:]) == call[-len(command) + 1 :]
    mounted = {
        "slurm-pyxis": f"--container-mounts={images.here}:/workspace,{folder}:/mnt",
        "slurm-apptainer": f"{folder}:/mnt:rw",
        "slurm-charliecloud": f"--bind={folder}:/mnt",
        "docker": f"type=bind,source={folder},target=/mnt",
    }
    assert mounted[kind] in call


@pytest.mark.parametrize("kind", SLURM)
@given(file=FOLDERS.filter(lambda path: path.strip("/")))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_path_of_a_file_reaches_the_runtime_as_it_was_given(
    recorder: Recorder, kind: Kind, file: str
) -> None:
    if kind == "slurm-charliecloud":
        file = f".{file}"
        tree = recorder.here / file / "ch"
        tree.mkdir(parents=True, exist_ok=True)
        (tree / "environment").write_text("A=b\n")
    *_, call = recorder.run(rendered(launch(kind, file=file)))

    assert file in call or f"--container-image={file}" in call


def after(call: list[str], word: str) -> list[str]:
    return call[call.index(word) + 1 :]


@pytest.mark.parametrize("kind", SCRIPTS)
def test_one_node_needs_no_meeting_place(images: Recorder, kind: Kind) -> None:
    *_, call = images.run(rendered(launch(kind, gpus=4)))

    assert [
        "--standalone",
        "--local-addr=127.0.0.1",
        "--nproc-per-node=4",
        "train.py",
    ] == after(call, "torchrun")


@pytest.mark.parametrize("kind", SLURM)
def test_nodes_of_slurm_meet_at_the_first_of_the_list(images: Recorder, kind: Kind) -> None:
    *_, call = images.run(rendered(launch(kind, nodes=3)))

    assert [
        "--nnodes=3",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=node7:24711",
        "--rdzv-id=4711",
        "--rdzv-conf=join_timeout=1800,read_timeout=1800",
        "train.py",
    ] == after(call, "torchrun")


def test_nodes_of_docker_meet_at_the_one_that_is_named(recorder: Recorder) -> None:
    script = rendered(launch("docker", nodes=2))
    (call,) = recorder.run(script, RENDEZVOUS_HOST="one")

    assert "--rdzv-endpoint=one:29400" in after(call, "torchrun")
    assert call[call.index("--network") + 1] == "host"
    with pytest.raises(subprocess.CalledProcessError):
        recorder.run(script)


@pytest.mark.parametrize("kind", SLURM)
@pytest.mark.parametrize(("cpus", "threads"), [("", "8"), ("6", "1"), ("3", "1"), ("64", "16")])
def test_processes_share_the_cpus_that_slurm_gave(
    images: Recorder, kind: Kind, cpus: str, threads: str
) -> None:
    given_ = {"SLURM_CPUS_PER_TASK": cpus} if cpus else {}
    *_, call = images.run(rendered(launch(kind, gpus=4)), **given_)

    assert f"OMP_NUM_THREADS={threads}" in call
    assert f"--cpus-per-task={cpus or 32}" in call


@pytest.mark.parametrize("kind", SLURM)
def test_the_entry_point_which_runtimes_drop_is_called(images: Recorder, kind: Kind) -> None:
    *_, call = images.run(rendered(launch(kind)))

    assert "/opt/torchkiln/bin/entrypoint" == call[call.index("torchrun") - 1]


@pytest.mark.parametrize("kind", SLURM)
def test_gpus_are_asked_of_slurm_and_given_to_the_container(kind: Kind) -> None:
    with_gpus, without = rendered(launch(kind, gpus=4)), rendered(launch(kind))
    flag = {"slurm-apptainer": "--nv", "slurm-charliecloud": "ch-fromhost --nvidia"}.get(kind, "")

    assert "#SBATCH --gpus-per-node=4\n" in with_gpus
    assert flag in with_gpus
    assert not re.search("--gpus-per-node|--nv", without)


def test_pyxis_is_given_registry_and_digest_as_enroot_has_them(recorder: Recorder) -> None:
    (call,) = recorder.run(rendered(launch("slurm-pyxis")))
    hub = replace(launch("slurm-pyxis"), image=f"docker.io/team/torch@{DIGEST}")
    (other,) = recorder.run(rendered(hub))

    assert f"--container-image=registry.example:5000#team/torch@{DIGEST}" in call
    assert f"--container-image=team/torch@{DIGEST}" in other
    assert {"--no-container-mount-home", "--no-container-remap-root"} <= {*call}


def test_a_file_beside_the_script_is_no_name_in_a_registry(recorder: Recorder) -> None:
    (call,) = recorder.run(rendered(launch("slurm-pyxis", file="x.sqsh")))

    assert "--container-image=./x.sqsh" in call


def test_apptainer_pulls_an_image_once(recorder: Recorder) -> None:
    recorder.record("apptainer", 'touch "$2"')
    script = rendered(launch("slurm-apptainer"))
    first, second = recorder.run(script), recorder.run(script)

    assert f"docker://{IMAGE}" == first[0][-1]
    assert 1 == len(second)


def test_apptainer_takes_the_sites_network_settings_and_nothing_else(recorder: Recorder) -> None:
    recorder.record("srun", "export -p | grep -o 'APPTAINERENV_[A-Z_]*' >names")
    script = rendered(launch("slurm-apptainer", file="/x.sif"))
    recorder.run(script, NCCL_IB_HCA="a", PYTHONPATH="b")

    assert "APPTAINERENV_NCCL_IB_HCA\n" == (recorder.here / "names").read_text()


def test_charliecloud_unpacks_a_file_once_in_its_own_format(recorder: Recorder) -> None:
    make = 'mkdir -p "${@: -1}/ch"; echo A=b >"${@: -1}/ch/environment"'
    recorder.record("ch-convert", make)
    script = rendered(launch("slurm-charliecloud", file="x.sqsh"))
    first, second = recorder.run(script), recorder.run(script)

    assert ["--in-fmt=squash", "--out-fmt=dir", "x.sqsh", "./x.sqsh.dir.4711"] == first[0]
    assert 1 == len(second)


def test_charliecloud_without_the_images_environment_stops(recorder: Recorder) -> None:
    (recorder.here / "tree").mkdir()

    with pytest.raises(subprocess.CalledProcessError):
        recorder.run(rendered(launch("slurm-charliecloud", file="tree")))


def test_docker_runs_as_the_caller_with_nothing_that_it_does_not_need(recorder: Recorder) -> None:
    (call,) = recorder.run(rendered(launch("docker", gpus=4)))
    text = " ".join(call)

    for option in (
        "--read-only --tmpfs /tmp:exec,mode=1777",
        "--cap-drop ALL --security-opt no-new-privileges",
        "--cpus 32 --memory 65536m --shm-size 16384m",
        "--gpus 4",
        "--env OMP_NUM_THREADS=8",
        f"type=bind,source={recorder.here},target=/workspace",
    ):
        assert option in text
    assert IMAGE == call[call.index("torchrun") - 1]


def documents(one: Launch) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all(rendered(one))]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return an argument as Kubernetes hands it to a container (its package `expansion`)."""

    def replaced(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else variables.get(name, match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replaced, text)


@settings(deadline=None)
@given(command=COMMANDS)
@example(command=("python", "$(HOME)", "$$(HOME)", "\U0001f600\x85\ufeff\x07", "on", "- a: b #"))
def test_every_word_reaches_the_container_of_a_pod_as_it_was_given(
    command: tuple[str, ...],
) -> None:
    (job,) = documents(launch("kubernetes", command))
    args = job["spec"]["template"]["spec"]["containers"][0]["args"]

    assert [*command[1:]] == [expand(one, {"HOME": "/home"}) for one in args[4:]]


def test_kubernetes_replaces_a_variable_that_is_not_doubled() -> None:
    """A control: without the doubled `$` the test above would see it."""
    assert "/home" == expand("$(HOME)", {"HOME": "/home"})


def test_pods_are_restricted_as_the_strictest_of_clusters_ask() -> None:
    """Pod Security Standards, profile `restricted`, and a root that is read-only."""
    (job,) = documents(launch("kubernetes", gpus=4, seconds=60))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 0,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert (60, 0) == (job["spec"]["activeDeadlineSeconds"], job["spec"]["backoffLimit"])
    assert IMAGE == container["image"]


def test_pods_get_gpus_memory_and_a_large_enough_shm() -> None:
    (job,) = documents(launch("kubernetes", gpus=4))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    places = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}

    assert container["resources"]["limits"] == {
        "cpu": "32",
        "memory": "65536Mi",
        "nvidia.com/gpu": 4,
    }
    assert "nvidia" == pod["runtimeClassName"]
    assert {"medium": "Memory", "sizeLimit": "16384Mi"} == volumes[places["/dev/shm"]]["emptyDir"]  # noqa: S108
    assert {} == volumes[places["/tmp"]]["emptyDir"]  # noqa: S108
    assert {"/tmp", "/dev/shm"} == {*places}, "the image's own /workspace stays in sight"  # noqa: S108


def test_a_claim_can_be_the_workspace() -> None:
    mount = LaunchMount(source="team-data", target="/workspace", writable=True)
    (job,) = documents(launch("kubernetes", mounts=(mount,)))
    volumes = {one["name"]: one for one in job["spec"]["template"]["spec"]["volumes"]}

    assert {"tmp", "shm", "mount-0"} == {*volumes}
    assert "team-data" == volumes["mount-0"]["persistentVolumeClaim"]["claimName"]


PATHS = st.text(
    st.characters(exclude_characters="/", exclude_categories=["C", "Z"]), min_size=1, max_size=9
).filter(lambda part: part not in {".", ".."})


@settings(deadline=None)
@given(files=st.dictionaries(st.lists(PATHS, min_size=1, max_size=3).map("/".join), st.text()))
@example(
    files={"a.py": "x = 1\n", "a-b/c": "\n\n", "a/b-c": " a\n\n\n", "é": "\ufeffa\x85\r\n\t$(A)"}
)
def test_code_lies_in_the_workspace_as_it_was_given(files: dict[str, str]) -> None:
    assume(not any("\0" in text or not _is_text(text) for text in files.values()))
    code = tuple(CodeFile(path=path, text=text) for path, text in files.items())
    *config, job = documents(launch("kubernetes", code=code))
    pod = job["spec"]["template"]["spec"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    places = {one["mountPath"]: one for one in pod["containers"][0]["volumeMounts"]}
    if not files:
        assert ([], None) == (config, places.get("/workspace"))
        return
    volume = volumes[places["/workspace"]["name"]]["configMap"]

    assert config[0]["metadata"]["name"] == volume["name"]
    assert files == {one["path"]: config[0]["data"][one["key"]] for one in volume["items"]}
    # IsConfigMapKey of Kubernetes.
    assert all(re.fullmatch("[-._a-zA-Z0-9]{1,253}", key) for key in config[0]["data"])


def _is_text(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def test_code_can_be_read_in_the_manifest() -> None:
    code = CodeFile(path="train.py", text="import torch\n\nif torch:\n    print('a: b')\n")

    assert """\
data:
  "0-train.py": |
    import torch

    if torch:
        print('a: b')
---
""" in rendered(launch("kubernetes", code=(code,)))


def test_pods_meet_at_the_first_under_a_name_of_the_headless_service() -> None:
    service, job = documents(launch("kubernetes", nodes=3))
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]

    assert ("None", True) == (
        service["spec"]["clusterIP"],
        service["spec"]["publishNotReadyAddresses"],
    )
    assert {"job-name": job["metadata"]["name"]} == service["spec"]["selector"]
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
    assert ("Indexed", 3, 3) == (spec["completionMode"], spec["completions"], spec["parallelism"])
    assert "--rdzv-endpoint=train-0.train:29400" in container["args"]


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_documents_fit_the_schema_of_kubernetes(version: str) -> None:
    judge = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is absent")
    code = (CodeFile(path="a/b.py", text="x\n"), CodeFile(path="é", text="\t"))
    for nodes, gpus, _, seconds, mounts in SHAPES:
        for document in documents(
            launch(
                "kubernetes",
                nodes=nodes,
                gpus=gpus,
                seconds=seconds,
                mounts=mounts,
                code=code[: gpus // 2],
            )
        ):
            judge.validate(document, version, strict=True)


def test_the_schema_refuses_a_key_that_there_is_not() -> None:
    judge = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is absent")
    (job,) = documents(launch("kubernetes"))
    job["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsNonRott"] = True

    with pytest.raises(judge.ValidationError):
        judge.validate(job, "1.37", strict=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nodes", [1, 2])
def test_no_recipe_names_a_tag(kind: Kind, nodes: int) -> None:
    text = rendered(launch(kind, nodes=nodes))

    assert DIGEST in text
    assert ":latest" not in text
