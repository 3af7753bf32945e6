"""`motionloom animate`: a photo in, a clip out."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from motionloom.cli.auto_mask import is_automatic, write_auto_mask
from motionloom.cli.show import AsJson, progress_bar, show
from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, InputError, ResourceError, WeightsError
from motionloom.filetypes import open_head

# What `animate` writes into a clip and `--from` reads back: the arguments of `generate`, by name.
GENERATE_ARGUMENTS = (
    "motions",
    "prompt",
    "frames",
    "fps",
    "steps",
    "size",
    "seed",
    "overscan",
    "loop",
    "masks",
    "preset",
)

ADAPTER_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")
OUTPUT_SUFFIXES = (".mp4", ".gif", ".webp", "")  # none: a folder of PNGs

EPILOG = "Example: motionloom animate photo.jpg --motion clouds:0.6 --motion pan-left:0.4 -o clip.mp4"


def animate(
    photo: Annotated[Path | None, typer.Argument(help="The picture to animate.", show_default=False)] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="The clip. Default: PHOTO_animated.mp4 here."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="What animates: see `motionloom bases`. Default: mini.")
    ] = None,
    motion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME_OR_FILE[:WEIGHT]",
            help="A motion, see `motionloom motions`, or an adapter file; repeat to weave several. WEIGHT is a "
            "number, 0.8, or a curve over the steps, 1>0. Some motions take a direction: clouds@left:0.8, "
            "or degrees, clouds@30.",
        ),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE_OR_auto",
            help="White where the motion acts; the i-th belongs to the i-th --motion, - is none. auto cuts one out: "
            "auto:horse by GroundingDINO and SAM, auto:0.2,0.1,0.8,0.9 (left, top, right, bottom) or auto by colours.",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Text, for bases that read it.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=2, help="Frames, the photo included. Default: the base's; mini: 16.")
    ] = None,
    fps: Annotated[
        float | None, typer.Option(min=0.1, max=240, help="Frames per second. Default: the base's; mini: 8.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the base's.")] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH|native",
            help="Size in pixels; the photo is scaled and cropped to it. Default: native, the size the base was "
            "trained at; mini: the photo's own.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same clip. Default: 0.")
    ] = None,
    overscan: Annotated[
        bool | None,
        typer.Option("--overscan/--no-overscan", help="Zoom in a little so that no border shows."),
    ] = None,
    loop: Annotated[
        bool | None, typer.Option("--loop/--no-loop", help="End where it began, to play without a seam.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="exact", help="Speed against fidelity. Default: exact, as published."),
    ] = None,
    motion_degree: Annotated[
        float | None,
        typer.Option(
            help="How much a merged base moves: 1 as merged, 0 as its base; see `motionloom merge`."
        ),
    ] = None,
    control: Annotated[
        float | None, typer.Option(help="How well a merged base obeys: 1 as merged, 0 as its base.")
    ] = None,
    base_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="An option of the base, such as device=cpu or shared_noise=0.2."
        ),
    ] = None,
    repeat: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="CLIP", help="Repeat the settings inside a clip; options given here win."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Animate a photo: PHOTO in, a clip out."""
    given: dict[str, Any] = {
        "motions": [parse_motion(text) for text in motion] if motion else None,
        "masks": [None if file == "-" else Path(file) for file in mask] if mask else None,
        "prompt": prompt,
        "frames": frames,
        "fps": fps,
        "steps": steps,
        "size": parse_size(size) if size else None,
        "seed": seed,
        "overscan": overscan,
        "loop": loop,
        "preset": preset,
    }
    arguments = {name: value for name, value in given.items() if value is not None}
    options: dict[str, Any] = {**parse_base_options(base_option or ())}
    dial = {"motion_degree": motion_degree, "control": control}
    options |= {name: value for name, value in dial.items() if value is not None}
    weights = None
    if repeat is not None:
        settings = _settings_inside(repeat)
        photo = _photo_to_repeat(settings, photo, repeat)
        if base is None:
            facts = settings.get("base_facts", {})
            options, weights = {**facts.get("options", {}), **options}, facts.get("weights")
        base = base or settings.get("base")
        arguments = {**_repeated_arguments(settings, repeat, motions_given=bool(motion)), **arguments}
    if photo is None:
        raise ConfigError("no photo given", fix="motionloom animate PHOTO, or --from CLIP to repeat a clip")
    base = base or "mini"
    _check_masks(arguments)
    _check_motions([name for name, _ in arguments.get("motions") or []], base)
    out = out or Path(f"{photo.stem}_animated.mp4")
    check_output(out, sources=[photo, repeat, *(arguments.get("masks") or [])])
    open_head(photo, "cannot animate", InputError)  # before a base is loaded for nothing
    _cut_masks(arguments, photo, out)

    from motionloom.denoisers.catalog import load_base
    from motionloom.generate import generate

    started = time.monotonic()
    motions = arguments.pop("motions", None)
    loaded = load_base(base, **options)
    if weights is not None and loaded.facts().get("weights") != weights:
        raise WeightsError(
            f'"{repeat}" was made with other weights of {base} than those here',
            fix="give those with --base or --base-option; with --base the settings alone are repeated",
        )
    with progress_bar(shown=not as_json) as progress:
        clip = generate(loaded, photo, motions, progress=progress, **arguments)
    if not as_json:
        for note in _notes(clip.settings, chosen=bool(motions)):
            typer.echo(note, err=True)
    written = clip.save(out)
    facts = {
        "path": str(written),
        "frames": len(clip.frames),
        "fps": clip.fps,
        "width_px": clip.frames.shape[2],
        "height_px": clip.frames.shape[1],
        "seconds_taken": round(time.monotonic() - started, 3),
        "settings": clip.settings,
    }
    show(facts if as_json else str(written))


# What is typed, and what it means


def parse_motion(text: str) -> tuple[str, float | tuple[float, float]]:
    """`clouds`, `clouds:0.6` or `clouds:1>0` as (name, weight); a curve is (at the first step, at the last).

    Raises:
        ConfigError: the part behind the colon is neither a number nor a curve, or the name is empty.
    """
    name, colon, weight = text.rpartition(":")
    if not colon or (os.sep in weight or "\\" in weight):  # a path may hold colons
        name, weight = text, "1"
    ends = weight.split(">")
    try:
        values = [float(end) for end in ends]
    except ValueError:
        values = []
    if not name or len(values) not in (1, 2) or not all(abs(value) < float("inf") for value in values):
        raise ConfigError(
            f"got --motion {text!r}, expected NAME or NAME:WEIGHT",
            fix="WEIGHT is a number, 0.6, or a curve, 1>0",
        )
    return (name, values[0]) if len(values) == 1 else (name, (values[0], values[1]))


def parse_size(text: str) -> str:
    """`640x360` or `native`, checked.

    Raises:
        ConfigError: neither.
    """
    if text != "native" and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise ConfigError(
            f"got --size {text!r}, expected WIDTHxHEIGHT or native", fix="for example --size 640x360"
        )
    return text


def parse_base_options(texts: Sequence[str]) -> dict[str, str]:
    """`device=cpu` as {"device": "cpu"}.

    Raises:
        ConfigError: no equals sign, or no name before it.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigError(
                f"got --base-option {text!r}, expected NAME=VALUE", fix="for example --base-option device=cpu"
            )
        options[name] = value
    return options


def _notes(settings: dict[str, Any], chosen: bool) -> list[str]:
    """What a user should know of how the clip was made."""
    picked = ", ".join(str(name) for name, *_ in settings.get("motions", []))
    default = f"no --motion given, so this is {picked}; `motionloom motions` lists what there is"
    return [*settings.get("notes", []), *([default] if picked and not chosen else [])]


def _check_motions(names: Sequence[str], base: str) -> None:
    """Refuses before a base is loaded what would be refused after it."""
    if not names:
        return
    from motionloom.zoo import describe_motions

    known = [name for name, *_ in describe_motions()]
    for name in names:
        if name.endswith(ADAPTER_SUFFIX):
            open_head(Path(name), "cannot read adapter", WeightsError)
        elif name.endswith(PICKLE_SUFFIXES):
            raise WeightsError(
                f'got the motion "{name}", expected an adapter in .safetensors',
                fix=f"convert it with `motionloom convert {name} -o adapters/`",
            )
        elif name.partition("@")[0] not in known and base == "mini":
            raise ConfigError(
                f"there is no motion {name!r}", fix=_did_you_mean(name, known, "motionloom motions")
            )


def _did_you_mean(word: str, known: Sequence[str], list_command: str) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"`{list_command}` lists them"


def _check_masks(arguments: dict[str, Any]) -> None:
    """Pads the masks to one a motion, in place."""
    masks, motions = arguments.get("masks"), arguments.get("motions") or []
    if masks is None:
        return
    if len(masks) > len(motions):
        raise ConfigError(
            f"got {len(masks)} --mask for {len(motions)} --motion, expected at most one each",
            fix="give every --mask its --motion, in the same order; --mask - is none",
        )
    for mask in masks:
        if mask is not None and not is_automatic(str(mask)) and not mask.is_file():
            raise InputError(f'there is no mask "{mask}"', fix="check the path")
    arguments["masks"] = [*masks, *[None] * (len(motions) - len(masks))]


def _cut_masks(arguments: dict[str, Any], photo: Path, out: Path) -> None:
    """Masks asked for with `auto` become files beside the clip, in place."""
    for number, mask in enumerate(arguments.get("masks") or []):
        if mask is not None and is_automatic(str(mask)):
            path = out.with_name(f"{out.stem}_mask{number + 1}.png")
            typer.echo(write_auto_mask(str(mask), photo, path), err=True)
            arguments["masks"][number] = path


# Repeating a clip: --from


def _settings_inside(clip: Path) -> dict[str, Any]:
    from motionloom.video.read import read_settings

    settings: dict[str, Any] = read_settings(clip)
    if not settings.get("photo"):
        raise InputError(
            f'"{clip}" carries no settings to repeat', fix="give a clip that `motionloom animate` wrote"
        )
    return settings


def _photo_to_repeat(settings: dict[str, Any], photo: Path | None, clip: Path) -> Path:
    """The photo given, else the one the settings name; it must be the very picture the clip was made of."""
    expected = settings.get("photo_sha256")
    return _found_again(photo, settings["photo"], expected, clip, f"motionloom animate PHOTO --from {clip}")


def _found_again(given: Path | None, name: str, sha256: str | None, clip: Path, fix: str) -> Path:
    """A file that a clip was made from: the one given, else one of its name here or beside the clip.

    Raises:
        InputError: it is not there, or another file has its name.
    """
    places = [given] if given is not None else [Path(name), clip.parent / Path(name).name]
    there = [place for place in places if place.is_file()]
    if not there:
        raise InputError(
            f'"{clip}" was made from "{places[0]}", which is neither here nor beside it',
            fix=f"give that file: {fix}",
        )
    for place in there:
        if sha256 is None or sha256_of(place) == sha256:
            return place
    raise InputError(
        f'"{there[0]}" is not the file "{clip}" was made from: its sha256 differs',
        fix=f"give that file: {fix}",
    )


def _repeated_arguments(settings: dict[str, Any], clip: Path, motions_given: bool) -> dict[str, Any]:
    """The arguments of `generate` that made a clip; files are found again by name and sha256."""
    repeated = {name: settings[name] for name in GENERATE_ARGUMENTS if settings.get(name) is not None}
    if motions_given:  # the masks belong to the motions that were replaced
        repeated.pop("motions", None)
        repeated.pop("masks", None)
    if "motions" in repeated:
        hashes = settings.get("adapters_sha256") or [None] * len(repeated["motions"])
        repeated["motions"] = [
            (
                name if sha256 is None else str(_found_again(None, name, sha256, clip, "--motion FILE")),
                tuple(weight) if isinstance(weight, list) else weight,  # JSON has no tuples
            )
            for (name, weight), sha256 in zip(repeated["motions"], hashes, strict=True)
        ]
    if "masks" in repeated:
        hashes = settings.get("masks_sha256") or [None] * len(repeated["masks"])
        repeated["masks"] = [
            None if mask is None else _found_again(None, mask, sha256, clip, "--motion ... --mask FILE")
            for mask, sha256 in zip(repeated["masks"], hashes, strict=True)
        ]
    return repeated


def check_output(out: Path, sources: Sequence[Path | None]) -> None:
    """Refuses before the work what would be refused after it."""
    for source in sources:
        if source is not None and out.resolve() == source.resolve():
            raise ConfigError(f'"{out}" would overwrite what it is made from', fix="choose another -o")
    if out.suffix.lower() not in OUTPUT_SUFFIXES:
        raise ConfigError(
            f'got -o "{out}", expected a name that ends in .mp4, .gif or .webp',
            fix=f"for example -o {out.with_suffix('.mp4')}; no ending makes a folder of PNGs",
        )
    if out.is_dir() and not (out / "clip.json").is_file():
        raise ConfigError(f'"{out}" is a folder', fix=f"name the clip: -o {out / 'clip.mp4'}")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ResourceError(
            f'cannot write "{out}": "{nearest}" is no folder you can write to', fix="choose another -o"
        )
