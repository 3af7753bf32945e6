"""A camera path is a one-parameter group: half the motion done twice is the whole, straight lines stay straight."""

from __future__ import annotations

import math

import pytest
import torch

from motionloom.motion.camera_path import displacement, fit_rates, keep_shapes, path_matrix, similarity
from motionloom.motion.grid import latent_grid, places, resize_maps

PATHS = [
    similarity((0.15, -0.05), 0.0, 0.0),
    similarity((0.0, 0.0), math.log(1.3), 0.0),
    similarity((0.0, 0.0), 0.0, math.radians(20)),
    torch.tensor([[0.1, -0.2, 0.05], [0.15, -0.05, -0.1]]),
]


@pytest.mark.parametrize("rates", PATHS)
def test_half_the_path_twice_is_the_whole(rates: torch.Tensor) -> None:
    half, whole = path_matrix(rates, torch.tensor([0.5, 1.0]))
    bottom = torch.tensor([[0.0, 0.0, 1.0]])
    twice = torch.cat([half, bottom]) @ torch.cat([half, bottom])
    assert torch.allclose(twice[:2], whole, atol=1e-6)


@pytest.mark.parametrize("rates", PATHS)
def test_fitting_the_end_of_a_path_gives_its_rates(rates: torch.Tensor) -> None:
    xy = places(12, 20)
    field = displacement(rates, torch.ones(1), xy)[0]
    assert torch.allclose(fit_rates(field, xy), rates, atol=2e-5)


def test_keeping_shapes_changes_no_pan_zoom_or_turn() -> None:
    for rates in PATHS[:3]:
        assert torch.allclose(keep_shapes(rates), rates, atol=1e-7)
    sheared = keep_shapes(PATHS[3])
    assert sheared[0, 0] == sheared[1, 1] and sheared[0, 1] == -sheared[1, 0]


def test_the_photo_does_not_move() -> None:
    assert displacement(PATHS[3], torch.zeros(1), places(8, 8)).abs().max() == 0


def test_a_fit_ignores_places_without_weight() -> None:
    xy = places(16, 16)
    field = displacement(PATHS[0], torch.ones(1), xy)[0]
    broken = field.clone()
    broken[:, 8:] = 7.0
    weight = torch.zeros(16, 16)
    weight[:, :8] = 1
    assert torch.allclose(fit_rates(broken, xy, weight), PATHS[0], atol=1e-4)


def test_frame_units_are_the_same_for_both_axes() -> None:
    xy = places(10, 30)
    assert math.isclose(float(xy[0, 1, 0] - xy[0, 0, 0]), float(xy[1, 0, 1] - xy[0, 0, 1]), rel_tol=1e-5)
    area = float(
        (xy[..., 0].max() - xy[..., 0].min()) * 30 / 29 * (xy[..., 1].max() - xy[..., 1].min()) * 10 / 9
    )
    assert math.isclose(area, 1.0, rel_tol=1e-5)


@pytest.mark.parametrize("size", [(768, 1024), (1024, 768), (500, 3000), (64, 64)])
def test_latent_grids_have_about_256_square_cells(size: tuple[int, int]) -> None:
    h, w = latent_grid(*size)
    assert 200 <= h * w <= 320 and h % 2 == w % 2 == 0
    assert abs((w / h) / (size[1] / size[0]) - 1) < 0.2


def test_averaging_maps_keeps_their_mean() -> None:
    maps = torch.rand(1, 2, 32, 48)
    assert torch.allclose(resize_maps(maps, 8, 8).mean((2, 3)), maps.mean((2, 3)), atol=1e-6)
