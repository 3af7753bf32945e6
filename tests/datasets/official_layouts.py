"""Small data sets in the papers' official on-disk layouts, for tests: every frame says which clip and time it is."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from motionloom.datasets.tfrecord import build_example, write_record

Pixels = npt.NDArray[np.uint8]


def grey_frames(levels: Sequence[int], width: int = 32, height: int = 24) -> Pixels:
    """uint8 (T, H, W, 3): frame k is even grey of level[k]."""
    return np.broadcast_to(
        np.array(levels, np.uint8)[:, None, None, None], (len(levels), height, width, 3)
    ).copy()


def save_avi(path: Path, frames: Pixels, fps: int = 20) -> None:
    """An AVI as the sets have them: MPEG-4 part 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def save_frames(folder: Path, frames: Pixels, pattern: str = "{:08d}.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / pattern.format(number), quality=95)


def make_bair(root: Path, counts: dict[str, int], frames: int = 30) -> Path:
    """counts: {"train/traj_0_to_1": 2}. Frame t of trajectory n of the k-th file is grey 100 k + 10 n + t."""
    for order, (name, count) in enumerate(counts.items()):
        path = root / "softmotion30_44k" / f"{name}.tfrecords"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            for number in range(count):
                features: dict[str, bytes | npt.NDArray[np.float32]] = {}
                for t in range(frames):
                    level = 100 * order + 10 * number + t
                    features[f"{t}/image_main/encoded"] = bytes([255 - level]) * (64 * 64 * 3)
                    features[f"{t}/image_aux1/encoded"] = bytes([level]) * (64 * 64 * 3)
                    features[f"{t}/action"] = np.array([t, number, 0, 1], np.float32)
                    features[f"{t}/endeffector_pos"] = np.array([t, number, order], np.float32)
                write_record(stream, build_example(features))
    return root


def make_landscape(root: Path, lengths: dict[str, int]) -> Path:
    """lengths: {"sky_train/AAA/AAA_1": frames}; frame k (from 1) is grey k."""
    for name, count in lengths.items():
        video = name.split("/")[1]
        save_frames(root / name, grey_frames(range(1, count + 1)), video + "_frames_{:08d}.jpg")
    return root


def make_natops(
    root: Path, subjects: Sequence[int], gestures: Sequence[int] = (1, 2), length: int = 3
) -> Path:
    """Videos of 20 repetitions of `length` frames after one idle frame; frame k of a video is grey k."""
    lines = ["// segmentation, counted from 1", ""]
    for subject in range(1, 21):
        lines.append(f"// Subject {subject}")
        for gesture in range(1, 25):
            lines.append(f"{gesture},{subject},20")
            for repetition in range(20):
                first = 2 + repetition * length
                lines.append(f"{repetition + 1}:{first},{first + length - 1}")
    root.mkdir(parents=True, exist_ok=True)
    (root / "segmentation.txt").write_text("\n".join(lines))
    for subject in subjects:
        for gesture in gestures:
            name = f"gesture{gesture:02d}/g{gesture:02d}s{subject:02d}.avi"
            save_avi(root / name, grey_frames(range(20 * length + 1), 320, 240))
    return root


def make_mug(root: Path, takes: dict[str, int]) -> Path:
    """takes: {"001/anger/take000": frames}; frame k (from 1) is grey 10 k."""
    for name, count in takes.items():
        save_frames(root / name, grey_frames([10 * k for k in range(1, count + 1)]), "img_{:04d}.jpg")
    return root


def make_cater(root: Path, captions: dict[str, list[str]], frames: int = 50) -> Path:
    """captions: {"train": [...]}; clip n of a split has frames of grey 2 k."""
    for split, texts in captions.items():
        listed = {}
        for number, caption in enumerate(texts):
            name = f"videos/CATER_new_{split}{number:06d}.avi"
            save_avi(root / name, grey_frames([2 * k for k in range(frames)]), 24)
            listed[str(number)] = {"video": name, "caption": caption}
        for mode in ("ambiguous", "explicit"):
            (root / f"{split}_{mode}.json").write_text(json.dumps(listed))
    return root


def make_ucf101(root: Path, videos: dict[str, str]) -> Path:
    """videos: {"ApplyLipstick/v_ApplyLipstick_g01_c01.avi": "train"}."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for name, split in videos.items():
        save_avi(root / "UCF-101" / name, grey_frames(range(18)), 25)
        lists[split].append(f"{name} 1" if split == "train" else name)
    (root / "ucfTrainTestlist").mkdir()
    for split, lines in lists.items():
        (root / f"ucfTrainTestlist/{split}list01.txt").write_text("\n".join(lines) + "\n")
    return root


def make_webvid(root: Path, rows: dict[str, str]) -> Path:
    """rows: {"10": caption}; WebVid's own columns."""
    lines = ["videoid,contentUrl,duration,page_dir,name"]
    for number, caption in rows.items():
        save_avi(root / "clip.avi", grey_frames(range(20)), 25)
        target = root / "videos/000001_000050" / f"{number}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "clip.avi").rename(target)
        lines.append(f'{number},https://example.org/{number},PT00H00M01S,000001_000050,"{caption}"')
    (root / "results_2M_train.csv").write_text("\n".join(lines) + "\n")
    return root


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
