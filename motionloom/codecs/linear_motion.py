"""The linear motion latent: what moves in a clip, as a few numbers per place, with time compressed away.

LaMD's motion latent z_m (h, w, d) carries motion and no appearance. This one is linear, so that it is exact about
what it keeps and decodes at any frame rate:

    camera   2 channels   where the camera path takes each place by the end of the clip
    local    2 k channels coefficients of k temporal modes of the rest of the flow, for x and for y
    light    g channels   coefficients of g temporal modes of the logarithm of the brightness gain

Modes are uncentred principal components over real and synthetic clips (specification, section 13): zero is stillness.
They are shared by x and y, so mirroring a clip mirrors its latent. Channels are divided by their size over the clips
in which they occur (z-normalisation "std").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CAMERA_CHANNELS = 2
LIGHT_OFFSET = 0.1  # brightness gain acts on value + offset, so that black can light up
VISIBLE_FLOW = 0.004  # frame units: a pixel of a picture of 256 x 256
VISIBLE_LIGHT = 0.04  # of the logarithm of the gain: four percent


@dataclass(frozen=True)
class MotionField:
    """The motion of a clip on a coarse grid.

    Attributes:
        camera: (B, 2, h, w) displacement at the end of the clip, backward, frame units.
        local: (B, T, 2, h, w) the rest of the backward flow, frame units.
        light: (B, T, h, w) log((value + offset) / (warped value + offset)), values in 0..1.
    """

    camera: Tensor
    local: Tensor
    light: Tensor


class LinearMotion(nn.Module):
    """Motion fields <=> motion latents.

    Args:
        flow_modes: k, temporal modes of the local flow.
        light_modes: g, temporal modes of the brightness gain.
        num_frames: T at which the modes are stored; other T are interpolated.
    """

    flow_basis: Tensor
    light_basis: Tensor
    scale: Tensor

    def __init__(self, flow_modes: int = 6, light_modes: int = 3, num_frames: int = 16) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.flow_modes, self.light_modes = flow_modes, light_modes
        self.register_buffer("flow_basis", torch.zeros(flow_modes, num_frames))
        self.register_buffer("light_basis", torch.zeros(light_modes, num_frames))
        self.register_buffer("scale", torch.ones(self.channels))

    @property
    def channels(self) -> int:
        """d of the latent."""
        return CAMERA_CHANNELS + 2 * self.flow_modes + self.light_modes

    def encode(self, field: MotionField) -> Tensor:
        """(B, ...) => (B, d, h, w), unit scale."""
        local = torch.einsum("kt,btchw->bkchw", self.flow_basis, field.local).flatten(1, 2)
        light = torch.einsum("gt,bthw->bghw", self.light_basis, field.light)
        return torch.cat([field.camera, local, light], 1) / self.scale[:, None, None]

    def decode(self, latents: Tensor, num_frames: int | None = None) -> MotionField:
        """(B, d, h, w) => the field at `num_frames` frames (default: as stored)."""
        sizes = [CAMERA_CHANNELS, 2 * self.flow_modes, self.light_modes]
        camera, local, light = torch.split(latents * self.scale[:, None, None], sizes, 1)
        count = num_frames or self.num_frames
        return MotionField(
            camera,
            torch.einsum(
                "kt,bkchw->btchw", at_rate(self.flow_basis, count), torch.unflatten(local, 1, (-1, 2))
            ),
            torch.einsum("gt,bghw->bthw", at_rate(self.light_basis, count), light),
        )

    def with_local_toward(self, latents: Tensor, direction: tuple[float, float], region: Tensor) -> Tensor:
        """Latents (B, d, h, w) whose local flow is turned as a whole, so that inside a region (h, w), 0..1, the scene's mean
        displacement at the end points in a direction (right, down); where it stands still nothing turns.
        """
        end = -self.decode(latents).local[:, -1]  # (B, 2, h, w), of the scene
        right, down = (end * region).mean((2, 3)).unbind(1)
        angle = torch.atan2(torch.tensor(direction[1]), torch.tensor(direction[0])) - torch.atan2(down, right)
        cos, sin = angle.cos()[:, None, None, None], angle.sin()[:, None, None, None]
        first, last = CAMERA_CHANNELS, CAMERA_CHANNELS + 2 * self.flow_modes
        scale = self.scale[first:last, None, None]
        x, y = torch.unflatten(latents[:, first:last] * scale, 1, (-1, 2)).unbind(2)  # (B, k, h, w)
        turned = torch.stack([cos * x - sin * y, sin * x + cos * y], 2).flatten(1, 2) / scale
        out = latents.clone()
        out[:, first:last] = torch.lerp(latents[:, first:last], turned, region)
        return out

    def with_local_scaled(self, latents: Tensor, factor: Tensor) -> Tensor:
        """Latents (B, d, h, w) whose local flow is multiplied with a factor (B, h, w) at every place."""
        first, last = CAMERA_CHANNELS, CAMERA_CHANNELS + 2 * self.flow_modes
        scaled = latents.clone()
        scaled[:, first:last] *= factor[:, None]
        return scaled

    def activity(self, latents: Tensor) -> Tensor:
        """Where latents (B, d, h, w) move or light anything: (B, h, w), 0 where they do not, 1 from a visible amount on."""
        field = self.decode(latents)
        furthest = field.local.norm(dim=2).amax(1) + field.camera.norm(dim=1)
        lit = field.light.abs().amax(1)
        active: Tensor = (furthest / VISIBLE_FLOW + lit / VISIBLE_LIGHT).clamp(0, 1)
        return active

    @torch.no_grad()
    def fit(self, local: Tensor, light: Tensor, camera: Tensor) -> dict[str, float]:
        """Principal components and scales from fields (N, T, 2, h, w), (N, T, h, w), (N, 2, h, w).

        Returns:
            the share of the energy the modes keep.
        """
        rows = local.permute(0, 2, 3, 4, 1).reshape(-1, self.num_frames)
        self.flow_basis, kept_flow = _components(rows, self.flow_modes)
        rows = light.permute(0, 2, 3, 1).reshape(-1, self.num_frames)
        self.light_basis, kept_light = _components(rows, self.light_modes)
        self.scale = torch.ones_like(self.scale)
        latents = self.encode(MotionField(camera, local, light))
        self.scale = _size_where_active(latents)
        return {"flow_energy": kept_flow, "light_energy": kept_light}


def at_rate(basis: Tensor, num_frames: int) -> Tensor:
    """Modes (k, T) at another number of frames over the same span of time; the first frame stays at zero."""
    if basis.shape[-1] == num_frames:
        return basis
    return F.interpolate(basis[None], num_frames, mode="linear", align_corners=True)[0]


def _components(rows: Tensor, count: int) -> tuple[Tensor, float]:
    """Leading uncentred principal components of rows (N, T), signed so that they end above zero."""
    gram = rows.double().T @ rows.double()
    energy, vectors = torch.linalg.eigh(gram)
    basis = vectors.flip(-1)[:, :count].T
    basis = basis * torch.where(basis.sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return basis.float(), float(energy.flip(0)[:count].sum() / energy.sum().clamp_min(1e-12))


def _size_where_active(latents: Tensor) -> Tensor:
    """Root mean square of each channel over the clips whose channel is not nearly still."""
    size = latents.square().mean((2, 3)).sqrt()  # (N, d)
    active = size > 0.1 * size.max(0, keepdim=True).values.clamp_min(1e-12)
    return ((size.square() * active).sum(0) / active.sum(0).clamp_min(1)).sqrt().clamp_min(1e-6)
