"""What LaMD costs and does (arXiv 2304.11603): python benchmarks/lamd.py CASE ...

    cost                       Tab. 11: operations of sampling, LaMD and its peers, 16 to 128 frames; no weights, no data
    cost --measure             the same at a small size with random weights: operations beside seconds on this machine
    transfer CLIPS PHOTOS      does a photo follow a clip's flow and keep its own looks? a still source: is it still?

How good trained models are: benchmarks/lamd_quality.py. Every case prints JSON. Operations count a multiply-add as two
(torch.utils.flop_counter), on the meta device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.baselines.picture_decoder import PictureDecoder
from benchmarks.baselines.video_unet import VideoUNet
from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder
from motionloom.denoisers.base import MotionCondition
from motionloom.denoisers.motion_unet import MotionUNet, MotionUNetConfig

FRAMES = (16, 32, 64, 128)
STEPS = 200
TEXT_TOKENS = 77
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Size:
    """Of every network compared: width of the denoiser, width of the codec, pixels of a side."""

    unet_base: int = 192
    codec_base: int = 128
    side_px: int = 128

    @property
    def side(self) -> int:
        """Places of the latent grid."""
        return self.side_px // 4

    @property
    def unet(self) -> MotionUNetConfig:
        return MotionUNetConfig(base=self.unet_base, context_width=4 * self.codec_base)

    @property
    def joined(self) -> MotionUNetConfig:
        """Its condition, a first frame, joined to the input; no tokens."""
        return replace(self.unet, context_width=None, in_channels=6)


PAPER, SMALL = Size(), Size(unet_base=32, codec_base=16, side_px=64)


@dataclass(frozen=True)
class Model:
    """One way to make a clip: a denoiser step and what turns its latents into frames.

    Attributes:
        parameters: of all its networks.
        step, decode: one call each.
    """

    parameters: int
    step: Run
    decode: Run


def lamd(size: Size, frames: int, thin_tail: bool = False) -> Model:
    config = MCDVAEConfig(
        num_frames=frames,
        size_px=(size.side_px, size.side_px),
        motion_base=size.codec_base // 2,
        content_base=size.codec_base,
        thin_tail=thin_tail,
        blocks_before_tail=2 if thin_tail else 0,
    )
    codec, unet = _ready(MotionContentAutoencoder(config)), _ready(MotionUNet(size.unet))
    z, photo = torch.zeros(1, 3, size.side, size.side), torch.zeros(1, 3, size.side_px, size.side_px)
    told = MotionCondition(torch.zeros(1, size.side**2 + TEXT_TOKENS, 4 * size.codec_base))
    return Model(
        _parameters(codec, unet), lambda: unet(z, torch.zeros(1), told), lambda: codec.decode(z, photo)
    )


def latent_image(size: Size, frames: int) -> Model:
    """One picture, told by text alone, whatever `frames` says."""
    decoder, unet = _ready(PictureDecoder(size.codec_base)), _ready(MotionUNet(size.unet))
    z = torch.zeros(1, 3, size.side, size.side)
    told = MotionCondition(torch.zeros(1, TEXT_TOKENS, 4 * size.codec_base))
    return Model(_parameters(decoder, unet), lambda: unet(z, torch.zeros(1), told), lambda: decoder(z))


def latent_video(size: Size, frames: int, time_ratio: int = 1) -> Model:
    """Every frame's latent, or, with a video autoencoder, a quarter of them."""
    decoder, unet = _ready(PictureDecoder(size.codec_base)), _ready(VideoUNet(size.joined))
    z = torch.zeros(1, 6, frames // time_ratio, size.side, size.side)
    pictures = torch.zeros(frames, 3, size.side, size.side)
    return Model(_parameters(decoder, unet), lambda: unet(z, torch.zeros(1)), lambda: decoder(pictures))


def pixel_video(size: Size, frames: int) -> Model:
    """Frames themselves; attention over places at the coarsest level alone, where it can be afforded."""
    unet = _ready(VideoUNet(replace(size.joined, attention_levels=(2,))))
    x = torch.zeros(1, 6, frames, size.side_px, size.side_px)
    return Model(_parameters(unet), lambda: unet(x, torch.zeros(1)), lambda: x[:, :3])


MODELS: dict[str, Callable[[Size, int], Model]] = {
    "LaMD": lamd,
    "LaMD, thin tail": lambda size, frames: lamd(size, frames, thin_tail=True),
    "latent image diffusion (one picture)": latent_image,
    "latent video diffusion": latent_video,
    "latent video diffusion, time / 4": lambda size, frames: latent_video(size, frames, 4),
    "pixel video diffusion": pixel_video,
}


@torch.no_grad()
def cost(size: Size = PAPER) -> dict[str, Any]:
    """Operations of a step, of decoding and of a clip in 200 steps, for every model and number of frames."""
    rows: dict[str, Any] = {}
    for name, build in MODELS.items():
        rows[name] = {}
        for frames in FRAMES:
            with torch.device("meta"):
                model = build(size, frames)
                step, decode = _operations(model.step), _operations(model.decode)
            total = STEPS * step + decode
            rows[name][frames] = {
                "parameters": model.parameters,
                "step_gflop": step / 1e9,
                "decode_tflop": decode / 1e12,
                "total_tflop": total / 1e12,
            }
    return {"size": vars(size), "steps": STEPS, "models": rows, "claims": _claims(rows)}


def _claims(rows: dict[str, Any]) -> dict[str, Any]:
    """What the table is asked."""
    thin, full = rows["LaMD, thin tail"], rows["LaMD"]
    at_128 = thin[128]["total_tflop"]
    return {
        "generator_step_independent_of_frames": len({row["step_gflop"] for row in full.values()}) == 1,
        "thin_tail_128_over_16": at_128 / thin[16]["total_tflop"],
        "full_tail_128_over_16": full[128]["total_tflop"] / full[16]["total_tflop"],
        "cheaper_at_128": {
            name: {
                "thin_tail": row[128]["total_tflop"] / at_128,
                "full_tail": row[128]["total_tflop"] / full[128]["total_tflop"],
            }
            for name, row in rows.items()
            if "video" in name
        },
    }


@torch.no_grad()
def measured(size: Size = SMALL) -> dict[str, Any]:
    """Processor seconds of a step and of decoding here, beside their operations: the median of three, or of fewer long ones.

    Not by the clock, which other load on the machine stretches; with one thread the two are the same on an idle one.
    """
    counted = cost(size)
    for name, build in MODELS.items():
        for frames in FRAMES:
            model, row = build(size, frames), counted["models"][name][frames]
            row["step_s"], row["decode_s"] = _seconds(model.step), _seconds(model.decode)
            row["total_s"] = STEPS * row["step_s"] + row["decode_s"]
    return counted | {"threads": torch.get_num_threads()}


def _operations(call: Run) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _seconds(call: Run) -> float:
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < 1.0:
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def _ready(model: Any) -> Any:
    return model.eval().requires_grad_(False)


def _parameters(*models: nn.Module) -> int:
    return sum(parameter.numel() for model in models for parameter in model.parameters())


# --- motion transfer --------------------------------------------------------------------------------------------


def transferred(clips: Path, photos: Path, name: str, limit: int) -> dict[str, Any]:
    """Each clip's motion on a photo, clips and photos paired in order.

    flow_correlation: of the flow fields (all frames, 32 x 32 places) of source and result, matched by DIS against frame 0;
    1 is the same motion. looks_of_photo: distance of the result's mean colours (8 x 8) to the source's, over that plus the
    distance to the photo's: 1 looks like the photo, 0 like the source. still_change: the largest change of a pixel, of 255,
    in a transfer from the source's first frame held still.
    """
    import motionloom as ml
    from motionloom.video.clip import Clip

    base, rows = ml.load_base(name), []
    pictures = sorted(photos.glob("*.jpg")) + sorted(photos.glob("*.png"))
    for number, path in enumerate(_spread(sorted(clips.glob("*/*.mp4")), limit)):
        source = ml.read_clip(path)
        span = min(base.num_frames, int((source.num_frames - 1) / source.fps * base.fps) + 1)
        if span < base.num_frames:
            rows.append({"clip": path.name, "refused": f"{source.num_frames / source.fps:.2f} s"})
            continue
        picture = pictures[number * len(pictures) // limit % len(pictures)]
        options = {} if base.native_size_px else {"size": "384x256"}
        moved = ml.transfer(base, source, picture, **options)
        shown = _as_shown(source, moved, base.num_frames, base.fps)
        still = Clip(np.repeat(source.frames[:1], source.num_frames, 0), source.fps)
        held = ml.transfer(base, still, picture, **options).frames.astype(int)
        rows.append(
            {
                "clip": path.name,
                "photo": picture.name,
                "flow_correlation": _correlation(_flow(shown), _flow(moved.frames)),
                "looks_of_photo": _looks(shown, moved.frames),
                "still_change": int(np.abs(held - held[:1]).max()),
            }
        )
    done = [row for row in rows if "refused" not in row]
    keys = ("flow_correlation", "looks_of_photo", "still_change")
    summary = {
        key: {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}
        for key in keys
        if (values := [row[key] for row in done])
    }
    return {"base": name, "clips": len(done), "refused": len(rows) - len(done), **summary, "rows": rows}


def _as_shown(source: Any, moved: Any, count: int, fps: float) -> npt.NDArray[np.uint8]:
    """The part of the source that was transferred, cropped to the result's shape and size."""
    from motionloom.video.resize import resize

    numbers = np.round(np.arange(count) / fps * source.fps).astype(int)
    return resize(source.frames[numbers], moved.width_px, moved.height_px, "crop")


def _flow(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    from motionloom.datasets.motion_windows import backward_flow

    return backward_flow(frames)[1:]


def _correlation(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Uncentred: the cosine between two fields, so that a common pan counts."""
    return float((one * other).sum() / max(1e-12, np.sqrt((one**2).sum() * (other**2).sum())))


def _looks(source: npt.NDArray[np.uint8], moved: npt.NDArray[np.uint8]) -> float:
    colours = [
        torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(f).permute(0, 3, 1, 2).float(), 8)
        for f in (source, moved)
    ]
    to_source = float((colours[1] - colours[0]).abs().mean())
    to_photo = float((colours[1] - colours[1][:1]).abs().mean())
    return to_source / max(1e-9, to_source + to_photo)


def _spread(paths: list[Path], limit: int) -> list[Path]:
    return [paths[index * len(paths) // limit] for index in range(min(limit, len(paths)))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=("cost", "transfer"))
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--measure", action="store_true", help="of cost: seconds too, at a small size")
    parser.add_argument("--base", default="mini", help="of transfer")
    parser.add_argument("--limit", type=int, default=12, help="clips or photos")
    parser.add_argument("-o", "--out", type=Path)
    told = parser.parse_args()
    if len(told.paths) != (0 if told.case == "cost" else 2):
        parser.error("cost takes no paths, transfer two, see above")
    if told.case == "cost":
        found = measured() if told.measure else cost()
    else:
        found = transferred(*told.paths, told.base, told.limit)
    text = json.dumps(found, indent=1)
    print(text)
    if told.out:
        told.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
