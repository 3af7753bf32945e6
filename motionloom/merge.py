"""recipe -> checkpoint: the verb `merge`.

result = merge("recipes/edg/extrapolate.yaml", out="merged/")
plan = merge("recipes/edg/extrapolate.yaml", dry_run=True).plan        # reads headers, writes nothing
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionloom.durable import write_folder_durably, write_json, write_manifest, write_text
from motionloom.errors import ResourceError
from motionloom.merging.recipe import MergeRecipe, load_merge_recipe

if TYPE_CHECKING:
    from motionloom.merging.streaming import Merge, Progress

REPORT_NAME, RECIPE_NAME = "merge.json", "merge.yaml"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class MergeResult:
    """What a call of `merge` did. After a dry run only `plan` is filled."""

    out: Path | None = None
    changed: dict[str, int] = field(default_factory=dict)  # output -> number of tensors
    changed_by_group: dict[str, dict[str, int]] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)  # role, files with sha256
    left_out: dict[str, Any] = field(default_factory=dict)  # export -> what it could not hold
    plan: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`; a dry run prints its plan."""
        if self.plan is not None:
            return self.plan
        values = asdict(self)
        del values["plan"]
        return {**values, "out": str(self.out)}


def merge(
    recipe: str | Path | Mapping[str, Any] | MergeRecipe,
    out: str | Path | None = None,
    overrides: Iterable[str] = (),
    dry_run: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge what a recipe names; inputs are streamed, the output folder appears complete or not at all.

    The same recipe on the same inputs gives the same files, byte for byte, on any machine and under any hash seed.

    Args:
        recipe: a YAML file, a mapping or a `MergeRecipe`.
        out: the folder to write; `merged/<name of the recipe>` when None. A folder that an earlier merge wrote is
            replaced, any other that is not empty is refused.
        overrides: "key.path=value", applied to the recipe.
        dry_run: compare the models and say what would be merged; read no tensor, write nothing.
        progress: called with (stage, done, in all).

    Raises:
        ConfigError: the recipe is wrong, a group is unknown, or the merge would change nothing.
        InputError: a file is not there, or `out` holds something else.
        WeightsError: a file is damaged, or the models do not fit together.
        NumericError: an input holds NaN or infinities, or a result leaves the range of its dtype.
        ResourceError: the disk is full or refuses.
    """
    from motionloom.merging.streaming import opened

    settled = load_merge_recipe(recipe, overrides)
    work = opened(settled)
    try:
        if dry_run:
            return MergeResult(plan=_plan(work))
        folder = Path(out) if out is not None else Path("merged") / _name_of(recipe, settled)
        result = MergeResult(out=folder)
        _check_space(work, folder)
        write_folder_durably(folder, lambda part: _build(work, part, result, progress), _is_a_merge)
        return result
    finally:
        work.close()


def _build(work: Merge, folder: Path, result: MergeResult, progress: Progress | None) -> None:
    """Fill the folder, and the result with what was done."""
    from motionloom.merging.exports import EXPORTS, copy_companions
    from motionloom.merging.groups import counts
    from motionloom.merging.streaming import write_merged

    exports = work.recipe.exports
    if "full" in exports:
        for output in work.recipe.method.outputs:
            copy_companions(work, folder / output)
    write_merged(work, folder if "full" in exports else None, progress)
    for export in exports:
        if export != "full":
            place = folder if export == "experts" else folder / export
            left = EXPORTS[export](work, place, progress)
            if left.tensors or left.lost_share is not None:
                result.left_out[export] = asdict(left)

    for output, names in work.changed.items():
        result.changed[output or "merged"] = len(names)
        result.changed_by_group[output or "merged"] = counts(names)
    result.inputs.extend(_inputs(work, hashed=True))
    changed = {output or "merged": sorted(names) for output, names in work.changed.items()}
    report = {
        "format_version": FORMAT_VERSION,
        "inputs": result.inputs,
        "changed": changed,
        "left_out": result.left_out,
    }
    write_json(folder / REPORT_NAME, report)
    write_text(folder / RECIPE_NAME, work.recipe.to_yaml())
    write_manifest(folder, work.written)


def _plan(work: Merge) -> dict[str, Any]:
    from motionloom.merging.groups import counts, family_of

    family = family_of(work.names)
    return {
        "method": work.recipe.method.model_dump(mode="json"),
        "inputs": _inputs(work, hashed=False),
        "family": family.name if family else None,
        "tensors": len(work.names),
        "merged": len(work.merged),
        "merged_by_group": counts(work.merged),
        "parameters_merged": sum(work.stored(name).num_elements for name in work.merged),
        "outputs": [output or "merged" for output in work.recipe.method.outputs],
        "exports": list(work.recipe.exports),
        "bytes_to_read": sum(found.size_bytes for _, one in work.inputs() for found in one.stored.values()),
        "bytes_to_write": _bytes_to_write(work),
    }


def _inputs(work: Merge, hashed: bool) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "path": checkpoint.path.name,  # a name, for a file may travel and a folder of someone's may not
            "tensors": len(checkpoint),
            "files": {
                file.path.name: file.sha256() if hashed else file.path.stat().st_size
                for file in checkpoint.files
            },
        }
        for role, checkpoint in work.inputs()
    ]


def _bytes_to_write(work: Merge) -> int:
    """An upper bound: what LoRA compresses is unknown before."""
    elements = {name: work.stored(name).num_elements for name in work.names}
    whole = sum(count * work.dtype(name).itemsize for name, count in elements.items())
    difference = sum(elements[name] for name in work.merged) * (
        4 if work.recipe.difference_dtype == "float32" else 2
    )
    outputs = len(work.recipe.method.outputs)
    sizes = {"full": whole * outputs, "experts": whole + difference * outputs}
    return sum(sizes.get(export, difference * outputs) for export in work.recipe.exports)


def _check_space(work: Merge, folder: Path) -> None:
    needed = _bytes_to_write(work)
    there = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ResourceError(
            f'cannot write "{folder}": it needs {needed} bytes, {free} are free',
            fix="free space, or choose another -o",
        )


def _is_a_merge(folder: Path) -> bool:
    return (folder / REPORT_NAME).is_file() and (folder / RECIPE_NAME).is_file()


def _name_of(source: object, recipe: MergeRecipe) -> str:
    return Path(source).stem if isinstance(source, str | Path) else recipe.method.kind
