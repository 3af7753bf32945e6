"""`mini` between the words asked for and the latent drawn: strengths, speeds and headings, with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motionloom.codecs.linear_motion import LinearMotion
from motionloom.codecs.warp_codec import WarpCodec
from motionloom.conditions.asked import Asked
from motionloom.conditions.motion_map import COHERENCE, DIRECTION, Heading
from motionloom.conditions.words import INDEX
from motionloom.denoisers.base import Request
from motionloom.denoisers.map_generator import HEADINGS, PHOTO_CELL, MapGenerator, MapGeneratorConfig
from motionloom.denoisers.mini import MiniBase
from motionloom.errors import ConfigError
from motionloom.motion.speeds import LEVELS, quantiles, way
from motionloom.sampling.weave import GuidanceWeave, MapWeave

LEFT = np.zeros((4, 6), np.float32)
LEFT[:, :3] = 1


@pytest.fixture
def base() -> MiniBase:
    """Random modes and weights; no word has known speeds or headings."""
    torch.manual_seed(0)
    motion = LinearMotion(flow_modes=2, light_modes=1)
    motion.flow_basis.copy_(torch.linspace(0, 1, 16) ** torch.tensor([[1.0], [2.0]]))
    motion.scale.copy_(0.5 + torch.rand(motion.channels))
    sizes = {"base": 16, "multipliers": (1, 1, 1), "res_blocks": 1, "content_channels": 8}
    return MiniBase(WarpCodec(motion, 8), MapGenerator(MapGeneratorConfig(motion.channels, **sizes)))  # type: ignore[arg-type]


def latents_of(base: MiniBase, height: int = 4, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, base.codec.motion.channels, height, width, generator=generator)


def local(base: MiniBase, latents: Tensor) -> Tensor:
    return base.codec.motion.decode(latents).local


def test_where_nothing_is_asked_the_latent_stays(base: MiniBase) -> None:
    latents = latents_of(base)
    moved = base.as_asked(latents, [Asked("sway", 0.5, LEFT), Asked("pan-left", 2.0)])
    assert torch.equal(moved[..., 3:], latents[..., 3:])
    assert torch.allclose(local(base, moved)[..., :3], 0.5 * local(base, latents)[..., :3], atol=1e-6)
    assert torch.equal(base.as_asked(latents, [Asked("pan-left", 0.5)]), latents)


def test_motions_over_one_place_act_at_their_mean_strength(base: MiniBase) -> None:
    """Both were told at their usual strength, so the flow is that of two: (0.5 + 1) / 2 of it."""
    latents = latents_of(base)
    moved = base.as_asked(latents, [Asked("sway", 0.5, LEFT), Asked("clouds", 1.0)])
    expected = local(base, latents) * torch.where(torch.from_numpy(LEFT) > 0, 0.75, 1.0)
    assert torch.allclose(local(base, moved), expected, atol=1e-6)


def test_words_of_clips_get_the_speeds_of_clips(base: MiniBase) -> None:
    """Where every real quantile is half the generated one, each place moves half as far; weight 0.4 is 0.4 of that."""
    latents = latents_of(base, 16, 16)
    levels = quantiles(way(local(base, latents)))
    base.denoiser.speeds[INDEX["clouds"]] = torch.stack([levels, 0.5 * levels])
    for weight in (1.0, 0.4):
        moved = base.as_asked(latents, [Asked("clouds", weight)])
        assert torch.allclose(local(base, moved), 0.5 * weight * local(base, latents), atol=1e-4)
    assert torch.equal(base.as_asked(latents, [Asked("sea")]), latents)  # whose speeds are not known


def test_a_curve_is_compared_with_clips_at_its_own_strength(base: MiniBase) -> None:
    """A curve that ends at 0.5 made places go half their usual way, d: of clips that go d / 2 at most it is d / 4 then."""
    latents = latents_of(base, 1, 1).expand(-1, -1, 4, 6)
    usual = 2 * float(way(local(base, latents)).mean())
    levels = torch.linspace(0, 2 * usual, LEVELS)
    base.denoiser.speeds[INDEX["clouds"]] = torch.stack([levels, levels.clamp_max(usual / 2)])
    moved = base.as_asked(latents, [Asked("clouds", (1.0, 0.5))])
    assert torch.allclose(local(base, moved), 0.5 * local(base, latents), atol=1e-5)


def test_what_is_drawn_moves_as_asked(base: MiniBase, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []

    def decode(latents: Tensor, photo: Tensor, *_: Any) -> Tensor:
        drawn.append(latents)
        return photo[:, :, None]

    monkeypatch.setattr(base.codec, "decode", decode)
    latents, photo = latents_of(base), torch.zeros(1, 3, 32, 48)
    for motion in (Asked("sway"), Asked("sway", 0.25), Asked("sway", heading="left")):
        base.decode(latents, Request(photo, (motion,), 16, 8.0, 2))
    usual, quarter, left = (local(base, one) for one in drawn)
    assert torch.allclose(quarter, 0.25 * usual, atol=1e-6) and usual.abs().max() > 0
    right, down = -left[0, -1].mean((1, 2))  # of the scene; the flow looks back
    assert right < 0 and abs(down) < 1e-5


# --- headings -------------------------------------------------------------------------------------------------


def with_headings(base: MiniBase) -> MapGenerator:
    """32 headings of clouds, all different, the first of them without a direction."""
    angles = torch.linspace(0, 6, HEADINGS)
    headings = torch.stack([torch.linspace(0.1, 0.9, HEADINGS), angles.cos(), angles.sin()], 1)
    headings[0, 1:] = 0
    base.denoiser.headings[INDEX["clouds"]] = headings
    return base.denoiser


def test_every_photo_draws_a_heading_seen_in_clips(base: MiniBase) -> None:
    generator = with_headings(base)
    seen = {tuple(row) for row in generator.headings[INDEX["clouds"]].tolist()}
    photos = torch.zeros(200, 3, 2 * PHOTO_CELL, 2 * PHOTO_CELL)
    with torch.no_grad():
        told, again, untold = (
            generator.tell(photos, 2, 2, generator=g)
            for g in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3), None)
        )
    drawn = [told.heading(sample, "clouds") for sample in range(200)]
    assert all((one.coherence, *(one.direction or (0.0, 0.0))) in seen for one in drawn)
    assert (
        len(set(drawn)) == HEADINGS
    )  # 200 draws miss one of 32 with a chance of 1 in 18, another seed would be taken
    assert all((one.direction is None) == (one.coherence == pytest.approx(0.1)) for one in drawn)
    assert drawn == [again.heading(sample, "clouds") for sample in range(200)]
    assert {told.heading(sample, "sea") for sample in range(200)} == {Heading()}  # no clip showed one
    assert untold.heading(0, "clouds") == Heading()


def test_the_seed_of_a_clip_draws_its_heading(base: MiniBase) -> None:
    with_headings(base)
    request = Request(torch.zeros(1, 3, 64, 64), (Asked("clouds"),), 16, 8.0, 2)
    with torch.no_grad():
        drawn = [
            base.condition(request, None, torch.Generator().manual_seed(seed)).heading(0, "clouds")
            for seed in (0, 0, 1, 2, 3)
        ]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1 and Heading() not in drawn


@pytest.mark.parametrize("heading", ["", "left", "90"])
def test_the_map_tells_the_direction_asked_for_and_else_the_one_drawn(base: MiniBase, heading: str) -> None:
    class Spy(MapGenerator):
        def forward(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
            self.seen = condition.aligned
            return latents

    with_headings(base)
    spy = Spy(base.denoiser.config)
    spy.headings.copy_(base.denoiser.headings)
    told = spy.tell(
        torch.zeros(1, 3, 4 * PHOTO_CELL, 6 * PHOTO_CELL), 4, 6, generator=torch.Generator().manual_seed(5)
    )
    MapWeave(spy, (Asked("clouds", 1.0, LEFT, heading=heading),))(
        latents_of(base), torch.tensor([500.0]), told
    )
    drawn = told.heading(0, "clouds")
    expected = {"": drawn.direction, "left": (-1.0, 0.0), "90": (0.0, -1.0)}[heading]
    inside, outside = spy.seen[0, :, :, :3], spy.seen[0, :, :, 3:]
    assert expected is not None and drawn.coherence is not None
    assert torch.allclose(inside[DIRECTION], torch.tensor(expected)[:, None, None].expand(2, 4, 3), atol=1e-6)
    assert torch.allclose(
        inside[COHERENCE], torch.tensor([drawn.coherence, 1.0])[:, None, None].expand(2, 4, 3)
    )
    assert not outside[DIRECTION].any() and not outside[COHERENCE].any()


# --- a sum of guidances -----------------------------------------------------------------------------------------


def velocities(base: MiniBase, weave: type, *asked: Asked) -> Tensor:
    """One call, of a generator whose answer depends on what it is told."""
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand(1, 3, 4 * PHOTO_CELL, 6 * PHOTO_CELL, generator=generator)
    with torch.no_grad():
        for parameter in base.denoiser.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
        told = base.denoiser.tell(photo, 4, 6, generator=torch.Generator().manual_seed(2))
        velocity: Tensor = weave(base.denoiser, asked)(latents_of(base), torch.tensor([600.0]), told)
    return velocity


def test_the_guidance_of_one_motion_is_that_motion(base: MiniBase) -> None:
    """v_0 + (v_1 - v_0) = v_1, whichever way it goes."""
    with_headings(base)
    for heading in ("", "left", "up"):
        one, two = (velocities(base, w, Asked("clouds", heading=heading)) for w in (MapWeave, GuidanceWeave))
        assert torch.allclose(one, two, atol=1e-5)
    assert not torch.allclose(two, velocities(base, GuidanceWeave, Asked("clouds")), atol=1e-3)


def test_guidances_add_up_in_their_regions(base: MiniBase) -> None:
    still = velocities(base, MapWeave)
    whole = velocities(base, GuidanceWeave, Asked("pan-left"))
    half = velocities(base, GuidanceWeave, Asked("pan-left", 0.5, LEFT))
    assert torch.allclose(half, still + 0.5 * torch.from_numpy(LEFT) * (whole - still), atol=1e-5)
    twice = velocities(base, GuidanceWeave, Asked("pan-left", 0.5), Asked("pan-left", 0.5))
    assert torch.allclose(twice, whole, atol=1e-5) and not torch.allclose(whole, still, atol=1e-3)


def test_guidance_leaves_the_strength_of_a_local_motion_to_its_latent(base: MiniBase) -> None:
    """It is scaled there, once: the velocity is that of the usual strength, as it is for the map."""
    for weave in (MapWeave, GuidanceWeave):
        usual, half = (velocities(base, weave, Asked("clouds", weight)) for weight in (1.0, 0.5))
        assert torch.equal(usual, half)
    still = velocities(base, MapWeave)
    late = velocities(base, GuidanceWeave, Asked("clouds", (1.0, 0.0)))  # 0.4 of the way, weight 0.6
    assert torch.allclose(late, still + 0.6 * (usual - still), atol=1e-5)


def test_guidance_knows_words_alone(base: MiniBase) -> None:
    with pytest.raises(ConfigError, match="got the adapter"):
        GuidanceWeave(base.denoiser, (Asked("mine", adapter=object()),))  # type: ignore[arg-type]
