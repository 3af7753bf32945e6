"""Streaming: every form of input gives the result of dicts in memory, bit for bit, and nothing is half-written."""

from __future__ import annotations

import errno
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import motionloom as ml
from motionloom import durable
from motionloom.durable import verify_manifest
from motionloom.errors import ConfigError, InputError, NumericError, ResourceError, WeightsError
from motionloom.merging import checkpoint, streaming
from motionloom.merging.checkpoint import WeightsFile, open_checkpoint
from motionloom.merging.recipe import load_merge_recipe
from motionloom.weights import load_weights, save_weights
from tests.merging.making_models import (
    SHAPES,
    STEPS,
    TEMPORAL,
    model,
    tuned,
    write_deepspeed,
    write_lightning,
    write_sharded,
    write_single,
)

PRE = model()
TUNED = tuned(PRE)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of these tests are merged in several pieces, as large ones are."""
    monkeypatch.setattr(streaming, "PIECE_ELEMENTS", 37)
    monkeypatch.setattr(streaming, "CACHED_ELEMENTS", 11)


def files(**changes: Any) -> dict[str, Any]:
    """A recipe over two single files in the working folder."""
    write_single(Path("pre.safetensors"), PRE)
    write_single(Path("tuned.safetensors"), TUNED)
    recipe = {
        "method": {"kind": "extrapolate", "alpha": 0.25},
        "base": "pre.safetensors",
        "tuned": "tuned.safetensors",
    }
    return {**recipe, **changes}


def equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return got.keys() == expected.keys() and all(
        got[k].dtype == expected[k].dtype and torch.equal(got[k], expected[k]) for k in expected
    )


# --- streamed = in memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_streamed_is_in_memory(dtype: torch.dtype) -> None:
    pre = model(dtype=dtype)
    ft = tuned(pre)
    write_single(Path("pre.safetensors"), pre)
    write_lightning(Path("tuned.ckpt"), ft)
    recipe = {"method": {"kind": "decouple"}, "base": "pre.safetensors", "tuned": ["tuned.ckpt"], "seed": 4}
    ml.merge(recipe, "out")
    expected = ml.decouple(pre, ft, seed=4)
    for expert in ("degree", "control"):
        got, metadata = load_weights(f"out/{expert}/pre.safetensors")  # checks the checksum too
        assert equal(got, expected[expert])
        assert metadata["motionloom.kind"] == "toy"  # readers go by it


def test_every_form_of_input_gives_the_same() -> None:
    write_single(Path("a.safetensors"), PRE)
    write_sharded(Path("shards"), PRE)
    write_lightning(Path("a.ckpt"), PRE)
    write_deepspeed(Path("ds.ckpt"), TUNED)
    expected = ml.extrapolate(PRE, TUNED, 0.5)
    for base in ("a.safetensors", "shards", "a.ckpt"):
        recipe = {"method": {"kind": "extrapolate", "alpha": 0.5}, "base": base, "tuned": "ds.ckpt"}
        ml.merge(recipe, "out")
        assert equal(dict(open_checkpoint("out")), expected)
    assert equal(dict(ml.extrapolate("shards", "ds.ckpt", 0.5)), expected)  # lazy files in, lazy tensors out
    ml.merge({**recipe, "base": "shards"}, "out")
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "MANIFEST.json",
        "config.json",
        "m-00001-of-00002.safetensors",
        "m-00002-of-00002.safetensors",
        "m.safetensors.index.json",
        "merge.json",
        "merge.yaml",
    ]


ALL_METHODS: list[dict[str, Any]] = [
    {"kind": "average"},
    {"kind": "task-arithmetic", "weights": [0.3, 0.4], "scale": 1.5},
    {"kind": "dare", "drop": 0.5},
    {"kind": "dare", "drop": 0.5, "rescale": "norm", "join": "ties"},
    {"kind": "magnitude", "density": 0.4},
    {"kind": "ties", "density": 0.4},
    {"kind": "breadcrumbs", "density": 0.5, "outliers": 0.1},
    {"kind": "della"},
    {"kind": "slerp", "t": 0.4},
    {"kind": "model-stock"},
    {"kind": "fisher", "statistics": ["f1.safetensors", "f2.safetensors"]},
    {"kind": "regmean", "statistics": ["g1.safetensors", "g2.safetensors"]},
    {"kind": "low-rank", "rank": 2},
]


@pytest.mark.parametrize("method", ALL_METHODS, ids=lambda method: str(method["kind"]))
def test_methods_stream_in_any_pieces(method: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    second = tuned(PRE, seed=2)
    write_single(Path("second.safetensors"), second)
    for index, one in enumerate((TUNED, second), 1):
        numbers = {k: w for k, w in one.items() if k != STEPS}
        save_weights(f"f{index}.safetensors", {k: w.square() for k, w in numbers.items()})
        grams = {k: w.T @ w + torch.eye(w.shape[1]) for k, w in numbers.items() if w.ndim == 2}
        save_weights(f"g{index}.safetensors", grams)
    recipe = files(method=method, tuned=["tuned.safetensors", "second.safetensors"])
    ml.merge(recipe, "pieces")
    monkeypatch.setattr(streaming, "PIECE_ELEMENTS", 10**6)
    monkeypatch.setattr(streaming, "CACHED_ELEMENTS", 10**6)
    ml.merge(recipe, "whole")
    pieces, whole = load_file("pieces/pre.safetensors"), load_file("whole/pre.safetensors")
    assert equal(pieces, whole)
    for name in SHAPES:
        assert (pieces[name] - PRE[name]).abs().max() < 0.6  # near its inputs
    assert torch.equal(pieces[STEPS], PRE[STEPS])


def test_only_chosen_groups_move() -> None:
    ml.merge(files(groups=["temporal_attention"]), "out")
    got = load_file("out/pre.safetensors")
    moved = {name for name in PRE if not torch.equal(got[name], PRE[name])}
    assert moved == set(TEMPORAL)
    report = json.loads(Path("out/merge.json").read_text())
    assert set(report["changed"]["merged"]) == set(TEMPORAL)


def test_report_recipe_and_same_bytes_again() -> None:
    recipe = files(method={"kind": "dare", "drop": 0.7}, seed=3)
    result = ml.merge(recipe, "first")
    ml.merge(Path("first/merge.yaml"), "second")
    for name in ("pre.safetensors", "merge.json", "merge.yaml"):
        assert Path("first", name).read_bytes() == Path("second", name).read_bytes()
    assert verify_manifest("first") == []
    import hashlib

    hashes = {one["role"]: one["files"] for one in result.inputs}
    for role, file in (("base", "pre.safetensors"), ("tuned 0", "tuned.safetensors")):
        assert hashes[role] == {file: hashlib.sha256(Path(file).read_bytes()).hexdigest()}
    assert load_merge_recipe(Path("first/merge.yaml")) == load_merge_recipe(recipe)


def test_each_byte_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs while they are read, outputs while they are written; a second merge of the same inputs hashes none."""
    recipe = files(tuned=["tuned.safetensors", "tuned.safetensors"], method={"kind": "task-arithmetic"})
    hashing: list[WeightsFile] = []
    read_again: list[str] = []
    hash_up_to, whole = WeightsFile._hash_up_to, durable.sha256_of

    def counted(self: WeightsFile, *asked: Any, **options: Any) -> None:
        if self not in hashing:
            hashing.append(self)
        hash_up_to(self, *asked, **options)

    monkeypatch.setattr(WeightsFile, "_hash_up_to", counted)
    monkeypatch.setattr(durable, "sha256_of", lambda path: read_again.append(path.name) or whole(path))
    monkeypatch.setattr(checkpoint, "SETTLED_NS", -1)  # these files have just been written
    first = ml.merge(recipe, "first")
    assert sorted(read_again) == ["merge.json", "merge.yaml"]
    assert verify_manifest("first") == []
    assert sorted(file.path.name for file in hashing) == ["pre.safetensors", "tuned.safetensors"]
    hashing.clear()
    assert ml.merge(recipe, "second").inputs == first.inputs
    assert not hashing
    data = bytearray(Path("tuned.safetensors").read_bytes())
    data[-1] ^= 1
    Path("tuned.safetensors").write_bytes(data)  # a file that changed is another file
    assert ml.merge(recipe, "third").inputs != first.inputs


def test_damage_after_the_merge_is_found() -> None:
    ml.merge(files(), "out")
    merged = Path("out/pre.safetensors")
    data = merged.read_bytes()
    for position in (20, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[position] ^= 2
        merged.write_bytes(changed)
        assert "does not match its checksum" in verify_manifest("out")[0]
        with pytest.raises(WeightsError):
            load_weights(merged)
    merged.write_bytes(data[:-1])
    assert "bytes, expected" in verify_manifest("out")[0]
    with pytest.raises(WeightsError, match="truncated"):
        load_weights(merged)


def test_threads_that_lag_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = files(method={"kind": "decouple"}, exports=["full", "experts"])
    ml.merge(recipe, "even")
    chance = random.Random(0)

    def late(call: Callable[..., None]) -> Callable[..., None]:
        def called(*args: Any) -> None:
            time.sleep(chance.choice((0.0, 0.001, 0.004)))
            call(*args)

        return called

    for owner, name in (
        (WeightsFile, "_hash"),
        (WeightsFile, "read_into"),
        (streaming.PiecewiseFile, "_write"),
    ):
        monkeypatch.setattr(owner, name, late(getattr(owner, name)))
    ml.merge(recipe, "uneven")
    for path in sorted(Path("even").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (Path("uneven") / path.relative_to("even")).read_bytes(), path


def test_dtype_policy() -> None:
    ml.merge(files(dtype="bfloat16"), "out")
    got = load_file("out/pre.safetensors")
    expected = ml.extrapolate(PRE, TUNED, 0.25)
    for name in SHAPES:
        assert torch.equal(got[name], expected[name].bfloat16())
    assert got[STEPS].dtype == torch.int64


def test_tensors_only_the_tuned_model_has() -> None:
    recipe = files(keys="union")
    adapter = {**TUNED, "queries": torch.ones(3, 4)}
    write_single(Path("tuned.safetensors"), adapter)
    ml.merge(recipe, "out")
    assert torch.equal(load_file("out/pre.safetensors")["queries"], adapter["queries"])
    with pytest.raises(WeightsError, match=r"adds 1 tensors \(queries\)"):
        ml.merge({**recipe, "keys": "partial"}, "other")
    assert not Path("other").exists()


def test_dry_run_reads_no_tensor_and_writes_nothing() -> None:
    plan = ml.merge(files(), "out", dry_run=True).plan
    assert plan is not None and not Path("out").exists()
    assert plan["family"] == "dynamicrafter" and plan["merged"] == len(SHAPES)
    assert plan["merged_by_group"]["temporal_attention"] == 2
    assert plan["bytes_to_write"] == sum(w.numel() * w.element_size() for w in PRE.values())


# --- LoRA ---------------------------------------------------------------------------------------------------


def lora_file(path: str, form: str, alpha: float | None) -> dict[str, Tensor]:
    """A LoRA of rank 2 over the temporal queries; returns the fused model."""
    name = TEMPORAL[0]
    generator = torch.Generator().manual_seed(9)
    down, up = 0.1 * torch.randn(2, 12, generator=generator), 0.1 * torch.randn(16, 2, generator=generator)
    place = name.removesuffix(".weight")
    if form == "kohya":
        place = "lora_unet_" + place.removeprefix("model.diffusion_model.").replace(".", "_")
        tensors = {f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{place}.alpha"] = torch.tensor(alpha)
    else:
        place = "base_model.model." + place
        tensors = {f"{place}.lora_A.default.weight": down, f"{place}.lora_B.default.weight": up}
    save_weights(path, tensors)
    scale = 1.0 if alpha is None else alpha / 2
    return {**PRE, name: PRE[name] + scale * up @ down}


@pytest.mark.parametrize(("form", "alpha"), [("kohya", 4.0), ("kohya", None), ("peft", 1.0)])
def test_lora_acts_as_its_product(form: str, alpha: float | None) -> None:
    fused = lora_file("lora.safetensors", form, alpha)
    told = {"path": "lora.safetensors", "lora_alpha": alpha if form == "peft" else None}
    recipe = files(tuned=[told])
    ml.merge(recipe, "out")
    got, expected = load_file("out/pre.safetensors"), ml.extrapolate(PRE, fused, 0.25)
    assert {name for name in PRE if not torch.equal(got[name], PRE[name])} == {TEMPORAL[0]}
    assert torch.allclose(got[TEMPORAL[0]], expected[TEMPORAL[0]], atol=1e-6)

    ml.merge({**recipe, "method": {"kind": "dare", "drop": 0.5}}, "dare")  # masks of B A, not of A and of B
    step = load_file("dare/pre.safetensors")[TEMPORAL[0]] - PRE[TEMPORAL[0]]
    kept = step != 0
    assert 0.3 < float(kept.float().mean()) < 0.7
    assert torch.allclose(step[kept], 2 * (fused[TEMPORAL[0]] - PRE[TEMPORAL[0]])[kept], atol=1e-5)


def test_lora_for_another_base_is_refused() -> None:
    recipe = files(tuned=["lora.safetensors"])
    save_weights(
        "lora.safetensors", {"a.b.lora_A.weight": torch.ones(2, 3), "a.b.lora_B.weight": torch.ones(3, 2)}
    )
    with pytest.raises(WeightsError, match=r'"a.b.lora_A.weight", which the base lacks'):
        ml.merge(recipe, "out")


# --- exports ------------------------------------------------------------------------------------------------


def test_difference_added_to_the_base_is_the_merge() -> None:
    ml.merge(files(exports=["full", "delta"], groups=["temporal_attention", "projector"]), "out")
    difference, merged = load_file("out/delta/merged.safetensors"), load_file("out/pre.safetensors")
    assert set(difference) == {*TEMPORAL, "image_proj_model.latents"}
    for name, tensor in difference.items():
        assert torch.allclose(PRE[name] + tensor, merged[name], atol=1e-7)


def test_experts_beside_the_base() -> None:
    ml.merge(files(method={"kind": "decouple"}, exports=["experts"], schedule={"boundary": 0.4}), "out")
    assert Path("out/pre.safetensors").read_bytes() == Path("pre.safetensors").read_bytes()
    assert json.loads(Path("out/experts/schedule.json").read_text())["boundary"] == 0.4
    expected = ml.decouple(PRE, TUNED)
    for expert in ("degree", "control"):
        difference = load_file(f"out/experts/{expert}.safetensors")
        for name in SHAPES:
            assert torch.allclose(PRE[name] + difference[name], expected[expert][name], atol=1e-6)
    assert set(open_checkpoint("out")) == set(PRE)  # the folder is the base; experts are no part of it
    with pytest.raises(ConfigError, match="makes one model; experts need decouple"):
        ml.merge(files(exports=["experts"]), "other")


def test_lora_export_says_what_it_loses() -> None:
    result = ml.merge(files(exports=["lora"], lora={"rank": 12}, groups=["temporal_attention"]), "exact")
    assert result.left_out["lora"]["lost_share"] < 1e-10
    ml.merge(
        files(
            base="pre.safetensors",
            tuned=["exact/lora/merged.safetensors"],
            method={"kind": "task-arithmetic"},
        ),
        "fused",
    )
    expected = ml.extrapolate(PRE, TUNED, 0.25)
    got = load_file("fused/pre.safetensors")
    for name in TEMPORAL:  # the LoRA read back gives the merge
        assert torch.allclose(got[name], expected[name], atol=1e-5)

    result = ml.merge(files(exports=["lora"], lora={"rank": 1}), "thin")
    assert 0.1 < result.left_out["lora"]["lost_share"] < 1
    assert "model.diffusion_model.input_blocks.1.0.in_layers.2.bias" in result.left_out["lora"]["tensors"]


def test_comfyui_keys() -> None:
    result = ml.merge(files(exports=["comfyui"]), "out")
    tensors = load_file("out/comfyui/merged.safetensors")
    place = "lora_unet_input_blocks_1_0_in_layers_2"
    expected = ml.extrapolate(PRE, TUNED, 0.25)
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2"
    for key, own in ((f"{place}.diff", f"{name}.weight"), (f"{place}.diff_b", f"{name}.bias")):
        assert torch.allclose(tensors[key], expected[own] - PRE[own], atol=1e-7)
    assert "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.alpha.diff" in tensors
    assert len(tensors) == len(SHAPES) - 1
    assert result.left_out["comfyui"]["tensors"] == {
        "image_proj_model.latents": "lies outside the diffusion model"
    }


# --- bad input: a sentence, and nothing half-written ---------------------------------------------------------


def refused(recipe: dict[str, Any], error: type[Exception], said: str) -> None:
    before = sorted(os.listdir())
    with pytest.raises(error, match=said):
        ml.merge(recipe, "out")
    assert sorted(os.listdir()) == before


def test_bad_models() -> None:
    recipe = files()
    name = "image_proj_model.latents"
    save_weights("nan.safetensors", {**TUNED, name: torch.full((1, 4, 6), torch.nan)})
    refused(
        {**recipe, "tuned": "nan.safetensors"},
        NumericError,
        '"image_proj_model.latents" of the tuned model .* NaN',
    )
    save_weights("nan_base.safetensors", {**PRE, name: torch.full((1, 4, 6), torch.nan)})
    unmerged = {**recipe, "base": "nan_base.safetensors", "groups": ["temporal_attention"]}
    refused(unmerged, NumericError, '"image_proj_model.latents" of .* holds NaN')
    save_weights("shape.safetensors", {**TUNED, name: torch.zeros(1, 4, 7)})
    refused(
        {**recipe, "tuned": "shape.safetensors"},
        WeightsError,
        r"has the shape \[1, 4, 6\] in the base and \[1, 4, 7\]",
    )
    save_weights("less.safetensors", {k: w for k, w in TUNED.items() if k != name})
    refused({**recipe, "tuned": "less.safetensors"}, WeightsError, r"lacks 1 tensors")
    whole = Path("tuned.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-100])
    refused({**recipe, "tuned": "cut.safetensors"}, WeightsError, "truncated")
    write_lightning(Path("t.ckpt"), TUNED)
    Path("cut.ckpt").write_bytes(Path("t.ckpt").read_bytes()[:-500])
    refused({**recipe, "tuned": "cut.ckpt"}, WeightsError, "damaged or truncated")
    refused({**recipe, "tuned": "nowhere.safetensors"}, WeightsError, "no such file")
    refused({**recipe, "base": "tiny-wan"}, InputError, '"tiny-wan" is the name of a base')
    Path("empty").mkdir()
    refused({**recipe, "tuned": "empty"}, InputError, "holds no .safetensors")
    write_sharded(Path("shards"), PRE)
    Path("shards/m-00002-of-00002.safetensors").unlink()
    refused(
        {**recipe, "base": "shards"},
        WeightsError,
        'names the shard "m-00002-of-00002.safetensors", which is missing',
    )


def test_pickles_that_hold_more_than_weights(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, Any]:
            return (os.mkdir, ("owned",))

    torch.save({"state_dict": TUNED, "x": Evil()}, "evil.ckpt")
    refused(files(tuned="evil.ckpt"), WeightsError, "weights-only reader refuses it")
    assert not Path("owned").exists()
    import zipfile

    write_lightning(Path("t.ckpt"), TUNED)
    with zipfile.ZipFile("t.ckpt") as plain, zipfile.ZipFile("z.ckpt", "w", zipfile.ZIP_DEFLATED) as squeezed:
        for member in plain.infolist():
            squeezed.writestr(member.filename, plain.read(member))
    refused(files(tuned="z.ckpt"), WeightsError, "is compressed, which torch.save never does")


def test_bad_recipes() -> None:
    recipe = files()
    refused({**recipe, "groups": ["temporal_atention"]}, ConfigError, 'did you mean "temporal_attention"')
    refused({**recipe, "groups": ["re:nowhere"]}, ConfigError, "matches none of the 9 tensors")
    refused({**recipe, "groups": ["re:("]}, ConfigError, "no regular expression")
    refused({**recipe, "method": {"kind": "extrapolate", "alhpa": 1}}, ConfigError, "did you mean 'alpha'")
    refused(
        {**recipe, "method": {"kind": "extrapolte", "alpha": 1}}, ConfigError, "did you mean 'extrapolate'"
    )
    refused(
        {**recipe, "method": {"kind": "model-stock"}}, ConfigError, "merges at least 2 tuned models, got 1"
    )
    refused(
        {**recipe, "method": {"kind": "extrapolate", "alpha": 0.0}},
        ConfigError,
        "changes none of the 9 tensors",
    )
    refused({**recipe, "tuned": "pre.safetensors"}, ConfigError, "changes none")
    refused({**recipe, "method": {"kind": "breadcrumbs", "outliers": 0.5}}, ConfigError, "must not exceed 1")


def test_what_is_there_is_kept() -> None:
    recipe = files()
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files this command did not write"):
        ml.merge(recipe, "out")
    assert os.listdir("out") == ["mine.txt"]
    ml.merge(recipe, "merged")
    before = Path("merged/pre.safetensors").read_bytes()
    with pytest.raises(ConfigError):
        ml.merge({**recipe, "method": {"kind": "extrapolate", "alpha": 0.0}}, "merged")
    assert Path("merged/pre.safetensors").read_bytes() == before
    ml.merge({**recipe, "method": {"kind": "extrapolate", "alpha": 0.5}}, "merged")  # ours may be replaced
    assert Path("merged/pre.safetensors").read_bytes() != before


def test_disk_full_in_mid_write(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = files()
    ml.merge(recipe, "out")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    write, count = streaming.PiecewiseFile.write, 0

    def failing(self: streaming.PiecewiseFile, piece: Tensor) -> None:
        nonlocal count
        count += 1
        if count == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, piece)

    monkeypatch.setattr(streaming.PiecewiseFile, "write", failing)
    refused(
        {**recipe, "method": {"kind": "extrapolate", "alpha": 0.5}},
        ResourceError,
        'cannot write ".*out": No space left',
    )
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_too_little_space_is_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    recipe = files()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    refused(recipe, ResourceError, "it needs [0-9]+ bytes, 1 are free")
