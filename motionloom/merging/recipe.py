"""A merge recipe is one YAML file: which models, by what method, which parts, and what is written.

    method: {kind: extrapolate, alpha: 0.25}
    base: dynamicrafter_512/model.ckpt
    tuned: [dynamicrafter_cil_512/timenoise.ckpt]
    groups: [temporal_attention]

It is read as strictly as a training recipe (`training/recipe.py`), printed back with every default,
and kept in what it made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from motionloom.errors import ConfigError
from motionloom.merging.methods import EXPERTS, METHODS, Method
from motionloom.training.recipe import KindOfSection, read_sections, to_yaml
from motionloom.training.stages import Section

Export = Literal["full", "experts", "delta", "lora", "comfyui"]


class Tuned(Section):
    """A tuned model: a checkpoint, or a LoRA, which acts on the base as the product B A."""

    path: str = Field(min_length=1)
    lora_alpha: float | None = Field(
        None, description="LoRA only, where the file does not say: scale = alpha / rank; null is the rank"
    )


class LoraExport(Section):
    """How a difference is factorised; either number, not both."""

    rank: int | None = Field(16, ge=1)
    energy: float | None = Field(None, gt=0, le=1, description="share of the sum of squared singular values")

    @model_validator(mode="after")
    def _says_how_much(self) -> LoraExport:
        if self.rank is None and self.energy is None:
            raise ValueError("give rank, energy, or both (whichever is smaller)")
        return self


class ScheduleSection(Section):
    """When the control expert replaces the degree expert: see `sampling.experts.Schedule`."""

    boundary: float = Field(
        0.5, ge=0, le=1, description="degree expert above it, control expert at and below it"
    )
    unit: Literal["timestep", "noise_level"] = Field(
        "timestep", description="boundary as timestep / 1000, or as the share of noise in the latents, 0..1"
    )
    blend: Literal["hard", "linear", "cosine"] = "hard"
    width: float = Field(
        0.2, gt=0, le=1, description="of the transition, centred on the boundary; not for hard"
    )


class MergeRecipe(Section):
    """Everything about one merge."""

    method: SerializeAsAny[Method]
    base: str = Field(
        min_length=1, description="a checkpoint, a folder, or mini; what is not merged is its own"
    )
    tuned: list[Tuned] = Field(min_length=1)
    groups: list[str] = Field(
        ["all"], min_length=1, description='parts that are merged; "re:..." is a pattern'
    )
    keys: Literal["strict", "partial", "union", "shared"] = Field(
        "strict",
        description="tensors only one model has: refused; stay the base's; are all kept; are all dropped",
    )
    dtype: Literal["keep", "float32", "float16", "bfloat16"] = "keep"
    seed: int = Field(0, ge=0, lt=2**63)
    exports: list[Export] = Field(["full"], min_length=1)
    lora: LoraExport = Field(default_factory=lambda: LoraExport.model_validate({}))
    difference_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of the exports experts, delta, lora and comfyui"
    )
    schedule: ScheduleSection = Field(default_factory=lambda: ScheduleSection.model_validate({}))

    @field_validator("tuned", mode="before")
    @classmethod
    def _paths_are_models(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | Mapping) else value
        if not isinstance(items, list):
            return items
        return [{"path": item} if isinstance(item, str) else item for item in items]

    @model_validator(mode="after")
    def _fits_together(self) -> MergeRecipe:
        if "experts" in self.exports and self.method.outputs != EXPERTS:
            raise ValueError(
                f"method {self.method.kind} makes one model; experts need decouple or decouple-linear"
            )
        if len(set(self.exports)) < len(self.exports):
            raise ValueError("an export is named twice")
        return self

    def to_yaml(self) -> str:
        """Every value, defaults included; `load_merge_recipe` reads it back to an equal recipe."""
        return to_yaml(self)


def load_merge_recipe(
    source: str | Path | Mapping[str, Any] | MergeRecipe, overrides: Iterable[str] = ()
) -> MergeRecipe:
    """A recipe from a YAML file, a mapping or a recipe, with `key.path=value` overrides applied.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is wrong; names file, line and key.
    """
    values = source.model_dump(mode="json") if isinstance(source, MergeRecipe) else source
    varying = KindOfSection("method", Method, METHODS, METHODS.__getitem__)
    recipe = read_sections(MergeRecipe, values, overrides, varying)
    recipe.method.check(len(recipe.tuned))
    return recipe


def varied(recipe: MergeRecipe, name: str, value: float) -> MergeRecipe:
    """The recipe with one number of its method changed. Raises ConfigError when the method has no such number."""
    known = [key for key in type(recipe.method).model_fields if key != "kind"]
    if name not in known:
        raise ConfigError(
            f"method {recipe.method.kind} has no setting {name!r}", fix=f"use one of {', '.join(known)}"
        )
    values = recipe.model_dump(mode="json")
    values["method"] = {**values["method"], name: value}
    return load_merge_recipe(values)
