"""The command: quick help, exit codes, one error line, JSON, did-you-mean, `--from`. Verbs are faked here."""

from __future__ import annotations

import errno
import hashlib
import json
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from motionloom import errors
from motionloom.cli import main
from motionloom.cli.animate import parse_motion

ROOT = Path(__file__).parent.parent
COMMANDS: tuple[list[str], ...] = (
    [],
    ["animate"],
    ["transfer"],
    ["train"],
    ["evaluate"],
    ["report"],
    ["study"],
    ["study", "build"],
    ["study", "run"],
    ["study", "serve"],
    ["study", "analyse"],
    ["merge"],
    ["convert"],
    ["push"],
    ["pull"],
    ["data"],
    ["data", "synth"],
    ["data", "inspect"],
    ["data", "camera"],
    ["data", "mask"],
    ["bases"],
    ["motions"],
    ["inspect"],
    ["doctor"],
)
MOTIONS = [("clouds", "clouds drift"), ("pan-left", "the camera turns left")]


@dataclass
class FakeClip:
    settings: dict[str, Any] = field(default_factory=dict)
    fps: float = 8.0
    frames: Any = field(default_factory=lambda: _Frames())

    def save(self, path: Path) -> Path:
        path.write_bytes(b"clip")
        return path


class _Frames:
    shape = (16, 48, 64, 3)

    def __len__(self) -> int:
        return self.shape[0]


@dataclass
class Verbs:
    """Records what the fakes were called with; `raises` makes generate fail."""

    generate: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    write_clips: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    raises: BaseException | None = None


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> Verbs:
    calls = Verbs()

    def generate(
        base: Any, photo: Any, motions: Any = None, *, progress: Any = None, **arguments: Any
    ) -> FakeClip:
        if calls.raises is not None:
            raise calls.raises
        progress("denoise", 1, 2)
        progress("denoise", 2, 2)
        calls.generate.update(base=base, photo=photo, motions=motions, **arguments)
        return FakeClip(settings={"seed": arguments.get("seed", 0), "photo": str(photo)})

    def train(recipe: Any, **arguments: Any) -> Any:
        calls.train.update(recipe=recipe, **arguments)
        forecast: dict[str, Any] | None = {"parameters": {"codec": 12}} if arguments["dry_run"] else None
        return SimpleNamespace(
            final=Path("runs/a/final"),
            run_dir=Path("runs/a"),
            forecast=forecast,
            to_json=lambda: forecast or {"steps": 3},
        )

    def write_clips(photos: Any, out: Any, count: int, *, progress: Any, **arguments: Any) -> list[Path]:
        progress(count, count)
        calls.write_clips.update(photos=photos, out=out, count=count, **arguments)
        return [Path(out) / f"{index:05d}.mp4" for index in range(count)]

    put_module(monkeypatch, "motionloom.generate", generate=generate)
    put_module(monkeypatch, "motionloom.train", train=train)
    put_module(monkeypatch, "motionloom.datasets.synthetic", write_clips=write_clips)
    put_module(monkeypatch, "motionloom.zoo", describe_motions=lambda: MOTIONS)
    put_module(
        monkeypatch,
        "motionloom.denoisers.catalog",
        load_base=lambda name: f"base {name}",
        describe_bases=lambda: [("mini", "small, on the CPU", "shipped")],
    )
    put_module(monkeypatch, "motionloom.video.read", read_settings=lambda path: calls.settings)
    return calls


def put_module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    parent = name.rpartition(".")[0]
    if parent != "motionloom" and parent not in sys.modules:
        package = ModuleType(parent)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, parent, package)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"a photo")
    return path


# Help


def test_help_loads_nothing_heavy_and_every_command_shows_an_example() -> None:
    code = f"""
import io, sys, contextlib
from motionloom.cli import main
for words in {COMMANDS!r}:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([*words, "--help"]) == 0, words
    assert "Example: motionloom " + " ".join(words) in said.getvalue(), words
heavy = ("torch", "numpy", "diffusers", "av", "PIL", "rich", "pydantic")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("words", [["--help"], ["animate", "--help"], ["--version"]])
def test_help_answers_at_once(words: list[str]) -> None:
    """Within half a second of processor time, which a loaded machine does not stretch as it does the clock."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "motionloom", *words], capture_output=True, cwd=ROOT, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if times[-1] < 0.5:
            break
    assert min(times) < 0.5


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "animate" in capsys.readouterr().out
    assert main(["data"]) == 0
    assert "synth" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


# Errors and exit codes

ERRORS = [
    (errors.ConfigError, "config", 2),
    (errors.InputError, "input", 2),
    (errors.WeightsError, "weights", 2),
    (errors.ResourceError, "resource", 2),
    (errors.NumericError, "numeric", 2),
    (errors.PartialError, "partial", 2),
    (errors.StateError, "state", 2),
    (errors.MotionLoomError, "internal", 1),
]


@pytest.mark.parametrize(("error", "kind", "code"), ERRORS)
def test_our_errors_become_one_line_and_a_code(
    error: type[errors.MotionLoomError],
    kind: str,
    code: int,
    verbs: Verbs,
    photo: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    verbs.raises = error("got a, expected b", fix="do c")
    assert main(["animate", str(photo)]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"error[{kind}]: got a, expected b. Fix: do c"


def test_errors_as_json(verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbs.raises = errors.WeightsError("got a", fix="do c")
    assert main(["animate", str(photo), "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {
        "error": {"kind": "weights", "message": "got a", "fix": "do c", "exit_code": 2}
    }


def test_an_unforeseen_error_is_one_line_and_exit_1(
    verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.raises = RuntimeError("first line\nsecond \x1b[31mline")
    assert main(["animate", str(photo)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error[internal]: RuntimeError: first line second [31mline. Fix: ")
    assert "--debug" in last


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_shows_the_traceback(
    place: str, verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.raises = RuntimeError("broken")
    words = ["animate", str(photo)]
    assert main(["--debug", *words] if place == "first" else [*words, "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_full_memory_and_disk_are_resource_errors(
    problem: Exception, verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.raises = problem
    assert main(["animate", str(photo)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error[resource]: ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["animat"], "did you mean 'animate'?"),
        (["animate", "a.jpg", "--frame", "3"], "--frames"),
        (["animate", "a.jpg", "--frames", "many"], "--frames"),
        (["animate", "a.jpg", "--frames", "1"], "--frames"),
        (["animate", "a.jpg", "--size", "12by8"], "WIDTHxHEIGHT"),
        (["animate", "a.jpg", "--motion", "clouds:much"], "NAME:WEIGHT"),
        (["animate", "a.jpg", "--motion", "cluods"], "did you mean 'clouds'?"),
        (["animate", "a.jpg", "--mask", "-"], "0 --motion"),
        (["animate"], "no photo given"),
        (["animate", "a.jpg", "-o", "a.mpg"], "-o a.mp4"),
        (["animate", "a.jpg", "-o", "."], "clip.mp4"),
        (["train"], "Missing argument"),
        (["train", "r.yaml", "steps"], "key=value"),
        (["data", "synth", "photos"], "--out"),
    ],
)
def test_usage_mistakes_are_config_errors_that_say_what_was_meant(
    words: list[str], expected: str, verbs: Verbs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error[config]: ") and ". Fix: " in lines[0]
    assert expected in lines[0]


def test_usage_mistakes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animat", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "config"


SLEEPER = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with both ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)
class Sleeper(types.ModuleType): pass
def generate(*args, **kwargs):
    print("ready", flush=True)
    time.sleep(30)
for name, contents in {{
    "motionloom.generate": {{"generate": generate}},
    "motionloom.denoisers": {{"__path__": []}},
    "motionloom.denoisers.catalog": {{"load_base": str}},
}}.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)
from motionloom.cli import main
sys.exit(main(["animate", {photo!r}, "--json"]))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_signals_end_a_command_with_their_codes(number: int, code: int, photo: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", SLEEPER.format(photo=str(photo))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(number)
    _, said = child.communicate(timeout=20)
    assert child.returncode == code, said
    assert "Traceback" not in said


# animate


def test_animate_prints_the_path_alone(verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", str(photo), "-o", "out.mp4"]) == 0
    assert capsys.readouterr().out == "out.mp4\n"
    assert Path("out.mp4").exists()
    assert verbs.generate == {"base": "base mini", "photo": photo, "motions": None}


def test_animate_never_names_its_clip_like_the_photo(verbs: Verbs, photo: Path) -> None:
    """A phone keeps IMG_1.jpg and IMG_1.mp4 side by side."""
    assert main(["animate", str(photo)]) == 0
    assert Path("photo_animated.mp4").exists() and not Path("photo.mp4").exists()


def test_a_photo_that_is_not_there(verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", "phto.jpg"]) == 2
    said = capsys.readouterr().err
    assert said.startswith('error[input]: cannot animate "phto.jpg": no such file. Fix: did you mean')
    assert verbs.generate == {}


def test_animate_passes_every_option_on(verbs: Verbs, photo: Path) -> None:
    Path("sky.png").write_bytes(b"mask")
    words = "--base tiny --motion clouds:0.6 --motion pan-left:1>0 --mask - --mask sky.png --prompt wind"
    words += " --frames 8 --fps 12 --steps 5 --size 64x48 --seed 7 --overscan --loop"
    assert main(["animate", str(photo), *words.split()]) == 0
    assert verbs.generate == {
        "base": "base tiny",
        "photo": photo,
        "motions": [("clouds", 0.6), ("pan-left", (1.0, 0.0))],
        "masks": [None, Path("sky.png")],
        "prompt": "wind",
        "frames": 8,
        "fps": 12.0,
        "steps": 5,
        "size": "64x48",
        "seed": 7,
        "overscan": True,
        "loop": True,
    }


def test_missing_masks_are_none(verbs: Verbs, photo: Path) -> None:
    Path("sky.png").write_bytes(b"mask")
    words = ["--motion", "clouds", "--motion", "pan-left", "--mask", "sky.png"]
    assert main(["animate", str(photo), *words]) == 0
    assert verbs.generate["masks"] == [Path("sky.png"), None]


def test_a_mask_that_is_not_there(verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", str(photo), "--motion", "clouds", "--mask", "no.png"]) == 2
    assert 'error[input]: there is no mask "no.png"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clouds", ("clouds", 1.0)),
        ("clouds:-0.5", ("clouds", -0.5)),
        ("clouds:1>0", ("clouds", (1.0, 0.0))),
        ("runs/a:b/m.safetensors", ("runs/a:b/m.safetensors", 1.0)),
        ("runs/m.safetensors:0.5", ("runs/m.safetensors", 0.5)),
    ],
)
def test_motion_and_weight(text: str, expected: Any) -> None:
    assert parse_motion(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":1", "clouds:", "clouds:nan", "clouds:inf", "clouds:1>0>1", "clouds:x"]
)
def test_motions_that_say_nothing(text: str) -> None:
    with pytest.raises(errors.ConfigError):
        parse_motion(text)


def test_animate_as_json(verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", str(photo), "-o", "out.mp4", "--seed", "3", "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert said.err == ""
    assert (facts["path"], facts["frames"], facts["width_px"], facts["height_px"]) == ("out.mp4", 16, 64, 48)
    assert facts["settings"]["seed"] == 3


def test_an_output_never_overwrites_what_it_is_made_from(
    verbs: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["animate", str(photo), "-o", str(photo)]) == 2
    assert "error[config]" in capsys.readouterr().err
    assert photo.read_bytes() == b"a photo"


# --from

EARLIER = {
    "base": "tiny",
    "motions": [["clouds", [1.0, 0.0]], ["pan-left", 0.5]],
    "masks": [None, "sky.png"],
    "frames": 8,
    "fps": 12.0,
    "steps": 5,
    "size": "64x48",
    "seed": 7,
    "overscan": False,
    "loop": True,
    "prompt": None,
}


@pytest.fixture
def earlier(verbs: Verbs, photo: Path) -> Verbs:
    Path("earlier.mp4").write_bytes(b"clip")
    Path("sky.png").write_bytes(b"mask")
    sha256 = hashlib.sha256(photo.read_bytes()).hexdigest()
    verbs.settings.update(EARLIER, photo=str(photo), photo_sha256=sha256)
    return verbs


def test_from_repeats_every_setting(earlier: Verbs, photo: Path) -> None:
    assert main(["animate", "--from", "earlier.mp4"]) == 0
    assert earlier.generate == {
        "base": "base tiny",
        "photo": photo,
        "motions": [("clouds", (1.0, 0.0)), ("pan-left", 0.5)],
        "masks": [None, Path("sky.png")],
        "frames": 8,
        "fps": 12.0,
        "steps": 5,
        "size": "64x48",
        "seed": 7,
        "overscan": False,
        "loop": True,
    }


def test_options_win_over_from(earlier: Verbs) -> None:
    words = ["--from", "earlier.mp4", "--seed", "8", "--no-loop", "--base", "mini", "--motion", "clouds:0.2"]
    assert main(["animate", *words]) == 0
    assert (earlier.generate["seed"], earlier.generate["loop"]) == (8, False)
    assert earlier.generate["base"] == "base mini"
    assert earlier.generate["motions"] == [("clouds", 0.2)]
    assert "masks" not in earlier.generate  # they belonged to the motions that were replaced
    assert earlier.generate["frames"] == 8


def test_from_takes_the_photo_from_elsewhere_if_it_is_the_same(earlier: Verbs, photo: Path) -> None:
    moved = photo.rename("moved.jpg")
    assert main(["animate", str(moved), "--from", "earlier.mp4"]) == 0
    assert earlier.generate["photo"] == moved


def test_from_refuses_another_photo(earlier: Verbs, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.jpg").write_bytes(b"another photo")
    assert main(["animate", "other.jpg", "--from", "earlier.mp4"]) == 2
    assert "sha256 differs" in capsys.readouterr().err


def test_from_says_which_photo_is_missing(
    earlier: Verbs, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.unlink()
    assert main(["animate", "--from", "earlier.mp4"]) == 2
    assert f'"{photo}", which is neither here nor beside it' in capsys.readouterr().err


def test_from_a_clip_without_settings(verbs: Verbs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", "--from", "phone.mp4"]) == 2
    assert "carries no settings" in capsys.readouterr().err


def test_from_does_not_overwrite_its_own_source(earlier: Verbs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["animate", "--from", "earlier.mp4", "-o", "earlier.mp4"]) == 2
    assert "would overwrite" in capsys.readouterr().err


# The other commands


def test_train(verbs: Verbs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "r.yaml", "steps=3", "lr=1e-4", "--run-dir", "runs/a"]) == 0
    assert capsys.readouterr().out == "runs/a/final\n"
    assert verbs.train == {
        "recipe": Path("r.yaml"),
        "run_dir": Path("runs/a"),
        "overrides": ("steps=3", "lr=1e-4"),
        "dry_run": False,
        "progress": None,
    }


def test_train_dry_run(verbs: Verbs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "r.yaml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"parameters": {"codec": 12}}
    assert main(["train", "r.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == "parameters:\n  codec: 12\n"


def test_data_synth(verbs: Verbs, capsys: pytest.CaptureFixture[str]) -> None:
    words = "photos -o clips -n 3 --motions pan-left,snow --size 64 --seed 5"
    assert main(["data", "synth", *words.split()]) == 0
    assert capsys.readouterr().out == "clips\n"
    assert verbs.write_clips == {
        "photos": Path("photos"),
        "out": Path("clips"),
        "count": 3,
        "motions": ["pan-left", "snow"],
        "frames": 16,
        "size_px": 64,
        "fps": 8.0,
        "seed": 5,
    }


def test_lists(verbs: Verbs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["motions"]) == 0
    assert capsys.readouterr().out == "clouds    clouds drift\npan-left  the camera turns left\n"
    assert main(["bases", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "mini", "about": "small, on the CPU", "status": "shipped"}
    ]


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    Path("log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert main(["inspect", "log.jsonl"]) == 0
    assert "entries: 2" in capsys.readouterr().out
    assert main(["inspect", "log.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["last"] == {"step": 2}
    assert main(["inspect", "lg.jsonl"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_doctor_exits_2_when_something_is_to_be_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from motionloom import doctor

    for status, code in (("ok", 0), ("note", 0), ("problem", 2)):
        finding = doctor.Finding("disk", status, "2 GB free", "free some space")  # type: ignore[arg-type]
        monkeypatch.setattr(doctor, "examine", lambda finding=finding: [finding])
        assert main(["doctor"]) == code
        assert "2 GB free" in capsys.readouterr().out
        assert main(["doctor", "--json"]) == code
        assert json.loads(capsys.readouterr().out)[0]["status"] == status


def test_doctor_exits_1_when_the_scan_itself_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from motionloom import doctor

    def broken() -> list[doctor.Finding]:
        raise RuntimeError("no scan")

    monkeypatch.setattr(doctor, "examine", broken)
    assert main(["doctor"]) == 1
