"""Every motion of `mini` at a glance: python benchmarks/contact_sheet.py -o docs/mini.jpg

Rows are motions, columns frames 0, 5, 10 and 15 of a free photograph of scikit-image, then the flow of the last frame
as colours (hue is the heading, strength the speed; white stands still). No photograph was trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from motionloom.codecs.run import Once
from motionloom.conditions.asked import Asked
from motionloom.conditions.words import WORDS
from motionloom.denoisers.mini import MiniBase, load_mini
from motionloom.motion.colours import flow_colours
from motionloom.sampling.loop import sample
from motionloom.video.picture import read_picture
from motionloom.video.resize import resize

WIDTH, HEIGHT = 168, 112
PHOTOS = ("rocket.jpg", "coffee.png", "chelsea.png")
Picture = npt.NDArray[np.uint8]


def row(base: MiniBase, name: str, photo: Picture, seed: int) -> Picture:
    asked = [Asked(name)]
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    shape = base.codec.latent_shape(16, *photo.shape[:2])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, *shape, generator=generator)
    with torch.no_grad():
        told = base.told(pixels, generator)
        latents = sample(base.woven(asked), base.schedule(), noise, told, base.num_steps, None)
        latents = base.as_asked(latents, asked)
        where = base.where(asked, *photo.shape[:2])
        frames = base.codec.decode(latents, pixels, 16, where)[0, :, [0, 5, 10, 15]]
        flow = base.codec.flow(
            base.codec.plan(latents, pixels, Once().times(16), where), 15, *photo.shape[:2]
        )[0]
    shown = [
        ((frame + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for frame in frames.transpose(0, 1)
    ]
    shown.append((flow_colours(flow, 0.12) * 255).byte().numpy())
    return np.concatenate([resize(picture[None], WIDTH, HEIGHT, "crop")[0] for picture in shown], 1)


def main() -> None:
    import skimage

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True)
    out = parser.parse_args().out
    folder = Path(skimage.__file__).parent / "data"
    photos = [resize(read_picture(folder / name)[None], 384, 256, "crop")[0] for name in PHOTOS]
    base = load_mini()
    rows = [row(base, word.name, photos[index % len(photos)], index) for index, word in enumerate(WORDS)]
    half = (len(rows) + 1) // 2
    rows += [np.full_like(rows[0], 255)] * (2 * half - len(rows))
    sheet = np.concatenate([np.concatenate(rows[:half], 0), np.concatenate(rows[half:], 0)], 1)
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    for index, word in enumerate(WORDS):
        at = (index // half * 5 * WIDTH + 4, index % half * HEIGHT + 3)
        draw.text(at, word.name, fill="white", stroke_width=2, stroke_fill="black")
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out, quality=80)
    print(out)


if __name__ == "__main__":
    main()
