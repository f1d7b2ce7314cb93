"""The run's folder: whose it is, and what it says of the run, in config.toml and run.json."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..config import Config, to_dict, write_toml
from ..errors import ConfigError
from ..files import fingerprint, replacing
from ..weights.read import locate
from .distributed import Ranks
from .setup import Plan

RUN = "run.json"
MAY_CHANGE = ("train.epochs", "train.patience")  # between two starts of one run


def holds_run(out: Path) -> bool:
    """Whether a run has claimed the folder."""
    return (out / RUN).exists()


def claim_folder(plan: Plan, among: Ranks, weights: str | Path | None) -> bool:
    """Writes config.toml and run.json into the run's folder; True if it held this run already.

    Raises `ConfigError` with the differences if it holds another.
    """
    path, identity = plan.out / RUN, _identity(plan, among, weights)
    known = holds_run(plan.out)
    if known:
        differences = _differences(_read_json(path).get("identity", {}), identity)
        if differences:
            raise ConfigError(
                f"{plan.out} holds a run with other settings; only epochs and patience may change. "
                "Take another --out, or the same settings:\n" + "\n".join(differences)
            )
    plan.out.mkdir(parents=True, exist_ok=True)
    write_toml(plan.config, plan.out / "config.toml")
    if known:
        return True
    if plan.val is not None and plan.val.source == plan.train.source:
        rows = [{"id": int(plan.val.image_ids[i]), "file": plan.val.path(i).name} for i in range(len(plan.val))]
        _write_json(plan.out / "held_out.json", {"json": str(plan.val.source), "images": rows})
    _write_json(path, {"identity": identity, "versions": _versions(), "seed": plan.config.train.seed})
    return False


def _identity(plan: Plan, among: Ranks, weights: str | Path | None) -> dict[str, Any]:
    """What makes two starts the same run."""
    return {
        "settings": to_dict(plan.config),
        "data": {
            "train": plan.train.fingerprint,
            "val": None if plan.val is None else plan.val.fingerprint,
            "images": [len(plan.train), 0 if plan.val is None else len(plan.val)],
        },
        "weights": None if weights is None else fingerprint(locate(weights)),
        "processes": among.world,
        "precision": plan.precision,
        "device": among.device.type,
        "stage": plan.stage,
        "proposals": plan.proposals,
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A setting that the run's release did not have was what its default says now."""
    defaults = {f"settings.{name}": value for name, value in _flat(to_dict(Config())).items()}
    was, now = defaults | _flat(old), _flat(new)
    allowed = {f"settings.{name}" for name in MAY_CHANGE}
    return [
        f"  {name.removeprefix('settings.')}: {was.get(name)!r} there, {now.get(name)!r} here"
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name) and name not in allowed
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in tree.items():
        rows |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return rows


def _versions() -> dict[str, str]:
    return {
        "maskrcnn": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}); it should describe the run that {path.parent} holds"
        ) from error


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
