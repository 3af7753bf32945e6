"""MIVA: motions as small adapters beside a frozen video model (arXiv 2512.20000).

    adapter = new_adapter(host, "default", seed=0)            adapter.py       fresh, starts as the base without its text
    adapter = load_adapter("waterfall.safetensors")           adapter_file.py  strict
    adapter = adapter_from_official("adapter.pt", host)       official.py      the authors' key names
    with mounted(host, [(adapter, 0.6), (other, 0.4)]):       mount.py         side branches at run time
        host(latents, timestep, encoder_hidden_states=None).sample

What an adapter is made of, one file a part: cross_frame_attention, adaptive_weighting, text_free_attention, low_rank,
attention_bias; in the small model map_parts. Where the parts sit: layout. What they know of the running call: context. How
they are put beside the layers of a U-Net, a DiT and a map generator: unet, dit, map_generator. How much, when and where
each acts: motion_weight.
"""

from motionloom.adapters.adapter import Adapter, new_adapter
from motionloom.adapters.adapter_file import load_adapter, save_adapter
from motionloom.adapters.context import MotionContext, context_of
from motionloom.adapters.motion_weight import MotionWeight
from motionloom.adapters.mount import mounted, weight_notes
from motionloom.adapters.official import adapter_from_official

__all__ = [
    "Adapter",
    "MotionContext",
    "MotionWeight",
    "adapter_from_official",
    "context_of",
    "load_adapter",
    "mounted",
    "new_adapter",
    "save_adapter",
    "weight_notes",
]
