"""`maskrcnn.train`. The command line reads its options here, so heavy imports wait until training starts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..model.parts import Parts


def train(
    data: str | Path,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    epochs: float | None = None,
    batch: int | str | None = None,
    val: str | Path | None = None,
    channels: int | None = None,
    images: str | Path | None = None,
    overrides: Sequence[str] = (),
    config: str | Path | None = None,
    precision: str | None = None,
    seed: int | None = None,
    deterministic: bool = False,
    patience: int | None = None,
    workers: int | None = None,
    schedule: str | None = None,
    stages: str | Sequence[str] | None = None,
    proposals: str | Path | None = None,
    split: str | None = None,
    group_by: str | None = None,
    unlabelled: str | None = None,
    masks: bool = True,
    keypoints: bool = False,
    strict: bool = False,
    log: str | None = None,
    device: str | None = None,
    transform: Callable[..., Any] | None = None,
    callbacks: Sequence[Any] = (),
    parts: "Parts | None" = None,
) -> Path:
    """Trains a Mask R-CNN on annotated images and returns the path of `model.safetensors` in the run's folder.

    The same call again resumes a run that was interrupted, and does nothing if the run is finished.

    Args:
        data: Annotations in any known format: a file, a folder or a zip, divided into train and val or not.
        model: R-50-FPN, R-101-FPN, ...; default: what the weights are, else R-18-FPN on a CPU and R-50-FPN on a GPU.
        weights: Checkpoint or name to start from; default: from scratch.
        recipe: scratch, finetune, paper or auto (default): the settings that you do not choose.
        out: Folder of the run; default: runs/NAME.
        epochs: Passes over the training images; default: the recipe's.
        batch: Images per batch and process, or auto: as many as are fastest here; default: the recipe's.
        val: Data to evaluate on; default: the val of DATA, else a tenth of the training images.
        channels: Channels of an image; default: as the images have, 3 for grey and RGB.
        images: Folder of the images, if they are not beside the json.
        overrides: Settings such as "train.lr=0.01".
        config: Settings as a TOML file.
        precision: fp32, bf16, fp16 or auto.
        seed: Random seed for weights, order, augmentation, sampling and split.
        deterministic: Repeat a run bit by bit on a GPU, too, with slower algorithms; a CPU always does.
        patience: Stop after this many evaluations without improvement.
        workers: Processes that read images; 0 reads them in the main one; default: the recipe's.
        schedule: 1x, s1x, 2x, 3x, paper, step or cosine.
        stages: rpn,heads: train the RPN first, then the heads on its proposals.
        proposals: Train the heads on the boxes in this file.
        split: Shares of train, val and perhaps test, such as 0.8,0.1,0.1, of data that is not divided yet.
        group_by: Regular expression on file names; images with the same match stay in one part of the split.
        unlabelled: Images without annotations: background or skip; default: as the format does.
        masks: Learn masks; without them it is Faster R-CNN with RoIAlign.
        keypoints: Also train keypoints, as defined in the json.
        strict: Stop at the first bad record instead of skipping it.
        log: Also log to tensorboard, wandb or mlflow, or to several: tensorboard,wandb.
        device: cpu, cuda or cuda:1; default: a GPU if there is one.
        transform: Your own augmentation, a function of image, boxes, masks and keypoints; see docs/train.md.
        callbacks: Objects with on_step, on_evaluation or others of the methods in docs/train.md.
        parts: Your own backbone, heads or losses, see docs/train.md.

    Raises `DataError`, `ConfigError` and `CheckpointError` before the first step, `TrainingError` if a loss is not
    finite, and `KeyboardInterrupt` after SIGINT or SIGTERM, when the run is saved.
    """
    from ..model.parts import USUAL
    from .batch import measured_batch
    from .callbacks import check_callbacks, open_logs
    from .distributed import join_ranks
    from .loop import fit
    from .run import alone_in_folder, claim_folder, describe, prepare_run
    from .task import Task, build_model
    from .two_stage import check_stages, train_in_stages

    pick_batch = measured_batch if batch == "auto" else None
    wanted = check_stages(stages, proposals)
    check_callbacks(callbacks)
    named = {
        "train.epochs": epochs,
        "model.input.channels": channels,
        "train.batch": None if batch == "auto" else _count(batch),
        "train.precision": precision,
        "train.seed": seed,
        "train.deterministic": deterministic or None,
        "train.patience": patience,
        "train.workers": workers,
        "model.mask_head.enabled": None if masks else False,
        "model.keypoint_head.enabled": keypoints or None,
        "model.rpn.features": "own" if wanted else None,
    }
    settings = [f"{name}={json.dumps(value)}" for name, value in named.items() if value is not None]
    with join_ranks(device) as ranks:
        run = prepare_run(
            data, [*settings, *overrides], model=model, weights=weights, config=config, schedule=schedule, val=val,
            images=images, out=out, strict=strict, ranks=ranks, recipe=recipe, staged=bool(wanted), transform=transform,
            parts=parts or USUAL, pick_batch=pick_batch, split=split, group_by=group_by, unlabelled=unlabelled,
        )  # fmt: skip
        ranks.say("\n".join(describe(run)))
        with alone_in_folder(run):
            if wanted:
                return train_in_stages(run, wanted, proposals, log, callbacks)
            every = [*open_logs(log, run.out), *callbacks]
            claim_folder(run)
            return fit(Task(run, build_model(run)), every)


def _count(batch: int | str | None) -> int | None:
    """The number in a word of the command line."""
    from ..errors import ConfigError

    if isinstance(batch, str) and not batch.isdecimal():
        raise ConfigError(f"batch is a number of images, or auto; it got {batch!r}")
    return None if batch is None else int(batch)
