"""The networks against the released ones on the same random weights, and how weights are found and converted.

`tests/parity/metric_networks/reference.json` holds what torchvision's `raft_large` (3 updates), pytorch-fid's Inception,
the I3D of the VideoGPT line (cd-fvd's copy) and the lpips package gave on weights and inputs of `making.stream`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from motionloom.errors import ConfigError, InputError, WeightsError
from motionloom.metrics.networks.amt import AMT
from motionloom.metrics.networks.c3d import C3D, prepared
from motionloom.metrics.networks.convert import add_weights
from motionloom.metrics.networks.i3d import I3D
from motionloom.metrics.networks.inception import Inception
from motionloom.metrics.networks.lpips import load_lpips
from motionloom.metrics.networks.musiq import MUSIQ, cut, hashed_positions, scales
from motionloom.metrics.networks.raft import RAFT
from motionloom.metrics.networks.table import NETWORKS, Networks
from motionloom.weights import load_weights, save_weights
from tests.metrics.making import filled, stream

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "parity" / "metric_networks" / "reference.json").read_text("utf-8")
)


def drawn(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(stream(name).random(shape)).float()


@torch.no_grad()
def test_raft_is_torchvisions() -> None:
    expected = REFERENCE["raft"]
    first = F.interpolate(drawn("a", 1, 3, 16, 17), (128, 136), mode="bicubic").clamp(0, 1) * 2 - 1
    flow = filled(RAFT())(first, torch.roll(first, (3, 2), (2, 3)), expected["updates"])
    assert float(flow.abs().mean()) == pytest.approx(expected["mean_abs"], rel=1e-3)
    found = [float(flow[0, c, i, j]) for c, i, j in ((0, 10, 20), (1, 64, 64), (0, 100, 130))]
    assert found == pytest.approx(expected["at"], rel=1e-2)


@torch.no_grad()
def test_inception_is_pytorch_fids() -> None:
    expected = REFERENCE["inception"]
    small = F.interpolate(drawn("p", 2, 3, 20, 20), (75, 90), mode="bicubic").clamp(0, 1)
    pictures = F.interpolate(small, (299, 299), mode="bilinear") * 2 - 1
    features = filled(Inception())(pictures)
    assert float(features[0].mean()) == pytest.approx(expected["mean"], rel=0.03)
    assert [float(features[0, i]) for i in (0, 100, 2047)] == pytest.approx(
        expected["at"], rel=1e-3, abs=1e-5
    )
    assert [float(features[1, i]) for i in (0, 100, 2047)] == pytest.approx(
        expected["second"], rel=1e-3, abs=1e-5
    )


@torch.no_grad()
def test_i3d_is_videogpts_with_its_epsilon_and_not_without() -> None:
    expected = REFERENCE["i3d"]
    clip = F.interpolate(drawn("v", 1, 3, 11, 14, 14), (11, 224, 224), mode="trilinear") * 2 - 1
    network = filled(I3D())
    port = network.with_norm_eps(1e-5)  # type: ignore[operator]
    logits = port(clip)
    assert float(logits.mean()) == pytest.approx(expected["mean"], abs=1e-4)
    assert [float(logits[0, i]) for i in (0, 200, 399)] == pytest.approx(expected["at"], abs=1e-4)
    assert float(logits[0, 0]) != pytest.approx(expected["reversed_at_0"], abs=1e-2)  # time matters
    assert network.Conv3d_1a_7x7.bn.eps == 1e-3 and port.Conv3d_1a_7x7.bn.eps == 1e-5
    assert port.Conv3d_1a_7x7.conv3d.weight is network.Conv3d_1a_7x7.conv3d.weight


@torch.no_grad()
def test_lpips_is_the_packages(tmp_path: Path) -> None:
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    trunk = torch.nn.ModuleDict(
        {
            "features": torch.nn.ModuleDict(
                {
                    str(k): torch.nn.Conv2d(i, o, 3)
                    for k, i, o in zip(places, (3, *widths[:-1]), widths, strict=True)
                }
            )
        }
    )
    heads = {
        f"lin{i}.model.1.weight": drawn(f"lin{i}", 1, width, 1, 1) * 0.1
        for i, width in enumerate((64, 128, 256, 512, 512))
    }
    lpips = load_lpips(
        save_weights(tmp_path / "lpips.safetensors", {**filled(trunk).state_dict(), **heads})
    ).eval()
    a, b = (drawn(name, 1, 3, 40, 48) * 2 - 1 for name in ("l1", "l2"))
    assert float(lpips(a, b)) == pytest.approx(REFERENCE["lpips"]["distance"], rel=1e-4)
    assert float(lpips(a, a)) == 0


@torch.no_grad()
def test_musiq_is_the_ports() -> None:
    expected = REFERENCE["musiq"]
    network = filled(MUSIQ(num_blocks=expected["num_blocks"]))
    picture = F.interpolate(drawn("musiq", 1, 3, 12, 20), (96, 150), mode="bicubic").clamp(0, 1)
    assert float(network(picture)) == pytest.approx(expected["score"], abs=1e-4)
    assert float(network(picture.flip(3) * 0.7)) == pytest.approx(expected["mirrored_and_darker"], abs=1e-4)
    assert float(network(picture[..., :70])) == pytest.approx(expected["tall"], abs=1e-4)
    both = network(torch.cat([picture, picture * 0.7]))
    assert both.tolist() == pytest.approx([float(network(picture)), float(network(picture * 0.7))], abs=1e-4)


def test_musiq_sees_every_pixel_once_a_scale() -> None:
    picture = drawn("cut", 2, 3, 70, 40)
    assert [tuple(scaled.shape[2:]) for scaled in scales(picture)] == [(224, 128), (384, 219), (70, 40)]
    patches = cut(picture)
    assert patches.shape == (2, 3 * 2, 3, 32, 32)
    assert float(patches.sum()) == pytest.approx(float(picture.sum()), rel=1e-5)
    # 26 rows and 24 columns are missing: 13 and 12 before; the patch below the first begins with row 19
    assert torch.equal(patches[1, 0, :, 13:, 12:], picture[1, :, :19, :20])
    assert torch.equal(patches[1, 2, :, :, 12:], picture[1, :, 19:51, :20])
    assert hashed_positions(1, 20).tolist() == [k // 2 for k in range(20)]
    assert hashed_positions(20, 2).tolist() == [k // 2 * 10 + j for k in range(20) for j in (0, 5)]


@torch.no_grad()
def test_amt_is_the_releases() -> None:
    expected, network = REFERENCE["amt"], filled(AMT())
    for value in network.state_dict().values():
        if value.ndim > 1:
            value.mul_(expected["weights_times"])
    first = F.interpolate(drawn("amt-first", 1, 3, 12, 14), (120, 150), mode="bicubic").clamp(0, 1)
    second = torch.roll(first, (3, -4), (2, 3))
    middle = network(first, second)
    assert float(middle.mean()) == pytest.approx(expected["mean"], abs=1e-5)
    assert float(middle.std()) == pytest.approx(expected["std"], abs=1e-5)
    for channel, row, column, value in expected["at"]:
        assert float(middle[0, channel, row, column]) == pytest.approx(value, abs=1e-4)
    for update in (network.update4, network.update3, network.update2):  # what is found in each search counts
        weight = update.convc1.weight.clone()
        update.convc1.weight.zero_()
        assert float((network(first, second) - middle).abs().mean()) > 0.005
        update.convc1.weight.copy_(weight)


@torch.no_grad()
def test_amt_finds_a_still_frame_and_refuses_small_ones() -> None:
    """With decoders that say nothing, masks are halves and flows zero: the mean of both frames."""
    network = filled(AMT())
    for module in (network.decoder4, network.decoder3, network.decoder2, network.decoder1):
        module.convblock[2].weight.zero_(), module.convblock[2].bias.zero_()
    for layer in (
        network.comb_block[2],
        *(u.flow_head[2] for u in (network.update4, network.update3, network.update2)),
    ):
        layer.weight.zero_(), layer.bias.zero_()
    first, second = drawn("still", 1, 3, 113, 140), drawn("other", 1, 3, 113, 140)
    assert torch.allclose(network(first, second), (first + second) / 2, atol=1e-4)
    with pytest.raises(InputError, match="AMT-S needs sides of more than 112 px"):
        network(first[..., :112, :], second[..., :112, :])


def test_c3d_prepares_clips_as_its_release() -> None:
    """BGR, times 128, aligned corners, plus 128 minus the mean's crop; and the layers fit each other."""
    mean = drawn("mean", 3, 16, 128, 171) * 100
    clip = drawn("clip", 1, 3, 16, 112, 112) * 2 - 1
    expected = clip.flip(1) * 128 + 128 - mean[:, :, 8:120, 8:120]
    assert torch.allclose(prepared(clip, mean), expected, atol=1e-3)
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 16, 64, 64)
    assert prepared(ramp, mean * 0)[0, 0, 0, 0, [0, -1]].tolist() == pytest.approx(
        [0, 256]
    )  # corners on corners
    with torch.device("meta"):
        assert C3D()(torch.zeros(2, 3, 16, 64, 64)).shape == (2, 101)


def test_parameters_are_as_many_as_published() -> None:
    count = lambda module: sum(parameter.numel() for parameter in module.parameters())  # noqa: E731
    assert count(RAFT()) == 5_257_536
    assert count(Inception()) == 23_850_960
    assert count(I3D()) == 12_697_264
    assert count(MUSIQ()) == 27_125_825
    assert count(AMT()) == 2_990_543


# --- finding and converting


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    networks = Networks(tmp_path)
    with pytest.raises(WeightsError, match=r"raft_large_C_T_V1.*--add-weights raft=FILE"):
        networks.load("raft")
    with pytest.raises(WeightsError, match="hf download facebook/dino-vitb16"):
        networks.load("dino-vitb16")
    with pytest.raises(WeightsError, match="--accept-nc"):
        networks.load("amt-s")
    with pytest.raises(WeightsError, match=r"amt-s\.pth.*--add-weights amt-s=FILE"):
        Networks(tmp_path, accept_nc=True).load("amt-s")
    with pytest.raises(WeightsError, match="--plugin cotracker2=package.module:callable, which takes"):
        Networks(tmp_path, accept_nc=True).call("cotracker2")
    with pytest.raises(ConfigError, match="'raft' is no network of a plug-in.*dreamsim"):
        Networks(tmp_path, plugins={"raft": "theirs:raft"})


def test_a_plugin_is_called_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_tracker.py").write_text("def track(video, grid):\n    return video * grid\n")
    monkeypatch.syspath_prepend(tmp_path)
    networks = Networks(tmp_path, accept_nc=True, plugins={"cotracker2": "their_tracker:track"})
    assert networks.call("cotracker2")(2.0, 3) == 6
    assert len(networks.used["cotracker2"].sha256) == 64
    with pytest.raises(ConfigError, match="cannot use the plug-in"):
        Networks(tmp_path, accept_nc=True, plugins={"cotracker2": "their_tracker:nothing"}).call("cotracker2")
    sys.modules.pop("their_tracker", None)


def test_amt_is_read_from_its_training_checkpoint(tmp_path: Path) -> None:
    file, tensors = tmp_path / "amt-s.pth", AMT().state_dict()
    torch.save({"state_dict": tensors, "epoch": 300}, file)
    add_weights("amt-s", file, tmp_path)
    loaded = Networks(tmp_path, accept_nc=True).load("amt-s")
    assert torch.equal(loaded.update4.convc1.weight, tensors["update4.convc1.weight"])
    torch.save(tensors, file)
    with pytest.raises(WeightsError, match="more than tensors"):
        add_weights("amt-s", file, tmp_path)


def test_convert_checks_hash_keys_and_kind(tmp_path: Path) -> None:
    head = tmp_path / "sa_0_4_vit_l_14_linear.pth"
    torch.save({"weight": torch.ones(1, 768), "bias": torch.zeros(1)}, head)
    written = add_weights("laion-aesthetic", head, tmp_path / "weights")
    _, metadata = load_weights(written)
    assert metadata["official_file"] == head.name and len(metadata["official_sha256"]) == 64
    loaded = Networks(tmp_path / "weights").load("laion-aesthetic")
    assert torch.equal(loaded.weight, torch.ones(1, 768))
    with pytest.raises(WeightsError, match="begins with 22a6c225"):
        add_weights("raft", head, tmp_path)
    torch.save({"weight": torch.ones(1, 768)}, head)
    with pytest.raises(WeightsError, match="1 missing"):
        add_weights("laion-aesthetic", head, tmp_path)
    head.write_bytes(b"not a pickle")
    with pytest.raises(WeightsError, match="no plain file of tensors"):
        add_weights("laion-aesthetic", head, tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        add_weights("laion-aesthetic", tmp_path / "nowhere.pth", tmp_path)
    with pytest.raises(ConfigError, match="hf download facebook/dino-vitb16"):
        add_weights("dino-vitb16", head, tmp_path)


def test_c3d_is_read_from_chainers_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from motionloom.metrics.networks import convert

    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **{"conv1a/W": np.ones((2, 2)), "conv1a/b": np.zeros(2)})
    np.savez(tmp_path / "mean2.npz", mean=np.ones((1, 3, 16, 128, 171)))
    tensors = convert._read_c3d(tmp_path / "conv3d_deepnetA_ucf.npz")
    assert set(tensors) == {"conv1a.weight", "conv1a.bias", "mean"} and tensors["mean"].shape == (
        3,
        16,
        128,
        171,
    )


def test_every_network_says_its_licence() -> None:
    for name, row in NETWORKS.items():
        assert row.code_licence and row.weights_licence and row.origin, name
        assert bool(row.home) != bool(row.plugin), name
        if row.home:
            module, _, attribute = row.home.partition(":")
            assert callable(getattr(_imported(module), attribute)), name


def _imported(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(name)
