"""Where each network's weights come from, under which licence, and how they are found on this machine.

    networks = Networks(Path("weights"))
    raft = networks.load("raft")            # finds weights/raft.safetensors, checks every key, remembers its sha256

Nothing is downloaded here. A network is either a file of ours, made once from the official file by `add_weights`; or a
folder in the hub's cache (or under the weights folder); or, where code or weights are non-commercial, a plug-in: the
user's own installation, named as "package.module:callable", which we call and never ship.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionloom.durable import sha256_of
from motionloom.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    import torch

WEIGHTS_FOLDER = "MOTIONLOOM_METRIC_WEIGHTS"


@dataclass(frozen=True)
class Network:
    """One row.

    Attributes:
        home: "module:function" that turns the file or folder into a module in eval mode; "" for a plug-in.
        origin: where the official file is, or the hub id.
        official_sha256: first digits, where the publisher states them; checked by `add_weights`.
        code_licence, weights_licence: of the official release. Our code is our own.
        non_commercial: runs only with `accept_nc`.
        plugin: what the callable takes and returns; None where we have the architecture.
    """

    about: str
    home: str
    origin: str
    code_licence: str
    weights_licence: str
    official_sha256: str = ""
    hub_id: str | None = None
    non_commercial: bool = False
    plugin: str | None = None


_HERE = "motionloom.metrics.networks."

NETWORKS: dict[str, Network] = {
    "dino-vitb16": Network(
        "DINO ViT-B/16, image features",
        _HERE + "dino:load_dino",
        "hub facebook/dino-vitb16 (the official dino_vitbase16_pretrain.pth in transformers' layout)",
        "Apache-2.0",
        "Apache-2.0",
        hub_id="facebook/dino-vitb16",
    ),
    "clip-vit-base-patch32": Network(
        "CLIP ViT-B/32, image and text features",
        _HERE + "clip:load_clip",
        "hub openai/clip-vit-base-patch32",
        "MIT",
        "MIT",
        hub_id="openai/clip-vit-base-patch32",
    ),
    "clip-vit-large-patch14": Network(
        "CLIP ViT-L/14, image features",
        _HERE + "clip:load_clip",
        "hub openai/clip-vit-large-patch14",
        "MIT",
        "MIT",
        hub_id="openai/clip-vit-large-patch14",
    ),
    "laion-aesthetic": Network(
        "LAION's linear aesthetic head on CLIP ViT-L/14",
        _HERE + "clip:load_aesthetic_head",
        "github LAION-AI/aesthetic-predictor sa_0_4_vit_l_14_linear.pth",
        "MIT",
        "MIT",
    ),
    "raft": Network(
        "RAFT large, optical flow, trained on FlyingChairs and FlyingThings3D",
        _HERE + "raft:load_raft",
        "download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth",
        "BSD-3-Clause",
        "BSD-3-Clause",
        official_sha256="22a6c225",
    ),
    "i3d": Network(
        "I3D on Kinetics-400, video logits",
        _HERE + "i3d:load_i3d",
        "i3d_pretrained_400.pt of the TATS and VideoGPT releases",
        "Apache-2.0 (TF-Hub)",
        "none stated for the ports",
    ),
    "videomae": Network(
        "VideoMAE, a video transformer",
        _HERE + "videomae:load_videomae",
        "hub MCG-NJU/videomae-base-finetuned-kinetics, or any VideoMAE folder",
        "CC-BY-NC-4.0",
        "CC-BY-NC-4.0",
        hub_id="MCG-NJU/videomae-base-finetuned-kinetics",
        non_commercial=True,
    ),
    "inception-2015": Network(
        "Inception-2015-12-05, the network of FID and IS",
        _HERE + "inception:load_inception",
        "github mseitzer/pytorch-fid pt_inception-2015-12-05-6726825d.pth",
        "Apache-2.0",
        "Apache-2.0",
        official_sha256="6726825d",
    ),
    "c3d-ucf101": Network(
        "C3D fine-tuned on UCF101, the classifier of IS on video",
        _HERE + "c3d:load_c3d",
        "github pfnet-research/tgan2 release v1.0: conv3d_deepnetA_ucf.npz, with mean2.npz beside it",
        "MIT",
        "none stated",
    ),
    "lpips-vgg16": Network(
        "LPIPS v0.1: VGG16 trunk and linear heads",
        _HERE + "lpips:load_lpips",
        "download.pytorch.org/models/vgg16-397923af.pth, with the lpips package's vgg.pth beside it",
        "BSD-2-Clause",
        "BSD-2-Clause (heads), torchvision's (trunk)",
        official_sha256="397923af",
    ),
    "amt-s": Network(
        "AMT-S, frame interpolation",
        _HERE + "amt:load_amt",
        "huggingface.co/lalala125/AMT: amt-s.pth",
        "CC-BY-NC-4.0",
        "CC-BY-NC-4.0",
        non_commercial=True,
    ),
    "cotracker2": Network(
        "CoTracker2, point tracks",
        "",
        "hub facebook/cotracker",
        "CC-BY-NC-4.0",
        "CC-BY-NC-4.0",
        non_commercial=True,
        plugin="(video, grid): float (1, T, 3, H, W) 0..255 and points a side -> tracks (1, T, grid^2, 2) in px (x, y)",
    ),
    "dreamsim": Network(
        "DreamSim ensemble, picture embedding",
        "",
        "github ssundaram21/dreamsim releases; needs open_clip, peft, timm and torchvision",
        "MIT",
        "MIT",
        plugin="(pictures): float (N, 3, 224, 224) 0..1 -> (N, d)",
    ),
    "musiq-spaq": Network(
        "MUSIQ trained on SPAQ, picture quality",
        _HERE + "musiq:load_musiq",
        "github chaofengc/IQA-PyTorch release v0.1-weights: musiq_spaq_ckpt-358bb6af.pth",
        "Apache-2.0 (Google); the port: PolyForm-Noncommercial-1.0.0",
        "Apache-2.0 (Google; converted by the port)",
        official_sha256="358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
    ),
}


@dataclass(frozen=True)
class Used:
    """A network that was loaded, and from what."""

    name: str
    file: str
    sha256: str


class Networks:
    """Loads networks by name, once each, and remembers what was loaded.

    Args:
        folder: of weights; default the environment's MOTIONLOOM_METRIC_WEIGHTS, else ~/.cache/motionloom/metrics.
        device: "cpu", "cuda", ...
        accept_nc: the user has accepted non-commercial licences.
        plugins: network name -> "package.module:callable".
    """

    def __init__(
        self,
        folder: Path | None = None,
        device: str = "cpu",
        accept_nc: bool = False,
        plugins: dict[str, str] | None = None,
    ) -> None:
        for name in plugins or ():
            if name not in NETWORKS or NETWORKS[name].plugin is None:
                known = ", ".join(key for key, row in NETWORKS.items() if row.plugin)
                raise ConfigError(f"{name!r} is no network of a plug-in", fix=f"those are {known}")
        self.folder = folder or default_folder()
        self.device, self.accept_nc, self.plugins = device, accept_nc, plugins or {}
        self.used: dict[str, Used] = {}
        self._loaded: dict[str, Any] = {}

    def load(self, name: str) -> torch.nn.Module:
        """The network, in eval mode, on the device, with frozen weights. Raises WeightsError."""
        if name not in self._loaded:
            path = self.find(name)
            module = _attribute(NETWORKS[name].home)(path).to(self.device).eval().requires_grad_(False)
            self._loaded[name] = module
            self.used[name] = Used(name, str(path), _sha256(path))
        module = self._loaded[name]
        return module  # type: ignore[no-any-return]

    def call(self, name: str) -> Any:
        """The callable of a plug-in. Raises WeightsError or ConfigError."""
        if name not in self._loaded:
            self._refuse_licence(name)
            row = NETWORKS[name]
            if name not in self.plugins:
                raise WeightsError(
                    f"{row.about} is not shipped ({row.code_licence}) and no plug-in is given",
                    fix=f"install it and give --plugin {name}=package.module:callable, which takes {row.plugin}",
                )
            self._loaded[name] = _attribute(self.plugins[name])
            source = Path(
                str(getattr(importlib.import_module(self.plugins[name].partition(":")[0]), "__file__", ""))
            )
            self.used[name] = Used(
                name, self.plugins[name], sha256_of(source) if source.is_file() else "unknown"
            )
        return self._loaded[name]

    def find(self, name: str) -> Path:
        """The file or folder of a network. Raises WeightsError saying how to get it."""
        self._refuse_licence(name)
        row = NETWORKS[name]
        for path in (self.folder / f"{name}.safetensors", self.folder / name):
            if path.exists():
                return path
        if row.hub_id is None:
            raise WeightsError(
                f'{row.about}: no "{self.folder / name}.safetensors"',
                fix=f"download {row.origin} and run `motionloom evaluate --add-weights {name}=FILE`",
            )
        cached = _hub_folder(row.hub_id)
        if cached is None:
            raise WeightsError(
                f'{row.about}: neither "{self.folder / name}" nor {row.hub_id} in the hub\'s cache',
                fix=f"run `hf download {row.hub_id}`",
            )
        return cached

    def _refuse_licence(self, name: str) -> None:
        row = NETWORKS[name]
        if row.non_commercial and not self.accept_nc:
            raise WeightsError(
                f"{row.about} is non-commercial (code {row.code_licence}, weights {row.weights_licence})",
                fix="--accept-nc if your use allows it",
            )


def default_folder() -> Path:
    return Path(os.environ.get(WEIGHTS_FOLDER) or Path.home() / ".cache" / "motionloom" / "metrics")


def _hub_folder(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _attribute(home: str) -> Any:
    module, _, name = home.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise ConfigError(
            f'cannot use the plug-in "{home}" ({problem})',
            fix="give package.module:callable of what is installed",
        ) from problem


def _sha256(path: Path) -> str:
    if path.is_file():
        return sha256_of(path)
    weights = sorted(path.glob("*.safetensors"))
    return " ".join(sha256_of(file) for file in weights)
