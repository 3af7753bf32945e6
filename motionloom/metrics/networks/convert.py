"""Official weights files as files of ours: read once without running anything in them, checked key by key, kept as
safetensors with the official file's sha256.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, WeightsError
from motionloom.filetypes import open_head
from motionloom.metrics.networks.table import NETWORKS, default_folder
from motionloom.weights import load_strictly, save_weights

Tensors = dict[str, Tensor]


def add_weights(name: str, file: Path, folder: Path | None = None) -> Path:
    """Convert an official file and keep it as `<folder>/<name>.safetensors`; return that path.

    Raises:
        ConfigError: no network of this name is kept as a file.
        WeightsError: the file is missing, not the official one, or its keys differ.
    """
    if name not in _READERS:
        row = NETWORKS.get(name)
        fix = f"run `hf download {row.hub_id}`" if row and row.hub_id else f"there are {', '.join(_READERS)}"
        raise ConfigError(f"network {name!r} is not kept as a file of ours", fix=fix)
    open_head(file, "cannot convert weights", WeightsError)
    digest, expected = sha256_of(file), NETWORKS[name].official_sha256
    if not digest.startswith(expected):
        raise WeightsError(
            f'"{file}" has the sha256 {digest[:16]}..., the official file begins with {expected}',
            fix=f"download {NETWORKS[name].origin} again",
        )
    read, build = _READERS[name]
    tensors = read(file)
    if build is not None:
        load_strictly(build(), tensors, file)
    return save_weights(
        (folder or default_folder()) / f"{name}.safetensors",
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        {
            "network": name,
            "official_file": file.name,
            "official_sha256": digest,
            "origin": NETWORKS[name].origin,
        },
    )


def _read_torch(file: Path) -> Tensors:
    return _tensors_of(_unpickled(file), file)


def _unpickled(file: Path) -> object:
    """What the file holds, read by torch's loader that runs nothing."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as problem:
        raise WeightsError(
            f'cannot convert "{file}": it is no plain file of tensors ({str(problem).splitlines()[0][:120]})',
            fix="give the published state dictionary, not a TorchScript archive",
        ) from None


def _tensors_of(content: object, file: Path, part: str | None = None) -> Tensors:
    if part is not None and isinstance(content, dict):
        content = content.get(part)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f'cannot convert "{file}": it holds more than tensors', fix="give the state dictionary"
        )
    return content


def _read_amt(file: Path) -> Tensors:
    """A training checkpoint: the network is its "state_dict"."""
    return _tensors_of(_unpickled(file), file, "state_dict")


def _read_lpips(file: Path) -> Tensors:
    """VGG16's convolutions, and the heads of vgg.pth beside it."""
    heads = _read_torch(_beside(file, "vgg.pth"))
    trunk = {key: value for key, value in _read_torch(file).items() if key.startswith("features.")}
    return trunk | heads


def _read_c3d(file: Path) -> Tensors:
    """Chainer's names (conv1a/W) and the mean clip beside it."""
    with np.load(file, allow_pickle=False) as arrays:
        tensors = {
            key.replace("/W", ".weight").replace("/b", ".bias"): torch.from_numpy(arrays[key])
            for key in arrays.files
        }
    with np.load(_beside(file, "mean2.npz"), allow_pickle=False) as arrays:
        tensors["mean"] = torch.from_numpy(arrays["mean"].astype(np.float32)).reshape(3, 16, 128, 171)
    return tensors


def _beside(file: Path, name: str) -> Path:
    other = file.with_name(name)
    open_head(other, f'cannot convert "{file.name}" without', WeightsError)
    return other


def _raft() -> nn.Module:
    from motionloom.metrics.networks.raft import RAFT

    return RAFT()


def _i3d() -> nn.Module:
    from motionloom.metrics.networks.i3d import I3D

    return I3D()


def _inception() -> nn.Module:
    from motionloom.metrics.networks.inception import Inception

    return Inception()


def _c3d() -> nn.Module:
    from motionloom.metrics.networks.c3d import C3D

    return C3D()


def _amt() -> nn.Module:
    from motionloom.metrics.networks.amt import AMT

    return AMT()


def _musiq() -> nn.Module:
    from motionloom.metrics.networks.musiq import MUSIQ

    return MUSIQ()


def _aesthetic() -> nn.Module:
    from motionloom.metrics.networks.clip import AestheticHead

    return AestheticHead()


_READERS: dict[str, tuple[Callable[[Path], Tensors], Callable[[], nn.Module] | None]] = {
    "raft": (_read_torch, _raft),
    "i3d": (_read_torch, _i3d),
    "inception-2015": (_read_torch, _inception),
    "amt-s": (_read_amt, _amt),
    "musiq-spaq": (_read_torch, _musiq),
    "laion-aesthetic": (_read_torch, _aesthetic),
    "c3d-ucf101": (_read_c3d, _c3d),
    "lpips-vgg16": (_read_lpips, None),  # its own loader checks the keys
}
