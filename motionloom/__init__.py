"""MotionLoom: turn a still image into a video whose motion you choose, learn and dial.

The public names, and nothing else. Each is imported when it is first used, so `import motionloom`
stays instant and needs no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from motionloom import errors
from motionloom.errors import MotionLoomError

if TYPE_CHECKING:
    from motionloom.adapters.adapter import Adapter as Adapter
    from motionloom.adapters.adapter import new_adapter as new_adapter
    from motionloom.adapters.adapter_file import load_adapter as load_adapter
    from motionloom.adapters.motion_weight import MotionWeight as MotionWeight
    from motionloom.adapters.mount import mounted as mounted
    from motionloom.adapters.official import adapter_from_official as adapter_from_official
    from motionloom.adapters.text_adapter import TextAdapter as TextAdapter
    from motionloom.convert import convert as convert
    from motionloom.denoisers.catalog import load_base as load_base
    from motionloom.denoisers.dynamicrafter.unet import dynamicrafter_unet as dynamicrafter_unet
    from motionloom.evaluate import evaluate as evaluate
    from motionloom.generate import generate as generate
    from motionloom.merge import merge as merge
    from motionloom.merging.decoupling import decouple as decouple
    from motionloom.merging.decoupling import extrapolate as extrapolate
    from motionloom.train import train as train
    from motionloom.transfer import transfer as transfer
    from motionloom.video.clip import Clip as Clip
    from motionloom.video.picture import read_picture as read_picture
    from motionloom.video.read import read_clip as read_clip

__version__ = "0.1.0"

# public name -> the module that defines it under the same name
_HOMES = {
    "Adapter": "motionloom.adapters.adapter",
    "MotionWeight": "motionloom.adapters.motion_weight",
    "adapter_from_official": "motionloom.adapters.official",
    "load_adapter": "motionloom.adapters.adapter_file",
    "mounted": "motionloom.adapters.mount",
    "new_adapter": "motionloom.adapters.adapter",
    "convert": "motionloom.convert",
    "dynamicrafter_unet": "motionloom.denoisers.dynamicrafter.unet",
    "TextAdapter": "motionloom.adapters.text_adapter",
    "Clip": "motionloom.video.clip",
    "read_clip": "motionloom.video.read",
    "read_picture": "motionloom.video.picture",
    "load_base": "motionloom.denoisers.catalog",
    "generate": "motionloom.generate",
    "train": "motionloom.train",
    "transfer": "motionloom.transfer",
    "evaluate": "motionloom.evaluate",
    "report": "motionloom.report",
    "extrapolate": "motionloom.merging.decoupling",
    "decouple": "motionloom.merging.decoupling",
    "merge": "motionloom.merge",
}

__all__ = [
    "Clip",
    "read_clip",
    "read_picture",
    "load_base",
    "generate",
    "transfer",
    "train",
    "evaluate",
    "report",
    "dynamicrafter_unet",
    "TextAdapter",
    "Adapter",
    "MotionWeight",
    "new_adapter",
    "load_adapter",
    "adapter_from_official",
    "mounted",
    "convert",
    "extrapolate",
    "decouple",
    "merge",
    "errors",
    "MotionLoomError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'motionloom' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `motionloom.generate` the verb.

    A verb and its file share a name, and the import system binds the *file* to the package once anyone
    imports it; `ml.generate(...)` would then stop being callable. Binding the verb instead keeps the
    public name stable, whatever was imported first. `from motionloom.generate import ...` still finds
    the file.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
