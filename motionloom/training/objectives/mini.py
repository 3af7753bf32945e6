"""What trains the small model: its fusion decoder, then its generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionloom.codecs.linear_motion import LinearMotion
from motionloom.codecs.warp_codec import FINE, WarpCodec, brighten, fuse
from motionloom.denoisers.map_generator import MapGenerator
from motionloom.motion.colours import flow_colours
from motionloom.motion.grid import resize_maps
from motionloom.motion.warp import warp
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import rectified_flow

LATENT_NOISE = 0.05  # the decoder learns to live with the generator's errors


class MiniDecoderObjective:
    """L1 on pixels and on their gradients between true frames and the photo warped, masked and corrected.

    The linear core is fitted beforehand and fixed; only `WarpCodec.fusion` learns. A fresh fusion network changes nothing,
    so training starts at the linear core's own quality.
    """

    def __init__(self, codec: WarpCodec) -> None:
        self.codec = codec
        self.networks: dict[str, nn.Module] = {"codec": codec}
        self.ema_networks: tuple[str, ...] = ("codec",)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"decoder": list(self.codec.fusion.parameters())}

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """Batch: photo (B, 3, H, W), frames (B, N, 3, H, W), index (B, N), camera (B, N, 64, 64, 2), latents
        (B, d, h, w).
        """
        latents = batch["latents"]
        noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
        drawn, moved, correction, keep = self.draw(batch, latents + LATENT_NOISE * noise)
        target = batch["frames"].flatten(0, 1)
        error = (drawn - target).abs().mean()
        edges = sum((d - t).abs().mean() for d, t in zip(_edges(drawn), _edges(target), strict=True))
        cost = 0.02 * (1 - keep).mean() + 0.5 * correction.abs().mean()
        with torch.no_grad():
            gain = _decibel(drawn, target) - _decibel(moved, target)
        logs = {"l1": error.item(), "db_over_warp": gain.item(), "faded": (1 - keep).mean().item()}
        yield "decoder", error + 0.5 * edges + cost, logs

    def draw(self, batch: dict[str, Tensor], latents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames (B N, 3, H, W) as `WarpCodec` draws them, those without the network, the correction and the mask."""
        motion, index = self.codec.motion, batch["index"]
        count = index.shape[1]
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            field = motion.decode(latents.float())
            rows = torch.arange(len(index))[:, None]
            local = field.local[rows, index].flatten(0, 1)  # (B N, 2, h, w)
            light = field.light[rows, index].flatten(0, 1)
            fine_h, fine_w = latents.shape[-2] * FINE, latents.shape[-1] * FINE
            flow = batch["camera"].flatten(0, 1) + resize_maps(local, fine_h, fine_w).permute(0, 2, 3, 1)
            light = resize_maps(light[:, None], fine_h, fine_w)[:, 0]
            photo = batch["photo"].repeat_interleave(count, 0)
            small = resize_maps(photo, fine_h, fine_w)
            coarse = brighten(warp(small, flow, "bilinear"), light)
            tau = (index.flatten() / (motion.num_frames - 1)).float()
        told = latents.repeat_interleave(count, 0)
        correction, keep, residual = self.codec.fusion(small, coarse, flow, light, tau, told)
        with torch.autocast(latents.device.type, enabled=False):
            height, width = photo.shape[-2:]
            full = resize_maps((flow.permute(0, 3, 1, 2) + correction), height, width, "bilinear").permute(
                0, 2, 3, 1
            )
            bright = resize_maps(light[:, None], height, width, "bilinear")[:, 0]
            drawn = fuse(brighten(warp(photo, full, "bilinear"), bright), keep, residual)
            with torch.no_grad():
                still = resize_maps(flow.permute(0, 3, 1, 2), height, width, "bilinear").permute(0, 2, 3, 1)
                moved = brighten(warp(photo, still, "bilinear"), bright)
        return drawn, moved, correction, keep

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8] | None:
        """Photo, true frame and drawn frame side by side, one row a sample."""
        with torch.no_grad():
            drawn = torch.unflatten(self.draw(batch, batch["latents"])[0], 0, batch["index"].shape)
        rows = torch.cat(
            [batch["photo"][:, None].expand_as(drawn), batch["frames"], drawn], -1
        )  # (B, N, 3, H, 3 W)
        grid = rows[:4].permute(1, 2, 0, 3, 4).flatten(2, 3)  # (N, 3, B H, 3 W)
        return _pictures(grid)

    def export(self, folder: Path) -> None:
        from motionloom.zoo import save_codec

        save_codec(self.codec, folder / "codec.safetensors")


class MiniGeneratorObjective:
    """Rectified flow on motion latents: predict noise - latents at logit-normal times."""

    def __init__(
        self,
        generator: MapGenerator,
        motion: LinearMotion,
        finish: Callable[[MapGenerator], None] = lambda generator: None,
    ) -> None:
        """`finish` measures what the exported generator carries beside its weights."""
        self.generator, self.motion, self.finish = generator, motion, finish
        self.networks: dict[str, nn.Module] = {"generator": generator}
        self.ema_networks: tuple[str, ...] = ("generator",)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"generator": list(self.generator.parameters())}

    def losses(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor, dict[str, float]]]:
        """Batch: photo (B, 3, 8 h, 8 w), map (B, K, h, w), offset (B, 2), latents (B, d, h, w)."""
        latents = batch["latents"]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device).to(latents)

        time = torch.sigmoid(
            0.7 + 1.3 * normal(len(latents))
        )  # more noise than signal: the motion is decided there
        noise = normal(*latents.shape)
        at = time[:, None, None, None]
        h, w = latents.shape[-2:]
        told = self.generator.tell(batch["photo"], h, w, batch["offset"])
        condition = told.with_map(batch["map"])
        predicted = self.generator((1 - at) * latents + at * noise, 1000 * time, condition)
        error = (predicted.float() - (noise - latents)).square()
        rigid = error[
            :, :2
        ].mean()  # two camera channels of many: counted apart, or they would be learned last
        yield (
            "generator",
            error.mean() + 0.5 * rigid,
            {"mse": error.mean().item(), "mse_camera": rigid.item()},
        )

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> npt.NDArray[np.uint8] | None:
        """Photo, true flow and generated flow as colours, one row a sample."""
        photo, latents = batch["photo"][:8], batch["latents"][:8]
        h, w = latents.shape[-2:]
        noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
        with torch.no_grad():
            told = self.generator.tell(photo, h, w, batch["offset"][:8]).with_map(batch["map"][:8])
            made = sample(self.generator, rectified_flow(), noise, told, 10, None)
        flows = [self._colours(z, photo.shape[-1]) for z in (latents, made)]  # each (B, T, 3, H, W)
        rows = torch.cat([photo[:, None].expand_as(flows[0]), *flows], -1)
        return _pictures(rows.permute(1, 2, 0, 3, 4).flatten(2, 3))

    def _colours(self, latents: Tensor, side_px: int) -> Tensor:
        """(B, d, h, w) => (B, T, 3, side, side), -1..1."""
        field = self.motion.decode(latents.float().cpu())
        tau = torch.linspace(0, 1, self.motion.num_frames)[:, None, None, None]
        flow = field.camera[:, None] * tau + field.local  # (B, T, 2, h, w)
        colours = flow_colours(flow.permute(0, 1, 3, 4, 2), 0.15).permute(0, 1, 4, 2, 3)
        big = resize_maps(colours.flatten(0, 1), side_px, side_px, "bilinear")
        return torch.unflatten(big, 0, flow.shape[:2]).to(latents) * 2 - 1

    def export(self, folder: Path) -> None:
        from motionloom.zoo import save_generator

        self.finish(self.generator)
        save_generator(self.generator, folder / "generator.safetensors")


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def _decibel(x: Tensor, target: Tensor) -> Tensor:
    """Mean PSNR of pixels -1..1."""
    return (
        -10 * torch.log10(F.mse_loss(x, target, reduction="none").mean((1, 2, 3)).clamp_min(1e-8) / 4).mean()
    )


def _pictures(frames: Tensor) -> npt.NDArray[np.uint8]:
    """(N, 3, H, W), -1..1 => uint8 (N, H, W, 3)."""
    out: npt.NDArray[np.uint8] = (
        ((frames.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    )
    return out
