"""The categories of a COCO file, and the keypoints that they name."""

import re
from pathlib import Path
from typing import Any

from ...categories import Category, category_table
from ...errors import DataError
from .coco_flat import integer

# The evaluation constants of COCO's person keypoints (cocoeval.py); any other keypoint gets 0.05, their rough middle.
COCO_SIGMAS = {
    "nose": 0.026,
    **{
        f"{side}_{keypoint}": sigma
        for side in ("left", "right")
        for keypoint, sigma in (("eye", 0.025), ("ear", 0.035))
    },
    **{
        f"{side}_{keypoint}": sigma
        for side in ("left", "right")
        for keypoint, sigma in (("shoulder", 0.079), ("elbow", 0.072))
    },
    **{
        f"{side}_{keypoint}": sigma
        for side in ("left", "right")
        for keypoint, sigma in (("wrist", 0.062), ("hip", 0.107))
    },
    **{
        f"{side}_{keypoint}": sigma
        for side in ("left", "right")
        for keypoint, sigma in (("knee", 0.087), ("ankle", 0.089))
    },
}
OTHER_SIGMA = 0.05


def read_categories(entries: list[Any], path: Path, keypoints: bool) -> tuple[Category, ...]:
    """By id; with their keypoints where `keypoints` are wanted.

    Raises `DataError` where one has no id or name, where one of these stands twice, or where there is none.
    """
    categories = []
    for entry in entries:
        id, name = (integer(entry.get("id")), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if id is None or not isinstance(name, str) or not name:
            raise DataError(f"{path}: category {entry!r:.80} needs an id, a whole number, and a name")
        categories.append(_with_keypoints(Category(id, name), entry, path) if keypoints else Category(id, name))
    categories.sort(key=lambda category: category.id)
    if not categories:
        raise DataError(f"{path}: there are no categories")
    for what, values in (("id", [c.id for c in categories]), ("name", [c.name for c in categories])):
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        if twice:
            raise DataError(
                f"{path}: the category {what} {', '.join(twice)} stands more than once\n{category_table(categories)}"
            )
    if keypoints and not any(category.keypoints for category in categories):
        raise DataError(f"{path}: no category has keypoints; expected their names in categories[].keypoints")
    return tuple(categories)


def _with_keypoints(category: Category, entry: dict, path: Path) -> Category:
    """Keypoints as the json names them. Flip pairs and sigmas may stand there too (`flip_pairs`, `sigmas`), else names
    decide.
    """
    where = f"{path}: category {category.name!r}"
    names = entry.get("keypoints") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{where}: keypoints must be a list of different names; it is {names!r:.80}")
    pairs = _pairs(entry.get("skeleton"), len(names), f"{where}: skeleton", base=1)
    given_pairs, sigmas = entry.get("flip_pairs"), entry.get("sigmas")
    if given_pairs is None:
        flips = _flips_by_name(names)
    else:
        flips = _pairs(given_pairs, len(names), f"{where}: flip_pairs", base=0)
        if len({end for pair in flips for end in pair}) < 2 * len(flips):
            raise DataError(f"{where}: flip_pairs must name a keypoint once at most; they are {given_pairs!r:.80}")
    if sigmas is None:
        sigmas = [COCO_SIGMAS.get(name, OTHER_SIGMA) for name in names]
    elif (
        not isinstance(sigmas, list)
        or len(sigmas) != len(names)
        or not all(isinstance(sigma, (int, float)) and 0 < sigma < 100 for sigma in sigmas)
    ):
        raise DataError(f"{where}: sigmas must be {len(names)} positive numbers; they are {sigmas!r:.80}")
    return category._replace(keypoints=tuple(names), skeleton=pairs, flip_pairs=flips, sigmas=tuple(map(float, sigmas)))


def _pairs(given: Any, count: int, what: str, *, base: int) -> tuple[tuple[int, int], ...]:
    if given is None:
        return ()
    wanted = f"must be pairs of keypoints, counted from {base} to {count - 1 + base}"
    if not count:
        wanted = "needs keypoints, and the category names none in keypoints"
    wrong = DataError(f"{what} {wanted}; it is {given!r:.80}")
    if not isinstance(given, list):
        raise wrong
    pairs = []
    for pair in given:
        ends = [integer(end) for end in pair] if isinstance(pair, list) else []
        if len(ends) != 2 or any(end is None or not base <= end < count + base for end in ends):
            raise wrong
        pairs.append((ends[0] - base, ends[1] - base))  # type: ignore[operator]
    return tuple(pairs)


_SIDE = re.compile(r"left|right|(?<![a-z0-9])[lr](?![a-z0-9])")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def _flips_by_name(names: list[str]) -> tuple[tuple[int, int], ...]:
    """Keypoints whose names differ in their side only, and both are there: left_eye and right_eye, L_Eye and R_Eye,
    eye.l and eye.r.
    """
    places = {name.lower(): place for place, name in enumerate(names)}
    mirrored = {place: places.get(_SIDE.sub(lambda side: _OTHER[side[0]], name)) for name, place in places.items()}
    return tuple((place, other) for place, other in mirrored.items() if other is not None and place < other)
