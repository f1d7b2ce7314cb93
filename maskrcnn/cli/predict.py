"""`maskrcnn predict WEIGHTS IMAGES...`."""

import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, DataError
from .video import EveryOption, TrackOption, given, predict_videos, videos_among
from .views import TtaOption, ViewsOption, parse_views

BESIDE = ("overlay", "coco", "csv", "parquet")  # what is written into --out itself
LISTED = 10  # most images named in the error about images that could not be read


def predict(
    weights: Annotated[Path, typer.Argument(help="Checkpoint file, folder of a run, or name of a model.")],
    images: Annotated[
        list[str], typer.Argument(help="Images, folders, quoted globs; or videos: files, rtsp://..., camera:0.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the results; of one video also its name, such as out.mp4.")
    ] = Path("predictions"),
    save: Annotated[
        str, typer.Option(help="Formats: overlay, coco, labelme, yolo, geojson, masks, csv, ...")
    ] = "overlay,coco",
    score_threshold: Annotated[
        float | None, typer.Option(help="Lowest score to keep. Default: the model's setting.")
    ] = None,
    show: Annotated[float, typer.Option(help="Lowest score to draw.")] = 0.5,
    max_detections: Annotated[int | None, typer.Option(help="Per image. Default: the model's setting.")] = None,
    batch: Annotated[int, typer.Option(help="Images per batch.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or auto.")] = "auto",
    tta: TtaOption = False,
    tta_views: ViewsOption = None,
    tile: Annotated[
        str, typer.Option(help="Predict large images in tiles: auto, off, or their side in image pixels.")
    ] = "auto",
    overlap: Annotated[float, typer.Option(help="Share of a tile's side that neighbours have in common.")] = 0.2,
    page: Annotated[int | None, typer.Option(help="Page of a TIFF stack, or frame of an animation, from 1.")] = None,
    max_project: Annotated[
        bool, typer.Option("--max-project", help="See the maximum over all pages of a TIFF stack.")
    ] = False,
    track: TrackOption = False,
    every: EveryOption = 1,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: a GPU if there is one.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Skip images that cannot be read; do not fail.")] = False,
) -> None:
    """Find objects in images or videos; save overlays, COCO results, or other formats."""
    from ..data.formats import losses
    from ..inputs import expand
    from ..predict import load
    from ..saving import Saver
    from ..tiling import remark

    seen: dict[str, Any] = {
        "batch": batch, "precision": precision, "score_threshold": score_threshold, "max_detections": max_detections,
        "tta": parse_views(tta, tta_views), "tile": tile, "overlap": overlap, "page": page, "max_project": max_project,
    }  # fmt: skip
    if videos := videos_among(images):
        predict_videos(videos, weights, out, save, show=show, track=track, device=device, every=every, **seen)
        return
    names, sources = _formats(save), list(expand(images))
    inputs = [source for source in sources if isinstance(source, Path)]
    _check_out(out, names, inputs)
    unread: list[DataError] = []
    predictor = load(weights, device=device)
    see = partial(predictor.track, **given(seen)) if track else partial(predictor.predict, **seen)
    results = see(sources, on_error=unread.append)
    began, done, objects = time.perf_counter(), 0, 0
    with Saver(out, names, predictor.categories, show=show, inputs=inputs) as saver:
        for result in results:
            saver.add(result)
            shown = [name for name, score in zip(result.names, result.scores.tolist(), strict=True) if score >= show]
            found = ", ".join(f"{count} {kind}" for kind, count in Counter(shown).items())
            way = remark(result, predictor.config.input)
            print(f"{result.path}: {found or 'nothing'}{way and f' ({way})'}")
            done, objects = done + 1, objects + len(shown)
        if unread and not done and not skip:
            raise _unread(unread)
    for name, lost in saver.lost.items():
        print(losses(name, lost))
    each = (time.perf_counter() - began) / max(done, 1)
    speed = f"{1 / max(each, 1e-9):.1f} images/s" if each < 1 else f"{each:.1f} s an image"
    total = f"{done} image{'s' * (done != 1)}, {objects} objects with a score of at least {show}"
    print(f"{total}, {speed}: {out}")
    if unread and not skip:  # the results of the other images are saved
        raise _unread(unread)
    for error in unread:
        print(f"maskrcnn: {error}; skipped", file=sys.stderr)


def _formats(save: str) -> list[str]:
    """The formats in --save. Raises `ConfigError` for others."""
    from ..results import check_formats

    names = [word.strip() for word in save.split(",") if word.strip()]
    check_formats(names)
    return names


def _check_out(out: Path, names: list[str], inputs: list[Path]) -> None:
    """Raises `ConfigError` if what is written into `out` itself could overwrite an image, or what is beside it."""
    folders = {path.parent.resolve() for path in inputs}
    if out.resolve() in folders and (beside := [name for name in names if name in BESIDE]):
        raise ConfigError(
            f"--out {out} is a folder of the input images, where {', '.join(beside)} could overwrite files; "
            "choose another folder"
        )


def _unread(errors: list[DataError]) -> DataError:
    """All errors in one."""
    named = "; ".join(map(str, errors[:LISTED]))
    return DataError(f"{named}; and {len(errors) - LISTED} more" if len(errors) > LISTED else named)
