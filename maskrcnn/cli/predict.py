"""`maskrcnn predict WEIGHTS IMAGES...`."""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, DataError
from .progress import Progress
from .stopping import terminable
from .video import EveryOption, TrackOption, given, predict_videos, videos_among
from .views import TtaOption, ViewsOption, parse_views

if TYPE_CHECKING:
    from ..predict import Predictor
    from ..results import Result
    from ..saving.folder import PredictionFolder

BESIDE = ("overlay", "coco", "csv", "parquet")  # what is written into --out itself
LISTED = 10  # most images named in the error about images that could not be read


def predict(
    weights: Annotated[Path, typer.Argument(help="Checkpoint file, folder of a run, or name of a model.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Images, folders, quoted globs; or videos: files, rtsp://..., camera:0.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the results; of one video also its name, such as out.mp4.")
    ] = Path("predictions"),
    save: Annotated[
        str, typer.Option(help="Formats: overlay, coco, labelme, yolo, geojson, masks, csv, ...")
    ] = "overlay,coco",
    score_threshold: Annotated[
        str, typer.Option(help="Lowest score that counts, 0 to 1; best: that of the best F1 in training, by class.")
    ] = "best",
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
    recursive: Annotated[bool, typer.Option("--recursive", help="Take images in subfolders, too.")] = False,
    listed: Annotated[
        str | None, typer.Option("--list", help="Text file with more images, one path a line; - reads standard input.")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="A part of the sorted images, such as 2/8 of eight parts.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the results in --out; do not go on with them.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors and warnings only.")] = False,
) -> None:
    """Find objects in images or videos; save overlays, COCO results, or other formats. Of images, the same command goes
    on after an interruption.
    """
    from ..predict import load
    from ..saving.folder import PredictionFolder
    from ..saving.names import mirrored

    seen: dict[str, Any] = {
        "precision": precision, "score_threshold": score_threshold, "max_detections": max_detections,
        "tta": parse_views(tta, tta_views), "tile": tile, "overlap": overlap, "page": page, "max_project": max_project,
    }  # fmt: skip
    if videos := videos_among(images or []):
        _check_alone(listed=listed, shard=shard, overwrite=overwrite, recursive=recursive)
        predict_videos(videos, weights, out, save, track=track, device=device, every=every, batch=batch, **seen)
        return
    formats, part = _formats(save), _shard(shard)
    paths, unread = _gather(images or [], listed, out, recursive=recursive)
    if unread and not paths and not skip:
        raise _unread(unread)
    _check_out(out, formats, paths)
    predictor = load(weights, device=device)
    settings = seen | {"save": ",".join(formats), "shard": shard, "track": track}
    folder = PredictionFolder(
        out, formats, predictor.categories, paths[part], names=mirrored(paths)[part], overwrite=overwrite,
        in_one_go=track, **_identity(weights, predictor, settings),
    )  # fmt: skip
    see = partial(predictor.track, **given(seen)) if track else partial(predictor.predict, **seen)
    results = see(folder.pending(), batch=batch, on_error=unread.append)
    with terminable(), folder:
        _run(folder, results, predictor, quiet=quiet)
        if unread and not len(folder) and not skip:
            raise _unread(unread)
        _assemble(folder, quiet=quiet)
    if unread and not skip:  # the results of the other images are saved
        raise _unread(unread)
    for error in unread:
        print(f"maskrcnn: {error}; skipped", file=sys.stderr)


def _check_alone(**options: Any) -> None:
    """Raises `ConfigError` if an option is given that videos have not."""
    names = {"listed": "--list", "shard": "--shard", "overwrite": "--overwrite", "recursive": "--recursive"}
    if wrong := [names[option] for option, value in options.items() if value]:
        raise ConfigError(f"{', '.join(wrong)}: for images only; a video is always predicted anew, and as a whole")


def _run(folder: "PredictionFolder", results: "Iterable[Result]", predictor: "Predictor", *, quiet: bool) -> None:
    """Keeps each result when it comes, and says how many there are. Raises KeyboardInterrupt with what is kept."""
    from ..thresholds import in_words
    from ..tiling import remark

    total, before, objects, tiled, shrunk, least = len(folder.paths), folder.before, 0, 0, 0, "0"
    if before and not quiet:
        rest = f"going on with the other {total - before}" if before < total else "--overwrite starts anew"
        print(f"{folder.out}: {before} of {total} images were predicted before; {rest}")
    try:
        with Progress(total, before, quiet=quiet) as progress:
            for result in results:
                folder.add(result)
                found = ", ".join(f"{count} {kind}" for kind, count in result.counts.items())
                seen = remark(result, predictor.config.input)
                progress.add(f"{result.path}: {found or 'nothing'}{seen and f' ({seen})'}")
                objects, least = objects + len(result), in_words(result.thresholds)
                tiled, shrunk = tiled + (result.tiles > 1), shrunk + bool(seen and result.tiles == 1)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"predict was interrupted; {len(folder)} of {total} images are finished and kept in {folder.out}: the same "
            "command goes on"
        ) from error
    done = len(folder) - before
    if quiet or (before and not done):
        return
    if not progress.few:
        ways = (("in tiles", tiled), ("shrunk", shrunk))
        print("".join(f"seen {way}: {count} of {done} images\n" for way, count in ways if count), end="")
    count = f"{done} image{'s' * (done != 1)}"
    print(f"{count}, {objects} objects with a score of at least {least}, {progress.rate()}: {folder.out}")


def _assemble(folder: "PredictionFolder", *, quiet: bool) -> None:
    from ..data.formats import losses

    try:
        with Progress(len(folder), what="images written", quiet=quiet) as progress:
            folder.assemble(progress.add)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(
            f"predict was interrupted while it wrote the files that hold all results; {folder.out / 'results.jsonl'} "
            "has them: the same command goes on"
        ) from error
    for name, lost in folder.lost.items():
        if not quiet:
            print(losses(name, lost))


def _gather(images: list[str], listed: str | None, out: Path, *, recursive: bool) -> tuple[list[Path], list[DataError]]:
    """All images, each once and sorted, so that neither the order of the arguments nor of a list matters; and what is
    no image. Results of an earlier run are no images.

    Raises `ConfigError` if nothing is named.
    """
    from ..inputs import expand, read_list

    if not images and listed is None:
        raise ConfigError("predict needs images: files, folders, quoted globs, or --list FILE")
    found: list[Path | DataError] = []
    for source in (*images, *(read_list(listed) if listed is not None else ())):
        found += _without(out, source, expand(source, recursive=recursive))
    paths = {os.path.abspath(path): path for path in reversed(found) if isinstance(path, Path)}
    return [paths[name] for name in sorted(paths)], [error for error in found if isinstance(error, DataError)]


def _without(out: Path, source: str | Path, found: Iterable[Path | DataError]) -> Iterator[Path | DataError]:
    """What was found, but for what is below `out`, unless the source itself is there."""
    ours = out.resolve()
    if Path(source).resolve().is_relative_to(ours):
        return iter(found)
    return (path for path in found if isinstance(path, DataError) or not path.resolve().is_relative_to(ours))


def _shard(text: str | None) -> slice:
    """The places of the images of a shard among all."""
    from ..inputs import shard_of

    part, parts = (1, 1) if text is None else shard_of(text)
    return slice(part - 1, None, parts)


def _identity(weights: Path, predictor: "Predictor", settings: dict[str, Any]) -> dict[str, Any]:
    """What decides on the results, apart from the images."""
    from .. import __version__
    from ..device import choose_precision
    from ..files import fingerprint
    from ..weights.hub import locate

    chosen = choose_precision(settings["precision"], predictor.device, predictor.config.profile)
    options = {f"--{name.replace('_', '-')}": value for name, value in (settings | {"precision": chosen}).items()}
    plain = {name: value if isinstance(value, int | float | None) else str(value) for name, value in options.items()}
    return {"model": fingerprint(locate(weights)), "settings": plain | {"the release of maskrcnn": __version__}}


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
