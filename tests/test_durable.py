"""A file is complete or absent: after errors, full disks, Ctrl-C and kill -9."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from motionloom import durable
from motionloom.durable import (
    MANIFEST_NAME,
    Section,
    sha256_of,
    sweep_stale_parts,
    verify_manifest,
    write_durably,
    write_folder_durably,
    write_json,
    write_manifest,
    write_text,
)
from motionloom.errors import InputError, ResourceError

ROOT = Path(durable.__file__).parents[1]
DEAD_PID = 4_194_304 + 7  # above every pid Linux gives out


def write_new(temporary: Path) -> None:
    temporary.write_text("new")


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = write_durably(tmp_path / "a.txt", write_new)
    assert path == tmp_path / "a.txt" and path.read_text() == "new"
    write_durably(str(path), lambda temporary: write_twice(temporary))
    assert path.read_text() == "newer" and os.listdir(tmp_path) == ["a.txt"]


def write_twice(temporary: Path) -> None:
    temporary.write_text("ne")
    temporary.write_text("newer")


def test_temporary_name_and_exclusive_creation(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(temporary: Path) -> None:
        assert temporary.exists() and temporary.stat().st_size == 0
        seen.append(temporary)
        temporary.write_text("x")

    write_durably(tmp_path / "a.txt", write)
    write_durably(tmp_path / "a.txt", write)
    assert all(part.parent == tmp_path and part.name.startswith(f".a.txt.{os.getpid()}.") for part in seen)
    assert all(part.name.endswith(".part") for part in seen) and seen[0] != seen[1]


def test_a_temporary_name_that_exists_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_part_name", lambda target: target.with_name(".taken.part"))
    (tmp_path / ".taken.part").write_text("another writer is here")
    with pytest.raises(ResourceError, match="File exists"):
        write_durably(tmp_path / "a.txt", write_new)
    assert (tmp_path / ".taken.part").read_text() == "another writer is here"
    assert os.listdir(tmp_path) == [".taken.part"]


def test_order_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write, fsync of the file, verify, rename, fsync of the folder: in this order and none missing."""
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        steps.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "fsync file")
        real_fsync(descriptor)

    def replace(source: str, target: str) -> None:
        steps.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)

    def write(part: Path) -> None:
        steps.append("write")
        part.write_text("x")

    write_durably(tmp_path / "a", write, lambda part: steps.append("verify"))
    assert steps == ["write", "fsync file", "verify", "rename", "fsync folder"]
    steps.clear()
    write_folder_durably(tmp_path / "f", lambda part: write_new(part / "x"))
    assert steps == ["fsync file", "fsync folder", "rename", "fsync folder"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert write_text(tmp_path / "a", "x").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


class Strange(Exception):
    pass


@pytest.mark.parametrize("problem", [Strange("x"), KeyboardInterrupt(), SystemExit(), MemoryError()])
@pytest.mark.parametrize("where", ["write", "verify"])
def test_any_failure_keeps_the_previous_file(problem: BaseException, where: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise problem

    write, verify = (fail, None) if where == "write" else (write_new, fail)
    with pytest.raises(type(problem)):
        write_durably(path, write, verify)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
def test_refusals_of_the_disk(code: int, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(ResourceError) as caught:
        write_durably(path, fail, bytes_needed=1000)
    sentence = str(caught.value)
    assert "a.txt" in sentence and os.strerror(code) in sentence
    assert "1000 bytes needed" in sentence and "bytes free" in sentence and caught.value.exit_code == 2
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(ResourceError, match="4 bytes were written"):
        write_durably(path, fail)


def test_errors_of_libraries_with_a_disk_code(tmp_path: Path) -> None:
    """FFmpeg's exceptions are no OSError everywhere but carry its code."""

    def fail(temporary: Path) -> None:
        problem = Strange("no room")
        problem.errno = errno.ENOSPC  # type: ignore[attr-defined]
        raise problem

    with pytest.raises(ResourceError, match="no room"):
        write_durably(tmp_path / "a.txt", fail)


def test_failing_rename_and_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("old")
    for name in ("replace", "fsync"):
        with monkeypatch.context() as patched:

            def fail(*args: object) -> None:
                raise OSError(errno.EIO, "Input/output error")

            patched.setattr(os, name, fail)
            with pytest.raises(ResourceError, match="Input/output error"):
                write_text(tmp_path / "a.txt", "new")
        assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_too_little_space_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="it needs 950 bytes, 1000 bytes are free"):  # 950 x 1.1 > 1000
        write_durably(tmp_path / "a", lambda part: pytest.fail("began to write"), bytes_needed=950)
    assert write_durably(tmp_path / "a", write_new, bytes_needed=900).read_text() == "new"


def test_parents_are_created_or_refused(tmp_path: Path) -> None:
    assert write_text(tmp_path / "x" / "y" / "a.txt", "hi").read_text() == "hi"
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="its folder cannot be created"):
        write_text(tmp_path / "file" / "a.txt", "hi")


def test_targets_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "not a regular file"),
        (tmp_path / ("x" * 201), "its name has 201 bytes, at most 200"),
        (tmp_path / ("ü" * 101), "its name has 202 bytes"),
        ("a\x00b", "NUL"),
        ("/", "names no file"),
    ):
        with pytest.raises(InputError, match=reason):
            write_text(path, "x")
    assert os.listdir(tmp_path) == ["pipe"]
    assert write_text(tmp_path / ("x" * 200), "x").exists()


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a").read_text() == "new"
    assert os.listdir(tmp_path / "real") == ["a"]


def test_json_and_text(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "ünï 🌊"}
    path = write_json(tmp_path / "a.json", value)
    assert json.loads(path.read_text("utf-8")) == value and "ünï 🌊" in path.read_text("utf-8")
    with pytest.raises(ValueError):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text("utf-8")) == value and os.listdir(tmp_path) == ["a.json"]


# --- kill -9 ------------------------------------------------------------------------------------------------


def killed_while(code: str, folder: Path) -> None:
    """Run `code` in a process that prints "ready" at the worst moment, and kill it there."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_kill_9_keeps_the_previous_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    code = (
        "import sys, time; from pathlib import Path; from motionloom.durable import write_durably\n"
        "def write(part):\n"
        "    part.write_text('half of the new'); print('ready', flush=True); time.sleep(60)\n"
        "write_durably(Path(sys.argv[1], 'a.txt'), write)"
    )
    killed_while(code, tmp_path)
    assert (tmp_path / "a.txt").read_text() == "old"
    parts = [name for name in os.listdir(tmp_path) if name != "a.txt"]
    assert len(parts) == 1 and parts[0].endswith(".part")
    assert sweep_stale_parts(tmp_path) == [tmp_path / parts[0]]
    assert os.listdir(tmp_path) == ["a.txt"]


def test_kill_9_between_the_renames_of_a_folder(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from motionloom.durable import write_folder_durably\n"
        "folder = Path(sys.argv[1], 'clip')\n"
        "def build(text): return lambda part: (part / 'a').write_text(text)\n"
        "write_folder_durably(folder, build('old'))\n"
        "real = os.replace\n"
        "def replace(source, target):\n"
        "    real(source, target)\n"
        "    if str(target).endswith('.old.part'): print('ready', flush=True); time.sleep(60)\n"
        "os.replace = replace\n"
        "write_folder_durably(folder, build('new'), lambda old: True)"
    )
    killed_while(code, tmp_path)
    assert not (tmp_path / "clip").exists()
    assert len(sweep_stale_parts(tmp_path)) == 1  # the unfinished new one
    assert os.listdir(tmp_path) == ["clip"] and (tmp_path / "clip" / "a").read_text() == "old"


# --- folders ------------------------------------------------------------------------------------------------


def building(text: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text(text)

    return build


def test_folder_is_written_and_replaced(tmp_path: Path) -> None:
    folder = write_folder_durably(tmp_path / "f", building("one"))
    with pytest.raises(InputError, match='"f"|/f"'):
        write_folder_durably(folder, lambda part: pytest.fail("began to build"))
    assert (folder / "sub" / "a").read_text() == "one"
    write_folder_durably(folder, building("two"), lambda old: True)
    assert (folder / "sub" / "a").read_text() == "two" and os.listdir(tmp_path) == ["f"]
    with pytest.raises(InputError):
        write_folder_durably(folder, building("three"), lambda old: False)


def test_folder_over_a_file_and_over_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="a file has that name"):
        write_folder_durably(tmp_path / "file", building("x"), lambda old: True)
    (tmp_path / "empty").mkdir()
    assert (write_folder_durably(tmp_path / "empty", building("x")) / "sub" / "a").read_text() == "x"


def test_failing_build_keeps_the_previous_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder_durably(tmp_path / "f", building("old"))

    def fail(part: Path) -> None:
        (part / "a").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="No space left"):
        write_folder_durably(folder, fail, lambda old: True)
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target == folder and ".old." not in source.name:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ResourceError, match="Input/output error"):
        write_folder_durably(folder, building("new"), lambda old: True)
    assert (folder / "sub" / "a").read_text() == "old" and os.listdir(tmp_path) == ["f"]


def test_folder_filled_by_another_while_building(tmp_path: Path) -> None:
    def build(part: Path) -> None:
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / "theirs").write_text("theirs")

    with pytest.raises(InputError):
        write_folder_durably(tmp_path / "f", build)
    assert (tmp_path / "f" / "theirs").read_text() == "theirs" and os.listdir(tmp_path) == ["f"]


# --- sweeping -----------------------------------------------------------------------------------------------


def test_sweep_removes_only_what_is_ours_and_dead(tmp_path: Path) -> None:
    stale = [f".a.txt.{DEAD_PID}.abcd1234.part", f".clip.{DEAD_PID}.0f0f.part"]
    kept = [
        f".a.txt.{os.getpid()}.abcd1234.part",  # ours, alive
        ".a.txt.1.abcd1234.part",  # alive, another user's
        f".b.txt.{DEAD_PID}.{'0' * 14}.part",  # made on another machine, fresh
        "download.part",
        ".hidden.part",
        f"visible.{DEAD_PID}.abcd.part",
        f".a.{10**30}.abcd.part",  # no pid at all
        "a.txt",
    ]
    for name in [stale[0], *kept]:
        (tmp_path / name).write_text("x")
    (tmp_path / stale[1]).mkdir()
    (tmp_path / stale[1] / "frame").write_text("x")
    assert sorted(part.name for part in sweep_stale_parts(tmp_path)) == sorted(stale)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_sweep_takes_old_parts_of_other_machines(tmp_path: Path) -> None:
    part = tmp_path / f".a.{DEAD_PID}.{'0' * 14}.part"
    part.write_text("x")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(part, (two_days_ago, two_days_ago))
    assert sweep_stale_parts(tmp_path) == [part]


def test_sweep_removes_an_old_folder_whose_swap_finished(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    aside = tmp_path / f".clip.{DEAD_PID}.abcd.old.part"
    aside.mkdir()
    assert sweep_stale_parts(tmp_path) == [aside] and os.listdir(tmp_path) == ["clip"]


def test_sweep_of_a_missing_folder(tmp_path: Path) -> None:
    assert sweep_stale_parts(tmp_path / "nowhere") == []


# --- manifest -----------------------------------------------------------------------------------------------


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    folder = tmp_path / "step-000001"
    (folder / "sub").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(256)))
    (folder / "sub" / "state.json").write_text("{}")
    (folder / f".x.{DEAD_PID}.abcd.part").write_text("leftover")
    write_manifest(folder)
    return folder


def test_manifest_lists_everything(complete: Path) -> None:
    content = json.loads((complete / MANIFEST_NAME).read_text())
    assert content["format_version"] == 1
    assert content["files"] == {
        "weights.bin": {"size_bytes": 256, "sha256": sha256_of(complete / "weights.bin")},
        "sub/state.json": {"size_bytes": 2, "sha256": sha256_of(complete / "sub" / "state.json")},
    }
    assert verify_manifest(complete) == []
    (complete / "notes.txt").write_text("added later")
    assert verify_manifest(complete) == []
    write_manifest(complete)  # rewriting never lists itself
    assert (
        verify_manifest(complete) == []
        and MANIFEST_NAME not in json.loads((complete / MANIFEST_NAME).read_text())["files"]
    )


def test_manifest_takes_over_what_a_writer_hashed(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256))
    parts = [Section(len(part), hashlib.sha256(part).hexdigest()) for part in (data[:10], data[10:])]
    read: list[Path] = []
    monkeypatch.setattr(durable, "sha256_of", lambda path: read.append(path) or "00")
    write_manifest(complete, {complete / "weights.bin": parts})
    assert read == [complete / "sub" / "state.json"]  # no second pass over what is known
    monkeypatch.undo()
    write_manifest(complete, {complete / "weights.bin": parts})
    content = json.loads((complete / MANIFEST_NAME).read_text())
    assert content["format_version"] == 2 and content["files"]["weights.bin"]["size_bytes"] == 256
    assert verify_manifest(complete) == []
    for position in (3, 9, 10, 255):  # in either section, and at their border
        changed = bytearray(data)
        changed[position] ^= 64
        (complete / "weights.bin").write_bytes(changed)
        (problem,) = verify_manifest(complete)
        assert "weights.bin" in problem and "checksum" in problem
    (complete / "weights.bin").write_bytes(data[:-1])
    assert "255 bytes, expected 256" in verify_manifest(complete)[0]


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_manifest_finds_each_fault(complete: Path) -> None:
    data = bytearray((complete / "weights.bin").read_bytes())
    data[100] ^= 1
    (complete / "weights.bin").write_bytes(data)
    (complete / "sub" / "state.json").write_text("{ }")
    first, second = sorted(verify_manifest(complete))
    assert "state.json" in first and "3 bytes, expected 2" in first
    assert "weights.bin" in second and "checksum" in second
    (complete / "weights.bin").unlink()
    assert any("weights.bin" in problem and "missing" in problem for problem in verify_manifest(complete))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "not completed"),
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b'{"format_version": 1, "files": []}', "damaged"),
        (b'{"format_version": 1, "files": {"a": 3}}', "damaged"),
        (b'{"format_version": 1, "files": {"a": {"size_bytes": "x", "sha256": ""}}}', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"format_version": 3, "files": {}}', "format version 3"),
        (b'{"format_version": 2, "files": {"a": {"size_bytes": 1, "sections": []}}}', "damaged"),
        (b'{"format_version": 2, "files": {"a": {"size_bytes": 1, "sections": [[1, ""]]}}}', "damaged"),
        (
            b'{"format_version": 1, "files": {"../secret": {"size_bytes": 1, "sha256": ""}}}',
            "outside the folder",
        ),
        (
            b'{"format_version": 1, "files": {"/etc/passwd": {"size_bytes": 1, "sha256": ""}}}',
            "outside the folder",
        ),
    ],
)
def test_bad_manifests(content: bytes | None, reason: str, complete: Path) -> None:
    if content is None:
        (complete / MANIFEST_NAME).unlink()
    else:
        (complete / MANIFEST_NAME).write_bytes(content)
    (problem,) = verify_manifest(complete)
    assert reason in problem
    assert verify_manifest(complete / "nowhere")[0].endswith("not completed")
