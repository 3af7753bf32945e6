"""Masks of what words name, by published networks: GroundingDINO (Liu et al. 2023) finds its boxes, SAM (Kirillov et al.
2023) cuts it out; both as transformers has them.

    frames, "horse" => masks, white where a horse is

Nothing is downloaded here; what is missing is named with the command that fetches it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from motionloom.denoisers.pretrained import find_folder
from motionloom.errors import ConfigError, InputError
from motionloom.weights import load_pretrained

DETECTOR = "IDEA-Research/grounding-dino-tiny"
SEGMENTER = "facebook/sam-vit-base"
BOX_THRESHOLD = 0.3  # of a box's score, 0..1

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class NamedSubjects:
    """Boxes by words, masks by boxes. The processors are transformers' own, of the two networks."""

    detector: Any
    detector_processor: Any
    segmenter: Any
    segmenter_processor: Any
    threshold: float = BOX_THRESHOLD

    @torch.no_grad()
    def masks(self, frames: Frames, words: str) -> Frames:
        """Frames (T, H, W, 3) => masks (T, H, W), 0 or 255: everything the words name.

        In frames where nothing is found the boxes of the nearest frame stand in.

        Raises:
            ConfigError: no words. InputError: no frame shows what they name.
        """
        if not words.strip(" ."):
            raise ConfigError("got no words for the subject", fix="for example: horse")
        boxes = [self._boxes(frame, words) for frame in frames]
        found = [t for t, here in enumerate(boxes) if len(here)]
        if not found:
            raise InputError(
                f'found no "{words}" in it', fix="try other words, or say where it is with a box"
            )
        nearest = [min(found, key=lambda other: abs(other - t)) for t in range(len(frames))]
        return np.stack([self._cut(frame, boxes[t]) for frame, t in zip(frames, nearest, strict=True)])

    def _boxes(self, frame: Frames, words: str) -> Tensor:
        """(n, 4): left, top, right, bottom in pixels."""
        text = words.strip().lower().rstrip(".") + "."  # the form it was trained on
        inputs = self.detector_processor(images=frame, text=text, return_tensors="pt").to(
            self.detector.device
        )
        outputs = self.detector(**inputs)
        (found,) = self.detector_processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=self.threshold, target_sizes=[frame.shape[:2]]
        )
        boxes: Tensor = found["boxes"].cpu()
        return boxes

    def _cut(self, frame: Frames, boxes: Tensor) -> Frames:
        """(H, W), 0 or 255: the union of what SAM sees in the boxes."""
        inputs = self.segmenter_processor(frame, input_boxes=[boxes.tolist()], return_tensors="pt")
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        outputs = self.segmenter(**inputs.to(self.segmenter.device), multimask_output=False)
        process = self.segmenter_processor.image_processor.post_process_masks
        (masks,) = process(outputs.pred_masks.cpu(), *sizes)  # (n, 1, H, W)
        union: Frames = masks.flatten(0, 1).any(dim=0).to(torch.uint8).mul(255).numpy()
        return union


def load_named_subjects(
    detector: str | os.PathLike[str] = DETECTOR, segmenter: str | os.PathLike[str] = SEGMENTER
) -> NamedSubjects:
    """The networks from folders or the hub's cache, on a GPU where there is one.

    Raises:
        WeightsError: one is not here or not whole; the fix is the command that fetches it.
    """
    from transformers import (
        AutoTokenizer,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        GroundingDinoProcessor,
        SamImageProcessorPil,
        SamModel,
        SamProcessor,
    )

    where = find_folder(detector), find_folder(segmenter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    finds = load_pretrained(GroundingDinoForObjectDetection, where[0]).to(device)
    cuts = load_pretrained(SamModel, where[1]).to(device)
    processors: Any = GroundingDinoProcessor, SamProcessor  # which have no types
    finds_processor = processors[0](
        GroundingDinoImageProcessorPil.from_pretrained(where[0], local_files_only=True),
        AutoTokenizer.from_pretrained(where[0], local_files_only=True),
    )
    cuts_processor = processors[1](SamImageProcessorPil.from_pretrained(where[1], local_files_only=True))
    return NamedSubjects(finds, finds_processor, cuts, cuts_processor)
