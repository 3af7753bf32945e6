"""Measured numbers as the tables of the card and the README: python benchmarks/card.py motionloom/zoo/mini/numbers.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def reconstruction(numbers: Numbers) -> str:
    rows = [
        [
            name,
            str(n["clips"]),
            f"{n['copy_db']:.2f}",
            f"{n['linear_core_db']:.2f}",
            f"{n['codec_db']:.2f}",
            f"+{n['gain_db']:.2f}",
        ]
        for name, n in numbers.items()
    ]
    return table(["held-out clips", "number", "copy frame 0", "linear core", "codec", "gain (dB)"], rows)


def obedience(numbers: Numbers) -> str:
    head = [
        "camera",
        "samples",
        "right",
        "amplitude of the asked",
        "within 90-110 %",
        "off the best affine fit",
    ]
    rows = []
    for name, n in numbers.items():
        if "right" in n:
            amplitude = f"{percent(n['amplitude'])} (sd {100 * n['amplitude_sd']:.1f})"
            within, off = percent(n["amplitude_within_10_percent"]), percent(n["off_affine"])
            rows.append([name, str(n["samples"]), percent(n["right"]), amplitude, within, off])
    return table(head, rows)


def others(numbers: Numbers) -> str:
    rows = []
    for name, n in numbers.items():
        if "right" not in n:
            real = f"{100 * n['size_over_real']:.0f} %" if "size_over_real" in n else "-"
            rows.append([name, f"{100 * n['mean_size']:.2f} %", real, f"{100 * n['seeds_differ_by']:.0f} %"])
    return table(
        [
            "motion",
            "mean displacement (of the frame)",
            "over real clips' median",
            "two seeds differ by (of the flow's size)",
        ],
        rows,
    )


def liveliness(numbers: Numbers) -> str:
    head = [
        "real clips of",
        "rank of 19 (shape)",
        "of 5 learned",
        "nearest words (shape)",
        "own distance (shape)",
        "real to real",
    ]
    head += ["rank of 19 (absolute speed)", "of 5 learned", "heading, ours / real"]
    rows = []
    for name, n in numbers.items():
        shape, speed = n["shape"], n["speed"]
        row = [name, str(shape["rank"]), str(shape["rank_among_learned"]), ", ".join(shape["nearest"])]
        row += [f"{shape['distance']:.2f}", f"{shape['real_against_real']:.2f}", str(speed["rank"])]
        rows.append([*row, str(speed["rank_among_learned"]), f"{n['heading']:.2f} / {n['heading_real']:.2f}"])
    return table(head, rows)


def headings(numbers: Numbers) -> str:
    names = ["left", "right", "up", "down"]
    return table(
        ["told", *names], [[word, *(percent(n[name]) for name in names)] for word, n in numbers.items()]
    )


def regions(numbers: Numbers) -> str:
    rows = []
    for name, n in numbers.items():
        obeys = ", ".join(
            f"{key[:-6]} {100 * value:.0f} %" for key, value in n.items() if key.endswith("_obeys")
        )
        leaks = ", ".join(
            f"{key[:-6]} {100 * value:.1f} %" for key, value in n.items() if key.endswith("_leaks")
        )
        rows.append([name.replace("|", "/"), f"{100 * n['leak_alone']:.2f} %", obeys or "-", leaks or "-"])
    return table(
        [
            "left / right",
            "left alone: flow seen on the right",
            "direction obeyed in its half",
            "component seen in the other half",
        ],
        rows,
    )


def dial(numbers: Numbers) -> str:
    rows = [[name, *(f"{n[key]:.2f}" for key in ("0.25", "0.5", "1.5"))] for name, n in numbers.items()]
    return table(["motion", "asked 0.25", "asked 0.5", "asked 1.5"], rows)


def sharpness(numbers: Numbers) -> str:
    rows = [
        [
            name,
            f"{100 * n['mean']:.0f} %",
            f"{100 * n['least']:.0f} %",
            "yes" if n["frame_0_is_the_photo"] else "NO",
        ]
        for name, n in numbers.items()
    ]
    return table(["motion", "mean", "least of 4 photos", "frame 0 is the photo"], rows)


def cost(numbers: Numbers) -> str:
    head = ["frames", "motion (s)", "decoding (s)", "a frame (s)", "total (s)", "peak memory (MiB)"]
    rows = []
    for name, n in numbers.items():
        if name.startswith("mini"):
            seconds = [f"{n[key]:.2f}" for key in ("motion_s", "decode_s", "decode_s_per_frame", "total_s")]
            rows.append([str(n["frames"]), *seconds, f"{n['peak_mib']:.0f}"])
    return table(head, rows)


TABLES = {
    "reconstruction": reconstruction, "obedience": obedience, "others": others, "liveliness": liveliness,
    "liveliness_elsewhere": liveliness, "headings": headings, "regions": regions, "dial": dial,
    "sharpness": sharpness, "cost": cost,
}  # fmt: skip


def main() -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end -->` in the card and the README."""
    numbers = json.loads(Path(sys.argv[1]).read_text())
    numbers["others"] = numbers["obedience"]
    for path in (Path("motionloom/zoo/mini/README.md"), Path("README.md")):
        text = path.read_text()
        for name, make in TABLES.items():
            start, end = f"<!-- {name} -->\n", "<!-- end -->"
            if start in text and name in numbers:
                before, rest = text.split(start, 1)
                text = before + start + make(numbers[name]) + "\n" + end + rest.split(end, 1)[1]
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
