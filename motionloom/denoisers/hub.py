"""Where the published weights lie, and the commands that fetch them. No torch here."""

from __future__ import annotations

_WEIGHTS = "diffusion_pytorch_model.safetensors"

SPATIAL_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SPATIAL_FILES = tuple(f"{part}/{file}" for part in ("unet", "vae") for file in ("config.json", _WEIGHTS))
FETCH_SPATIAL = f"hf download {SPATIAL_REPOSITORY} {' '.join(SPATIAL_FILES)}"
TEXT_FILES = (
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
)  # of the same repository; only prompts need them
FETCH_TEXT = f"hf download {SPATIAL_REPOSITORY} {' '.join(TEXT_FILES)}"

MOTION_REPOSITORY = "guoyww/animatediff-motion-adapter-v1-5-3"
MOTION_FILES = ("config.json", _WEIGHTS)
FETCH_MOTION = f"hf download {MOTION_REPOSITORY} {' '.join(MOTION_FILES)}"

WAN_REPOSITORY = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAN_FILES = ("model_index.json", "transformer/config.json", "vae/config.json", f"vae/{_WEIGHTS}")
FETCH_WAN = (
    f'hf download {WAN_REPOSITORY} --include "model_index.json" --include "transformer/*" --include "vae/*"'
)
