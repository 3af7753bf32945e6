"""Adapter files, official checkpoints, and what is refused with which sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import motionloom as ml
from motionloom.adapters.adapter_file import metadata_of
from motionloom.adapters.hub import pull_adapter, push_adapter
from motionloom.adapters.layout import Layout
from motionloom.cli import main
from motionloom.convert import _EMPTY_NETWORKS
from motionloom.errors import ConfigError, ResourceError, WeightsError
from motionloom.inspection import describe
from motionloom.weights import load_weights, save_weights
from tests.adapters.conftest import latents_for, moved, predict


@pytest.fixture
def saved(unet: Any, tmp_path: Path) -> Path:
    adapter = moved(unet, motion="waterfall", base="tiny", masked=True)
    adapter.facts = {"clips": 10, "fps": 8.0}
    return adapter.save(tmp_path / "waterfall.safetensors")


# --- our files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "released", "paper"])
def test_round_trip(host: Any, preset: str, tmp_path: Path) -> None:
    adapter = moved(host, preset=preset, masked=True, motion="rain", base="b")
    adapter.facts = {"clips": 3}
    back = ml.load_adapter(adapter.save(tmp_path / "rain.safetensors"))
    assert (back.motion, back.base, back.facts) == ("rain", "b", {"clips": 3})
    assert back.settings == adapter.settings and back.layout == adapter.layout
    own = adapter.state_dict()
    assert back.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in back.state_dict().items())
    latents, outs = latents_for(host), []
    for one in (adapter, back):
        with ml.mounted(host, [(one, 1.0)]):
            outs.append(predict(host, latents))
    assert torch.equal(*outs)


def test_the_same_adapter_gives_the_same_bytes(unet: Any, tmp_path: Path) -> None:
    adapter = moved(unet)
    one, other = (adapter.save(tmp_path / name).read_bytes() for name in ("a.safetensors", "b.safetensors"))
    assert one == other


def test_half_precision_stays_half(unet: Any, tmp_path: Path) -> None:
    path = moved(unet).half().save(tmp_path / "half.safetensors")
    assert {p.dtype for p in ml.load_adapter(path).parameters()} == {torch.float16}


def test_inspect_and_card(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = describe(saved)
    assert facts["kind"] == "weights: motion_adapter" and facts["motion"] == "waterfall"
    assert facts["masked"] and facts["parts"]["temporal"] == {"rank": 32, "alpha": 1.0}
    assert facts["training"] == {"clips": 10, "fps": 8.0}
    assert main(["inspect", str(saved)]) == 0
    assert "UNetMotionModel with 4 blocks of 16 to 32 channels" in capsys.readouterr().out
    card = saved.with_suffix(".md").read_text()
    assert (
        card.startswith("---\nlibrary_name: motionloom")
        and "# waterfall" in card
        and "| clips | 10 |" in card
    )


def test_notes_of_the_user_stay(unet: Any, tmp_path: Path) -> None:
    """A file beside the adapter that is no card of ours is not overwritten; a card is."""
    notes = tmp_path / "rain.md"
    notes.write_text("my notes")
    moved(unet).save(tmp_path / "rain.safetensors")
    assert notes.read_text() == "my notes"
    moved(unet, motion="rain").save(tmp_path / "b.safetensors")
    moved(unet, motion="snow").save(tmp_path / "b.safetensors")
    assert "# snow" in (tmp_path / "b.md").read_text()


Change = Callable[[dict[str, Tensor], dict[str, str]], None]


def _drop(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    del tensors[next(key for key in tensors if ".ca.up." in key)]


def _extra(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    tensors["mystery.weight"] = torch.zeros(2)


def _rank(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["motionloom.config"] = metadata["motionloom.config"].replace('"rank":32', '"rank":16')


def _newer(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["motionloom.format_version"] = "9"


def _another_kind(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["motionloom.kind"] = "task_vector"


def _no_kind(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    del metadata["motionloom.kind"]


def _broken_config(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    metadata["motionloom.config"] = '{"cross_frame": {"rank": -1}}'


def _other_layout(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    base = json.loads(metadata["motionloom.base"])
    base["layout"]["spatial"][0]["channels"] = 24
    metadata["motionloom.base"] = json.dumps(base)


def _hostile_path(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    base = json.loads(metadata["motionloom.base"])
    base["layout"]["spatial"][0]["path"] = "forward.x"
    base["fingerprint"] = Layout.model_validate_json(json.dumps(base["layout"])).fingerprint
    metadata["motionloom.base"] = json.dumps(base)


def _hostile_size(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """A layout that would need terabytes: refused before memory is taken."""
    base = json.loads(metadata["motionloom.base"])
    for slot in base["layout"]["spatial"]:
        slot["channels"] = 65536
    base["fingerprint"] = Layout.model_validate_json(json.dumps(base["layout"])).fingerprint
    metadata["motionloom.base"] = json.dumps(base)


def _integers(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name].to(torch.int32)


def _not_a_number(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    next(iter(tensors.values())).view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_drop, "1 missing (.*ca.up"),
        (_extra, "1 unexpected \\(mystery.weight"),
        (_rank, "mis-shaped .*file \\[32, "),
        (_newer, "adapter format '9', this version reads '1'"),
        (_another_kind, "is a task_vector, expected a motion adapter"),
        (_no_kind, "a weights file of unknown kind, expected a motion adapter"),
        (_broken_config, "does not describe itself"),
        (_other_layout, "fingerprint"),
        (_hostile_path, "does not describe itself"),
        (_hostile_size, "mis-shaped"),
        (_integers, "torch.int32 under"),
        (_not_a_number, "NaN"),
    ],
)
def test_changed_files_are_refused(saved: Path, change: Change, sentence: str, tmp_path: Path) -> None:
    tensors, metadata = load_weights(saved)
    change(tensors, metadata)
    save_weights(tmp_path / "changed.safetensors", tensors, metadata)
    with pytest.raises(WeightsError, match=sentence.replace("missing (", "missing \\(")) as caught:
        ml.load_adapter(tmp_path / "changed.safetensors")
    assert caught.value.fix


def test_damaged_files_are_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for content, sentence in (
        (whole[:-100], "truncated"),
        (whole[:50], "truncated"),
        (b"", "empty"),
        (b"\x80\x02}q\x00.", "pickle|truncated"),
    ):
        bad.write_bytes(content)
        with pytest.raises(WeightsError, match=sentence):
            ml.load_adapter(bad)
    torch.save({"a": torch.zeros(2)}, bad)
    with pytest.raises(WeightsError, match="archive.*only safetensors") as caught:
        ml.load_adapter(bad)
    assert "motionloom convert" in caught.value.fix
    flipped = bytearray(whole)
    flipped[-8] ^= 1
    bad.write_bytes(flipped)
    with pytest.raises(WeightsError, match="checksum"):
        ml.load_adapter(bad)


def test_a_bad_name_writes_nothing(unet: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a name ending in .safetensors"):
        ml.new_adapter(unet).save(tmp_path / "adapter.pt")
    assert not list(tmp_path.iterdir())


# --- official files -----------------------------------------------------------------------------------------


def official_unet(adapter: ml.Adapter, older: bool = False) -> dict[str, Tensor]:
    """An adapter under the authors' names, as their code would have saved it."""
    named: dict[str, Tensor] = {}
    text_free = {"down": "CA2", "up": "CA3", "norm": "CA_norm"}
    for key, value in adapter.state_dict().items():
        path, _, part = key.partition(".miva.")
        if not part:
            head, _, tail = key.partition(".transformer_blocks.0.attn")
            which, name, side = tail[0], tail[2:].split(".")[0], tail.split("lora_")[1][0]
            low_rank = f"{name}_lora.{'down' if side == 'A' else 'up'}.weight"
            block = f"{head}.temporal_transformer.transformer_blocks.0"
            named[f"{block}.attention_blocks.{int(which) - 1}.processor.{low_rank}"] = value
            continue
        words = part.split(".")
        end = words[-1]
        if words[0] == "cfa":
            at = {"weighting": f"processor.weight_module.linear.{end}"}.get(words[1])
            mask = words[1] == "mask"
            if at is None and words[3] == "to_q":
                at = f"processor.to_q_mask.{end}" if mask else f"to_q.{end}"
            elif at is None:
                at = f"processor.to_out_mask.0.{end}" if mask else f"to_out.0.{end}"
            named[f"{path}.i2v_adapter.{at}"] = value
        else:
            holder = {"ca": "" if older else "sCA.", "ca_background": "sCA_b."}[words[0]]
            named[f"{path}.{holder}{text_free[words[1]]}.{end}"] = value
    return named


def official_wan(adapter: ml.Adapter) -> dict[str, Tensor]:
    named = {}
    for key, value in adapter.state_dict().items():
        path, _, part = key.partition(".miva.")
        for ours, theirs in (
            ("cfa.video.both.to_q.", "i2v_adapter.q."),
            ("cfa.video.both.to_out.", "i2v_adapter.o."),
            ("cfa.mask.both.to_q.", "i2v_adapter.q_m."),
            ("cfa.mask.both.to_out.", "i2v_adapter.o_m."),
            ("cfa.weighting.", "i2v_adapter.weight_module."),
            ("ca.down.", "cross_attn.CA2."),
            ("ca.up.", "cross_attn.CA3."),
            ("ca.norm.", "cross_attn.CA_norm."),
            ("ca_background.down.", "cross_attn_b.CA2."),
            ("ca_background.up.", "cross_attn_b.CA3."),
            ("ca_background.norm.", "cross_attn_b.CA_norm."),
        ):
            if part.startswith(ours):
                named[f"{path}.{theirs}{part.removeprefix(ours)}"] = value
    return {
        key.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."): v
        for key, v in named.items()
    }


def equal(one: ml.Adapter, other: ml.Adapter) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("older", [False, True])
def test_official_unet(unet: Any, masked: bool, older: bool) -> None:
    adapter = moved(unet, masked=masked)
    official = official_unet(adapter, older)
    for source in (official, {"state_dict": official}, {f"module.{k}": v for k, v in official.items()}):
        got = ml.adapter_from_official(source, unet)
        assert equal(got, adapter) and got.masked == masked
    assert got.settings.temporal is not None and got.settings.temporal.alpha == 1
    assert got.settings.cross_frame is not None and got.settings.cross_frame.temperature == 0.2
    assert got.settings.preset == "released"


def test_official_counts_of_keys() -> None:
    host = _EMPTY_NETWORKS["animatediff-v3"]()
    assert len(official_unet(ml.new_adapter(host))) == 464
    assert len(official_unet(ml.new_adapter(host, masked=True))) == 512


def test_official_wan_low_rank_and_full(wan: Any) -> None:
    adapter = moved(wan, masked=True)
    got = ml.adapter_from_official(official_wan(adapter), wan, temperature=1, lora_alpha=128)
    assert equal(got, adapter) and got.settings.cross_frame == adapter.settings.cross_frame.model_copy(
        update={"alpha": 128.0}
    )
    cross = adapter.settings.cross_frame.model_copy(update={"rank": None})
    full = moved(wan, settings=adapter.settings.model_copy(update={"cross_frame": cross}))
    got = ml.adapter_from_official(official_wan(full), wan, temperature=1)
    assert equal(got, full) and got.settings.cross_frame.rank is None
    text_free = adapter.settings.text_free.model_copy(update={"bias": False, "rank": 7})
    other = moved(wan, settings=adapter.settings.model_copy(update={"text_free": text_free}))
    assert ml.adapter_from_official(official_wan(other), wan).settings.text_free == text_free


def test_official_refusals(unet: Any, wan: Any) -> None:
    official = official_unet(moved(unet))
    whole = official | {"conv_in.weight": torch.zeros(2)}
    with pytest.raises(WeightsError, match="1 of \\d+ keys that no MIVA adapter has \\(conv_in.weight"):
        ml.adapter_from_official(whole, unet)
    split = {key: value for key, value in official.items() if "CA" not in key}
    with pytest.raises(WeightsError, match="no text-free") as caught:
        ml.adapter_from_official(split, unet)
    assert "split files" in caught.value.fix
    lost = dict(official)
    del lost[next(key for key in lost if "CA3" in key)]
    with pytest.raises(WeightsError, match="1 missing"):
        ml.adapter_from_official(lost, unet)
    with pytest.raises(WeightsError, match="do not fit Adapter"):
        ml.adapter_from_official(official, wan)
    with pytest.raises(WeightsError, match="holds a int"):
        ml.adapter_from_official({"step": 3, **official}, unet)
    with pytest.raises(WeightsError, match="twice"):
        key = next(key for key in official if "sCA.CA2" in key)
        ml.adapter_from_official(official | {key.replace("sCA.", ""): official[key]}, unet)
    with pytest.raises(WeightsError, match="empty"):
        ml.adapter_from_official({}, unet)


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_bases(unet: Any, wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_EMPTY_NETWORKS, "animatediff-v3", lambda: unet)
    monkeypatch.setitem(_EMPTY_NETWORKS, "wan2.1-t2v-1.3b", lambda: wan)


@pytest.mark.usefixtures("tiny_bases")
def test_convert_command(unet: Any, wan: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = moved(unet)
    torch.save({"state_dict": official_unet(adapter)}, tmp_path / "rain.pt")
    assert main(["convert", str(tmp_path / "rain.pt"), "-o", "out", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["kind"] == "MIVA adapter" and done["path"].endswith("rain.safetensors")
    back = ml.load_adapter(done["path"])
    assert equal(back, adapter) and (back.motion, back.base) == ("rain", "animatediff-v3")

    torch.save(official_wan(moved(wan)), tmp_path / "wan.ckpt")
    assert main(["convert", str(tmp_path / "wan.ckpt"), "-o", "out"]) == 2
    assert "--lora-alpha" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "wan.ckpt"), "-o", "w.safetensors", "--lora-alpha", "128"]) == 0
    assert equal(ml.load_adapter("w.safetensors"), moved(wan))


@pytest.mark.usefixtures("tiny_bases")
def test_convert_motion_lora(unet: Any, tmp_path: Path) -> None:
    """Official and diffusers' names give the same adapter, whose product is not scaled."""
    temporal = {key: value for key, value in moved(unet).state_dict().items() if "motion_modules" in key}
    official = {k: v for k, v in official_unet(moved(unet)).items() if "motion_modules" in k}
    diffusers = {"unet." + key: value for key, value in temporal.items()}
    for name, tensors in (("official", official), ("diffusers", diffusers)):
        torch.save(tensors, tmp_path / f"{name}.ckpt")
        adapter = ml.load_adapter(ml.convert(tmp_path / f"{name}.ckpt", tmp_path)["path"])
        assert adapter.state_dict().keys() == temporal.keys()
        assert adapter.settings.temporal is not None and adapter.settings.temporal.alpha == 32
        with ml.mounted(unet, [(adapter, 1.0)]):
            predict(unet, latents_for(unet))


@pytest.mark.parametrize("content", ["unknown", "text", "missing"])
def test_convert_refuses(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.pt"
    if content == "unknown":
        torch.save({"a.weight": torch.zeros(2)}, source)
    elif content == "text":
        source.write_text("hello")
    assert main(["convert", str(source), "-o", "out"]) == 2
    said = capsys.readouterr().err
    assert "x.pt" in said and "Traceback" not in said and not Path("out").exists()


# --- the hub ------------------------------------------------------------------------------------------------


class FakeHub:
    """Keeps what is uploaded in a dict; `down` makes every call fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.down = folder, {}, False

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        if self.down:
            raise OSError("no route to host")

    def upload_file(self, *, path_or_fileobj: Any, path_in_repo: str, repo_id: str) -> Any:
        content = (
            path_or_fileobj if isinstance(path_or_fileobj, bytes) else Path(path_or_fileobj).read_bytes()
        )
        self.files[path_in_repo] = content
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def hf_hub_download(self, repository: str, file_name: str, revision: str | None) -> str:
        if self.down:
            raise OSError("no route to host")
        (self.folder / file_name).write_bytes(self.files[file_name])
        return str(self.folder / file_name)


def test_push_and_pull(saved: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path)
    assert push_adapter(saved, "me/waterfall", api=hub) == "https://hub/me/waterfall/commit/1"
    assert b"# waterfall" in hub.files["README.md"]
    assert equal(ml.load_adapter(pull_adapter("me/waterfall", api=hub)), ml.load_adapter(saved))
    hub.down = True
    for act in (lambda: push_adapter(saved, "me/x", api=hub), lambda: pull_adapter("me/x", api=hub)):
        with pytest.raises(ResourceError, match="no route to host"):
            act()
    saved.write_bytes(b"damaged")
    with pytest.raises(WeightsError):
        push_adapter(saved, "me/x", api=hub)


def test_metadata_tells_what_tensors_cannot(unet: Any) -> None:
    metadata = metadata_of(moved(unet, masked=True))
    assert json.loads(metadata["motionloom.config"])["masks"]["image_guidance"] is True
    assert len(json.loads(metadata["motionloom.base"])["fingerprint"]) == 16
