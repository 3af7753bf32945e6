"""`motionloom data`: make and look at training clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motionloom.cli.show import AsJson, outline, progress_bar, show

if TYPE_CHECKING:
    from motionloom.datasets.layout import Entry
    from motionloom.datasets.subject_masks import Cut
    from motionloom.video.clip import Clip

SHEET_ROWS = 8  # clips of a split on a contact sheet

app = typer.Typer(
    help="Make and look at training clips.",
    epilog="Example: motionloom data synth photos/ -o clips/ -n 200",
    rich_markup_mode=None,
)


@app.command(epilog="Example: motionloom data synth --world blocks -o data/blocks -n 24000 --workers 8")
def synth(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FOLDER", help="The folder to write.")],
    photos: Annotated[
        Path | None, typer.Argument(help="A folder of pictures to set in motion.", show_default=False)
    ] = None,
    world: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead of photos: blocks or pushing.")
    ] = None,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many clips.")] = 100,
    test_count: Annotated[
        int | None, typer.Option(min=0, help="Test clips of a world. Default: a quarter as many more.")
    ] = None,
    motions: Annotated[
        str | None, typer.Option(metavar="A,B", help="Which motions of photos. Default: all.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Frames a clip. Default: 16; pushing 30.")] = None,
    size: Annotated[
        int | None, typer.Option(min=16, help="Width and height in pixels. Default: 128; pushing 64.")
    ] = None,
    fps: Annotated[float, typer.Option(min=0.1, max=240, help="Frames per second.")] = 8.0,
    variant: Annotated[str, typer.Option(help="Of blocks: v2, or v1 with a snitch and a cone.")] = "v2",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that write a world.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Write training clips: photographs set in motion, or a small world with the truth beside every clip.

    A world may be interrupted and run again: what is written is kept. The same seed gives the same bytes, whatever the
    number of workers.
    """
    from motionloom.errors import ConfigError

    if (photos is None) == (world is None):
        raise ConfigError(
            "expected either a folder of photos or --world NAME",
            fix="motionloom data synth photos/ -o clips/, or motionloom data synth --world blocks -o data/",
        )
    if world is not None:
        options = {"frames": frames, "size_px": size, "fps": fps, "variant": variant}
        given = {key: value for key, value in options.items() if value is not None}
        _write_world(world, out, (count, test_count), seed, workers, given, as_json)
        return
    names = [name.strip() for name in motions.split(",") if name.strip()] if motions else None

    from motionloom.datasets.synthetic import write_clips

    assert photos is not None
    with progress_bar(shown=not as_json) as progress:
        written = write_clips(
            photos,
            out,
            count,
            motions=names,
            frames=frames or 16,
            size_px=size or 128,
            fps=fps,
            seed=seed,
            progress=lambda done, total: progress("clips", done, total),
        )
    show({"folder": out, "clips": written} if as_json else out)


def _write_world(
    name: str,
    out: Path,
    counts: tuple[int, int | None],
    seed: int,
    workers: int,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    from motionloom.datasets.worlds import world_of
    from motionloom.datasets.worlds.write import write_world

    count = counts[0]
    test_count = count // 4 if counts[1] is None else counts[1]
    world = world_of(name, count=count, test_count=test_count, seed=seed, **options)
    with progress_bar(shown=not as_json) as progress:
        write_world(world, out, workers, lambda done, total: progress(name, done, total))
    show({"folder": out, "world": name, "train_clips": count, "test_clips": test_count} if as_json else out)


@app.command("inspect", epilog="Example: motionloom data inspect data/natops --sheet natops.png")
def inspect_data(
    folder: Annotated[
        Path, typer.Argument(help="A folder of clips, or a published data set.", show_default=False)
    ],
    read_all: Annotated[
        bool, typer.Option("--all", help="Read every clip of a data set, not a sample.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Also write a contact sheet of some clips.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a folder of clips holds, and why some cannot be used.

    Published data sets in their official form (BAIR, Landscape, NATOPS, MUG, CATER-GEN, UCF101, WebVid's tables,
    WebDataset tars) are recognised and told split by split.
    """
    from motionloom.datasets.layouts import open_layout, recognise

    name = recognise(folder)
    if name is None:
        _inspect_folder(folder, sheet, as_json)
        return
    from motionloom.datasets.contact_sheet import write_contact_sheet
    from motionloom.datasets.survey import survey

    rows: list[tuple[str, Clip]] = []

    def keep(split: str, entry: Entry, clip: Clip) -> None:
        if sheet is not None and sum(title.startswith(f"{split} ") for title, _ in rows) < SHEET_ROWS:
            rows.append((f"{split} {entry.name}: {entry.text or ''}", clip))

    with progress_bar(shown=not as_json) as progress:
        facts = survey(open_layout(name, folder), read_all, progress, keep)
    if sheet is not None:
        facts["sheet"] = str(write_contact_sheet(sheet, rows))
    show(facts if as_json else outline(facts))


def _inspect_folder(folder: Path, sheet: Path | None, as_json: bool) -> None:
    from motionloom.inspection import describe_clips

    facts = describe_clips(folder)
    if sheet is not None:
        from motionloom.datasets.contact_sheet import write_contact_sheet
        from motionloom.video.read import read_clip

        names = [used["clip"] for used in facts["used"][:SHEET_ROWS]]
        rows = [(name, read_clip(folder / name)) for name in names]
        facts["sheet"] = str(write_contact_sheet(sheet, rows))
    show(facts if as_json else outline(facts))


@app.command(epilog="Example: motionloom data camera photos/ -o clips/zoom-in --motion zoom-in")
def camera(
    photos: Annotated[Path, typer.Argument(help="A folder of pictures.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="CLIPS", help="The folder to write.")],
    motion: Annotated[str, typer.Option(help="pan-left, pan-right, pan-up, pan-down, zoom-in or zoom-out.")],
    crops: Annotated[int, typer.Option(min=1, help="Clips of each picture.")] = 5,
    frames: Annotated[int, typer.Option(min=2, help="Frames a clip.")] = 16,
    size: Annotated[str, typer.Option(metavar="WxH", help="Of the clips, in pixels.")] = "512x320",
    fps: Annotated[float, typer.Option(min=0.1, max=240, help="Frames per second.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write clips that teach an adapter a camera motion: pictures panned or zoomed at constant speed."""
    from motionloom.cli.animate import parse_size
    from motionloom.errors import ConfigError

    if parse_size(size) == "native":
        raise ConfigError("these clips need a size", fix="for example --size 512x320")
    width, _, height = size.partition("x")

    from motionloom.datasets.synthetic.camera_set import CameraSet, write_camera_clips

    what = CameraSet(motion, crops, frames, fps, (int(width), int(height)), seed)
    with progress_bar(shown=not as_json) as progress:
        written = write_camera_clips(photos, out, what, lambda done, total: progress("clips", done, total))
    show({"folder": out, "clips": written} if as_json else out)


@app.command(epilog="Example: motionloom data mask clips/horse -o clips/horse_masks")
def mask(
    clips: Annotated[Path, typer.Argument(help="A folder of clips.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="MASKS", help="The folder to write.")],
    box: Annotated[
        str | None,
        typer.Option(
            metavar="LEFT,TOP,RIGHT,BOTTOM",
            help="Where the subject is, in shares of the frame. Default: what moves.",
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(help="What the subject is, such as horse: found by GroundingDINO, cut out by SAM."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write first masks of the clips' subject, for masked training; look at them and correct them.

    Without --words no network is used: the subject is told apart by its motion, or a box, and by its colours.
    """
    from motionloom.datasets.subject_masks import write_masks
    from motionloom.errors import ConfigError

    if box is not None and words is not None:
        raise ConfigError("got --box and --words, expected one of them", fix="leave one out")
    with progress_bar(shown=not as_json) as progress:
        written, refused = write_masks(
            clips,
            out,
            parse_box(box),
            lambda done, total: progress("masks", done, total),
            _cut_by_words(words) if words is not None else None,
        )
    facts = {
        "folder": out,
        "how": "words" if words is not None else "motion and colour" if box is None else "box and colour",
        "masks": [{"clip": one.name, "share": round(one.share, 4), "note": one.note} for one in written],
        "refused": [{"clip": name, "reason": reason} for name, reason in refused],
    }
    show(facts if as_json else outline(facts))


def _cut_by_words(words: str) -> Cut:
    from motionloom.datasets.named_subjects import load_named_subjects

    subjects = load_named_subjects()
    return lambda frames: subjects.masks(frames, words)


def parse_box(text: str | None) -> tuple[float, float, float, float] | None:
    from motionloom.errors import ConfigError

    if text is None:
        return None
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"got the box {text!r}, expected four numbers", fix="for example 0.2,0.1,0.8,0.9"
        ) from None
    return left, top, right, bottom
