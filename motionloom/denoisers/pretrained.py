"""Weights of diffusers models: found in a folder or the hub's cache, loaded strictly, never downloaded unasked."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from motionloom.errors import ConfigError, ResourceError, WeightsError

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

Options = TypeVar("Options", bound="BaseModel")

VALUES_PER_TENSOR = 64  # that a fingerprint reads


def find_folder(source: str | os.PathLike[str], fetch: str = "", revision: str | None = None) -> Path:
    """A local folder as it is; a hub id as its folder in the hub's cache.

    Args:
        source: a folder, or "organisation/name".
        fetch: the command that downloads what is needed of it.
        revision: branch, tag or commit on the hub; default main.

    Raises:
        WeightsError: neither is here; the fix is the command that fetches it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if Path(source).is_dir():
        return Path(source)
    name = os.fspath(source)
    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        at = f" --revision {revision}" if revision else ""
        raise WeightsError(
            f'the weights of "{name}" are neither a folder here nor in the hub\'s cache',
            fix=f"fetch them with `{fetch or f'hf download {name}'}{at}`",
        ) from None


def class_of(folder: Path, fetch: str = "") -> str:
    """The diffusers class whose configuration lies in a folder.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    fix = f"fetch it with `{fetch}`" if fetch else "copy or download the folder again"
    try:
        return str(json.loads((folder / "config.json").read_bytes())["_class_name"])
    except FileNotFoundError:
        raise WeightsError(f'"{folder}" has no config.json', fix=fix) from None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise WeightsError(f'"{folder / "config.json"}" is damaged ({problem})', fix=fix) from None


def load_part(kind: Any, folder: Path, part: str, dtype: torch.dtype, fetch: str = "") -> Any:
    """One diffusers model out of a folder, every key accounted for.

    Args:
        kind: a diffusers model class.
        folder: of the whole model.
        part: the sub-folder; "" is the folder itself.
        dtype: its precision.
        fetch: the command that downloads it.

    Raises:
        WeightsError: a file is missing or damaged, or its tensors are not those of the model.
    """
    where = folder / part if part else folder
    fix = f"fetch it with `{fetch}`" if fetch else "copy or download the folder again"
    class_of(where, fetch)
    variant = None if list(where.glob("*model.safetensors*")) else "fp16"
    try:
        with quiet_diffusers():
            model, report = kind.from_pretrained(
                where,
                variant=variant,
                torch_dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                low_cpu_mem_usage=True,
            )
    except MemoryError:
        raise ResourceError(f'cannot read "{where}": out of memory', fix="close other programs") from None
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise WeightsError(f'cannot load {kind.__name__} from "{where}": {reason}', fix=fix) from None
    wrong = {
        name: report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[name]
    }
    if wrong:
        said = "; ".join(
            f"{len(keys)} {name.replace('_', ' ')} ({', '.join(map(str, sorted(map(str, keys))[:5]))})"
            for name, keys in wrong.items()
        )
        raise WeightsError(f'the tensors of "{where}" are not those of {kind.__name__}: {said}', fix=fix)
    return model


def with_random_values(seed: int, *models: tuple[Any, Mapping[str, Any]]) -> list[Any]:
    """Models (class, configuration) with random weights from a seed; no other random number is drawn."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [kind(**config) for kind, config in models]


def without_values(kind: Any, config: Mapping[str, Any]) -> Any:
    """A model whose parameters hold no values yet, for those of a file; nobody waits for random numbers."""
    import torch
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = kind(**config)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                module._parameters[name] = torch.nn.Parameter(torch.empty_like(parameter, device="cpu"))
    return model


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Inside, diffusers prints no warnings: what matters is checked here, and said as an error."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def to_precision(model: Any, dtype: torch.dtype) -> Any:
    """The model in another precision, but for the parts its class keeps in float32."""
    kept = model._keep_in_fp32_modules or ()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and not any(part in name.split(".") for part in kept):
            tensor.data = tensor.data.to(dtype)
    return model


def is_cached(repository: str, files: Sequence[str]) -> bool:
    """Whether all files of a hub repository are in the cache; reads no file and asks no server."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def fingerprint(*models: torch.nn.Module) -> str:
    """16 hexadecimal digits that tell these weights from others: names, shapes and the first values of every tensor."""
    import torch

    digest = hashlib.sha256()
    for model in models:
        for name, tensor in sorted(model.state_dict().items()):
            head = tensor.flatten()[:VALUES_PER_TENSOR].to("cpu", torch.float32).contiguous()
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + head.numpy().tobytes())
    return digest.hexdigest()[:16]


def device_and_dtype(device: str | None, dtype: str | None, half: str) -> tuple[str, torch.dtype]:
    """Where and how precisely to compute: a GPU in half precision where there is one, else the CPU in float32.

    Args:
        device: such as "cpu" or "cuda:1"; None chooses.
        dtype: "float32", "float16" or "bfloat16"; None chooses.
        half: the half precision of the base.

    Raises:
        ConfigError: a device or precision that does not exist.
    """
    import torch

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        on_cpu = torch.device(place).type == "cpu"
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):
        raise ConfigError(f'there is no device "{place}" here', fix="leave it out, or give cpu") from None
    precision = dtype or ("float32" if on_cpu else half)
    if precision not in ("float32", "float16", "bfloat16"):
        raise ConfigError(
            f'got dtype="{precision}", expected float32, float16 or bfloat16', fix="leave it out"
        )
    return place, getattr(torch, precision)


def suggest(word: str, known: Sequence[str], kind: str) -> str:
    """What to type instead."""
    near = difflib.get_close_matches(word, known, 1, 0.5)
    return f'did you mean "{near[0]}"?' if near else f"the {kind} are {', '.join(known)}"


def read_options(kind: type[Options], values: Mapping[str, Any], base: str) -> Options:
    """A base's options by name, numbers also as text.

    Raises:
        ConfigError: an option that does not exist, or a value out of range.
    """
    from pydantic import ValidationError

    for name in values:
        if name not in kind.model_fields:
            raise ConfigError(
                f'{base} has no option "{name}"', fix=suggest(name, list(kind.model_fields), "options")
            )
    try:
        return kind(**values)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise ConfigError(
            f"got {first['loc'][0]}={first['input']!r} for {base}: {first['msg'].lower()}",
            fix="correct the option",
        ) from None
