"""What the folder of a run or of an evaluation holds, for pages that are made later."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..evaluation.matches import Matches, curves_of, read_matches
from ..evaluation.run import METRICS, SETTINGS
from .run_report import kept_sections, read_history, write_report

LOG = "log.jsonl"


@dataclass(frozen=True)
class RunFolder:
    """A run of `train`, or an evaluation."""

    path: Path
    name: str  # that no other run of the page has
    metrics: Mapping[str, Any]  # empty before the first evaluation
    history: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    matches: Mapping[str, Matches]  # by task

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        return [record for record in self.history if record.get("kind") == "step"]

    @property
    def evaluations(self) -> list[Mapping[str, Any]]:
        return [record for record in self.history if record.get("kind") == "evaluation"]


def read_runs(paths: Sequence[Path]) -> list[RunFolder]:
    """The folders, each with a name of its own. Raises `DataError` for one that holds no run."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{twice} is given twice; a run is compared with others")
    return [_read(path, name) for path, name in zip(paths, names, strict=True)]


def _read(path: Path, name: str) -> RunFolder:
    if not (path / METRICS).is_file() and not (path / LOG).is_file():
        raise DataError(f"{path} is not the folder of a run or of an evaluation: it has neither {METRICS} nor {LOG}")
    settings: dict[str, Any] = {}
    if (path / "config.toml").is_file():
        settings = _parsed(path / "config.toml")
    elif (path / SETTINGS).is_file():
        settings = _parsed(path / SETTINGS)
    metrics = _parsed(path / METRICS) if (path / METRICS).is_file() else {}
    settings |= {name: metrics[name] for name in ("weights", "data", "precision", "tta") if name in metrics}
    if (path / "run.json").is_file():
        identity = _parsed(path / "run.json").get("identity", {})
        settings |= {
            name: identity[name] for name in ("weights", "precision", "device", "processes") if name in identity
        }
    history = read_history(path / LOG) if (path / LOG).is_file() else []
    return RunFolder(path, name, metrics, history, settings, read_matches(path))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} cannot be read: it is not an object")
    return found


def write_again(run: RunFolder, out: Path) -> Path:
    """The report of one run, from what its folder holds. Images and kinds of error need the detections, so these parts
    are kept from the page that is there, if it is of the same evaluation; else a note says how to get them."""
    kept = kept_sections(run.path / "report.html", run.path / METRICS)
    notes = [*run.metrics.get("notes", ())]
    if run.metrics and not kept:
        notes.append(
            "Images with mistakes and kinds of error are drawn by maskrcnn evaluate and at the end of a training."
        )
    return write_report(
        out,
        metrics={**run.metrics, "notes": notes},
        history=run.history,
        curves={task: curves_of(matches) for task, matches in run.matches.items()},
        settings=run.settings,
        title=_title(run),
        kept=kept,
    )


def _title(run: RunFolder) -> str:
    if "data" in run.metrics:
        return f"{Path(str(run.metrics['weights'])).name} on {Path(str(run.metrics['data'])).name}"
    model = run.settings.get("model", {})
    return f"{model.get('name', 'Mask R-CNN')}, {run.path.resolve().name}"
