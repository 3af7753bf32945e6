"""A network that transformers knows, from a local folder of safetensors, every key accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from motionloom.errors import WeightsError


def pretrained(model_class: Any, path: Path, **options: Any) -> nn.Module:
    """`model_class.from_pretrained`, float32, offline. Raises WeightsError when files or keys are missing."""
    if not any(path.glob("*.safetensors")):
        raise WeightsError(
            f'cannot load {model_class.__name__} from "{path}": no .safetensors in it',
            fix="download the folder with its model.safetensors",
        )
    try:
        model, report = model_class.from_pretrained(
            path,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as problem:
        raise WeightsError(
            f'cannot load {model_class.__name__} from "{path}": {str(problem).splitlines()[0]}',
            fix="download the folder again",
        ) from problem
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f'"{path}" is no {model_class.__name__}: {len(missing)} keys are missing ({", ".join(missing[:5])})',
            fix="give the folder of the published weights",
        )
    module: nn.Module = model
    return module.eval()
