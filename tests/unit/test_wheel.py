from __future__ import annotations

import base64
import email
import hashlib
import io
import itertools
import stat
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from functools import partial
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

import installer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile as InstallerWheel
from wheels import CODE, SITE, VENV, Draft, contents, layer_of, listing, outcome, patched, row

from torchkiln.errors import ArchiveError
from torchkiln.layer import complete

BIN = "opt/venv/bin"
INFO = f"{SITE}/demo-1.0.dist-info"


def made(folder: Path, draft: Draft) -> dict[str, bytes]:
    """Return the files of the layer that the wheel makes."""
    return contents(layer_of(folder, draft.read(folder))[1])


def refusal(folder: Path, draft: Draft, data: bytes | None = None) -> str:
    """Return the error that names this wheel, from looking through it or from writing its layer."""
    with pytest.raises(ArchiveError) as caught:
        layer_of(folder, draft.read(folder, data))
    assert draft.file in str(caught.value)
    return str(caught.value)


def test_files_go_to_site_packages_as_they_are(tmp_path: Path) -> None:
    files = {"demo/__init__.py": CODE, "demo/lib.so": bytes(range(256)), "demo/empty": b""}
    found = made(tmp_path, Draft(members=dict(files)))

    assert files == {name: found[f"{SITE}/{name}"] for name in files}


def test_each_scheme_of_data_has_its_place(tmp_path: Path) -> None:
    schemes = {
        "demo-1.0.data/purelib/pure.py": f"{SITE}/pure.py",
        "demo-1.0.data/platlib/plat.py": f"{SITE}/plat.py",
        "demo-1.0.data/scripts/tool": f"{BIN}/tool",
        "demo-1.0.data/headers/demo.h": "opt/venv/include/python3.11/demo/demo.h",
        "demo-1.0.data/data/share/man/demo.1": "opt/venv/share/man/demo.1",
    }
    found = made(tmp_path, Draft(members={name: name.encode() for name in schemes}))

    assert {target: name.encode() for name, target in schemes.items()} == {
        target: found[target] for target in schemes.values()
    }


@pytest.mark.parametrize(
    ("shipped", "expected"),
    [
        (b"#!python\nimport demo\n", b"#!/opt/venv/bin/python\nimport demo\n"),
        (b"#!pythonw\r\nimport demo\n", b"#!/opt/venv/bin/python\nimport demo\n"),
        (b"#!python", b"#!/opt/venv/bin/python\n"),
        (b"#!/bin/sh\n", b"#!/bin/sh\n"),
        (b"\x7fELF#!python\n", b"\x7fELF#!python\n"),
    ],
)
def test_script_for_python_gets_the_interpreter_of_the_image(
    tmp_path: Path, shipped: bytes, expected: bytes
) -> None:
    name = "demo-1.0.data/scripts/tool"
    draft = Draft(members={name: shipped}, modes={name: 0o100755})
    _, path = layer_of(tmp_path, draft.read(tmp_path))

    assert expected == contents(path)[f"{BIN}/tool"]
    assert 0o755 == listing(path)[f"{BIN}/tool"].mode


def test_only_the_x_bit_of_a_mode_counts(tmp_path: Path) -> None:
    modes = {"d/a": 0o100755, "d/b": 0o100600, "d/c": 0o104711, "d/d": 0, "d/e": 0o100010}
    draft = Draft(members=dict.fromkeys(modes, b"x"), modes=modes)
    found = listing(layer_of(tmp_path, draft.read(tmp_path))[1])

    assert [0o755, 0o644, 0o755, 0o644, 0o755] == [found[f"{SITE}/{name}"].mode for name in modes]


def test_entry_points_become_programs_that_run(tmp_path: Path) -> None:
    points = (
        "[console_scripts]\nsay = demo.cli:main\n[gui_scripts]\nshow=demo.cli:Tool.run [extra]\n"
    )
    found = made(tmp_path, Draft(entry_points=points))
    say = found[f"{BIN}/say"].decode()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/cli.py").write_text("def main():\n    return 7\n")
    done = subprocess.run([sys.executable, "-c", say], cwd=tmp_path, check=False)

    assert "#!/opt/venv/bin/python" == say.splitlines()[0]
    assert 7 == done.returncode
    assert b"Tool.run()" in found[f"{BIN}/show"]


def test_record_of_the_image_holds_for_whoever_checks_it(tmp_path: Path) -> None:
    """importlib.metadata, which knows nothing of us, finds each file with the hash in RECORD."""
    members = {
        "demo/a, b.py": b"1",
        "demo/é.py": b"2",
        "demo-1.0.data/scripts/tool": b"#!python\n",
        "demo-1.0.data/data/share/x": b"3",
    }
    draft = Draft(members=members, entry_points="[console_scripts]\nsay = demo:main\n")
    _, path = layer_of(tmp_path, draft.read(tmp_path))
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-xzf", path, "-C", root], check=True)
    files = Distribution.at(root / INFO).files or []
    found = {str(Path(str(file.locate())).resolve().relative_to(root)): file for file in files}

    assert sorted(contents(path)) == sorted(found)
    for name, file in found.items():
        if name != f"{INFO}/RECORD":
            digest = hashlib.sha256((root / name).read_bytes()).digest()
            assert file.hash is not None
            assert digest == base64.urlsafe_b64decode(file.hash.value + "=")
            assert (root / name).stat().st_size == file.size


WITH_EVERYTHING = Draft(
    members={
        "demo/__init__.py": CODE,
        "demo/a.b": b"sorts before the slash",
        "demo/a/b": b"sorts after the dot",
        'demo/"quoted", here': b"",
        "demo-1.0.dist-info/INSTALLER": b"somebody\n",
        "demo-1.0.data/scripts/zz": b"#!python\nprint()\n",
        "demo-1.0.data/scripts/plain": b"#!/bin/sh\n",
        "demo-1.0.data/headers/demo.h": b"int demo;\n",
        "demo-1.0.data/data/share/demo.txt": b"text\n",
        "demo-1.0.data/purelib/late.py": b"",
    },
    entry_points="[console_scripts]\ntool = demo:main\n[gui_scripts]\nwindow = demo:main\n",
    modes={"demo/a.b": 0o100755, "demo-1.0.data/scripts/zz": 0o100755},
)


def by_installer(folder: Path, wheel: Path) -> dict[str, tuple[bytes, bool]]:
    """Return what PyPA's `installer` writes: bytes, and whether they can be executed, by path."""
    schemes = {
        "purelib": f"/{SITE}",
        "platlib": f"/{SITE}",
        "scripts": "/opt/venv/bin",
        "headers": f"/{VENV.headers}/demo",
        "data": "/opt/venv",
    }
    destination = SchemeDictionaryDestination(
        schemes,
        interpreter=VENV.interpreter,
        script_kind="posix",
        bytecode_optimization_levels=(),
        destdir=str(folder),
    )
    with InstallerWheel.open(wheel) as source:
        installer.install(source, destination, {})
    return {
        str(path.relative_to(folder)): (path.read_bytes(), bool(path.stat().st_mode & 0o111))
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_wheel_becomes_what_installer_makes_of_it(tmp_path: Path) -> None:
    """Both engines install alike: the Dockerfile runs `python -m installer`."""
    wheel = WITH_EVERYTHING.read(tmp_path)
    found = {
        entry.path: (b"".join(entry.chunks()), entry.mode == 0o755)
        for entry in wheel.entries
        if entry.chunks
    }

    assert by_installer(tmp_path / "installed", tmp_path / WITH_EVERYTHING.file) == found


def test_signatures_of_the_record_that_is_replaced_are_left_out(tmp_path: Path) -> None:
    draft = Draft(
        members={"demo-1.0.dist-info/RECORD.jws": b"{}", "demo-1.0.dist-info/RECORD.p7s": b"x"},
        rows={"demo-1.0.dist-info/RECORD.jws": None, "demo-1.0.dist-info/RECORD.p7s": None},
    )
    found = made(tmp_path, draft)

    assert not [name for name in found if "RECORD." in name]
    assert b"RECORD." not in found[f"{INFO}/RECORD"]


def test_bytecode_that_is_shipped_is_left_out(tmp_path: Path) -> None:
    shipped = "demo/__pycache__/__init__.cpython-311.pyc"
    found = made(tmp_path, Draft(members={"demo/__init__.py": CODE, shipped: b"evil"}))

    assert f"{SITE}/demo/__init__.py" in found
    assert not [name for name in found if "__pycache__" in name]


def test_sources_are_the_modules_of_site_packages_sorted(tmp_path: Path) -> None:
    members = dict.fromkeys(
        ["z.py", "demo/a.py", "demo-1.0.data/scripts/tool.py", "demo-1.0.data/data/x.py", "b.txt"],
        b"",
    )
    wheel = Draft(members=members).read(tmp_path)

    assert [("demo/a.py", f"{SITE}/demo/a.py"), ("z.py", f"{SITE}/z.py")] == [
        (source.member, source.path) for source in wheel.sources
    ]


@pytest.mark.parametrize(
    "draft",
    [
        Draft(version="2023.07.22"),  # METADATA and file name need not be normalised (certifi)
        Draft(version="2.13.0+cpu"),
        Draft(name="Demo_Thing"),
        Draft(file="demo-1.0-2-py3-none-any.whl"),  # nvidia_cudnn_cu11-8.5.0.96-2-...
        Draft(metadata="Metadata-Version: 2.1\nName: DEMO\nVersion: 1.0.0\n\nName: other\n"),
    ],
    ids=lambda draft: draft.file,
)
def test_names_and_versions_are_compared_as_the_packaging_rules_say(
    tmp_path: Path, draft: Draft
) -> None:
    wheel = draft.read(tmp_path)

    assert wheel.locked.file == draft.file


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (Draft(metadata="Name: other\nVersion: 1.0\n"), "says it is other 1.0"),
        (Draft(metadata="Name: demo\nVersion: 1.1\n"), "says it is demo 1.1"),
        (Draft(metadata="Version: 1.0\n"), "says it is None"),
        (Draft(metadata="Name: demo\n"), "no wheel"),
        (Draft(metadata="Name: demo\nVersion: newest\n"), "newest"),
        (Draft(members={"demo-1.0.dist-info/METADATA": b"\xff\xfe"}), "no wheel"),
    ],
    ids=["name", "version", "no name", "no version", "bad version", "bad utf-8"],
)
def test_wheel_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, draft: Draft, why: str
) -> None:
    assert why in refusal(tmp_path, draft)


@pytest.mark.parametrize("file", ["other-1.0-py3-none-any.whl", "demo-2.0-py3-none-any.whl"])
def test_file_name_that_is_not_the_locked_wheels_is_refused(tmp_path: Path, file: str) -> None:
    assert "locked as demo 1.0" in refusal(tmp_path, Draft(file=file))


@pytest.mark.parametrize(
    "file", ["demo.whl", "demo-1.0.zip", "demo-1.0-py3-none.whl", "demo-x-a-b-c.whl"]
)
def test_file_name_of_no_wheel_is_refused(tmp_path: Path, file: str) -> None:
    assert "no wheel" in refusal(tmp_path, Draft(file=file))


def test_second_dist_info_is_refused(tmp_path: Path) -> None:
    draft = Draft(members={"torch-9.9.dist-info/METADATA": b"Name: torch\nVersion: 9.9\n"})

    assert "holds 2" in refusal(tmp_path, draft)


def test_wheel_without_dist_info_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("demo.py", "")

    assert "holds 0" in refusal(tmp_path, Draft(), stream.getvalue())


def test_dist_info_of_another_is_refused(tmp_path: Path) -> None:
    """importlib.metadata would find the distribution by the name of this folder."""
    stream = io.BytesIO()
    record = row("torch-1.0.dist-info/METADATA", b"Name: demo\nVersion: 1.0\n")
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("torch-1.0.dist-info/METADATA", "Name: demo\nVersion: 1.0\n")
        archive.writestr("torch-1.0.dist-info/RECORD", record)

    assert "is another's: torch-1.0.dist-info" in refusal(tmp_path, Draft(), stream.getvalue())


@pytest.mark.parametrize("name", ["METADATA", "RECORD"])
def test_wheel_that_lacks_a_part_of_its_dist_info_is_refused(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member, data in Draft().all_members().items():
            if not member.endswith(f"/{name}"):
                archive.writestr(member, data)

    assert f"it has no {name}" in refusal(tmp_path, Draft(), stream.getvalue())


@pytest.mark.parametrize(
    "name",
    [
        "../escape.py",
        "demo/../../../escape.py",
        "/etc/cron.d/x",
        "demo\\..\\x.py",
        pytest.param(
            "demo.py\0.txt",
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="csv of Python 3.10 writes no NUL into RECORD"
            ),
        ),
        "demo//x.py",
        "./demo.py",
        "demo/.wh.torch",
        ".wh..wh..opq",
        "demo/line\nbreak.py",
        "demo/" + "x" * 256,
        "demo-1.0.data/scripts/../../../../etc/x",
    ],
)
def test_name_that_leaves_its_folder_is_refused_and_named(tmp_path: Path, name: str) -> None:
    assert f"in `{name.partition(chr(0))[0]}`".splitlines()[0] in refusal(
        tmp_path, Draft(members={name: b"x"})
    )


def test_symbolic_link_is_refused(tmp_path: Path) -> None:
    draft = Draft(members={"demo/link": b"/etc"}, modes={"demo/link": stat.S_IFLNK | 0o777})

    assert "neither a file nor a folder" in refusal(tmp_path, draft)


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    data = patched(Draft().pack(), "demo/__init__.py", flags=1)

    assert "encrypted" in refusal(tmp_path, Draft(), data)


def test_member_that_is_there_twice_is_refused_also_with_the_same_bytes(tmp_path: Path) -> None:
    data = Draft().pack(extra=[("demo/__init__.py", CODE)])

    assert "holds this name twice" in refusal(tmp_path, Draft(), data)


def test_names_that_a_screen_shows_alike_are_refused(tmp_path: Path) -> None:
    composed, decomposed = "demo/\u00e9.py", "demo/e\u0301.py"

    assert "twice" in refusal(tmp_path, Draft(members={composed: b"1", decomposed: b"2"}))


def test_names_that_differ_by_case_are_two_files(tmp_path: Path) -> None:
    """Images run on Linux, whose wheels may hold both."""
    found = made(tmp_path, Draft(members={"demo/a.h": b"1", "demo/A.h": b"2"}))

    assert (b"1", b"2") == (found[f"{SITE}/demo/a.h"], found[f"{SITE}/demo/A.h"])


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """One packed kernel that many names share is how small zips unpack to petabytes."""
    draft = Draft(members={"demo/a": b"x" * 100, "demo/b": b"x" * 100})
    data = draft.pack()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        offset = archive.getinfo("demo/a").header_offset
    data = patched(data, "demo/b", offset=offset)

    assert "overlap" in refusal(tmp_path, draft, data)


@pytest.mark.parametrize("field", ["offset", "packed"])
def test_member_that_lies_outside_the_file_is_refused(tmp_path: Path, field: str) -> None:
    data = patched(Draft().pack(), "demo-1.0.dist-info/RECORD", **{field: 0x7FFFFFFF})

    assert "after the end of the file" in refusal(tmp_path, Draft(), data)


def test_member_that_unpacks_to_hundreds_of_times_its_size_is_refused(tmp_path: Path) -> None:
    draft = Draft(members={"demo/zeros": bytes(20 << 20)})

    assert "would unpack to" in refusal(tmp_path, draft)


def test_small_text_may_be_packed_well(tmp_path: Path) -> None:
    assert f"{SITE}/demo/zeros" in made(tmp_path, Draft(members={"demo/zeros": bytes(1 << 19)}))


@pytest.mark.parametrize("size", [0, 10, 5000])
@pytest.mark.parametrize("member", ["demo/__init__.py", "demo-1.0.dist-info/METADATA"])
def test_member_that_lies_about_its_size_is_refused(tmp_path: Path, member: str, size: int) -> None:
    assert refusal(tmp_path, Draft(), patched(Draft().pack(), member, size=size))


def test_file_read_whole_that_unpacks_to_more_than_it_says_takes_no_memory(tmp_path: Path) -> None:
    """Zipfile's own `read` unpacks all of it and cuts afterwards."""
    draft = Draft(metadata="Name: demo\nVersion: 1.0\n" + "\n" * (64 << 20))
    data = patched(draft.pack(level=9), "demo-1.0.dist-info/METADATA", size=100)
    tracemalloc.start()
    try:
        assert "bytes are not those" in refusal(tmp_path, Draft(), data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 16 << 20 > peak


def test_record_with_another_hash_is_refused_while_the_layer_is_written(tmp_path: Path) -> None:
    draft = Draft(rows={"demo/__init__.py": row("demo/__init__.py", b"other")})

    assert "not those that RECORD names" in refusal(tmp_path, draft)


def test_file_without_a_row_in_record_is_refused(tmp_path: Path) -> None:
    draft = Draft(rows={"demo/__init__.py": None})

    assert "RECORD has no sha256 for it" in refusal(tmp_path, draft)


@pytest.mark.parametrize(
    "text",
    [
        "demo/__init__.py,,\n",
        "demo/__init__.py,md5=1B2M2Y8AsgTpgAmY7PhCfg,0\n",
        "demo/__init__.py,sha256=short,0\n",
        "demo/__init__.py,sha256=\x00\x01,0\n",
        "demo/__init__.py\n",
        "demo/__init__.py,a,b,c,d\n",
        '"demo/__init__.py,a,b\n',
        "demo/__init__.py," + "x" * 200_000 + ",0\n",
    ],
)
def test_row_that_gives_no_sha256_is_refused(tmp_path: Path, text: str) -> None:
    assert "RECORD" in refusal(tmp_path, Draft(rows={"demo/__init__.py": text}))


def test_row_of_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    draft = Draft(rows={"demo/gone.py": row("demo/gone.py", b"")})

    assert "the wheel does not hold it" in refusal(tmp_path, draft)


def test_two_rows_of_one_file_are_refused(tmp_path: Path) -> None:
    text = row("demo/__init__.py", CODE)

    assert "two rows" in refusal(tmp_path, Draft(rows={"demo/__init__.py": text + text}))


def test_record_may_use_carriage_returns_and_quotes(tmp_path: Path) -> None:
    text = row("demo/__init__.py", CODE).replace("demo/__init__.py", '"demo/__init__.py"')
    draft = Draft(rows={"demo/__init__.py": text.replace("\n", "\r\n")})

    assert f"{SITE}/demo/__init__.py" in made(tmp_path, draft)


@pytest.mark.parametrize(
    "name",
    [
        "demo-1.0.data/data/pyvenv.cfg",
        "demo-1.0.data/data/pyvenv.cfg/x",
        "demo-1.0.data/data/bin/python",
        "demo-1.0.data/data/bin/python3.11",
        "demo-1.0.data/data/bin",
        "demo-1.0.data/data/lib",
        "demo-1.0.data/data/lib/python3.11",
        "demo-1.0.data/data/lib/python3.11/site-packages",
        "demo-1.0.data/scripts/python",
        "demo-1.0.data/scripts/python3",
    ],
)
def test_file_that_would_replace_a_part_of_the_environment_is_refused(
    tmp_path: Path, name: str
) -> None:
    assert "the environment itself" in refusal(tmp_path, Draft(members={name: b"x"}))


@pytest.mark.parametrize(
    "name",
    [
        "demo-1.0.data/purelib/torch-9.9.dist-info/METADATA",
        "demo-1.0.data/data/lib/python3.11/site-packages/torch-9.9.dist-info/METADATA",
    ],
)
def test_dist_info_by_the_back_door_is_refused(tmp_path: Path, name: str) -> None:
    assert "installed by name" in refusal(tmp_path, Draft(members={name: b"x"}))


@pytest.mark.parametrize(
    "name",
    [
        "demo-1.0.data",
        "demo-1.0.data/x",
        "demo-1.0.data/stdlib/x",
        "demo-1.0.data/purelib",
        "other-1.0.data/purelib/x.py",  # pip would take this for a scheme
    ],
)
def test_data_of_no_scheme_is_refused(tmp_path: Path, name: str) -> None:
    assert "no such installation scheme" in refusal(tmp_path, Draft(members={name: b"x"}))


@pytest.mark.parametrize(
    "points",
    [
        "[console_scripts]\npython = demo:main\n",
        "[console_scripts]\npython3.11 = demo:main\n",
        "[console_scripts]\n../../etc/x = demo:main\n",
        "[console_scripts]\nsub/x = demo:main\n",
        "[console_scripts]\n.wh.x = demo:main\n",
        "[console_scripts]\n.. = demo:main\n",
        "[console_scripts]\nx\n",
        "[console_scripts]\nx = demo\n",
        "[console_scripts]\nx = demo:main()\n",
        "[console_scripts]\nx = demo:main\nx = demo:main\n",
        "[console_scripts]\nx = %(home)s:main\n",
        "[console_scripts]\n[console_scripts]\n",
        "x = demo:main\n",
        "[console_scripts]\nx = demo:main\n[gui_scripts]\nx = demo:main\n",
    ],
)
def test_entry_point_that_is_no_program_is_refused(tmp_path: Path, points: str) -> None:
    assert refusal(tmp_path, Draft(entry_points=points))


@pytest.mark.parametrize(
    ("members", "points"),
    [
        (["demo/a.py", "demo-1.0.data/purelib/demo/a.py"], None),
        (["demo-1.0.data/purelib/a.py", "demo-1.0.data/platlib/a.py"], None),
        (["demo-1.0.data/scripts/x"], "[console_scripts]\nx = demo:main\n"),
    ],
)
def test_two_members_of_one_place_are_refused(
    tmp_path: Path, members: list[str], points: str | None
) -> None:
    draft = Draft(members={name: name.encode() for name in members}, entry_points=points)

    assert "two of its files go to one place" in refusal(tmp_path, draft)


def test_file_where_the_wheel_also_has_a_folder_is_refused(tmp_path: Path) -> None:
    draft = Draft(members={"demo": b"file", "demo/__init__.py": CODE})

    assert "/demo" in refusal(tmp_path, draft)


def test_two_wheels_may_bring_the_same_bytes_to_one_path(tmp_path: Path) -> None:
    wheels = [
        Draft(name=name, members={"nvidia/__init__.py": b""}).read(tmp_path) for name in ("a", "b")
    ]
    _, path = layer_of(tmp_path, *wheels)

    assert b"" == contents(path)[f"{SITE}/nvidia/__init__.py"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"shared/x.so": b"1"}, {"shared/x.so": b"2"}),
        ({"shared": b"file"}, {"shared/x.so": b"1"}),
        ({"shared/x/y/z": b"1"}, {"shared/x": b"file"}),
    ],
)
def test_two_wheels_that_fight_over_a_path_are_both_named(
    tmp_path: Path, one: dict[str, bytes], other: dict[str, bytes], *, turned: bool
) -> None:
    drafts = [Draft(name="one", members=one), Draft(name="other", members=other)]
    wheels = [draft.read(tmp_path) for draft in drafts[:: -1 if turned else 1]]

    with pytest.raises(ArchiveError) as caught:
        complete(entry for wheel in wheels for entry in wheel.entries)
    assert all(draft.file in str(caught.value) for draft in drafts)
    assert "/shared" in str(caught.value)


def test_two_wheels_that_ship_one_program_with_another_mode_are_refused(tmp_path: Path) -> None:
    plain = Draft(name="a", members={"x/tool": b"1"}).read(tmp_path)
    executable = Draft(name="b", members={"x/tool": b"1"}, modes={"x/tool": 0o100755}).read(
        tmp_path
    )

    with pytest.raises(ArchiveError, match="different contents"):
        complete([*plain.entries, *executable.entries])


NAMES = st.text(st.sampled_from("abAB.é漢-_ ,\"'0"), min_size=1, max_size=130).filter(
    lambda name: name.strip(".") != "" and len(name.encode()) < 255 and "\\" not in name
)
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join),
    st.tuples(st.binary(max_size=300), st.booleans()),
    min_size=1,
    max_size=8,
).filter(
    lambda files: not {str(up) for name in files for up in PurePosixPath(name).parents} & {*files}
)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(files=FILES, data=st.data())
def test_layer_depends_on_the_files_and_not_on_how_the_wheel_is_packed(
    files: dict[str, tuple[bytes, bool]], data: st.DataObject
) -> None:
    """Order of members, compression and the clock of the zip leave no trace."""
    members = {f"demo/{name}": content for name, (content, _) in files.items()}
    modes = {f"demo/{name}": 0o100755 if flag else 0o100644 for name, (_, flag) in files.items()}
    # RECORD's place in the zip is free, its text is not the layer's: that is made anew.
    draft = Draft(members=members, modes=modes)
    order = data.draw(st.permutations(range(len(draft.all_members()))))
    level = data.draw(st.integers(0, 9))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, _ = layer_of(folder, draft.read(folder, draft.pack()))
        packed = draft.pack(order=order, level=level)
        stored = draft.pack(compression=zipfile.ZIP_STORED)
        others = [layer_of(folder, draft.read(folder, data))[0] for data in (packed, stored)]

    assert [first.diff_id, first.diff_id] == [other.diff_id for other in others]


def whole_way(folder: Path, data: bytes) -> None:
    """Look through a wheel and write its layer."""
    layer_of(folder, Draft().read(folder, data))


FUZZED = [
    Draft(
        entry_points="[console_scripts]\nsay = demo:main\n", members={"demo/a.py": CODE * 9}
    ).pack(),
    Draft(members={"demo/a.py": CODE, "demo-1.0.data/scripts/x": b"#!python\n"}).pack(
        compression=zipfile.ZIP_STORED
    ),
]


@settings(max_examples=700, deadline=None, derandomize=True, database=None)
@given(
    seed=st.sampled_from(FUZZED),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4),
)
def test_broken_wheel_is_refused_with_an_archive_error_and_nothing_else(
    seed: bytes, cut: float | None, flips: list[tuple[float, int]]
) -> None:
    changed = bytearray(seed)
    for place, value in flips:
        changed[min(int(place * len(changed)), len(changed) - 1)] ^= value
    if cut is not None:
        del changed[int(cut * len(changed)) :]
    with tempfile.TemporaryDirectory() as name:
        inside = Path(name) / "inside"
        inside.mkdir()
        said = outcome(partial(whole_way, inside, bytes(changed)))

        assert not said or Draft().file in said
        assert [inside] == list(inside.parent.iterdir())
        assert {Draft().file, "layer"} >= {path.name for path in inside.iterdir()}


def test_every_single_byte_of_the_directory_of_a_zip_may_be_any_other(tmp_path: Path) -> None:
    """Each byte of the central directory and the end record, with the values that hurt most."""
    seed = FUZZED[1]
    start = seed.index(b"PK\1\2")
    for place, value in itertools.product(range(start, len(seed)), (0x00, 0x7F, 0x80, 0xFF)):
        changed = seed[:place] + bytes([value]) + seed[place + 1 :]
        said = outcome(partial(whole_way, tmp_path, changed))

        assert not said or Draft().file in said


def test_metadata_is_what_the_wheel_ships(tmp_path: Path) -> None:
    text = made(tmp_path, Draft())[f"{INFO}/METADATA"].decode()

    assert ("demo", "1.0") == (email.message_from_string(text)["Name"], "1.0")


def test_venv_owns_its_folders_and_its_interpreter() -> None:
    owned = [
        "opt",
        "opt/venv",
        BIN,
        SITE,
        f"{BIN}/python",
        f"{BIN}/python3.11",
        "opt/venv/pyvenv.cfg",
    ]
    free = [f"{BIN}/pip", f"{SITE}/demo", "opt/venv/share", "opt/venv/lib/x", "etc"]

    assert [True] * len(owned) == [VENV.owns(path) for path in owned]
    assert [False] * len(free) == [VENV.owns(path) for path in free]
