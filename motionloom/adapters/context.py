"""What side branches know of the call they run in: one context for every mounted host.

Processors of a host's attentions see token rows and nothing else. The context is filled when the host is called (shape
of the latents), while it runs (time embedding), and by the sampler between calls (progress, masks).

    context = context_of(host)           inside `mounted`
    context.at(0.25)                     a quarter of the denoising steps is done; None reads it from the timestep
    context.show_masks(s)                confidences of the subjects bias the next calls; None forgets them
    with context.with_masks(): host(...) the call carries the mask frames behind the video's; without it, video alone
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from motionloom.adapters import attention_bias as biases
from motionloom.adapters.adapter import Adapter
from motionloom.adapters.layout import network_of
from motionloom.adapters.motion_weight import MotionWeight, weights_at
from motionloom.adapters.settings import Masks
from motionloom.errors import ConfigError, InputError

log = logging.getLogger("motionloom")
TRAIN_TIMESTEPS = 1000.0
Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Mounted:
    """One adapter as mounted. `stream` is the number (1..K) of its mask modality; 0 when it has none."""

    adapter: Adapter
    weight: MotionWeight
    stream: int


@dataclass(eq=False)
class Call:
    """One call of the host.

    Attributes:
        batch: B, samples. modalities: M, 1 for video alone, 1 + K with masks. frames: F, of each modality.
        grids: the token grids layers may have, the latent's own first.
        progress: of denoising, 0..1, of every sample alike.
        device, dtype: of the latents.
        time_embedding: (B, M or 1, E), set while the host runs.
    """

    batch: int
    modalities: int
    frames: int
    grids: list[Grid]
    progress: float
    device: torch.device
    dtype: torch.dtype
    time_embedding: Tensor | None = None
    weights: dict[tuple[int, Grid], Tensor] = field(default_factory=dict)

    def grid(self, tokens: int) -> Grid:
        """The (height, width) of a layer with so many tokens a frame."""
        for height, width in self.grids:
            if height * width == tokens:
                return height, width
        raise AssertionError(f"{tokens} tokens a frame fit none of {self.grids}")

    def split(self, rows: Tensor) -> Tensor:
        """(B M F, N, C) or (B M, F N, C) => (B, M, F, N, C)."""
        return rows.reshape(self.batch, self.modalities, self.frames, -1, rows.shape[-1])


class MotionContext:
    """The running state of one mounted host. See the module's docstring for its use."""

    def __init__(self, mounted: list[Mounted], modalities_axis: int = 2, normalise: bool = False) -> None:
        self.mounted = mounted
        self.normalise = normalise
        self.modalities_axis = modalities_axis  # of (B, C, F, h, w): where masks are stacked behind the video
        self.num_masked = sum(one.stream > 0 for one in mounted)
        self._call: Call | None = None
        self._progress: float | None = None
        self._with_masks = False
        self._masks: Tensor | None = None  # (B or 1, K, F, h, w)
        self._biases: dict[Any, Tensor] = {}

    # --- what the sampler says ------------------------------------------------------------------------------

    def at(self, progress: float | None) -> None:
        """Say how much of the denoising is done (0 first step, 1 last); None: read it from the timestep, as 1 - t/1000."""
        if progress is not None and not 0 <= progress <= 1:
            raise ConfigError(f"got the progress {progress}, expected 0..1", fix="give step / (steps - 1)")
        self._progress = progress

    def show_masks(self, confidences: Tensor | None) -> None:
        """Bias the next calls by the subjects' masks, until others are shown; None forgets them.

        Args:
            confidences: (K, F, h, w) or (B, K, F, h, w), 0..1, on any grid, one mask for each masked adapter in
                mounting order. Biases are computed once for each layer grid and kept until the next masks.

        Raises:
            InputError: a wrong number of masks, or values outside 0..1.
            ConfigError: no masked adapter is mounted.
        """
        self._biases = {}
        if confidences is None:
            self._masks = None
            return
        if not self.num_masked:
            raise ConfigError(
                "masks were given, but no mounted adapter is masked", fix="mount an M-MIVA adapter"
            )
        shown = confidences[None] if confidences.ndim == 4 else confidences
        outside = not shown.is_meta and (shown.min() < 0 or shown.max() > 1)
        if shown.ndim != 5 or shown.shape[1] != self.num_masked or outside:
            raise InputError(
                f"got masks of shape {tuple(confidences.shape)}, expected ({self.num_masked}, frames, h, w) in 0..1",
                fix="give one mask for each masked adapter",
            )
        self._masks = shown.detach().float()

    @contextmanager
    def with_masks(self) -> Iterator[None]:
        """Calls inside carry the K mask modalities behind the video: a U-Net's on the frame axis, (B, C, (1 + K) F, h, w),
        a DiT's on the batch axis, (B (1 + K), C, F, h, w) with a sample's modalities next to each other. Outside, calls
        carry the video alone; the masks shown last bias either.
        """
        before, self._with_masks = self._with_masks, True
        try:
            yield
        finally:
            self._with_masks = before

    @property
    def modalities(self) -> int:
        """M of the next call: 1, or 1 + K inside `with_masks`."""
        return 1 + self.num_masked * self._with_masks

    # --- what the host says ---------------------------------------------------------------------------------

    def begin(self, call: Call) -> None:
        """Start a call. Weights are worked out here for every grid, so that compiled layers see tensors, not progress."""
        for grid in call.grids:
            weights = weights_at(
                [one.weight for one in self.mounted], call.progress, call.frames, grid, self.normalise
            )
            for index, value in enumerate(weights):
                spread = value if value.shape[1:] == (1, 1) else value.expand(-1, *grid)
                call.weights[index, grid] = spread.flatten(1).to(call.device, call.dtype)
        self._call = call

    @property
    def call(self) -> Call:
        assert self._call is not None, "an adapted layer ran outside a call of its host"
        return self._call

    def keeping_call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, run later as if in the present call: what gradient checkpointing recomputes belongs to the call
        that is differentiated, not to the latest one.
        """
        call, masks, cached = self._call, self._masks, self._biases

        def run(*args: Any, **kwargs: Any) -> Any:
            now = self._call, self._masks, self._biases
            self._call, self._masks, self._biases = call, masks, cached
            try:
                return function(*args, **kwargs)
            finally:
                self._call, self._masks, self._biases = now

        return run

    # --- what layers ask ------------------------------------------------------------------------------------

    def time_embedding(self, modality: int) -> Tensor:
        """(B, E) of a modality."""
        embedding = self.call.time_embedding
        assert embedding is not None, "the time embedding was not seen before the first adapted layer"
        return embedding[:, min(modality, embedding.shape[1] - 1)]

    def weight(self, index: int, grid: Grid, like: Tensor) -> Tensor:
        """(F or 1, n or 1): the weight of a mounted adapter at a layer's grid."""
        return self.call.weights[index, grid].to(like.dtype)

    def plain(self, index: int) -> bool:
        """Whether the weight of a mounted adapter is 1 everywhere and always."""
        return self.mounted[index].weight.is_one and not self.normalise

    @property
    def base_fills(self) -> bool:
        """Whether some weight is more than a number; then a base's temporal attention fills up places where the weights sum
        to less than 1.
        """
        return any(one.weight.varies for one in self.mounted)

    def progress_at(self, timestep: Tensor) -> float:
        """What `at` said last, else 1 - t/1000 of the (mean) timestep; only read where a weight depends on it."""
        if self._progress is not None or all(one.weight.over_steps is None for one in self.mounted):
            return self._progress or 0.0
        return min(max(1 - float(timestep.float().mean()) / TRAIN_TIMESTEPS, 0.0), 1.0)

    @property
    def masks(self) -> Tensor | None:
        """The masks shown, (B or 1, K, F, h, w)."""
        return self._masks

    @property
    def masks_shown(self) -> bool:
        return self._masks is not None

    def subject(self, one: Mounted) -> Tensor:
        """(B or 1, F, h, w): the confidence of what an adapter moves: its own mask, or for a vanilla adapter among masked
        ones the background 1[M = 0].
        """
        assert self._masks is not None
        if one.stream:
            return self._masks[:, one.stream - 1]
        return (biases.owners(self._masks, self._mask_settings.background_score) == 0).float()

    def settings_for(self, one: Mounted) -> Masks:
        """The mask settings of an adapter; a vanilla one takes those of the first masked one."""
        return one.adapter.settings.masks or self._mask_settings

    @property
    def _mask_settings(self) -> Masks:
        return next(m for one in self.mounted if (m := one.adapter.settings.masks) is not None)

    @property
    def joint_temporal(self) -> bool:
        """Whether motion modules read frames and masks as one sequence."""
        return self.num_masked > 0 and self._mask_settings.temporal == "joint"

    def bias(self, key: Any, make: Callable[[], Tensor], like: Tensor) -> Tensor:
        """A bias, computed once for the masks shown."""
        if key not in self._biases:
            self._biases[key] = make().to(like.device, like.dtype)
        return self._biases[key]

    def cross_frame_bias(self, index: int, grid: Grid, like: Tensor) -> Tensor | None:
        """(B or 1, F, n, 2n) for the video branch of a mounted adapter; None without masks."""
        if not self.masks_shown:
            return None
        one = self.mounted[index]
        return self.bias(
            ("cfa", index, grid),
            lambda: biases.cross_frame_bias(self.subject(one), grid, self.settings_for(one)),
            like,
        )

    def base_bias(self, grid: Grid, like: Tensor, whole_clip: bool) -> Tensor | None:
        """For the base's self-attention of the video: (B or 1, F, n, n), or (B or 1, F n, F n) over a whole clip. One mask
        biases softly (Eq. 3); several are layered first (S5, S6). None without masks.
        """
        if not self.masks_shown:
            return None
        return self.bias(("self", whole_clip, grid), lambda: self._base_bias(grid, whole_clip), like)

    def _base_bias(self, grid: Grid, whole_clip: bool) -> Tensor:
        assert self._masks is not None
        settings = self._mask_settings
        if self.num_masked == 1:
            s = self._masks[:, 0]
            return (
                biases.clip_bias(s, grid, settings.pooling)
                if whole_clip
                else biases.self_bias(s, grid, settings)
            )
        pooled = torch.stack(
            [biases.to_grid(s, grid, settings.pooling) for s in self._masks.unbind(1)], dim=1
        )
        owner = biases.owners(pooled, settings.background_score)
        owner = owner.flatten(1) if whole_clip else owner.flatten(2)
        return biases.layered_bias(owner, owner)

    def temporal_bias(self, index: int, grid: Grid, like: Tensor) -> Tensor | None:
        """(B or 1, n, F, F) for the temporal attention of a mounted adapter; None where it is not biased."""
        one = self.mounted[index]
        if not self.masks_shown or self.settings_for(one).temporal != "split_masked":
            return None
        return self.bias(
            ("tsa", index, grid),
            lambda: biases.temporal_bias(self.subject(one), grid, self.settings_for(one).pooling),
            like,
        )

    def gate(self, index: int, grid: Grid, like: Tensor) -> Tensor | None:
        """(B or 1, F, n): what multiplies the text-free part of a mounted adapter's video tokens; None without masks."""
        if not self.masks_shown:
            return None
        one = self.mounted[index]
        return self.bias(
            ("gate", index, grid),
            lambda: biases.gate(self.subject(one), grid, self.settings_for(one)),
            like,
        )


_CONTEXTS: weakref.WeakKeyDictionary[nn.Module, MotionContext] = weakref.WeakKeyDictionary()


def context_of(host: Any) -> MotionContext:
    """The context of a host that adapters are mounted on.

    Raises:
        ConfigError: none are.
    """
    found = _CONTEXTS.get(network_of(host))
    if found is None:
        raise ConfigError("no adapters are mounted on this host", fix="call it inside `mounted(...)`")
    return found
