"""Squares of clips: where something moves, as the seed says."""

from __future__ import annotations

import pytest
import torch

from motionloom.datasets.base import Sample, TrainingDataset
from motionloom.datasets.crops import Crops
from motionloom.errors import ConfigError


class Corner(TrainingDataset):
    """Clips in which one pixel of the upper left corner flickers."""

    refused, notes = (("bad.mp4", "empty"),), ("said",)

    def __len__(self) -> int:
        return 3

    def at(self, epoch: int, index: int) -> Sample:
        frames = torch.arange(32.0 * 40).view(1, 1, 32, 40).repeat(3, 4, 1, 1) / 2000
        frames[:, 1::2, 2, 2] += 1
        return {"frames": frames, "text": "a caption"}

    @property
    def fingerprint(self) -> str:
        return "corner"


def moves(sample: Sample) -> bool:
    frames = sample["frames"]
    return bool((frames != frames[:, :1]).any())


def test_a_crop_is_a_square_of_the_clip_and_keeps_the_rest_of_the_sample() -> None:
    clips = Corner()
    crops = Crops(clips, 16)
    assert (len(crops), crops.refused, crops.notes) == (3, clips.refused, clips.notes)
    assert crops.fingerprint == "corner"
    sample, whole = crops.at(0, 1), clips.at(0, 1)["frames"]
    assert sample["text"] == "a caption" and sample["frames"].shape == (3, 4, 16, 16)
    corner = sample["frames"][0, 0, -1, -1] * 2000  # 40 y + x of the last pixel
    y, x = divmod(round(float(corner)), 40)
    assert torch.equal(sample["frames"], whole[..., y - 15 : y + 1, x - 15 : x + 1])


def test_where_it_lies_depends_on_seed_epoch_and_index_alone() -> None:
    one, again, other = Crops(Corner(), 16, seed=1), Crops(Corner(), 16, seed=1), Crops(Corner(), 16, seed=2)
    again.at(9, 2)
    assert torch.equal(one.at(4, 1)["frames"], again.at(4, 1)["frames"])
    assert any(not torch.equal(one.at(e, 0)["frames"], other.at(e, 0)["frames"]) for e in range(4))
    assert any(not torch.equal(one.at(0, 0)["frames"], one.at(e, 0)["frames"]) for e in range(1, 5))


def test_more_candidates_find_what_moves_more_often() -> None:
    found = {
        count: sum(moves(Crops(Corner(), 16, count).at(epoch, 0)) for epoch in range(100))
        for count in (1, 16)
    }
    # the pixel is in 3 x 3 of 17 x 25 squares: 2 % of single draws, 29 % of the best of 16
    assert found[1] < 8 and found[16] > 15


def test_a_square_larger_than_the_clips_is_refused() -> None:
    with pytest.raises(ConfigError, match="squares of 40 pixels do not fit into clips of 40x32"):
        Crops(Corner(), 40)
