"""What `ablations.py` trains and compares: our small rows, and the tables of the paper that they represent."""

from collections.abc import Mapping
from typing import NamedTuple

TRAIN_IMAGES, VAL_IMAGES, DATA_SEED = 1000, 160, 2
STEPS, BATCH = 700, 8
KEYPOINT_STEPS = 1000  # more, as only one object in six has keypoints
LONGER = 3  # times the steps: a deeper network needs more from random weights
SEEDS = 3

COMMON = (
    f"train.batch={BATCH}",
    "train.optimizer=adamw",
    "train.lr=0.008",
    "train.weight_decay=0.05",
    "train.schedule=cosine",
    "train.warmup_steps=40",
    "train.ema=0.98",
    "train.workers=0",
    "train.evaluate_every=0",
    "train.validation_loss=false",
    "train.checkpoint_every=100",
    "train.log_every=100",
    "model.input.min_size=0",  # images keep their 160 x 160 pixels
    "model.backbone.width=32",
    "model.rpn.pre_nms_train=500",
    "model.rpn.post_nms_train=200",
    "model.rpn.pre_nms_test=300",
    "model.rpn.post_nms_test=60",
    "model.box_head.channels=256",
    "model.box_head.samples=32",
    "model.box_head.positive_fraction=0.4",
    "model.box_head.smooth_l1_beta=0.1",
    "model.box_head.max_detections=20",
    "model.mask_head.channels=64",
    "model.mask_head.norm=bn",
)
ONE_LEVEL = ("model.anchors.sizes=[[12,24,48,96,192]]",)
C4 = (*ONE_LEVEL, "model.box_head.samples=16", "model.box_head.res5_stride=1")  # Figure 4: 7 x 7 RoIs, stride 1
C5 = (*ONE_LEVEL, "model.mask_head.convs=2")
FPN = (
    "model.anchors.sizes=[[12],[24],[48],[96],[192]]",
    "model.fpn.channels=64",
    "model.fpn.norm=bn",
    "model.mask_head.convs=2",
)
# Groups need a block of three layers (ResNeXt, section 3.3). Here it costs as much as R-18's block of two layers.
# Without groups it is half as wide, like ResNet-50's beside ResNeXt-50's.
BOTTLENECK = "model.backbone.block=bottleneck"
GROUPS = (BOTTLENECK, "model.backbone.groups=8", "model.backbone.width_per_group=16")
KEYPOINTS = (
    "model.mask_head.enabled=false",
    "model.keypoint_head.enabled=true",
    "model.keypoint_head.convs=4",
    "model.keypoint_head.channels=64",
    "model.keypoint_head.norm=bn",
)
BARE_FCN = "R-18-FPN FCN without norms"


def pool(operator: str, aggregate: str) -> tuple[str, str]:
    """The settings for a RoI operator."""
    return f"model.pool.operator={operator}", f"model.pool.aggregate={aggregate}"


class Row(NamedTuple):
    """What is trained."""

    model: str
    settings: tuple[str, ...]
    steps: int = STEPS
    seeds: int = SEEDS


ROWS = {
    "R-18-C4": Row("R-18-C4", C4),
    "R-18-C5": Row("R-18-C5", C5),
    "R-18-FPN": Row("R-18-FPN", FPN),
    "R-18-C4 RoIPool max": Row("R-18-C4", (*C4, *pool("roi_pool", "max"))),
    "R-18-C5 RoIPool max": Row("R-18-C5", (*C5, *pool("roi_pool", "max"))),
    "R-18-FPN keypoints": Row("R-18-FPN", (*FPN, *KEYPOINTS), KEYPOINT_STEPS),
    "R-18-FPN keypoints RoIPool max": Row("R-18-FPN", (*FPN, *KEYPOINTS, *pool("roi_pool", "max")), KEYPOINT_STEPS),
    "R-18-C4 softmax": Row("R-18-C4", (*C4, "model.mask_head.loss=softmax")),
    "R-18-C4 RoIWarp max": Row("R-18-C4", (*C4, *pool("roi_warp", "max"))),
    "R-18-C4 RoIWarp ave": Row("R-18-C4", (*C4, *pool("roi_warp", "average"))),
    "R-18-C4 RoIAlign max": Row("R-18-C4", (*C4, *pool("roi_align", "max"))),
    "R-18-FPN MLP of two": Row("R-18-FPN", (*FPN, "model.mask_head.kind=mlp2")),
    "R-18-FPN MLP of three": Row("R-18-FPN", (*FPN, "model.mask_head.kind=mlp3")),
    BARE_FCN: Row("R-18-FPN", (*FPN, "model.mask_head.norm=none")),  # like the MLPs
    "R-34-C4": Row("R-34-C4", C4),
    "R-34-FPN": Row("R-34-FPN", FPN),
    "X-26-8x16d-FPN": Row("R-18-FPN", (*FPN, *GROUPS)),
    "R-26-FPN": Row("R-18-FPN", (*FPN, BOTTLENECK)),
}
BACKBONES = ("R-18-C4", "R-34-C4", "R-18-FPN", "R-34-FPN", "X-26-8x16d-FPN")
ROWS |= {f"{name} x{LONGER}": ROWS[name]._replace(steps=LONGER * STEPS, seeds=1) for name in BACKBONES}


class Line(NamedTuple):
    """A row of the paper: AP, AP50 and AP75 in percent, and which of `ROWS` represents it."""

    figures: tuple[float, float, float]
    row: str
    task: str = "mask"


class Difference(NamedTuple):
    """Two lines of a table, first minus second; `ours` and `why` if other rows of ours are compared."""

    first: str
    second: str
    ours: tuple[str, str] | None = None
    why: str = ""


class Table(NamedTuple):
    title: str
    lines: Mapping[str, Line]
    differences: tuple[Difference, ...]


def table_2a(title: str, suffix: str = "", more: tuple[Difference, ...] = ()) -> Table:
    """Depth, FPN and ResNeXt; `suffix` ends the names of our rows."""
    return Table(
        title,
        {
            "R-50-C4": Line((30.3, 51.2, 31.5), f"R-18-C4{suffix}"),
            "R-101-C4": Line((32.7, 54.2, 34.3), f"R-34-C4{suffix}"),
            "R-50-FPN": Line((33.6, 55.2, 35.3), f"R-18-FPN{suffix}"),
            "R-101-FPN": Line((35.4, 57.3, 37.5), f"R-34-FPN{suffix}"),
            "X-101-FPN": Line((36.7, 59.5, 38.9), f"X-26-8x16d-FPN{suffix}"),
        },
        (
            Difference("R-101-C4", "R-50-C4"),
            Difference("R-50-FPN", "R-50-C4"),
            Difference("R-101-FPN", "R-101-C4"),
            Difference("R-101-FPN", "R-50-FPN"),
            Difference(
                "X-101-FPN", "R-101-FPN", (f"X-26-8x16d-FPN{suffix}", f"R-18-FPN{suffix}"), "ours with equal stages"
            ),
            *more,
        ),
    )


EQUAL_BLOCKS = Difference("X-101-FPN", "R-101-FPN", ("X-26-8x16d-FPN", "R-26-FPN"), "ours also with equal blocks")
TABLES = {
    "2a": table_2a("backbones, mask AP", more=(EQUAL_BLOCKS,)),
    "2a-longer": table_2a(f"backbones, mask AP, {LONGER} times the steps", f" x{LONGER}"),
    "2b": Table(
        "mask loss, R-50-C4, mask AP",
        {
            "softmax": Line((24.8, 44.1, 25.1), "R-18-C4 softmax"),
            "sigmoid": Line((30.3, 51.2, 31.5), "R-18-C4"),
        },
        (Difference("sigmoid", "softmax"),),
    ),
    "2c": Table(
        "RoI operator, R-50-C4, mask AP",
        {
            "RoIPool, max": Line((26.9, 48.8, 26.4), "R-18-C4 RoIPool max"),
            "RoIWarp, max": Line((27.2, 49.2, 27.1), "R-18-C4 RoIWarp max"),
            "RoIWarp, ave": Line((27.1, 48.9, 27.1), "R-18-C4 RoIWarp ave"),
            "RoIAlign, max": Line((30.2, 51.0, 31.8), "R-18-C4 RoIAlign max"),
            "RoIAlign, ave": Line((30.3, 51.2, 31.5), "R-18-C4"),
        },
        (
            Difference("RoIAlign, ave", "RoIPool, max"),
            Difference("RoIAlign, max", "RoIPool, max"),
            Difference("RoIAlign, max", "RoIWarp, max"),
            Difference("RoIAlign, ave", "RoIWarp, ave"),
            Difference("RoIWarp, max", "RoIPool, max"),
            Difference("RoIAlign, ave", "RoIAlign, max"),
        ),
    ),
    "2d": Table(
        "RoI operator at stride 32, R-50-C5, mask and box AP",
        {
            "RoIPool, masks": Line((23.6, 46.5, 21.6), "R-18-C5 RoIPool max"),
            "RoIAlign, masks": Line((30.9, 51.8, 32.1), "R-18-C5"),
            "RoIPool, boxes": Line((28.2, 52.7, 26.9), "R-18-C5 RoIPool max", "box"),
            "RoIAlign, boxes": Line((34.0, 55.3, 36.4), "R-18-C5", "box"),
        },
        (Difference("RoIAlign, masks", "RoIPool, masks"), Difference("RoIAlign, boxes", "RoIPool, boxes")),
    ),
    "2e": Table(
        "mask branch, R-50-FPN, mask AP",
        {
            "MLP of two": Line((31.5, 53.7, 32.8), "R-18-FPN MLP of two"),
            "MLP of three": Line((31.5, 54.0, 32.6), "R-18-FPN MLP of three"),
            "FCN": Line((33.6, 55.2, 35.3), "R-18-FPN"),
        },
        (
            Difference("FCN", "MLP of two"),
            Difference("FCN", "MLP of three"),
            Difference("FCN", "MLP of two", (BARE_FCN, "R-18-FPN MLP of two"), "ours without norms"),
            Difference("FCN", "MLP of three", (BARE_FCN, "R-18-FPN MLP of three"), "ours without norms"),
        ),
    ),
    "6": Table(
        "RoI operator for keypoints, R-50-FPN, keypoint AP",
        {
            "RoIPool": Line((59.8, 86.2, 66.7), "R-18-FPN keypoints RoIPool max", "keypoint"),
            "RoIAlign": Line((64.2, 86.6, 69.7), "R-18-FPN keypoints", "keypoint"),
        },
        (Difference("RoIAlign", "RoIPool"),),
    ),
}
