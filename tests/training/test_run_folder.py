"""The run folder: checkpoints that are whole or absent, locks, the log."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from motionloom.errors import InputError, NumericError, ResourceError, StateError
from motionloom.training import run_folder
from motionloom.training.recipe import load_recipe
from motionloom.training.run_folder import Checkpoint, RunFolder
from tests.training.toy import toy_recipe


def checkpoint(step: int, value: float = 1.0) -> Checkpoint:
    weight = torch.full((3, 2), value)
    return Checkpoint(
        step, {"networks": {"a": weight, "tied": weight, "row": weight[1]}}, {"position": 4 * step}
    )


def folder(path: Path, **changes: Any) -> RunFolder:
    return RunFolder(path, load_recipe(toy_recipe(**changes)))


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_checkpoints_come_back_and_only_the_last_are_kept(tmp_path: Path) -> None:
    with folder(tmp_path / "run", keep_last=2) as run:
        for step in (1, 2, 3):
            written = run.save(checkpoint(step, float(step)))
        assert names(run) == ["step-000002", "step-000003"]
        assert sorted(path.name for path in written.iterdir()) == [
            "MANIFEST.json",
            "networks.safetensors",
            "state.json",
        ]
        found, skipped = run.newest()
    assert found is not None and found.step == 3 and skipped == []
    assert found.numbers == {"position": 12}
    assert {key: value.tolist() for key, value in found.tensors["networks"].items()} == {
        "a": [[3.0, 3.0]] * 3,
        "tied": [[3.0, 3.0]] * 3,
        "row": [3.0, 3.0],
    }


def damage_tensor(path: Path) -> None:
    file = path / "networks.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 4
    file.write_bytes(content)


def truncate(path: Path) -> None:
    file = path / "networks.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def remove_manifest(path: Path) -> None:
    (path / "MANIFEST.json").unlink()


def remove_file(path: Path) -> None:
    (path / "state.json").unlink()


@pytest.mark.parametrize("damage", [damage_tensor, truncate, remove_manifest, remove_file])
def test_damaged_checkpoints_are_skipped_with_the_reason_and_never_count_as_kept(
    damage: Any, tmp_path: Path
) -> None:
    with folder(tmp_path / "run", keep_last=2) as run:
        for step in (1, 2):
            run.save(checkpoint(step))
        damage(run.checkpoints / "step-000002")
        found, skipped = run.newest()
        assert found is not None and found.step == 1
        assert len(skipped) == 1 and "step-000002" in skipped[0]
        run.save(checkpoint(3))
        assert names(run) == ["step-000001", "step-000002", "step-000003"]
        run.save(checkpoint(2, 7.0))  # trained again: the damaged one is replaced
        assert names(run) == ["step-000002", "step-000003"]
        assert run.read(2).tensors["networks"]["row"].tolist() == [7.0, 7.0]


def test_nan_is_never_saved(tmp_path: Path) -> None:
    with folder(tmp_path / "run") as run:
        run.save(checkpoint(1))
        with pytest.raises(NumericError, match="step 2: networks tensor 'a' holds NaN.*step-000001"):
            run.save(checkpoint(2, float("nan")))
        assert names(run) == ["step-000001"]


def test_full_disk_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder(tmp_path / "run", keep_last=1) as run:
        run.save(checkpoint(1))

        def full(path: Path, tensors: Any) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(run_folder, "save_weights", full)
        with pytest.raises(ResourceError, match="No space left on device"):
            run.save(checkpoint(2))
        assert names(run) == ["step-000001"]
        found, _ = run.newest()
        assert found is not None and found.step == 1


def test_a_checkpoint_that_does_not_read_back_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with folder(tmp_path / "run", keep_last=1) as run:
        run.save(checkpoint(1))
        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "verify_manifest", lambda path: ["bytes were changed"])
            with pytest.raises(ResourceError, match="does not read back: bytes were changed"):
                run.save(checkpoint(2))
        assert names(run) == ["step-000001"]


def test_second_owner_is_refused_and_named(tmp_path: Path) -> None:
    with folder(tmp_path / "run"):
        with pytest.raises(StateError, match=f"in use by pid {os.getpid()}"), folder(tmp_path / "run"):
            pass
        with pytest.raises(StateError, match="in use by"), folder(tmp_path / "x/../run"):
            pass
    with folder(tmp_path / "run"):
        pass


@pytest.mark.parametrize(
    ("owner", "is_free"),
    [
        ({"pid": 2**22 + 1, "host": socket.gethostname(), "started": "1"}, True),
        ({"pid": os.getppid(), "host": socket.gethostname(), "started": "1"}, True),  # the pid is used again
        ({"pid": os.getppid(), "host": socket.gethostname()}, False),
        ({"pid": 1, "host": "another-machine", "started": "1"}, False),
        ("garbage", True),
    ],
)
def test_stale_locks_are_recovered_and_live_ones_respected(owner: Any, is_free: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.lock").write_text(json.dumps(owner))
    if is_free:
        with folder(run):
            pass
        assert (run / "run.lock").read_text() == ""
    else:
        with pytest.raises(StateError, match="in use by pid") as caught, folder(run):
            pass
        assert "delete" in caught.value.fix


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    leftover = tmp_path / "run/checkpoints/.step-000009.4194305.abcdef.part"
    leftover.mkdir(parents=True)
    (leftover / "networks.safetensors").write_bytes(b"half")
    with folder(tmp_path / "run") as run:
        assert names(run) == []


def test_log_rewinds_to_a_step_and_keeps_events(tmp_path: Path) -> None:
    with folder(tmp_path / "run") as run:
        for step in (1, 2, 3):
            run.log({"step": step, "loss": float("inf") if step == 2 else 0.5})
        run.log({"event": "skipped", "step": 3, "message": "x"})
        run.rewind_log(2)
        records = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    assert records == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None},
        {"event": "skipped", "step": 3, "message": "x"},
    ]


def test_recipe_is_settled_by_the_first_checkpoint(tmp_path: Path) -> None:
    with folder(tmp_path / "run"):
        pass
    with folder(tmp_path / "run", seed=9) as run:  # nothing was trained yet
        run.save(checkpoint(1))
    assert load_recipe(tmp_path / "run/recipe.yaml").seed == 9
    with pytest.raises(StateError, match="seed: 9 -> 3"), folder(tmp_path / "run"):
        pass
    with folder(tmp_path / "run", seed=9):  # the refusal released the lock
        pass


def test_unwritable_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot write"), folder(tmp_path / "file/run"):
        pass


def test_export_is_whole_or_absent(tmp_path: Path) -> None:
    with folder(tmp_path / "run") as run:

        def fails(part: Path) -> None:
            (part / "a").write_text("half")
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            run.export(fails)
        assert not run.final.exists()
        run.export(lambda part: (part / "a").write_text("whole") and None)
        assert sorted(path.name for path in run.final.iterdir()) == ["MANIFEST.json", "a"]


def test_a_run_refused_before_it_began_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError), folder(tmp_path / "runs" / "mine"):
        raise InputError("no clip")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "other").mkdir(parents=True)
    with pytest.raises(InputError), folder(tmp_path / "runs" / "mine"):
        raise InputError("no clip")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


def test_a_run_that_began_keeps_what_it_wrote(tmp_path: Path) -> None:
    with pytest.raises(NumericError), folder(tmp_path / "said") as run:
        run.log({"event": "diverged"})
        raise NumericError("diverged")
    assert (tmp_path / "said/log.jsonl").exists() and (tmp_path / "said/recipe.yaml").exists()
    with pytest.raises(NumericError), folder(tmp_path / "saved") as run:
        run.save(checkpoint(1))
        raise NumericError("diverged")
    assert names(run) == ["step-000001"]
    with pytest.raises(RuntimeError), folder(tmp_path / "crashed"):
        raise RuntimeError("a mistake of ours")
    assert (tmp_path / "crashed/recipe.yaml").exists()
