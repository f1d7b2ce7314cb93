"""Names of classes, which checkpoints of other frameworks do not hold."""

from collections.abc import Sequence

from ...categories import COCO_SIGMAS, OTHER_SIGMA, Category
from ...config import ModelConfig
from ...errors import ConfigError

# Ids 1 to 90. COCO never used those with an empty name.
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


def name_classes(config: ModelConfig, names: Sequence[str] | None = None) -> tuple[Category, ...]:
    """The categories of a model: `names` in order, else COCO's for 80, 90 or (with keypoints) 1 class.

    Ids that COCO skips are named `unused-12`, ...; other classes `class-1`, ... Every class has all keypoints, as in
    other frameworks. Raises `ConfigError` if there are too few or too many `names`, or two are the same.
    """
    keypoints = config.keypoint_head
    if names is not None:
        if len(names) != config.classes or len(set(names)) < len(names):
            raise ConfigError(
                f"the checkpoint has {config.classes} classes; {len(names)} names were given: {names!r:.200}"
            )
        found = list(enumerate(names, 1))
    elif config.classes == len(COCO_NAMES):
        found = [(number, name or f"unused-{number}") for number, name in enumerate(COCO_NAMES, 1)]
    elif config.classes == 80:
        found = [(number, name) for number, name in enumerate(COCO_NAMES, 1) if name]
    elif config.classes == 1 and keypoints.enabled:
        found = [(1, COCO_NAMES[0])]
    else:
        found = [(number, f"class-{number}") for number in range(1, config.classes + 1)]
    template = _keypoints(keypoints.num_keypoints) if keypoints.enabled else Category(0, "")
    shared = keypoints.enabled and len(found) > 1
    return tuple(template._replace(id=number, name=name, shared=shared) for number, name in found)


def _keypoints(count: int) -> Category:
    """A category with COCO's keypoints if there are 17, else with numbered ones."""
    if count != len(_KEYPOINTS):
        names = tuple(f"keypoint-{number}" for number in range(1, count + 1))
        return Category(0, "", names, sigmas=(OTHER_SIGMA,) * count)
    skeleton = tuple((int(start), int(end)) for start, _, end in (bone.partition("-") for bone in _SKELETON.split()))
    pairs = tuple((left, left + 1) for left in range(1, count, 2))
    return Category(0, "", _KEYPOINTS, skeleton, pairs, tuple(COCO_SIGMAS[name] for name in _KEYPOINTS))
