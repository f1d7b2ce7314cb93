"""Names of classes that foreign checkpoints do not carry, and the rows of predictors that belong to them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...categories import COCO_SIGMAS, OTHER_SIGMA, Category
from ...config import ModelConfig
from ...errors import ConfigError

# Ids 1 to 90; those of an empty name were never annotated.
COCO_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,backpack,umbrella,,,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")
_PAIRED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_KEYPOINTS = ("nose", *(f"{side}_{keypoint}" for keypoint in _PAIRED for side in ("left", "right")))
_SKELETON = "15-13 13-11 16-14 14-12 11-12 5-11 6-12 5-6 5-7 6-8 7-9 8-10 1-2 0-1 0-2 1-3 2-4 3-5 4-6"
_UNUSED = "unused-"


def name_classes(config: ModelConfig, names: Sequence[str] | None = None) -> tuple[Category, ...]:
    """The categories of a model that came without: `names` in order, else COCO's for 80, 90 or (with keypoints) 1
    class.

    Ids that COCO skips are named `unused-12`, ...; what is not known is `class-1`, ... Keypoints, which have no classes
    in other frameworks, are those of every class. Raises `ConfigError` where `names` are not as many as there are
    classes, or not different.
    """
    if names is not None:
        if len(names) != config.classes or len(set(names)) < len(names):
            raise ConfigError(
                f"the checkpoint has {config.classes} classes; {len(names)} names were given: {names!r:.200}"
            )
        found = [Category(number, name) for number, name in enumerate(names, 1)]
    elif config.classes == len(COCO_NAMES):
        found = [Category(number, name or f"{_UNUSED}{number}") for number, name in enumerate(COCO_NAMES, 1)]
    elif config.classes == 80:
        found = [Category(number, name) for number, name in enumerate(COCO_NAMES, 1) if name]
    elif config.classes == 1 and config.keypoint_head.enabled:
        found = [Category(1, COCO_NAMES[0])]
    else:
        found = [Category(number, f"class-{number}") for number in range(1, config.classes + 1)]
    if config.keypoint_head.enabled:
        found = [
            _with_keypoints(category, config.keypoint_head.num_keypoints, shared=len(found) > 1) for category in found
        ]
    return tuple(found)


def is_unused(category: Category) -> bool:
    """Whether this is an id that the origin's data never had."""
    return category.name == f"{_UNUSED}{category.id}"


def carry_rows(
    start: Mapping[str, Tensor],
    fresh: Mapping[str, Tensor],
    before: Sequence[Category],
    after: Sequence[Category],
) -> tuple[dict[str, Tensor], list[str]]:
    """`start` with the predictors' rows of the classes `after`: its own where a name was `before`, else `fresh` ones.

    Returns the names that were kept, too. The background's row is always kept. Predictors that do not go by class, or
    whose shapes otherwise differ from those of `fresh`, stay as they are.
    """
    rows = {category.name: row for row, category in enumerate(before)}
    kept = [(new, rows[category.name]) for new, category in enumerate(after) if category.name in rows]
    result = dict(start)
    for name, per_class, background in _predictors():
        if name not in start or name not in fresh:
            continue
        old, new = start[name], fresh[name].clone()
        if old.shape[1:] != new.shape[1:] or len(old) != per_class * (len(before) + background):
            continue
        pairs = [*kept, (len(after), len(before))] if background else kept
        target, source = new.unflatten(0, (-1, per_class)), old.unflatten(0, (-1, per_class))
        for to, origin in pairs:
            target[to] = source[origin].to(target.dtype)
        result[name] = new
    return result, [after[new].name for new, _ in kept]


def _predictors() -> list[tuple[str, int, int]]:
    """Tensors with rows of classes: name, rows of a class, rows of the background (which is last)."""
    kinds = (("box_head.class_logits", 1, 1), ("box_head.box_deltas", 4, 0), ("mask_head.predictor", 1, 0))
    return [(f"{stem}.{end}", per, background) for stem, per, background in kinds for end in ("weight", "bias")]


def _with_keypoints(category: Category, count: int, *, shared: bool) -> Category:
    category = category._replace(shared=shared)
    if count != len(_KEYPOINTS):
        names = tuple(f"keypoint-{number}" for number in range(1, count + 1))
        return category._replace(keypoints=names, sigmas=(OTHER_SIGMA,) * count)
    pairs = tuple((left, left + 1) for left in range(1, count, 2))
    sigmas = tuple(COCO_SIGMAS[keypoint] for keypoint in _KEYPOINTS)
    ends = [bone.split("-") for bone in _SKELETON.split()]
    skeleton = tuple((int(start), int(end)) for start, end in ends)
    return category._replace(keypoints=_KEYPOINTS, skeleton=skeleton, flip_pairs=pairs, sigmas=sigmas)
