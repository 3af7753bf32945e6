"""The codec of the small model: a linear motion latent, fused with the photo by warping it at its own size.

    latents ── LinearMotion ──> camera path, local flow, light      coarse grid
    photo, warped coarsely ──── FusionNet ──> flow, mask, residual  fine grid (4 x)
    photo at native size ────── warp, light, mask, residual ──> frames

Deviation of ours from LaMD, which fuses by concatenating features (`MotionContentAutoencoder`): appearance stays sharp at
any size because every frame is the photo itself, moved. What a flow cannot do, the network adds: a correction of the flow
along edges, a mask that fades details which cannot be known, and a residual for what appears or changes colour.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionloom.codecs.base import Codec
from motionloom.codecs.fusion_net import FusionNet
from motionloom.codecs.linear_motion import LIGHT_OFFSET, LinearMotion, MotionField
from motionloom.codecs.run import Once, Run, Times
from motionloom.errors import InputError
from motionloom.motion.camera_path import displacement, fit_rates, keep_shapes
from motionloom.motion.grid import latent_grid, places, resize_maps
from motionloom.motion.sharpness import as_sharp_as, sharpness
from motionloom.motion.warp import outside, warp

FINE = 4  # FusionNet's places per place of the latent grid


@dataclass(frozen=True)
class Where:
    """Where each kind of motion may happen, 0..1: a motion that was not asked for at a place does not occur there.

    Attributes:
        rigid: (R, H, W), one map for each region a camera moves; R may be 0. In each the camera's field is
            made exactly affine.
        local: (H, W), where things move by themselves.
        light: (H, W), where brightness may change.
        paint: (H, W), where the fusion network may correct, fade and add: where things appear or change colour.
    """

    rigid: Tensor
    local: Tensor
    light: Tensor
    paint: Tensor

    @classmethod
    def everywhere(cls, height: int, width: int) -> Where:
        one = torch.ones(height, width)
        return cls(one[None], one, one, one)

    def at(self, height: int, width: int) -> Where:
        """The same maps on a grid of another size."""
        maps = torch.cat([self.rigid, torch.stack([self.local, self.light, self.paint])])
        *rigid, local, light, paint = resize_maps(maps[None], height, width, "bilinear")[0]
        return Where(
            torch.stack(rigid) if rigid else self.rigid.new_zeros(0, height, width), local, light, paint
        )


class WarpCodec(Codec, nn.Module):
    """See the top of the file.

    Args:
        motion: the linear core.
        width: channels of the fusion network's finest level.
    """

    def __init__(self, motion: LinearMotion | None = None, width: int = 24) -> None:
        nn.Module.__init__(self)
        self.motion = motion or LinearMotion()
        self.fusion = FusionNet(self.motion.channels, width)
        self.width = width

    def latent_shape(self, num_frames: int, height_px: int, width_px: int) -> tuple[int, ...]:
        """(d, h, w): about 256 square places, whatever the number of frames."""
        return (self.motion.channels, *latent_grid(height_px, width_px))

    def encode(self, frames: Tensor) -> Tensor:
        """Clips => latents, with the flow measured by OpenCV (extra `metrics`); everything counts as local motion.

        Args:
            frames: (B, 3, T, H, W), -1..1.

        Raises:
            InputError: T is not the number of frames the modes were fitted at.
        """
        from motionloom.datasets.motion_windows import backward_flow

        if frames.shape[2] != self.motion.num_frames:
            raise InputError(
                f"got a clip of {frames.shape[2]} frames, expected {self.motion.num_frames}",
                fix="resample the clip in time first",
            )
        fields = []
        h, w = self.latent_shape(*frames.shape[2:])[1:]
        for clip in frames:
            pictures = ((clip.permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
            flow = torch.from_numpy(backward_flow(pictures, 2 * h, 2 * w))
            fields.append(field_of_clip(clip, flow, h, w))
        field = MotionField(
            *(torch.cat(parts) for parts in zip(*((f.camera, f.local, f.light) for f in fields), strict=True))
        )
        return self.motion.encode(field)

    def decode(
        self,
        latents: Tensor,
        first_frame: Tensor,
        num_frames: int | None = None,
        where: Where | None = None,
        run: Run | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Latents and a photo of any size => frames.

        Args:
            latents: (1, d, h, w).
            first_frame: (1, 3, H, W), -1..1.
            num_frames: T; the same motion at another frame rate.
            where: see `Where`; default everywhere.
            run: how the motion runs along the clip; default `Once`: frame 0 is the photo, bit for bit.
            progress: called with (frames done, frames in all).

        Returns:
            (1, 3, T, H, W), -1..1.
        """
        count = num_frames or self.motion.num_frames
        run, where = run or Once(), where or Where.everywhere(*latents.shape[-2:])
        plan = self.plan(latents, first_frame, run.times(count), where)
        target = sharpness(first_frame)
        draw_moment = partial(self.frame, plan, first_frame)
        frames = first_frame.new_empty(1, 3, count, *first_frame.shape[-2:])
        frames[:, :, 0] = first_frame
        for index in range(1, count):
            frames[:, :, index] = as_sharp_as(run.frame(draw_moment, index, count), target).clamp(-1, 1)
            if progress is not None:
                progress(index + 1, count)
        return frames

    @torch.no_grad()
    def safe_view(
        self, latents: Tensor, first_frame: Tensor, num_frames: int, where: Where, run: Run
    ) -> tuple[int, int, int, int]:
        """The largest middle part of the frame that never shows what lies beyond the photo.

        Returns:
            (top, left, height, width) in pixels, even sizes.
        """
        plan = self.plan(latents, first_frame, run.times(num_frames), where)
        height, width = first_frame.shape[-2:]
        rows, columns = 8 * latents.shape[-2], 8 * latents.shape[-1]
        lost = torch.cat(
            [outside(self.flow(plan, index, rows, columns)) for index in range(len(plan.tau))]
        ).amax((0, 1))
        for margin in range(min(rows, columns) // 2 - 1):
            inside = lost[margin : rows - margin, margin : columns - margin]
            if not inside.any():
                break
        top, left = round(height * margin / rows), round(width * margin / columns)
        return top, left, (height - 2 * top) // 2 * 2, (width - 2 * left) // 2 * 2

    @torch.no_grad()
    def plan(self, latents: Tensor, first_frame: Tensor, times: Times, where: Where) -> Plan:
        """The motion of every frame, ready to be drawn: one photo."""
        field = self.motion.decode(latents.float(), times.resolution)
        rates = _rigid(field.camera[0], where)
        back = times.from_end[:, None, None]
        local = field.local[0][times.local] - back[..., None] * field.local[0][-1:]
        light = field.light[0][times.local] - back * field.light[0][-1:]
        fine = (latents.shape[-2] * FINE, latents.shape[-1] * FINE)
        photo = resize_maps(first_frame.float(), *fine).expand(len(local), -1, -1, -1)
        at_fine = where.at(*fine)
        flow = _flow(rates, times.camera, local, at_fine)  # (T, h, w, 2)
        light = resize_maps(light[:, None], *fine)[:, 0] * at_fine.light
        drawn = brighten(warp(photo, flow, "bilinear"), light)
        told = latents.float().expand(len(local), -1, -1, -1)
        correction, keep, residual = self.fusion(photo, drawn, flow, light, times.elapsed, told)
        # the network acts where it may paint, and where the camera finds nothing in the photo
        active = F.max_pool2d(outside(flow), 3, 1, 1).maximum(at_fine.paint)
        keep, residual = 1 - (1 - keep) * active, residual * active
        return Plan(times.camera, rates, local, correction * at_fine.paint, light, keep, residual, where)

    def flow(self, plan: Plan, index: int, height: int, width: int) -> Tensor:
        """Backward flow of one frame at any size: (1, H, W, 2), frame units."""
        at_size = plan.where.at(height, width)
        local = resize_maps(plan.correction[index : index + 1], height, width, "bilinear")
        local = local + resize_maps(plan.local[index : index + 1], height, width) * at_size.local
        return _camera(plan.rates, plan.tau[index : index + 1], height, width, at_size) + local.permute(
            0, 2, 3, 1
        )

    def frame(self, plan: Plan, photo: Tensor, index: int) -> Tensor:
        """One frame at the photo's own size: (1, 3, H, W)."""
        height, width = photo.shape[-2:]
        light = resize_maps(plan.light[index : index + 1, None], height, width, "bilinear")[:, 0]
        moved = draw(photo, self.flow(plan, index, height, width), light)
        return fuse(moved, plan.keep[index : index + 1], plan.residual[index : index + 1])


@dataclass(frozen=True)
class Plan:
    """Everything the frames of one clip are drawn from: N moments, a coarse (h, w) and a fine grid (4 h, 4 w).

    Attributes:
        tau: (N,), of the camera path.
        rates: (R, 2, 3), the camera path in each rigid region.
        local: (N, 2, h, w), frame units.
        correction: (N, 2, 4h, 4w), the network's correction of the flow, frame units.
        light: (N, 4h, 4w), logarithm of the gain.
        keep: (N, 1, 4h, 4w), 0..1, how much of the photo's detail is kept.
        residual: (N, 3, 4h, 4w), what is added, on the scale of pixels -1..1.
        where: see `Where`.
    """

    tau: Tensor
    rates: Tensor
    local: Tensor
    correction: Tensor
    light: Tensor
    keep: Tensor
    residual: Tensor
    where: Where


def draw(photo: Tensor, flow: Tensor, light: Tensor) -> Tensor:
    """The photo, moved and lit: (N, 3, H, W), (N, H, W, 2), (N, H, W) => (N, 3, H, W)."""
    moved = warp(photo, flow)
    return brighten(moved, light)


def brighten(pixels: Tensor, light: Tensor) -> Tensor:
    """Pixels -1..1 with the gain exp(light) on value + offset, value = (pixel + 1) / 2."""
    lift = 1 + 2 * LIGHT_OFFSET
    return (pixels + lift) * light.exp()[:, None] - lift


def fuse(moved: Tensor, keep: Tensor, residual: Tensor) -> Tensor:
    """Low band of the moved photo + residual, and its details where they are kept.

    Args:
        moved: (N, 3, H, W), the photo moved at full size.
        keep: (N, 1, h, w), 0..1, and residual: (N, 3, h, w), on the fine grid.
    """
    height, width = moved.shape[-2:]
    low = resize_maps(resize_maps(moved, *keep.shape[-2:]), height, width, "bilinear")
    keep = resize_maps(keep, height, width, "bilinear")
    return low + resize_maps(residual, height, width, "bilinear") + keep * (moved - low)


def field_of_clip(clip: Tensor, flow: Tensor, h: int, w: int) -> MotionField:
    """Measured flow and the change of light it leaves, on the latent grid; everything counts as local.

    Args:
        clip: (3, T, H, W), -1..1.
        flow: (T, a, b, 2) backward flow, frame units, on a grid of at least (h, w).
    """
    fine = flow.shape[1:3]
    value = (clip.mean(0) + 1) / 2  # (T, H, W), grey
    value = resize_maps(value[:, None], *fine)
    moved = warp(value[:1].expand(len(value), -1, -1, -1), flow, "bilinear")
    light = ((value + LIGHT_OFFSET) / (moved + LIGHT_OFFSET)).clamp_min(1e-3).log().clamp(-1.2, 1.2)
    local = resize_maps(flow.permute(0, 3, 1, 2), h, w)
    return MotionField(torch.zeros(1, 2, h, w), local[None], resize_maps(light, h, w)[None, :, 0])


def _rigid(camera: Tensor, where: Where) -> Tensor:
    """The path nearest to the camera field in each rigid region that keeps shapes (pan, zoom, turn): (R, 2, 3)."""
    h, w = camera.shape[-2:]
    regions = where.at(h, w).rigid
    xy = places(h, w)
    paths = [torch.zeros(0, 2, 3)]
    for region in regions:
        field = (camera / region.clamp_min(0.05)).permute(1, 2, 0)
        paths.append(keep_shapes(fit_rates(field, xy, (region - 0.3).clamp_min(1e-4) ** 2))[None])
    return torch.cat(paths)


def _camera(rates: Tensor, tau: Tensor, height: int, width: int, where: Where) -> Tensor:
    """Flow of the camera paths, each in its region: (T, H, W, 2)."""
    xy = places(height, width)
    flow = torch.zeros(len(tau), height, width, 2)
    for path, region in zip(rates, where.rigid, strict=True):
        flow = flow + region[None, ..., None] * displacement(path, tau, xy)
    return flow


def _flow(rates: Tensor, tau: Tensor, local: Tensor, where: Where) -> Tensor:
    """Camera and local flow on a grid: (T, h, w, 2)."""
    height, width = where.local.shape
    moved = resize_maps(local, height, width) * where.local
    return _camera(rates, tau, height, width, where) + moved.permute(0, 2, 3, 1)
