"""`maskrcnn report RUN...`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .evaluate import next_folder

MOST = 10_000


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of train and of evaluate; the first is the base.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Page, or folder for report.html. Default: runs/report-N; of one run, its own folder."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(help="Lists of images drawn for the intervals of AP; 0: none.")] = 200,
) -> None:
    """Compare runs on one page: curves, settings, and which differences of AP are more than noise."""
    from ..reports.comparison import compare, sentences, write_comparison
    from ..reports.folders import read_runs, write_again

    if bootstrap != 0 and not 50 <= bootstrap <= MOST:
        raise ConfigError(f"bootstrap is 0 or 50 to {MOST:,} lists of images, not {bootstrap}")
    found = read_runs(runs)
    if len(found) == 1:
        print(f"{write_again(found[0], out or found[0].path)} is written again; name more runs to compare them")
        return
    out = out or next_folder(Path("runs"), "report")
    taken = [(run.path / "report.html").resolve() for run in found]
    if (out if out.suffix == ".html" else out / "report.html").resolve() in taken:
        raise ConfigError(f"{out} has the report of a run that is compared; choose another --out")
    pairs = compare(found, bootstrap)
    path = write_comparison(out, found, pairs)
    print("\n".join(sentences(pairs)))
    print(f"{path} shows them")
