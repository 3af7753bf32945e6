"""Terms of the autoencoder's loss: reconstruction, bottleneck, adversary. Each choice is an object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionloom.codecs.base import Gaussian
from motionloom.weights import load_strictly, load_weights

# ---- pixels


def moving_places(frames: Tensor, threshold: float = 0.15) -> Tensor:
    """(B, 3, T, H, W), -1..1 -> (B, 1, T, H, W) bool: where some channel differs from frame 0 by more than `threshold`."""
    return (frames - frames[:, :, :1]).abs().amax(dim=1, keepdim=True) > threshold


@dataclass(frozen=True)
class PixelError:
    """w (|d| + l2 d^2), d = x_hat - x, w = 1 + moving [x_t differs from x_0], scaled to a mean of 1.

    The paper's is L1, the default. Ours: where two small things move before a still table, the median of what a place shows
    is the table, and L1 alone teaches to copy; squares see the mean, and weights make what moves count.

    Attributes:
        l2: weight of the squared error.
        moving: added to the weight of values in `moving_places`.
    """

    l2: float = 0.0
    moving: float = 0.0

    def __call__(self, reconstruction: Tensor, frames: Tensor) -> Tensor:
        """(B, 3, T, H, W) twice, -1..1 -> a scalar."""
        difference = reconstruction - frames
        error = difference.abs()
        if self.l2:
            error = error + self.l2 * difference.square()
        if self.moving:
            error = error * self._weights(frames)
        return error.mean()

    def _weights(self, frames: Tensor) -> Tensor:
        """(B, 1, T, H, W), of mean 1."""
        weights = 1 + self.moving * moving_places(frames).to(frames)
        return weights / weights.mean()


# ---- perceptual distance


class Perceptual(Protocol):
    """A distance between pictures that is closer to sight than L1.

    Attributes:
        name: what the log calls it.
    """

    name: ClassVar[str]

    def __call__(self, pictures: Tensor, targets: Tensor) -> Tensor:
        """(N, 3, H, W) twice, -1..1 -> a scalar, 0 for equal pictures."""
        ...


class GradientSSIM(nn.Module):
    """Mean difference of image gradients plus (1 - SSIM) / 2: needs no weights."""

    name: ClassVar[str] = "gradient_ssim"

    def forward(self, pictures: Tensor, targets: Tensor) -> Tensor:
        difference = pictures - targets
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        return edges + (1 - ssim(pictures, targets)) / 2


def ssim(a: Tensor, b: Tensor, window_px: int = 7) -> Tensor:
    """Structural similarity (Wang et al. 2004) with a square window, of (N, 3, H, W) in -1..1: a scalar."""
    window_px = min(window_px, *a.shape[-2:])
    mean_a, mean_b, aa, bb, ab = (
        F.avg_pool2d(x.float(), window_px, stride=1) for x in (a, b, a * a, b * b, a * b)
    )
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the range of values is 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * (ab - mean_a * mean_b) + c2) / ((aa - mean_a**2) + (bb - mean_b**2) + c2)
    return (luminance * structure).mean()


class LPIPS(nn.Module):
    """LPIPS with VGG16 (arXiv 1801.03924), from a local weights file.

    Args:
        path: safetensors with torchvision's VGG16 names, `features.{0..28}.weight|bias`, and the linear heads
            of the lpips package, `lin{0..4}.model.1.weight`.

    Raises:
        WeightsError: if the file is damaged or its names or shapes differ.
    """

    name: ClassVar[str] = "lpips_vgg16"
    STAGES: ClassVar[tuple[tuple[int, int], ...]] = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
    shift: Tensor
    scale: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.features = nn.Sequential()
        width = 3
        for stage, (convolutions, stage_width) in enumerate(self.STAGES):
            if stage > 0:
                self.features.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                self.features.extend([nn.Conv2d(width, stage_width, 3, padding=1), nn.ReLU()])
                width = stage_width
            self.add_module(f"lin{stage}", LinearHead(stage_width))
        tensors, _ = load_weights(path)
        load_strictly(self, tensors, path)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, pictures: Tensor, targets: Tensor) -> Tensor:
        both = (torch.cat([pictures, targets]) - self.shift) / self.scale
        distance = both.new_zeros(())
        for stage, features in enumerate(self._stages(both)):
            a, b = (features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + 1e-10)).chunk(2)
            weighted = self.get_submodule(f"lin{stage}")((a - b).square())
            distance = distance + weighted.mean()
        return distance

    def _stages(self, x: Tensor) -> list[Tensor]:
        """The last activation of every stage: relu1_2, 2_2, 3_3, 4_3, 5_3."""
        stages: list[Tensor] = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                stages.append(x)
            x = layer(x)
        return [*stages, x]


class LinearHead(nn.Module):
    """A learned weight per channel, under the name the published weights have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = self.model(x)
        return weighted


# ---- the bottleneck


class KLTerm(Protocol):
    """How strongly the posterior is drawn to N(0, I)."""

    def __call__(self, posterior: Gaussian, values_per_clip: int) -> tuple[Tensor, dict[str, float]]:
        """One value of the term, to be added to a reconstruction error in mean reduction.

        Args:
            posterior: q(z~|x).
            values_per_clip: N_pix = 3 T H W, the number of values the reconstruction's mean runs over.

        Returns:
            The scalar term, and numbers to log, `kl_nats_per_dim` among them: accept a run at 0.5 to 3.
        """
        ...


def kl_sum_over_pixels(posterior: Gaussian, values_per_clip: int) -> Tensor:
    """(N_lat / N_pix) mean KL: the KL of sum/sum reduction, for a reconstruction in mean reduction.

    rec_sum + beta KL_sum = N_pix (rec_mean + beta (N_lat / N_pix) KL_mean).
    """
    latents_per_clip = posterior.mean[0].numel()
    return posterior.kl().mean() * (latents_per_clip / values_per_clip)


@dataclass(frozen=True)
class BetaKL:
    """beta KL in sum/sum reduction, as latent diffusion has it; the paper's beta is 1e-2 (MUG 1e-1)."""

    beta: float = 1e-2

    def __call__(self, posterior: Gaussian, values_per_clip: int) -> tuple[Tensor, dict[str, float]]:
        numbers = {"kl_nats_per_dim": float(posterior.kl().detach().mean())}
        return self.beta * kl_sum_over_pixels(posterior, values_per_clip), numbers


@dataclass(frozen=True)
class MeanBetaKL:
    """beta KL in mean/mean reduction: the same beta is 256 to 512 times stronger than with `BetaKL`."""

    beta: float = 1e-2

    def __call__(self, posterior: Gaussian, values_per_clip: int) -> tuple[Tensor, dict[str, float]]:
        kl = posterior.kl().mean()
        return self.beta * kl, {"kl_nats_per_dim": float(kl.detach())}


class TargetKL(nn.Module):
    """Chooses beta itself: a PI controller that holds KL at a target.

    log beta = log beta_0 + k_p e + k_i sum(e), e = log(KL / target). Its state is part of checkpoints.

    Args:
        nats_per_dim: the target.
        initial_beta: beta_0, in the sense of `BetaKL`.
        proportional: k_p.
        integral: k_i, per step.
    """

    error_sum: Tensor

    def __init__(
        self,
        nats_per_dim: float,
        initial_beta: float = 1e-2,
        proportional: float = 0.1,
        integral: float = 1e-3,
    ) -> None:
        super().__init__()
        self.nats_per_dim, self.initial_beta = nats_per_dim, initial_beta
        self.proportional, self.integral = proportional, integral
        self.register_buffer("error_sum", torch.zeros(()))

    def forward(self, posterior: Gaussian, values_per_clip: int) -> tuple[Tensor, dict[str, float]]:
        kl = float(posterior.kl().detach().mean())
        error = max(-5.0, min(5.0, math.log(max(kl, 1e-8) / self.nats_per_dim)))
        limit = 20.0 / self.integral  # beta stays within a factor e^20: no wind-up
        self.error_sum.add_(error).clamp_(-limit, limit)
        correction = self.proportional * error + self.integral * float(self.error_sum)
        beta = self.initial_beta * math.exp(correction)
        return beta * kl_sum_over_pixels(posterior, values_per_clip), {"kl_nats_per_dim": kl, "beta": beta}


# ---- the adversary


class GANForm(Protocol):
    """The two sides of an adversarial game on patch logits."""

    def generator(self, fake: Tensor) -> Tensor:
        """What the generator minimises."""
        ...

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimises."""
        ...


@dataclass(frozen=True)
class Hinge:
    """-D(x_hat), against max(0, 1 - D(x)) + max(0, 1 + D(x_hat)), halved as in latent diffusion."""

    def generator(self, fake: Tensor) -> Tensor:
        return -fake.mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


@dataclass(frozen=True)
class NonSaturating:
    """softplus(-D(x_hat)), against softplus(-D(x)) + softplus(D(x_hat)), halved."""

    def generator(self, fake: Tensor) -> Tensor:
        return F.softplus(-fake).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """lambda = ||grad_W L_rec|| / (||grad_W L_G|| + 1e-4), in [0, 1e4], detached (arXiv 2012.09841).

    Args:
        reconstruction: L_rec, the scalar reconstruction error without KL.
        adversarial: L_G, the generator's scalar adversarial loss.
        last_weight: W, the weight of the decoder's last convolution.

    Gradients of mean losses are tiny; scaled by a power of two they stay in the range of fp16, and change no bit in fp32.
    """
    rec_norm, gan_norm = (
        torch.linalg.vector_norm(
            torch.autograd.grad(2**10 * loss, last_weight, retain_graph=True)[0].float() / 2**10
        )
        for loss in (reconstruction, adversarial)
    )
    weight: Tensor = rec_norm / (gan_norm + 1e-4)
    return weight.clamp(0.0, 1e4).detach()
