"""What an exported generator of the small model knows of the clips: their headings and their speeds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motionloom.codecs.linear_motion import LinearMotion
from motionloom.conditions.words import INDEX
from motionloom.datasets.motion_windows import FLOW_CELLS, SIZE_PX, Window
from motionloom.motion.speeds import LEVELS
from motionloom.training.mini_stages import MiniGenerator
from motionloom.weights import save_weights
from motionloom.zoo import load_generator

SLOW, FAST, HELD_OUT = 0.05, 0.1, 0.3  # how far the scene goes right, frame units


def window_cache(cache: Path) -> None:
    """Two windows of clouds that drift, one of clouds that is held out, one without a word; and a core that keeps drifts."""
    tau = np.linspace(0, 1, 16, dtype=np.float32)[:, None, None]
    flow = np.zeros((4, 16, FLOW_CELLS, FLOW_CELLS, 2), np.float16)
    for window, distance in zip(flow, (SLOW, FAST, HELD_OUT, HELD_OUT), strict=True):
        window[..., 0] = -tau * distance  # the flow looks back
    (cache / "windows").mkdir(parents=True)
    np.save(cache / "windows/stream.npy", flow)
    np.save(cache / "windows/frames.npy", np.full((4, 16, SIZE_PX, SIZE_PX, 3), 90, np.uint8))
    common: dict[str, Any] = {"start": 0, "step": 1.0, "box": (0, 0, SIZE_PX), "flip": False}
    told = (("clouds", ""), ("clouds", ""), ("clouds", "clip"), ("", ""))
    index = [asdict(Window(f"clip{n}", word, part, **common)) for n, (word, part) in enumerate(told)]  # type: ignore[arg-type]
    (cache / "windows/index.json").write_text(json.dumps(index))

    core = LinearMotion(flow_modes=2, light_modes=1)
    core.flow_basis[0] = torch.nn.functional.normalize(torch.linspace(0, 1, 16), dim=0)
    save_weights(cache / "linear_core.safetensors", dict(core.state_dict()))


def test_an_exported_generator_knows_how_fast_and_where_to_the_clips_move(tmp_path: Path) -> None:
    window_cache(tmp_path)
    stage = MiniGenerator.model_validate(
        {
            "kind": "mini-generator", "synthetic": 0, "real": 2, "flow_modes": 2, "light_modes": 1, "base": 16,
            "multipliers": [1, 1, 1], "content_channels": 8,
            "material": {"photos": "none", "clips": "none", "cache": str(tmp_path)},
        }
    )  # fmt: skip
    torch.manual_seed(0)
    stage.objective(None).export(tmp_path)  # type: ignore[arg-type]
    generator = load_generator(tmp_path / "generator.safetensors")

    made, real = generator.speeds[INDEX["clouds"]]
    half = LEVELS // 2
    assert torch.allclose(real[:half], torch.tensor(SLOW), rtol=2e-3)  # one window's places, then the other's
    assert torch.allclose(real[half + 1 :], torch.tensor(FAST), rtol=2e-3)
    assert bool((made.diff() >= 0).all()) and made[-1] > made[0] > 0
    coherence, right, down = generator.headings[INDEX["clouds"]].unbind(-1)
    assert torch.allclose(coherence, torch.tensor(1.0), atol=1e-2) and not down.any()
    assert set(right.tolist()) == {-1.0, 1.0}  # mirrored half of the time
    for word, index in INDEX.items():
        if word != "clouds":
            assert not generator.speeds[index].any() and bool(
                (generator.headings[index, :, 0] == -1).all()
            ), word
