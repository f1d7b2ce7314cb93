"""`maskrcnn predict WEIGHTS IMAGES...`."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, DataError
from ..files import replacing
from .views import TtaOption, ViewsOption, parse_views

LISTED = 10  # most images named in the error about images that could not be read


def predict(
    weights: Annotated[Path, typer.Argument(help="Checkpoint file, folder of a run, or name of a model.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders, or quoted globs.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    save: Annotated[str, typer.Option(help="What to save: overlay, coco, or both.")] = "overlay,coco",
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
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: a GPU if there is one.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Skip images that cannot be read; do not fail.")] = False,
) -> None:
    """Find objects in images; save overlays and COCO results."""
    from ..predict import load
    from ..tiling import remark

    formats = _formats(save, images, out)
    unread: list[DataError] = []
    predictor = load(weights, device=device)
    results = predictor.predict(
        images, batch=batch, precision=precision, score_threshold=score_threshold, max_detections=max_detections,
        tta=parse_views(tta, tta_views), tile=tile, overlap=overlap, on_error=unread.append,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    began, done, objects = time.perf_counter(), 0, 0
    names: Counter[str] = Counter()
    with _writing(out / "results.json" if "coco" in formats else None) as add_rows:
        for result in results:
            name, shown = _unique(result.stem, names), result.select(result.scores >= show)
            if "overlay" in formats:
                shown.save(out, ["overlay"], name=name)
            add_rows(result.to_coco(name))
            found = ", ".join(f"{count} {kind}" for kind, count in Counter(shown.names).items())
            seen = remark(result, predictor.config.input)
            print(f"{result.path}: {found or 'nothing'}{seen and f' ({seen})'}")
            done, objects = done + 1, objects + len(shown)
        if unread and not done and not skip:
            raise _unread(unread)
    rate = done / max(time.perf_counter() - began, 1e-9)
    total = f"{done} image{'s' * (done != 1)}, {objects} objects with a score of at least {show}"
    print(f"{total}, {rate:.1f} images/s: {out}")
    if unread and not skip:  # the results of the other images are saved
        raise _unread(unread)
    for error in unread:
        print(f"maskrcnn: {error}; skipped", file=sys.stderr)


def _formats(save: str, images: list[str], out: Path) -> list[str]:
    """The formats in --save. Raises `ConfigError` for others, and if an overlay could overwrite an input image."""
    from ..inputs import expand
    from ..results import FORMATS

    formats = [word.strip() for word in save.split(",") if word.strip()]
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise ConfigError(f"--save must be {' and '.join(FORMATS)} or one of them, not {', '.join(unknown)}")
    folders = {source.parent.resolve() for source in expand(images) if isinstance(source, Path)}
    if "overlay" in formats and out.resolve() in folders:
        raise ConfigError(
            f"--out {out} is a folder of the input images, which overlays could overwrite; choose another folder"
        )
    return formats


def _unread(errors: list[DataError]) -> DataError:
    """All errors in one."""
    told = "; ".join(map(str, errors[:LISTED]))
    return DataError(f"{told}; and {len(errors) - LISTED} more" if len(errors) > LISTED else told)


def _unique(stem: str, given: Counter[str]) -> str:
    """Different names for images of the same name in different folders: a, a-2, a-3."""
    name = stem
    while given[name]:
        given[stem] += 1
        name = f"{stem}-{given[stem]}"
    given[name] += 1
    return name


@contextmanager
def _writing(path: Path | None) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Yields a function that adds rows to a JSON list; the file appears when it is complete. None writes nothing."""
    if path is None:
        yield lambda rows: None
        return
    separator = "["

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:

        def add(rows: list[dict[str, Any]]) -> None:
            nonlocal separator
            for row in rows:
                file.write(f"{separator}\n{json.dumps(row)}")
                separator = ","

        yield add
        file.write("[]\n" if separator == "[" else "\n]\n")
