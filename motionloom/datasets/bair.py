"""BAIR robot pushing (Ebert et al. 2017): TFRecords of 30 raw frames, 64 x 64, from two cameras.

    softmotion30_44k/{train,test}/traj_<first>_to_<last>.tfrecords     one record a trajectory
    record: {t}/image_aux1/encoded, {t}/image_main/encoded             uint8 (64, 64, 3), raw
            {t}/action (4,), {t}/endeffector_pos (3,)                  float32

43,264 trajectories to train on and 256 to test (LaMD): view image_aux1, a random window of 16 frames in training, the
first 16 in tests. The splits "train-cinn" and "val-cinn" hold out trajectories 256 to 511, as cINN (Dorkenwald et al. 2021)
does.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from motionloom.datasets.layout import Contents, Entry, Layout, subfolder_in
from motionloom.datasets.protocol import Protocol
from motionloom.datasets.tfrecord import index_records, parse_example, read_record
from motionloom.errors import InputError
from motionloom.video.clip import Clip

SIDE_PX = 64
VIEW = "image_aux1"
HELD_OUT = "traj_256_to_511.tfrecords"
_NAME = re.compile(r"traj_(\d+)_to_(\d+)\.tfrecords")


class BairPushing(Layout):
    title = "BAIR robot pushing"
    expected = "expected train/ and test/ with traj_*_to_*.tfrecords"
    fps = 10.0  # ours: the records do not say
    official_counts = {"train": 43264, "test": 256, "train-cinn": 43008, "val-cinn": 256}  # noqa: RUF012

    def __init__(self, folder: str | Path, view: str = VIEW) -> None:
        super().__init__(folder)
        self.view = view
        self._lengths: dict[str, int] = {}  # of a file's trajectories, measured on its first

    @classmethod
    def root_in(cls, folder: Path) -> Path | None:
        return subfolder_in(folder, "*/traj_*_to_*.tfrecords")

    def protocol(self, split: str) -> Protocol:
        return Protocol("first" if split in ("test", "val-cinn") else "window")

    def contents(self, split: str) -> Contents:
        self.check_split(split)
        files = sorted(
            (self.root / split.partition("-cinn")[0].replace("val", "train")).glob("*.tfrecords"), key=_order
        )
        if split.endswith("-cinn"):
            files = [file for file in files if (file.name == HELD_OUT) == split.startswith("val")]
        contents = Contents()
        for file in files:
            self._add(contents, file)
        return contents

    def _add(self, contents: Contents, file: Path) -> None:
        name = self.relative(file)
        try:
            records, problem = index_records(file)
        except OSError as error:
            contents.refused.append((name, f"cannot be read: {error.strerror}"))
            return
        promised = _promised(file)
        if problem or (promised is not None and promised != len(records)):
            said = (
                f"{len(records)} of {promised} trajectories"
                if promised is not None
                else f"{len(records)} trajectories"
            )
            contents.refused.append((name, f"{said} found{': ' + problem if problem else ''}"))
        contents.entries += [
            Entry(f"{name}[{number}]", (name, record), size_bytes=record.size_bytes)
            for number, record in enumerate(records)
        ]

    def read(self, entry: Entry) -> Clip:
        return Clip(self.frames(entry, self.view), self.fps)

    def num_frames(self, entry: Entry) -> int:
        """Of the file's first trajectory: reading all 30 GB before a run would take longer than people wait. A damaged
        record is told when it is read; `motionloom data inspect --all` reads every one.
        """
        name = entry.place[0]
        if name not in self._lengths:
            self._lengths[name] = self.read(entry).num_frames
        return self._lengths[name]

    def frames(self, entry: Entry, view: str) -> npt.NDArray[np.uint8]:
        """The frames of one camera, uint8 (T, 64, 64, 3); `view` is image_aux1 or image_main."""
        features = parse_example(self._data(entry))
        pictures = _in_time(features, f"{view}/encoded")
        if not pictures:
            raise InputError(f'"{entry.name}" has no frames of view {view}', fix="download the file again")
        wrong = next((len(picture) for picture in pictures if len(picture) != SIDE_PX * SIDE_PX * 3), None)
        if wrong is not None:
            raise InputError(
                f'"{entry.name}" has a frame of {wrong} bytes, expected {SIDE_PX}x{SIDE_PX}x3',
                fix="use the official files",
            )
        return np.stack(pictures).reshape(-1, SIDE_PX, SIDE_PX, 3).astype(np.uint8)

    def states(self, entry: Entry) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Actions (T, 4) and positions of the gripper (T, 3), as recorded."""
        features = parse_example(self._data(entry))
        actions, positions = _in_time(features, "action"), _in_time(features, "endeffector_pos")
        if not actions or not positions:
            raise InputError(f'"{entry.name}" has no actions or positions', fix="use the official files")
        return np.stack(actions).astype(np.float32), np.stack(positions).astype(np.float32)

    def _data(self, entry: Entry) -> bytes:
        name, record = entry.place
        return read_record(self.root / name, record)


def _in_time(
    features: dict[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]], name: str
) -> list[npt.NDArray[np.generic]]:
    """The values of {0}/name, {1}/name, ... until one is missing."""
    found: list[npt.NDArray[np.generic]] = []
    while f"{len(found)}/{name}" in features:
        found.append(features[f"{len(found)}/{name}"])
    return found


def _order(file: Path) -> tuple[int, str]:
    match = _NAME.fullmatch(file.name)
    return (int(match[1]) if match else 1 << 30), file.name


def _promised(file: Path) -> int | None:
    match = _NAME.fullmatch(file.name)
    return int(match[2]) - int(match[1]) + 1 if match else None
