"""`maskrcnn predict WEIGHTS VIDEO`: a file, an address or a camera in the place of images."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, DataError

TrackOption = Annotated[bool, typer.Option("--track", help="Give the objects of a video ids that stay the same.")]
EveryOption = Annotated[int, typer.Option(help="Of a video, see every so many frames only.")]
_REPORT = 10.0  # seconds between two lines about how far it is


def videos_among(sources: Sequence[str]) -> list[str]:
    """The videos, if there is one. Raises `ConfigError` if there are images, too."""
    from ..video.reading import is_video

    videos = [source for source in sources if is_video(source)]
    if videos and len(videos) < len(sources):
        raise ConfigError(f"{videos[0]} is a video; predict it in another command than images")
    return videos


def predict_videos(
    videos: Sequence[str], weights: Path, out: Path, save: str, *, track: bool,
    device: str | None, **options: Any,
) -> None:  # fmt: skip
    """Predicts each video and saves it. `options` are those of `Predictor.predict`."""
    from ..predict import load
    from ..video.reading import import_av
    from ..video.writing import CONTAINERS, check_formats

    names = list(dict.fromkeys(word.strip() for word in save.split(",") if word.strip()))
    check_formats(names)
    import_av()
    film = out.suffix.lower() in CONTAINERS
    if film and len(videos) > 1:
        raise ConfigError(f"--out {out} is one video, but {len(videos)} are given; give a folder")
    if "mots" in names and not track:
        raise ConfigError("mots needs ids: add --track")
    predictor = load(weights, device=device)
    taken: set[str] = set()
    errors: list[DataError] = []
    for video in videos:
        results = predictor.track(video, **given(options), on_error=errors.append) if track else predictor.predict(
            video, **options, on_error=errors.append
        )  # fmt: skip
        _save(video, results, out if film else out / _name(video, taken), names)
    if errors:  # what could be read is saved
        raise DataError("; ".join(map(str, errors)))


def _save(video: str, results: Iterator[Any], stem: Path, names: Sequence[str]) -> None:
    from ..video.reading import hidden
    from ..video.writing import VideoSaver

    began = said = time.perf_counter()
    first = next(results, None)
    if first is None:  # it could not be opened
        return
    count, objects, ids, last = 0, 0, set[int](), 0.0
    with VideoSaver(stem, names, inputs=[Path(video)]) as saver:
        try:
            for result in chain([first], results):
                saver.add(result)
                count, objects, last = count + 1, objects + len(result), result.time or 0.0
                ids.update([] if result.ids is None else result.ids.tolist())
                if time.perf_counter() - said > _REPORT:
                    said = time.perf_counter()
                    print(f"{hidden(video)}: frame {result.frame} ({last:.1f} s)", file=sys.stderr)
        finally:
            each = (time.perf_counter() - began) / max(count, 1)
            found = f"{len(ids)} tracked objects" if ids else f"{objects} objects"
            files = ", ".join(map(str, saver.files))
            speed = f"{1 / each:.1f} frames/s" if each < 1 else f"{each:.1f} s a frame"
            print(f"{hidden(video)}: {count} frames ({last:.1f} s), {found}, {speed}: {files}")


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options but for those that are None or best, of which `track` has defaults of its own."""
    return {name: value for name, value in options.items() if value not in (None, "best")}


def _name(video: str, taken: set[str]) -> str:
    """What the files of a video are called: as itself without suffix, and different for each."""
    from ..video.reading import hidden

    stem = re.sub(r"[^\w.-]+", "-", hidden(video)).strip("-") if not Path(video).is_file() else Path(video).stem
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name)
    return name
