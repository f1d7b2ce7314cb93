"""python benchmarks/montage.py RUN_OR_CHECKPOINT DATA OUT

Draws what a model finds in six crops of val images of nuclei into one JPEG: docs/nuclei.jpg, which README.md shows.
DATA is the folder that `benchmarks/real_images.py nuclei` was trained on, OUT the file to write. The crops are chosen
for variety, not by result: two kinds of fluorescence, three of histology, one of brightfield. The images are CC0 1.0
(Data Science Bowl 2018, stage 1).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import maskrcnn
from maskrcnn.images import read_image
from maskrcnn.ops.contour import Outline
from maskrcnn.results import Result
from maskrcnn.visualize import draw

CROPS = (  # how a file name begins, then top, left and side of the crop, in pixels
    ("0ea22171", 130, 220, 256),
    ("b214800d", 0, 32, 256),
    ("8d05fb18", 512, 512, 512),
    ("2dd3356f", 0, 32, 256),
    ("8c3ef7aa", 130, 220, 256),
    ("337b6eed", 0, 32, 256),
)
COLUMNS, TILE, GAP = 3, 512, 12  # pixels
SCORE = 0.5
LARGEST = 300_000  # bytes


def main(checkpoint: str, data: Path, out: Path) -> None:
    """Predicts on the crops, draws them side by side and saves the montage."""
    crops = [crop(data / "images", *where) for where in CROPS]
    results = maskrcnn.load(checkpoint).predict(crops, score_threshold=SCORE, max_detections=1000)
    tiles = [tile(image, result) for image, result in zip(crops, results, strict=True)]
    rows = -(-len(tiles) // COLUMNS)
    size = (COLUMNS * (TILE + GAP) - GAP, rows * (TILE + GAP) - GAP)
    montage = Image.new("RGB", size, "white")
    for n, drawn in enumerate(tiles):
        montage.paste(drawn, (n % COLUMNS * (TILE + GAP), n // COLUMNS * (TILE + GAP)))
    save(montage, out)


def crop(folder: Path, name: str, top: int, left: int, side: int) -> np.ndarray:
    """A square of the image whose file name begins with `name`, uint8 [side side 3]."""
    (file,) = folder.glob(f"{name}*")
    return read_image(file)[top : top + side, left : left + side]


def tile(image: np.ndarray, result: Result) -> Image.Image:
    """The crop with what was found, TILE pixels wide; drawn at twice that size and reduced, for smooth lines."""
    factor = 2 * TILE / len(image)
    large = Image.fromarray(image).resize((2 * TILE, 2 * TILE), Image.Resampling.BICUBIC)
    outlines = [
        Outline([ring * factor for ring in outline.outer], [ring * factor for ring in outline.holes])
        for outline in result.outlines or []
    ]
    labels = np.zeros_like(result.labels)  # a hue that stands out from every stain
    drawn = draw(
        np.asarray(large), result.boxes * factor, result.scores, labels, result.names, outlines=outlines, text=False
    )
    return drawn.resize((TILE, TILE), Image.Resampling.LANCZOS)


def save(montage: Image.Image, out: Path) -> None:
    """Writes the JPEG in the best quality that stays below `LARGEST`."""
    for quality in range(92, 40, -4):
        montage.save(out, quality=quality, subsampling=0, optimize=True)
        if out.stat().st_size <= LARGEST:
            break
    print(f"{out}: {montage.width} x {montage.height}, {out.stat().st_size / 1000:.0f} kB, quality {quality}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
