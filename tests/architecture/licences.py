"""Lists name, version and licence of every package in this environment: `make licences`.

Fails on a licence that is neither permissive nor on the short list below, and on one that the package does not state.
It reads what packages state of themselves; what a wheel contains beside its own code is known for those in `CONTAINS`.
"""

import re
import sys
from fnmatch import fnmatch
from importlib.metadata import Distribution, distributions

PERMISSIVE = re.compile(
    r"0BSD|Apache( Software)?([- ]2(\.0)?)?( License)?( WITH LLVM-exception)?"
    r"|([23]-Clause )?(BSD|FreeBSD)([- ][23][- ]Clause)?( License)?|BSL-1\.0|CC0-1\.0|ISC( License ISCL| License)?"
    r"|MIT(-0|-CMU)?( License)?|PSF(L|-2\.0)?|Python-2\.0"
    r"|Python Software Foundation License|Unlicense|Zlib",
    re.IGNORECASE,
)
# Why a package may be here although it states no permissive licence, by its name in lower case.
ACCEPTED = {
    "faster-coco-eval": "its file LICENSE is Apache-2.0; tests only",
    "hypothesis": "MPL-2.0, per file; tests only",
    "certifi": "MPL-2.0, per file: a list of certificates that wandb and mlflow need",
    "tqdm": "MPL-2.0 and MIT, per file",
    "nvidia-*": "proprietary: CUDA, which torch's builds for GPUs need; NVIDIA permits to redistribute it",
    "cuda-*": "proprietary in part: CUDA, which torch's builds for GPUs need",
}
# What is in a wheel beside the licence that it states.
CONTAINS = {
    "av": "FFmpeg, LGPL-3.0-or-later; x264 and x265, GPL-2.0-or-later: docs/video.md",
}


def stated(package: Distribution) -> str:
    """The licence that a package states: an SPDX expression if there is one, else its classifiers or field; or ""."""
    data = package.metadata
    if expressions := data.get_all("License-Expression"):
        return str(expressions[0])
    kinds = [line.split(" :: ")[-1] for line in data.get_all("Classifier") or [] if line.startswith("License :: ")]
    if kinds := [kind for kind in kinds if kind != "OSI Approved"]:
        return " AND ".join(kinds)
    fields = data.get_all("License") or [""]
    return next(iter(str(fields[0]).strip().splitlines()), "").strip()


def is_permissive(licence: str) -> bool:
    """Whether one of the choices of every part of an expression is permissive. OR binds its nearest neighbours."""
    parts = re.sub("[()]", "", licence).split(" AND ")
    return all(any(PERMISSIVE.fullmatch(choice.strip()) for choice in part.split(" OR ")) for part in parts)


def row(name: str, version: str, licence: str) -> tuple[str, bool]:
    """The line of a package, and whether its licence is accepted."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    reasons = [reason for pattern, reason in ACCEPTED.items() if fnmatch(name, pattern)]
    accepted = is_permissive(licence) or bool(reasons)
    notes = [] if is_permissive(licence) else reasons or ["NOT ACCEPTED: look at it, then see ACCEPTED in this file"]
    notes += [f"contains {CONTAINS[name]}"] if name in CONTAINS else []
    return f"{name} {version}: {licence or 'states none'}" + "".join(f"; {note}" for note in notes), accepted


if __name__ == "__main__":
    rows = {row(package.name, package.version, stated(package)) for package in distributions()}
    print("\n".join(sorted(line for line, _ in rows)))
    sys.exit(not all(accepted for _, accepted in rows))
