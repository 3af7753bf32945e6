"""The base of a trained LaMD: a folder with the two files that `motionloom train` leaves in `final/`.

    mcd_vae.safetensors     the motion-content autoencoder
    dmg.safetensors         the motion generator, its vocabulary and its noise process

    base = load_base("runs/cater_generator/final")
    generate(base, "photo.png", prompt="the red cube is sliding to the first quadrant.")

Its one motion word is "move": how far (1 is as sampled, 0 is still) and, with a mask, where. Stillness is the latent
of a clip in which the photo stands still; zero is not.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from motionloom.codecs.mcd_vae import MotionContentAutoencoder
from motionloom.conditions.asked import Asked
from motionloom.conditions.text import Vocabulary, WordPieces
from motionloom.denoisers.base import Base, Denoiser, MotionCondition, Progress, Request
from motionloom.denoisers.motion_generator import Hint, MotionGenerator
from motionloom.durable import sha256_of
from motionloom.errors import ConfigError
from motionloom.sampling.chain import Piece, chain, num_pieces
from motionloom.sampling.guidance import ClassifierFreeGuidance
from motionloom.sampling.inpaint import HeldPlaces
from motionloom.sampling.loop import sample
from motionloom.sampling.schedules import (
    RectifiedFlow,
    ancestral,
    ddim,
    dpm_plus_plus,
    from_description,
    unipc,
)
from motionloom.video.picture import read_picture
from motionloom.video.resize import resize

CODEC_FILE, GENERATOR_FILE = "mcd_vae.safetensors", "dmg.safetensors"
WORD = "move"
TRAIN_END = "train a generator with stage.end_channels (recipes/lamd/small/long_generator.yaml)"
FPS = 8.0  # where the recipe kept each clip's own rate

Solver = Literal["ancestral", "ddim", "dpm++", "unipc", "euler"]
SOLVERS: dict[str, Any] = {"ancestral": ancestral, "ddim": ddim, "dpm++": dpm_plus_plus, "unipc": unipc}
STEPS: dict[str, int] = {"ancestral": 200, "ddim": 50, "dpm++": 20, "unipc": 20, "euler": 20}


class LamdBase(Base):
    """A motion generator and a motion-content autoencoder, of any size.

    Args:
        codec, generator: trained together.
        process: the noise process of the generator, as `sampling.schedules.describe` writes it.
        name: what it is called.
        fps: of the clips it was trained on.
        solver: how noise is walked back: the paper's "ancestral", 200 steps; "dpm++" or "unipc" in 20, "ddim"; "euler" for
            rectified flow.
        text_scale, image_scale: of classifier-free guidance, 1 is none; the generator must have been trained with its text
            or its picture hidden now and then (`drop_text`, `drop_image`).
        vocabulary: what turns a prompt into ids; None reads no text.
        end_frame: a picture that every clip ends with, for interpolation; the generator must read end frames.
    """

    words = (WORD,)
    default_motion = WORD

    def __init__(
        self,
        codec: MotionContentAutoencoder,
        generator: MotionGenerator,
        process: dict[str, Any],
        name: str = "lamd",
        *,
        fps: float = FPS,
        solver: Solver | None = None,
        text_scale: float = 1.0,
        image_scale: float = 1.0,
        vocabulary: Vocabulary | WordPieces | None = None,
        end_frame: Path | None = None,
    ) -> None:
        self.vocabulary, self.end_frame = vocabulary, end_frame
        if end_frame is not None and generator.end is None:
            raise ConfigError(
                f'"{name}" cannot end with a picture: it was trained without an end frame', fix=TRAIN_END
            )
        self.name, self.fps = name, fps
        self.codec: MotionContentAutoencoder = codec.eval()
        self.denoiser: MotionGenerator = generator.eval()
        self.process = process
        self.solver = _solver(solver, process)
        self.text_scale, self.image_scale = text_scale, image_scale
        self.num_frames, self.num_steps = codec.config.num_frames, STEPS[self.solver]
        self.native_size_px = codec.config.size_px
        self.size_multiple_px = codec.config.spatial_ratio
        self.weights: dict[str, str] = {}

    # --- what `generate` calls --------------------------------------------------------------------------------

    def check(self, request: Request) -> None:
        """See `Base`."""
        if len(request.motions) > 1 or any(one.name != WORD or one.heading for one in request.motions):
            raise ConfigError(
                f'"{self.name}" has one motion, "{WORD}", got {", ".join(one.said for one in request.motions)}',
                fix=f"leave --motion out, or --motion {WORD}:0.5 for half as far",
            )
        if any(isinstance(one.weight, tuple) for one in request.motions):
            raise ConfigError(f'"{self.name}" scales the finished motion', fix="give one weight, not a curve")
        if request.overscan:
            raise ConfigError(f'"{self.name}" has no camera to overscan', fix="leave out overscan")
        if request.loop and self.denoiser.end is None:
            raise ConfigError(
                f'"{self.name}" cannot loop: it was trained without an end frame',
                fix=TRAIN_END,
            )
        if request.prompt is not None:
            self._text_ids(request.prompt)

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        """See `Base`; that of the first piece, whatever the number of frames."""
        return (1, *self.codec.latent_shape(self.num_frames, request.height, request.width))

    def schedule(self, request: Request) -> Any:
        """See `Base`; with a mask, everything outside it is held at stillness."""
        return self._held(request, request.photo)

    def condition(self, request: Request, first_latent: Tensor | None, generator: torch.Generator) -> Any:
        """See `Base`."""
        return self.told(request, request.photo, self._end_of(request, 0))

    @contextmanager
    def adapted(self, request: Request) -> Iterator[Denoiser]:
        """See `Base`: the generator, guided where a scale says so."""
        yield self._guided()

    def decode(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """See `Base`; a clip longer than the model's is a chain of pieces."""
        randomness = torch.Generator().manual_seed(_seed_of(latents))
        pieces = num_pieces(request.num_frames, self.num_frames)

        def drawn(motion: Tensor, photo: Tensor, number: int) -> Piece:
            piece = Piece(motion, self.codec.decode(self._asked(motion, photo, request), photo))
            if progress is not None:
                progress(number + 1, pieces)
            return piece

        def following(piece: Piece, number: int) -> Piece:
            photo = piece.last_frame.clamp(-1, 1)
            previous = Hint.of(piece.latents) if self.denoiser.config.previous else None
            condition = self.told(request, photo, self._end_of(request, number), previous)
            noise = torch.randn(piece.latents.shape, generator=randomness)
            motion = sample(
                self._guided(), self._held(request, photo), noise, condition, request.num_steps, randomness
            )
            return drawn(motion, photo, number)

        frames = chain(drawn(latents, request.photo, 0), following, request.num_frames).clamp(-1, 1)
        frames[:, :, 0] = request.photo
        return frames

    def facts(self) -> dict[str, Any]:
        """See `Base`."""
        options: dict[str, Any] = {
            "solver": self.solver,
            "text_scale": self.text_scale,
            "image_scale": self.image_scale,
        }
        if self.end_frame is not None:
            return {
                "options": options | {"end_frame": self.end_frame.name},
                "weights": self.weights | {"end_frame": sha256_of(self.end_frame)},
            }
        return {"options": options, "weights": self.weights}

    def notes(self, request: Request) -> list[str]:
        """See `Base`."""
        notes = []
        if (request.height, request.width) != self.native_size_px:
            height, width = self.codec.config.size_px
            notes.append(
                f"{self.name} was trained at {width} x {height} px, this is {request.width} x {request.height}"
            )
        if request.num_frames > self.num_frames and not self.denoiser.config.previous:
            notes.append(
                f"{request.num_frames} frames are pieces of {self.num_frames}, and {self.name} was trained without "
                "the motion before: the speed may change where they meet"
            )
        return notes

    # --- what `transfer` calls --------------------------------------------------------------------------------

    def motion_of(self, frames: Tensor, photo: Tensor) -> Tensor:
        """See `transfer.MotionReader`."""
        return self.codec.encode(frames)

    def draw_motion(self, latents: Tensor, request: Request, progress: Progress | None = None) -> Tensor:
        """See `transfer.MotionReader`; clips have the model's own number of frames."""
        if request.num_frames != self.num_frames or request.loop:
            raise ConfigError(
                f'"{self.name}" draws a motion in {self.num_frames} frames and cannot loop it',
                fix=f"--frames {self.num_frames}, and --fps for another speed",
            )
        latents = self._asked(latents, request.photo, request)
        frames = self.codec.decode(latents, request.photo).clamp(-1, 1)
        frames[:, :, 0] = request.photo
        return frames

    # --- conditions and the motion latent ---------------------------------------------------------------------

    def still(self, photo: Tensor) -> Tensor:
        """The latent of a clip in which a photo (1, 3, H, W) stands still: (1, d, h, w)."""
        return self.codec.encode(photo[:, :, None].expand(-1, -1, self.num_frames, -1, -1))

    def told(
        self, request: Request, photo: Tensor, end: Tensor | None = None, previous: Hint | None = None
    ) -> MotionCondition:
        """What the generator is told.

        Args:
            request: its prompt is read.
            photo: (1, 3, H, W), -1..1, the first frame.
            end: the last frame, as `photo`; None leaves it open.
            previous: the motion of the piece before.
        """
        text_ids = None if request.prompt is None else self._text_ids(request.prompt)
        hint = None if end is None else Hint.of(self.codec.content(end).f_x0)
        return self.denoiser.condition(self.codec.content(photo).f_x0, text_ids, hint, previous)

    def _asked(self, latents: Tensor, photo: Tensor, request: Request) -> Tensor:
        """As far as asked, where asked: z_still + weight region (z - z_still)."""
        asked = request.motions[0] if request.motions else Asked(WORD)
        region = _region(request)
        if asked.weight_at(1.0) == 1 and region is None:
            return latents
        still = self.still(photo)
        share = 1.0 if region is None else _on_grid(region, latents)
        return still + asked.weight_at(1.0) * share * (latents - still)

    def _end_of(self, request: Request, piece: int) -> Tensor | None:
        """The last frame of a piece, which the last piece alone is told: a loop's is the photo."""
        if piece < num_pieces(request.num_frames, self.num_frames) - 1:
            return None
        if request.loop or self.end_frame is None:
            return request.photo if request.loop else None
        picture = resize(read_picture(self.end_frame)[None], request.width, request.height, "crop")[0]
        return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    def _text_ids(self, prompt: str) -> Tensor:
        """(1, n) word ids. Raises ConfigError for a word the model never saw."""
        text = self.denoiser.config.text
        assert text is not None and self.vocabulary is not None, "generate refuses prompts where none is read"
        return self.vocabulary.batch([prompt], text.positions)

    def _held(self, request: Request, photo: Tensor) -> Any:
        """The solver; with a mask, one that holds everything outside it at stillness."""
        process = from_description(self.process)
        solver = process if isinstance(process, RectifiedFlow) else SOLVERS[self.solver](process)
        region = _region(request)
        if region is None:
            return solver
        still = self.still(photo)
        return HeldPlaces(solver, still, _on_grid(region, still), self.denoiser.prediction_type)

    def _guided(self) -> Denoiser:
        if self.text_scale == self.image_scale == 1.0:
            return self.denoiser
        return ClassifierFreeGuidance(self.denoiser, self.text_scale, self.image_scale)


class LamdTextBase(LamdBase):
    """A LaMD that reads captions or class words."""

    reads_text = True


def load_lamd(
    folder: Path,
    solver: Solver | None = None,
    text_scale: float | str = 1.0,
    image_scale: float | str = 1.0,
    bert_vocabulary: str | None = None,
    end_frame: str | os.PathLike[str] | None = None,
) -> LamdBase:
    """A trained LaMD.

    Args:
        folder: holds mcd_vae.safetensors and dmg.safetensors.
        solver, text_scale, image_scale: see `LamdBase`; numbers may be given as text.
        end_frame: a picture file, see `LamdBase`.
        bert_vocabulary: vocab.txt of bert-base-uncased, for a generator trained with it.

    Raises:
        WeightsError: a file is missing, damaged, or of another kind.
        ConfigError: the two do not belong together; a solver or scale that cannot be.
    """
    codec = MotionContentAutoencoder.load(folder / CODEC_FILE)
    generator, process = MotionGenerator.load(folder / GENERATOR_FILE)
    _check_together(codec, generator, folder)
    vocabulary = _vocabulary(generator, bert_vocabulary)
    scales = {"text": _scale("text_scale", text_scale), "image": _scale("image_scale", image_scale)}
    trained = _trained_as(folder / GENERATOR_FILE)
    _check_guidance(scales, trained.get("stage", {}), folder)
    base = (LamdBase if vocabulary is None else LamdTextBase)(
        codec,
        generator,
        process,
        folder.name,
        fps=float(trained.get("data", {}).get("fps") or FPS),
        solver=solver,
        text_scale=scales["text"],
        image_scale=scales["image"],
        vocabulary=vocabulary,
        end_frame=None if end_frame is None else Path(end_frame),
    )
    base.weights = {file: sha256_of(folder / file) for file in (CODEC_FILE, GENERATOR_FILE)}
    return base


def _vocabulary(generator: MotionGenerator, bert_vocabulary: str | None) -> Vocabulary | WordPieces | None:
    """What the generator reads text with; a generator of BERT's vocabulary reads none without its file."""
    if generator.text is None:
        return None
    if generator.config.words:
        return Vocabulary(generator.config.words)
    return None if bert_vocabulary is None else WordPieces(Path(bert_vocabulary))


def _check_together(codec: MotionContentAutoencoder, generator: MotionGenerator, folder: Path) -> None:
    made, read = codec.config.latent_depth, generator.config.unet.in_channels
    content, context = codec.config.content_widths[-1], generator.config.content_width
    if (made, content) != (read, context):
        raise ConfigError(
            f'"{folder}" holds an autoencoder of {made} latent and {content} content channels and a generator that reads '
            f"{read} and {context}",
            fix="put the two files of one training there: `motionloom train` exports both",
        )


def _check_guidance(scales: dict[str, float], stage: dict[str, Any], folder: Path) -> None:
    """Guidance compares with a generator told nothing; one that never was in training has not learned what that is."""
    for condition, scale in scales.items():
        if scale != 1 and stage.get(f"drop_{condition}") == 0:
            raise ConfigError(
                f'got {condition}_scale {scale:g}, but "{folder}" was trained with drop_{condition}: 0: it has no guidance',
                fix=f"leave {condition}_scale out, or train with stage.drop_{condition}=0.1",
            )


def _trained_as(file: Path) -> dict[str, Any]:
    """The recipe inside the file, without what it leaves null; {} where there is none."""
    from motionloom.training.recipe import parse_yaml
    from motionloom.weights import read_metadata

    recipe = read_metadata(file).get("recipe")
    said = parse_yaml(recipe, str(file)) if recipe else {}
    return {key: value for key, value in said.items() if value is not None}


def _solver(asked: Solver | None, process: dict[str, Any]) -> Solver:
    """The paper's where nothing is asked. Raises ConfigError for one that does not reverse the process."""
    is_flow = process.get("process") == "rectified_flow"
    fitting = [name for name in get_args(Solver) if (name == "euler") == is_flow]
    solver: Solver = asked or ("euler" if is_flow else "ancestral")
    if solver not in fitting:
        raise ConfigError(
            f'got the solver "{solver}", this generator takes {", ".join(fitting)}', fix="choose one of them"
        )
    return solver


def _scale(name: str, value: float | str) -> float:
    try:
        scale = float(value)
    except ValueError:
        scale = 0.0
    if not 1.0 <= scale <= 100.0:
        raise ConfigError(f"got {name}={value}, expected a number from 1 to 100", fix="1 is no guidance")
    return scale


def _region(request: Request) -> Tensor | None:
    """(1, 1, H, W), 0..1, where motion was asked for; None is everywhere."""
    if not request.motions or request.motions[0].region is None:
        return None
    return torch.from_numpy(request.motions[0].region)[None, None]


def _on_grid(region: Tensor, latents: Tensor) -> Tensor:
    """(1, 1, h, w): the share of each place of the latents that lies in the region."""
    return F.adaptive_avg_pool2d(region, (latents.shape[-2], latents.shape[-1]))


def _seed_of(latents: Tensor) -> int:
    """The pieces after the first are drawn from the clip's own seed, told by its first latents."""
    return zlib.crc32(latents.detach().cpu().float().numpy().tobytes())
