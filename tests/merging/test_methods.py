"""What each method must do by theory, on single tensors and on small models."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

import motionloom as ml
from motionloom.errors import ConfigError, NumericError, WeightsError
from motionloom.merging.angles import model_stock, slerp
from motionloom.merging.decoupling import Coefficients, Decoupling
from motionloom.merging.draws import Draw
from motionloom.merging.linear import average, extrapolated, task_arithmetic
from motionloom.merging.low_rank import factors, product, truncated
from motionloom.merging.methods import Slot
from motionloom.merging.signs import elected
from motionloom.merging.sparse import breadcrumbs, dare, dare_by_norm, della, della_probabilities, magnitude
from motionloom.merging.statistics import fisher, regmean
from tests.merging.making_models import STEPS, model, tuned


def pair(seed: int = 0, shape: tuple[int, ...] = (40, 50)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, base + 0.1 * torch.randn(shape, generator=generator)


# --- extrapolation and decoupling ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_alpha_0_is_the_base_bit_for_bit(dtype: torch.dtype) -> None:
    pre = model(dtype=dtype)
    pre["model.diffusion_model.time_embed.0.weight"][0, :2] = torch.tensor([-0.0, 0.0])
    merged = ml.extrapolate(pre, tuned(pre), 0.0)
    for name, tensor in pre.items():
        assert merged[name].dtype == tensor.dtype
        assert torch.equal(merged[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)), name


def test_extrapolation_is_linear_and_leaves_equal_entries() -> None:
    pre, ft = pair()
    ft[0] = pre[0]
    for alpha in (-1.0, 0.25, 2.0):
        merged = extrapolated(pre, ft, alpha)
        assert torch.allclose(merged, pre - alpha * (ft - pre), atol=1e-6)
        assert torch.equal(merged[0], pre[0])


def test_experts_without_strength_are_their_models() -> None:
    pre = model()
    ft = tuned(pre)
    experts = ml.decouple(pre, ft, dyn_alpha=0.0, con_beta=0.0)
    for name in pre:
        assert torch.equal(experts["degree"][name], pre[name])
        if name != STEPS:
            assert torch.equal(experts["control"][name], ft[name])
    assert torch.equal(experts["control"][STEPS], pre[STEPS])  # integers are the base's


def test_released_experts_lie_on_one_line_on_average() -> None:
    """In expectation pre - 0.1875 tau and pre + 1.25 tau; single draws are wide."""
    pre, ft = ({"w": tensor} for tensor in pair())
    tau = ft["w"] - pre["w"]
    count = 400
    sums = torch.zeros(2, *tau.shape)
    for seed in range(count):
        experts = ml.decouple(pre, ft, seed=seed)
        sums += torch.stack([experts["degree"]["w"], experts["control"]["w"]])
    for mean, expected in zip(sums / count, (-0.1875, 1.25), strict=True):
        got = float(((mean - pre["w"]) * tau).sum() / (tau * tau).sum())
        assert got == pytest.approx(expected, abs=0.005)
        spread = (mean - pre["w"] - expected * tau).std() / tau.std()
        assert spread < 0.25 * (7 / 3) ** 0.5 / count**0.5 * 1.2  # sqrt((1 - p) / p) noise, over sqrt(seeds)


def test_biases_are_not_masked_and_numbers_are() -> None:
    pre, ft = {"b": torch.zeros(1000), "s": torch.zeros(())}, {"b": torch.ones(1000), "s": torch.ones(())}
    degree = ml.decouple(pre, ft)["degree"]
    assert torch.allclose(degree["b"], torch.full((1000,), -0.1875))
    assert float(degree["s"]) in (0.0, pytest.approx(-0.625))


def test_paper_adds_both_vectors_to_the_base() -> None:
    pre, ft = ({"w": tensor} for tensor in pair())
    ones = {"w": torch.ones_like(pre["w"])}
    experts = ml.decouple(pre, ft, preset="paper", con_beta=1.0, drop=0.0, masks={"deg": ones, "adt": ones})
    assert torch.allclose(experts["degree"]["w"], pre["w"] - 0.1875 * (ft["w"] - pre["w"]), atol=1e-6)
    assert torch.allclose(experts["control"]["w"], ft["w"], atol=1e-6)


def test_general_form_holds_the_released_preset() -> None:
    pre, ft = pair()
    keep = Draw(0, "w").keep(pre.shape, 0.3), Draw(1, "w").keep(pre.shape, 0.3)
    released = Decoupling().experts(pre, ft, *keep)
    deg, adt = Decoupling().vectors(ft - pre, *keep)
    general = (
        Coefficients(degree=0.75).expert(pre, deg, adt, ft - pre),
        Coefficients(control=1.25, residual=1.0).expert(pre, deg, adt, ft - pre),
    )
    for one, other in zip(released, general, strict=True):
        assert torch.allclose(one, other, atol=2e-6)


def test_same_seed_same_weights_under_any_hash_seed_and_order() -> None:
    code = """
import hashlib, torch, motionloom as ml
from tests.merging.making_models import model, tuned
pre = model(); ft = tuned(pre)
if {reverse}: pre, ft = ({{k: m[k] for k in reversed(m)}} for m in (pre, ft))
out = ml.decouple(pre, ft, seed=5)
joined = b"".join(out[e][k].numpy().tobytes() for e in sorted(out) for k in sorted(out[e]))
print(hashlib.sha256(joined).hexdigest())
"""
    from pathlib import Path

    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code.format(reverse=reverse)],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed, reverse in (("0", False), ("123", True))
    }
    assert len(digests) == 1


def test_warns_of_scaled_weights() -> None:
    pre = model()
    with pytest.warns(UserWarning, match="scales all tuned weights"):
        ml.decouple(pre, tuned(pre), con_alpha=0.9)


# --- masks --------------------------------------------------------------------------------------------------


def test_mask_of_pieces_is_mask_of_the_whole() -> None:
    whole = Draw(3, "w", "adt").keep((1001,), 0.3)
    draw = Draw(3, "w", "adt")
    pieces = torch.cat([draw.keep((count,), 0.3) for count in (1, 2, 497, 500, 1)])
    assert torch.equal(whole, pieces)
    assert not torch.equal(whole, Draw(3, "w", "deg").keep((1001,), 0.3))
    assert not torch.equal(whole, Draw(4, "w", "adt").keep((1001,), 0.3))


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_masks_keep_as_many_as_asked(probability: float) -> None:
    kept = float(Draw(0, "w").keep((400_000,), probability).float().mean())
    assert kept == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 400_000) ** 0.5)


def test_parts_of_a_slot_are_the_mask_of_its_tensor() -> None:
    expected = Draw(3, "w", "adt").keep((1000,), 0.3)
    slot = Slot("w", (1000,), 3)
    got = []
    for upcoming in (600, 400):  # drawn at once, taken 90 at a time
        slot.upcoming = upcoming
        got += [slot.keep("adt", part, 0.3) for part in torch.zeros(upcoming).split(90)]
    assert torch.equal(torch.cat(got), expected)


def test_entries_of_a_mask_are_independent() -> None:
    kept = Draw(0, "w").keep((1 << 20,), 0.3).float() - 0.3
    for lag in (1, 2, 7, 8, 64, 4096):
        assert (
            abs(float((kept[lag:] * kept[:-lag]).mean())) < 4 * 0.21 / 1024
        )  # std of the mean of 2^20 products


# --- thinning -----------------------------------------------------------------------------------------------


def test_dare_is_tau_on_average_and_by_norm_keeps_the_norm() -> None:
    tau = torch.randn(60, 70, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([dare(tau, 0.7, Draw(seed, "w").keep(tau.shape, 0.3)) for seed in range(500)]).mean(0)
    assert float((mean - tau).std()) < 1.2 * float(tau.std()) * (0.7 / 0.3 / 500) ** 0.5
    kept = dare_by_norm(tau, Draw(0, "w").keep(tau.shape, 0.3))
    assert float(kept.abs().sum()) == pytest.approx(float(tau.abs().sum()), rel=1e-5)


def test_magnitude_keeps_the_largest() -> None:
    tau = torch.tensor([[0.1, -5.0, 2.0], [-0.2, 3.0, 0.0]])
    assert torch.equal(magnitude(tau, 0.5), torch.tensor([[0.0, -5.0, 2.0], [0.0, 3.0, 0.0]]))
    assert torch.equal(magnitude(tau, 1.0), tau)


def test_breadcrumbs_drops_both_ends() -> None:
    tau = torch.arange(1.0, 11.0)
    thinned = breadcrumbs(tau, density=0.5, outliers=0.2)
    assert torch.equal(thinned, torch.tensor([0, 0, 0, 4.0, 5, 6, 7, 8, 0, 0]))


def test_della_favours_the_large_and_is_tau_on_average() -> None:
    tau = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    probability = della_probabilities(tau, 0.6, 0.2)
    assert float(probability.min()) == pytest.approx(0.4) and float(probability.max()) == pytest.approx(0.8)
    assert torch.equal(probability[0].argsort(), tau[0].abs().argsort())
    mean = torch.stack([della(tau, 0.6, 0.2, Draw(seed, "w")) for seed in range(600)]).mean(0)
    assert float((mean - tau).std()) < 1.3 * (1.0 / 0.6 / 600) ** 0.5


def test_ties_elects_signs_and_averages_what_agrees() -> None:
    taus = [torch.tensor([2.0, -1.0, 0.0]), torch.tensor([-1.0, -3.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])]
    assert torch.equal(elected(taus, [1.0, 1.0, 1.0]), torch.tensor([1.5, -2.0, 0.0]))


# --- the others ---------------------------------------------------------------------------------------------


def test_weight_1_of_one_model_is_that_model() -> None:
    base, first = pair()
    second = pair(1)[1]
    assert torch.equal(task_arithmetic(base, [first, second], [0.0, 1.0]), second)
    assert torch.equal(average([first, second], [2.0, 0.0]), first)
    assert torch.equal(task_arithmetic(base, [first, second], [0.0, 0.0]), base)
    both = task_arithmetic(base, [first, second], [1.0, 1.0], scale=0.5)
    assert torch.allclose(both, average([first, second], [1.0, 1.0]), atol=1e-6)


def test_slerp_keeps_ends_and_norm() -> None:
    start = torch.randn(100, generator=torch.Generator().manual_seed(0))
    end = torch.randn(100, generator=torch.Generator().manual_seed(1))
    end *= start.norm() / end.norm()
    assert torch.equal(slerp(start, end, 0.0), start) and torch.equal(slerp(start, end, 1.0), end)
    assert float(slerp(start, end, 0.3).norm()) == pytest.approx(float(start.norm()), rel=1e-5)
    assert torch.allclose(slerp(start, start * 1.5, 0.5), start * 1.25)


def test_model_stock_goes_as_far_as_the_models_agree() -> None:
    base = torch.zeros(2)
    assert torch.allclose(model_stock(base, [torch.ones(2)] * 3), torch.ones(2))  # cos 1: the mean
    across = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    assert torch.allclose(model_stock(base, across), base)  # cos 0: the base
    leaning = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.75**0.5])]  # cos 1/2, N 2: t = 2/3
    assert torch.allclose(model_stock(base, leaning), sum(leaning) / 2 * 2 / 3)


def test_fisher_weighs_by_information() -> None:
    models = [torch.tensor([1.0, 1.0, 2.0]), torch.tensor([3.0, 3.0, 4.0])]
    information = [torch.tensor([1.0, 3.0, 0.0]), torch.tensor([1.0, 1.0, 0.0])]
    assert torch.allclose(fisher(models, information, [1.0, 1.0]), torch.tensor([2.0, 1.5, 3.0]))


def test_regmean_minimises_the_distance_to_all_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(5, 7, generator=generator) for _ in range(2)]
    inputs = [torch.randn(30, 7, generator=generator) for _ in range(2)]
    merged = regmean(weights, [x.T @ x for x in inputs], shrink=1.0)

    def loss(w: Tensor) -> float:
        return sum(
            float((x @ w.T - x @ own.T).square().sum()) for x, own in zip(inputs, weights, strict=True)
        )

    best = loss(merged)
    for _ in range(20):
        assert loss(merged + 0.01 * torch.randn(merged.shape, generator=generator)) > best


def test_low_rank_is_exact_at_its_rank_and_best_below() -> None:
    generator = torch.Generator().manual_seed(0)
    tau = torch.randn(12, 3, generator=generator) @ torch.randn(3, 20, generator=generator)
    kernel = tau.reshape(12, 5, 2, 2)
    assert torch.allclose(truncated(kernel, rank=3), kernel, atol=1e-5)
    assert factors(tau, energy=1.0).up.shape[1] == 3
    values = torch.linalg.svdvals(tau)
    error = (truncated(tau, rank=2) - tau).norm()
    assert float(error) == pytest.approx(float(values[2]), rel=1e-4)  # Eckart-Young
    assert torch.allclose(product(factors(tau), tau.shape, 0.5), 0.5 * tau, atol=1e-5)


# --- what cannot be merged ----------------------------------------------------------------------------------


def test_refusals() -> None:
    pre = model()
    ft = tuned(pre)
    name = "image_proj_model.latents"
    with pytest.raises(WeightsError, match=r"lacks 1 tensors \(image_proj_model.latents\)"):
        ml.extrapolate(pre, {key: w for key, w in ft.items() if key != name}, 0.1)
    with pytest.raises(WeightsError, match="adds 1 tensors"):
        ml.extrapolate(pre, {**ft, "queries": torch.zeros(3)}, 0.1)
    with pytest.raises(
        WeightsError, match=r'"image_proj_model.latents" has the shape \[1, 4, 6\] in the base'
    ):
        ml.extrapolate(pre, {**ft, name: torch.zeros(2)}, 0.1)
    with pytest.raises(NumericError, match='"image_proj_model.latents" of the tuned model holds NaN'):
        ml.extrapolate(pre, {**ft, name: torch.full((1, 4, 6), torch.nan)}, 0.1)
    with pytest.raises(ConfigError, match='no preset "papr"'):
        ml.decouple(pre, ft, preset="papr")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="drop is 1.0"):
        ml.decouple(pre, ft, drop=1.0)
    with pytest.raises(ConfigError, match=r'masks\["deg"\] must hold a mask of shape \[8, 4, 3, 3\]'):
        ml.decouple(pre, ft, masks={"deg": {}, "adt": {}})
    half = {"w": torch.tensor([[60000.0]]).half()}
    with pytest.raises(NumericError, match="leaves the range of its dtype"):
        ml.extrapolate(half, {"w": torch.tensor([[0.0]]).half()}, 1.0)


def test_policies_for_tensors_only_one_model_has() -> None:
    pre = model()
    ft = {**tuned(pre), "queries": torch.ones(3)}
    only_base = "image_proj_model.latents"
    del ft[only_base]
    assert set(ml.extrapolate(pre, ft, 0.1, keys="shared")) == set(pre) - {only_base}
    union = ml.extrapolate(pre, ft, 0.1, keys="union")
    assert torch.equal(union["queries"], ft["queries"]) and torch.equal(union[only_base], pre[only_base])
