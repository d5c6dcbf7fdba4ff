"""Draws docs/augment.png: one picture as it is, and as fifteen epochs change it.

python benchmarks/augment_sheet.py"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from orchestrator.config.data import AugmentSection
from orchestrator.data.decoding.draws import Draws, sample_keys
from orchestrator.train.augment.replay import make_step, replay

SIDE, COLUMNS, ROWS, GAP = 96, 8, 2, 4
CHANGES = [
    {"name": "rotate", "args": {"degrees": [-20, 20]}},
    {"name": "shear", "args": {"x": [-10, 10]}},
    {"name": "zoom", "args": {"factor": [0.8, 1.3]}},
    {"name": "flip", "p": 0.5},
    {"name": "brightness", "args": {"factor": [0.6, 1.3]}},
    {"name": "contrast", "args": {"factor": [0.6, 1.4]}},
    {"name": "saturation", "args": {"factor": [0.3, 1.5]}},
    {"name": "hue", "args": {"degrees": [-30, 30]}, "p": 0.5},
]


def main() -> None:
    steps = [make_step(i, AugmentSection.model_validate(change)) for i, change in enumerate(CHANGES)]
    picture = torch.from_numpy(draw_house()).permute(2, 0, 1).float() / 255
    epochs = np.arange(COLUMNS * ROWS - 1)
    changed = replay(steps, picture.expand(len(epochs), -1, -1, -1), Draws(sample_keys(17, epochs, 0, 0)))
    sheet = np.full((ROWS * (SIDE + GAP) - GAP, COLUMNS * (SIDE + GAP) - GAP, 3), 255, np.uint8)
    for n, one in enumerate([picture, *changed]):
        top, left = n // COLUMNS * (SIDE + GAP), n % COLUMNS * (SIDE + GAP)
        sheet[top : top + SIDE, left : left + SIDE] = (one * 255).round().byte().permute(1, 2, 0).numpy()
    target = Path(__file__).parents[1] / "docs/augment.png"
    Image.fromarray(sheet).quantize(128).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size} bytes")


def draw_house() -> np.ndarray:
    image = Image.new("RGB", (SIDE, SIDE), (150, 200, 235))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 70, SIDE, SIDE), fill=(95, 160, 80))
    pen.ellipse((70, 8, 86, 24), fill=(250, 215, 70))
    pen.rectangle((22, 40, 66, 80), fill=(225, 205, 170))
    pen.polygon([(16, 40), (44, 16), (72, 40)], fill=(180, 70, 55))
    pen.rectangle((28, 56, 40, 80), fill=(110, 75, 45))
    pen.rectangle((48, 50, 60, 62), fill=(80, 120, 170))
    return np.array(image)


if __name__ == "__main__":
    main()
