"""The world `pushing` on disk, in BAIR's layout: softmotion30_44k/{train,test}/traj_<first>_to_<last>.tfrecords."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from motionloom.datasets.tfrecord import build_example, write_record
from motionloom.datasets.worlds.pushing.physics import simulate
from motionloom.datasets.worlds.pushing.render import CAMERAS, render_trajectory
from motionloom.datasets.worlds.write import Unit, World
from motionloom.durable import write_durably
from motionloom.errors import ConfigError

PER_FILE = 256
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class PushingWorld(World):
    """Args: count, test_count: trajectories of the splits; frames: of each. Pictures are 64 x 64, as BAIR's."""

    name = "pushing"

    count: int
    test_count: int = 0
    seed: int = 0
    frames: int = 30

    def __post_init__(self) -> None:
        if min(self.count, self.test_count) < 0 or self.frames < 2:
            raise ConfigError(
                f"cannot write {self.count} + {self.test_count} trajectories of {self.frames} frames",
                fix="use 2 frames or more",
            )

    def facts(self) -> dict[str, Any]:
        """With the counts: the last file's name depends on them."""
        return asdict(self)

    def units(self) -> list[Unit]:
        """The files; a unit's number is its first trajectory's."""
        counts = zip(_SPLITS, (self.count, self.test_count), strict=True)
        return [(split, first) for split, count in counts for first in range(0, count, PER_FILE)]

    def is_written(self, folder: Path, unit: Unit) -> bool:
        return self._path(folder, unit).is_file()

    def write_unit(self, folder: Path, unit: Unit) -> None:
        split, first = unit
        numbers = range(first, self._end(unit))

        def write(path: Path) -> None:
            with path.open("wb") as stream:
                for number in numbers:
                    write_record(stream, build_example(self.features(split, number)))

        write_durably(self._path(folder, unit), write)

    def features(self, split: str, number: int) -> dict[str, bytes | npt.NDArray[np.float32]]:
        """A trajectory under BAIR's names."""
        draw = np.random.default_rng([self.seed, _SPLITS.index(split), number])
        trajectory = simulate(draw, self.frames)
        grain = int(draw.integers(1 << 32))
        views = {view: render_trajectory(trajectory, np.random.default_rng(grain), view) for view in CAMERAS}
        features: dict[str, bytes | npt.NDArray[np.float32]] = {}
        for moment in range(self.frames):
            for view, frames in views.items():
                features[f"{moment}/{view}/encoded"] = frames[moment].tobytes()
            features[f"{moment}/action"] = trajectory.actions[moment].astype(np.float32)
            features[f"{moment}/endeffector_pos"] = trajectory.gripper[moment].astype(np.float32)
        return features

    def _end(self, unit: Unit) -> int:
        return min(unit[1] + PER_FILE, self.count if unit[0] == "train" else self.test_count)

    def _path(self, folder: Path, unit: Unit) -> Path:
        name = f"traj_{unit[1]}_to_{self._end(unit) - 1}.tfrecords"
        return folder / "softmotion30_44k" / unit[0] / name
