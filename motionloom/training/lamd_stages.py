"""The two stages of LaMD (arXiv 2304.11603): the motion-content autoencoder, then the generator on its
latents.

    motionloom train recipes/lamd/bair_autoencoder.yaml --run-dir runs/bair_autoencoder
    motionloom train recipes/lamd/bair_generator.yaml   --run-dir runs/bair_generator

The second reads `runs/bair_autoencoder/final/mcd_vae.safetensors` and encodes every clip once into `cache`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from motionloom.errors import ConfigError, WeightsError
from motionloom.training.stages import Section, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from motionloom.codecs.mcd_vae import MCDVAEConfig, MotionContentAutoencoder
    from motionloom.conditions.text import Vocabulary, WordPieces
    from motionloom.datasets.base import TrainingDataset
    from motionloom.datasets.latent_cache import CacheIdentity
    from motionloom.datasets.layout import Layout
    from motionloom.denoisers.motion_generator import MotionGeneratorConfig
    from motionloom.training.objectives.autoencoder import Adversary
    from motionloom.training.objectives.base import Objective
    from motionloom.training.objectives.generator import Target
    from motionloom.training.objectives.losses import KLTerm, Perceptual
    from motionloom.training.recipe import ClipData, Recipe

SAMPLES_FOR_SCALE = 10_000
PLANNED_VOCABULARY = 100  # words, where a dry run has no captions to read


class CodecSize(Section):
    """The autoencoder; clip length and picture size are the recipe's `data`. See `MCDVAEConfig`."""

    spatial_ratio: int = Field(4, description="r_s: 4, or 8 for 256-pixel clips")
    latent_channels: int = Field(3, description="d")
    latent_frames: int = Field(1, description="d_t, 1 or 2, folded into the latent's channels")
    motion_base: int = Field(64, description="c, base width of the motion encoder; 32 for small sets")
    content_base: int = 128
    z_norm: Literal["bn", "std", "none"] = "bn"
    fusion: str = "concat"
    output: Literal["frames", "blend"] = Field(
        "frames", description="the decoder draws frames, or blends them into the first one; blend is ours"
    )
    motion_input: Literal["clip", "change"] = Field(
        "clip", description="what the motion encoder sees; the change from the first frame is ours"
    )
    thin_tail: bool = False
    blocks_before_tail: int = 0
    group_channels: int = Field(
        1, description="least channels of a normalisation group; 8 in a narrow network, ours"
    )

    def config(self, recipe: Recipe) -> MCDVAEConfig:
        """Raises ConfigError when sizes do not fit together."""
        from motionloom.codecs.mcd_vae import MCDVAEConfig

        data = recipe.clip_data()
        sizes = {"num_frames": data.frames, "size_px": (data.height_px, data.width_px)}
        return MCDVAEConfig.from_mapping({**sizes, **self.model_dump()})

    @property
    def latent_depth(self) -> int:
        """Channels of the latent."""
        return self.latent_channels * self.latent_frames


class AdversarySettings(Section):
    """The video discriminator; silent until `start_step`."""

    start_step: int = Field(ge=0, description="a third to a half of training")
    factor: float = Field(0.8, gt=0, description="of the adaptive weight")
    form: Literal["hinge", "non-saturating"] = "hinge"
    base: int = Field(64, ge=1)
    cap: int = Field(512, ge=1)


class PixelSettings(Section):
    """The error of single values; see `PixelError`. The paper's is L1 alone."""

    l2: float = Field(0.0, ge=0, description="weight of the squared error; ours")
    moving: float = Field(0.0, ge=0, description="more weight for what differs from the first frame; ours")


class LamdAutoencoder(Stage):
    """L1 + perceptual + beta KL + lambda GAN on clips."""

    kind: Literal["lamd-autoencoder"]
    codec: CodecSize = Field(default_factory=lambda: CodecSize.model_validate({}))
    beta: float = Field(1e-2, ge=0, description="weight of the KL divergence")
    kl: Literal["sum", "mean", "target"] = Field(
        "sum", description="reduction, or a controller to target_nats"
    )
    target_nats: float = Field(1.0, gt=0, description="nats per dimension; for kl: target")
    pixels: PixelSettings = Field(default_factory=lambda: PixelSettings.model_validate({}))
    perceptual: Literal["lpips", "gradient-ssim"] = "gradient-ssim"
    lpips_weights: str | None = Field(None, description="safetensors file of VGG16 and the lpips heads")
    adversary: AdversarySettings | None = None
    crop_px: int | None = Field(
        None, ge=16, multiple_of=8, description="train on moving squares of the clips; null: whole clips"
    )

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        """In a dry run LPIPS is planned as gradient SSIM: its weights file may not be there yet."""
        from motionloom.codecs.mcd_vae import MotionContentAutoencoder
        from motionloom.training.objectives.autoencoder import AutoencoderObjective
        from motionloom.training.objectives.losses import PixelError

        return AutoencoderObjective(
            MotionContentAutoencoder(self.codec.config(recipe)),
            None if dry_run else self._perceptual(),
            self._kl(),
            self._adversary(),
            facts=_facts(recipe),
            pixels=PixelError(self.pixels.l2, self.pixels.moving),
        )

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        from motionloom.datasets.crops import Crops

        clips = _clip_folder(recipe)
        return clips if self.crop_px is None else Crops(clips, self.crop_px, seed=recipe.seed)

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, Tensor]:
        import torch

        data = recipe.clip_data()
        sides = (self.crop_px or data.height_px, self.crop_px or data.width_px)
        return {"frames": torch.zeros(batch_size, 3, data.frames, *sides)}

    def _perceptual(self) -> Perceptual:
        from motionloom.training.objectives.losses import LPIPS, GradientSSIM

        if self.perceptual == "gradient-ssim":
            return GradientSSIM()
        if self.lpips_weights is None or not Path(self.lpips_weights).is_file():
            raise WeightsError(
                f"the recipe asks for LPIPS, but there is no weights file {self.lpips_weights}",
                fix="put VGG16 and the lpips heads there as safetensors, or set perceptual: gradient-ssim",
            )
        return LPIPS(Path(self.lpips_weights))

    def _kl(self) -> KLTerm:
        from motionloom.training.objectives.losses import BetaKL, MeanBetaKL, TargetKL

        if self.kl == "target":
            return TargetKL(self.target_nats, self.beta)
        return BetaKL(self.beta) if self.kl == "sum" else MeanBetaKL(self.beta)

    def _adversary(self) -> Adversary | None:
        from motionloom.training.objectives.autoencoder import Adversary
        from motionloom.training.objectives.discriminator import PatchDiscriminator3d
        from motionloom.training.objectives.losses import Hinge, NonSaturating

        if self.adversary is None:
            return None
        settings = self.adversary
        form = Hinge() if settings.form == "hinge" else NonSaturating()
        discriminator = PatchDiscriminator3d(settings.base, settings.cap)
        return Adversary(discriminator, form, settings.factor, settings.start_step)


class UNetSize(Section):
    """The denoiser; see `MotionUNetConfig`."""

    base: int = 192
    multipliers: list[int] = Field(default_factory=lambda: [1, 2, 4])
    res_blocks: int = 2
    attention_levels: list[int] = Field(default_factory=lambda: [0, 1, 2])
    heads: int = 8
    dropout: float = Field(0.2, ge=0, lt=1)


class TextSize(Section):
    """The text encoder; see `TextEncoderConfig`."""

    vocabulary: Literal["captions", "bert"] = Field(
        "captions", description="the captions' own words, or BERT's"
    )
    bert_vocabulary: str | None = Field(
        None, description="vocab.txt of bert-base-uncased; for vocabulary: bert"
    )
    positions: int = 38
    depth: int = 2
    heads: int = 8
    logits_head: bool = False


class LamdGenerator(Stage):
    """Diffusion on the motion latents of a frozen autoencoder."""

    kind: Literal["lamd-generator"]
    codec_weights: str = Field(description="mcd_vae.safetensors of the first stage")
    codec: CodecSize = Field(default_factory=lambda: CodecSize.model_validate({}))
    cache: str = Field(description="folder of the encoded clips; filled before training")
    windows: int = Field(1, ge=1, description="windows encoded of each clip")
    cache_batch: int = Field(8, ge=1, description="clips encoded together")
    unet: UNetSize = Field(default_factory=lambda: UNetSize.model_validate({}))
    aligned_channels: int = Field(0, ge=0, description="of f_x0, joined to the latent; 0 in the paper")
    pooled_side: int | None = Field(None, description="content tokens a side; null reads every place")
    end_channels: int = Field(
        0, ge=0, description="of the last frame, joined to the latent: ends and loops; ours"
    )
    previous: bool = Field(False, description="joins the motion latent of the piece before: long clips; ours")
    text: TextSize | None = None
    target: Literal["epsilon", "v_prediction", "flow"] = "epsilon"
    schedule: Literal["ldm-linear", "ddpm-linear"] = "ldm-linear"
    min_snr: float | None = Field(None, gt=0)
    drop_text: float = Field(0.0, ge=0, lt=1)
    drop_image: float = Field(0.0, ge=0, lt=1)

    def objective(self, recipe: Recipe, dry_run: bool = False) -> Objective:
        from motionloom.codecs.mcd_vae import MotionContentAutoencoder
        from motionloom.denoisers.motion_generator import MotionGenerator
        from motionloom.training.objectives.generator import GeneratorObjective

        if dry_run:
            codec = MotionContentAutoencoder(self.codec.config(recipe))
        else:
            codec = self._codec(recipe)
            self._measure_scale(recipe, codec)
        generator = MotionGenerator(self._generator_config(recipe, dry_run))
        return GeneratorObjective(
            generator, codec, self._target(), self.drop_text, self.drop_image, facts=_facts(recipe)
        )

    def dataset(self, recipe: Recipe) -> TrainingDataset:
        """The latent cache; clips are checked and encoded unless a finished one is there."""
        from motionloom.datasets.consecutive import Hints
        from motionloom.datasets.latent_cache import LatentCache, build_latent_cache, is_finished
        from motionloom.training.progress import counted

        identity = self._identity(recipe)
        if is_finished(self.cache, identity):
            return LatentCache(self.cache, identity)
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        text, settings = self._vocabulary(recipe), self.text
        codec, clips = self._codec(recipe).to(device), self.clips(recipe)
        with counted("encoding clips") as on_sample:
            return build_latent_cache(
                self.cache,
                codec,
                clips,
                identity,
                batch_size=self.cache_batch,
                device=device,
                text_ids=None
                if text is None or settings is None
                else lambda captions: text.batch(captions, settings.positions),
                also=Hints(codec, last_frame=self.end_channels > 0, previous=self.previous),
                on_sample=on_sample,
            )

    def clips(self, recipe: Recipe) -> TrainingDataset:
        if not self.previous:
            return _clip_folder(recipe)
        from motionloom.datasets.consecutive import Consecutive

        frames = recipe.clip_data().frames
        return Consecutive(_clip_folder(recipe, 2 * frames - 1), frames)

    def example_batch(self, recipe: Recipe, batch_size: int) -> dict[str, Tensor]:
        import torch

        data, codec = recipe.clip_data(), self.codec
        places = data.height_px // codec.spatial_ratio, data.width_px // codec.spatial_ratio
        moments = torch.zeros(batch_size, codec.latent_depth, *places)
        batch = {
            "mean": moments,
            "logvar": moments.clone(),
            "first_frame": torch.zeros(batch_size, 3, data.height_px, data.width_px),
        }
        if self.text is not None:
            batch["text_ids"] = torch.ones(batch_size, self.text.positions, dtype=torch.long)
        if self.end_channels:
            batch["last_frame"] = batch["first_frame"].byte()
        if self.previous:
            batch |= {"previous_mean": moments.clone(), "previous_logvar": moments.clone()}
        return batch

    def _codec(self, recipe: Recipe) -> MotionContentAutoencoder:
        """The trained autoencoder, in evaluation mode. Raises ConfigError when it is not what the recipe
        says.
        """
        from motionloom.codecs.mcd_vae import MotionContentAutoencoder

        codec = MotionContentAutoencoder.load(Path(self.codec_weights))
        expected = self.codec.config(recipe)
        if codec.config != expected:
            raise ConfigError(
                f"{self.codec_weights} is {codec.config.to_json()}, the recipe says {expected.to_json()}",
                fix="make `data` and `stage.codec` the same as in the autoencoder's recipe",
            )
        return codec

    def _measure_scale(self, recipe: Recipe, codec: MotionContentAutoencoder) -> None:
        """For z_norm: std. The constants come from the cached posteriors and are exported with the codec."""
        import torch

        from motionloom.codecs.base import Gaussian
        from motionloom.codecs.mcd_vae import StdLatentNorm
        from motionloom.datasets.latent_cache import LatentCache

        if not isinstance(codec.latent_norm, StdLatentNorm):
            return
        cache = LatentCache(self.cache, self._identity(recipe))
        generator = torch.Generator().manual_seed(recipe.seed)
        samples = (cache.at(0, index) for index in range(min(len(cache), SAMPLES_FOR_SCALE)))
        codec.latent_norm.fit(
            Gaussian(sample["mean"][None], sample["logvar"][None]).sample(generator) for sample in samples
        )

    def _generator_config(self, recipe: Recipe, dry_run: bool) -> MotionGeneratorConfig:
        from motionloom.denoisers.motion_generator import MotionGeneratorConfig
        from motionloom.denoisers.motion_unet import MotionUNetConfig

        context, unet = 4 * self.codec.content_base, self.unet
        words, text = self._text_config(recipe, context, dry_run)
        return MotionGeneratorConfig(
            unet=MotionUNetConfig(
                in_channels=self.codec.latent_depth,
                out_channels=self.codec.latent_depth,
                base=unet.base,
                multipliers=tuple(unet.multipliers),
                res_blocks=unet.res_blocks,
                attention_levels=tuple(unet.attention_levels),
                heads=unet.heads,
                context_width=context,
                dropout=unet.dropout,
                concat_channels=self.aligned_channels + self._hint_channels,
            ),
            content_width=context,
            text=text,
            words=words,
            pooled_side=self.pooled_side,
            prediction_type=self.target,
            end_channels=self.end_channels,
            previous=self.previous,
        )

    @property
    def _hint_channels(self) -> int:
        """Joined to the latent by the hints, a flag with each."""
        end = self.end_channels + 1 if self.end_channels else 0
        return end + (self.codec.latent_depth + 1 if self.previous else 0)

    def _text_config(self, recipe: Recipe, width: int, dry_run: bool) -> tuple[tuple[str, ...], Any]:
        """(the vocabulary's words, the text encoder's configuration), or ((), None) without text."""
        from motionloom.conditions.text import BERT_VOCABULARY_SIZE, TextEncoderConfig, Vocabulary

        settings = self.text
        words: tuple[str, ...] = ()
        if settings is None:
            return words, None
        if settings.vocabulary == "bert":
            size = BERT_VOCABULARY_SIZE
        elif dry_run and not Path(recipe.clip_data().folder).is_dir():
            size = PLANNED_VOCABULARY
        else:
            vocabulary = self._vocabulary(recipe)
            assert isinstance(vocabulary, Vocabulary)
            words, size = vocabulary.words, len(vocabulary)
        config = TextEncoderConfig(
            size, settings.positions, width, settings.depth, settings.heads, settings.logits_head
        )
        return words, config

    def _vocabulary(self, recipe: Recipe) -> Vocabulary | WordPieces | None:
        from motionloom.conditions.text import Vocabulary, WordPieces

        if self.text is None:
            return None
        if self.text.vocabulary == "captions":
            return Vocabulary.of(_captions(recipe.clip_data()))
        return WordPieces(Path(self.text.bert_vocabulary or "vocab.txt"))

    def _identity(self, recipe: Recipe) -> CacheIdentity:
        from motionloom.conditions.text import Vocabulary
        from motionloom.datasets.latent_cache import CacheIdentity
        from motionloom.durable import sha256_of

        data, vocabulary = recipe.clip_data(), self._vocabulary(recipe)
        if not Path(self.codec_weights).is_file():
            raise WeightsError(
                f"no autoencoder at {self.codec_weights}",
                fix="train the first stage, then set stage.codec_weights to its final/mcd_vae.safetensors",
            )
        ways = data.model_dump(exclude={"folder", "num_workers", "cache_mb"})  # what samples do not depend on
        hints = {name: True for name, has in (("end", self.end_channels), ("previous", self.previous)) if has}
        return CacheIdentity(
            codec_sha256=sha256_of(self.codec_weights),
            transform=ways | {"seed": recipe.seed} | hints,
            dataset=_fingerprint(data),
            windows=self.windows,
            vocabulary=vocabulary.words if isinstance(vocabulary, Vocabulary) else (),
            text_positions=self.text.positions if self.text is not None else 0,
        )

    def _target(self) -> Target:
        from motionloom.sampling.schedules import ddpm_linear, ldm_linear
        from motionloom.training.objectives.generator import EpsilonTarget, FlowTarget, VelocityTarget

        if self.target == "flow":
            return cast("Target", FlowTarget())  # frozen, which the contract's plain attribute forbids
        process = (ldm_linear if self.schedule == "ldm-linear" else ddpm_linear)(self.target)
        targets = {"epsilon": EpsilonTarget, "v_prediction": VelocityTarget}
        return targets[self.target](process, self.min_snr)


def _clip_folder(recipe: Recipe, frames: int | None = None) -> TrainingDataset:
    """The clips of the recipe's `data`, checked: a plain folder, or a published data set; `frames` instead of its own."""
    from motionloom.datasets.published_clips import PublishedClips
    from motionloom.training.clips import checked_clips
    from motionloom.training.progress import counted

    data = recipe.clip_data()
    if data.layout == "clips":
        return checked_clips(recipe, frames)
    length, size_px = frames or data.frames, (data.width_px, data.height_px)
    ways: dict[str, Any] = data.model_dump(include={"fit", "flip", "skip_bad", "cache_mb", "sampling", "fps"})
    with counted("checking clips") as on_clip:
        return PublishedClips(
            _layout(data), data.split, length, size_px, **ways, seed=recipe.seed, on_clip=on_clip
        )


def _layout(data: ClipData) -> Layout:
    """The published data set a recipe names."""
    from motionloom.datasets.layouts import open_layout

    chunk = data.frames if data.layout == "landscape" else None
    asked = {"chunk": chunk, "captions": data.captions, "view": data.view}
    options = {key: value for key, value in asked.items() if value is not None}
    return open_layout(data.layout, data.folder, **options)


def _captions(data: ClipData) -> list[str]:
    """Every caption, "" where there is none; no clip is opened."""
    from motionloom.datasets.clips import read_captions

    if data.layout == "clips":
        return read_captions(data.folder)
    return [entry.text or "" for entry in _layout(data).contents(data.split).entries]


def _fingerprint(data: ClipData) -> str:
    """Changes with the clips and their captions; no clip is opened."""
    from motionloom.datasets.clips import fingerprint_of

    if data.layout == "clips":
        return fingerprint_of(data.folder)
    return _layout(data).contents(data.split).fingerprint


def _facts(recipe: Recipe) -> dict[str, str]:
    """What a weights file says about its training."""
    return {"recipe": recipe.to_yaml()}
