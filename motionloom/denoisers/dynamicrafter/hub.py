"""Where the published weights lie, and the commands that fetch them. No torch here."""

from __future__ import annotations

CHECKPOINT = "model.ckpt"
REPOSITORIES = {
    "dynamicrafter-512": "Doubiiu/DynamiCrafter_512",
    "dynamicrafter-1024": "Doubiiu/DynamiCrafter_1024",
    "dynamicrafter-256": "Doubiiu/DynamiCrafter",
}
VOCABULARY_REPOSITORY = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
VOCABULARY_FILES = ("vocab.json", "merges.txt")
FETCH_VOCABULARY = f"hf download {VOCABULARY_REPOSITORY} {' '.join(VOCABULARY_FILES)}"


def fetch(name: str) -> str:
    """The command that downloads the checkpoint of a base."""
    return f"hf download {REPOSITORIES[name]} {CHECKPOINT}"
