"""Training in two stages, as in the paper's experiments: first the RPN; then, on its fixed proposals, everything else.

The two share no features (section 3.1, "for convenient ablation"): the model has two backbones, and the RPN keeps the
first. Each stage is a run in its own folder. Between them lies a file of proposals: one safetensors file with the boxes
of every training image, best first, and the network that proposed them, which becomes the RPN of the model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import AugmentConfig, InputConfig, ModelConfig, from_dict, to_dict
from ..data.augment import draw_geometry, move_boxes
from ..data.batch import slots
from ..data.dataset import Dataset
from ..data.formats import find_splits, read_dataset
from ..data.loader import EvalLoader
from ..device import choose_device
from ..engine import Engine
from ..errors import CheckpointError, ConfigError, DataError
from ..evaluation.recall import Figures, average_recall, covered
from ..files import fingerprint
from ..model.build import build
from ..model.mask_rcnn import MaskRCNN
from ..structures import GroundTruth, Images, Losses, Proposals
from ..weights.checkpoint import load_checkpoint, read_tensors, restore, write_tensors
from ..weights.hub import locate
from ..weights.read import read_checkpoint
from .callbacks import open_logs
from .distributed import Ranks
from .loop import fit
from .run import FINAL, METRICS, Run, claim_folder, copy_file, holds_run
from .task import Inputs, Task, build_model, eval_loader, rpn_tensors

STAGES = ("rpn", "heads")
PROPOSALS = "proposals.safetensors"  # in the first stage's folder
KEY, FORMAT = "maskrcnn-proposals", 2
_NETWORK = "network."  # before the names of the network's tensors in a file

ImageRows = dict[int, tuple[str, int, int]]  # by image id: file name as in the json, height, width as annotated
Boxes = dict[int, tuple[Tensor, Tensor]]  # by image id: boxes [n 4], pixels of the image, best first; scores [n]


def check_stages(stages: str | Sequence[str] | None, proposals: str | Path | None) -> tuple[str, ...]:
    """The stages to train, in order; the heads if a file of proposals is given. Raises `ConfigError` for others."""
    wanted = tuple(stages.split(",") if isinstance(stages, str) else stages or ())
    if not wanted and proposals is not None:
        wanted = ("heads",)
    if wanted not in ((), ("rpn",), ("heads",), STAGES):
        raise ConfigError(f"the stages are 'rpn', 'heads' or 'rpn,heads', in this order; not {','.join(wanted)!r}")
    if "rpn" in wanted and proposals is not None:
        raise ConfigError("the heads alone are trained on a file of proposals: leave out the stage rpn, or the file")
    return wanted


def train_in_stages(
    run: Run, stages: Sequence[str], proposals: str | Path | None, log: str | None = None, callbacks: Sequence[Any] = ()
) -> Path:
    """Trains the stages in folders inside the run's, and returns the last one's checkpoint.

    "rpn" leaves its proposals for the training images in `rpn/proposals.safetensors`, and is not trained further once
    "heads" has begun. "heads" learns from them, or from the file `proposals`, and leaves the whole model in the run's
    folder. Raises `ConfigError` and `DataError` for proposals that do not fit the model or the data.
    """
    claim_folder(replace(run, stage="stages", weights=None, start=None))  # each stage has its own weights
    final, file = run.out / FINAL, run.out / "rpn" / PROPOSALS
    if "rpn" in stages:
        part = replace(run, out=run.out / "rpn", stage="rpn")
        if run.ranks.from_first(file.exists() and holds_run(run.out / "heads")):
            run.ranks.say(f"stage rpn, in {part.out}: unchanged, because stage heads has begun on its proposals")
            final = part.out / FINAL
        else:
            run.ranks.say(f"stage rpn, in {part.out}")
            every = [*open_logs(log, part.out), *callbacks]
            claim_folder(part)
            final = fit(RPNTask(part, build_model(part)), every)
            write_stage_proposals(file, final, part)
    if "heads" in stages:
        file = file if proposals is None else Path(proposals)
        run.ranks.say(f"stage heads, in {run.out / 'heads'}, on the proposals in {file}")
        if not file.is_file():
            raise ConfigError(f"{file} does not exist: train the stage rpn first, or name a file of proposals")
        part = replace(run, out=run.out / "heads", stage="heads", proposals=fingerprint(file))
        kept = read_proposals(file)  # and check it before the folder is claimed for it
        check_network(kept, part, file)
        check_covers(kept, part.train_data, file)
        every = [*open_logs(log, part.out), *callbacks]
        claim_folder(part)
        final = publish_stage(fit(HeadsTask(part, build_model(part), kept, file), every), run)
    return final


class RPNTask(Task):
    """The first stage: the RPN and its own features learn, and are judged by the recall of their proposals."""

    def __init__(self, run: Run, model: MaskRCNN) -> None:
        super().__init__(run, model)
        freeze(model, rpn=False)

    def forward(self, images: Images, gt: GroundTruth) -> Losses:
        return Losses(*self.model.rpn_terms(self.model.rpn([], images), gt, images))

    def evaluate(self) -> Mapping[str, Any]:
        run = self.run
        assert run.val_data is not None
        engine = Engine.of(self.model, run.train_data.categories, run.precision)
        loader = eval_loader(run, run.val_data) if self.tilings or self.val_loader is None else self.val_loader
        found = compute_proposals(engine, loader, training=False, ranks=run.ranks)
        figures = recall_of(found, run.val_data) if run.ranks.first else None
        return run.ranks.from_first({"proposals": figures})

    def write(self, path: Path, provenance: Mapping[str, Any]) -> None:
        super().write(path, {"stage": "rpn", **provenance})

    def tensors(self) -> Mapping[str, Tensor]:
        return rpn_tensors(self.model.state_dict())


class HeadsTask(Task):
    """The second stage: the network in a file of proposals is the model's fixed RPN; the rest learns on its boxes."""

    def __init__(self, run: Run, model: MaskRCNN, kept: "KeptProposals", file: Path) -> None:
        super().__init__(run, model)
        restore_rpn(model, kept.network, file)
        freeze(model, rpn=True)
        self.boxes = kept.boxes

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        config = self.run.config
        for (images, gt), image_ids in super().batches(epoch, start):
            proposals = place_proposals(self.boxes, images, image_ids, config.train.augment, config.model.input)
            yield (images, gt, proposals), image_ids

    def forward(self, images: Images, gt: GroundTruth, proposals: Proposals | None = None) -> Losses:
        """The terms of the heads, on the file's proposals, or for validation images on those of the RPN."""
        if proposals is None:
            with torch.no_grad():
                proposals = self.model.propose(images, training=True)
        return Losses(None, None, *self.model.head_terms(self.model.pyramid(images), proposals, gt, images))


def restore_rpn(model: MaskRCNN, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Copies an RPN and the features that it reads, out of any model's tensors, into a model's RPN of its own."""
    tensors = rpn_tensors(state)
    restore(model.rpn, {name.removeprefix("rpn."): tensor for name, tensor in tensors.items()}, path)


def freeze(model: MaskRCNN, *, rpn: bool) -> None:
    """Excludes the RPN with its features from the training, or all the rest. What the config freezes stays frozen."""
    of_rpn = set(model.rpn.parameters())
    for parameter in model.parameters():
        if (parameter in of_rpn) == rpn:
            parameter.requires_grad_(False)


def write_stage_proposals(file: Path, trained: Path, run: Run) -> None:
    """Writes the trained RPN's proposals for the training images, unless the file holds these already."""
    weights = fingerprint(trained)
    if run.ranks.from_first(file.exists() and read_proposals(file).weights == weights if run.ranks.first else None):
        return
    network = build_model(replace(run, start=None))
    restore_rpn(network, load_checkpoint(trained).state, trained)
    loader = eval_loader(run, run.train_data)
    engine = Engine.of(network, run.train_data.categories, run.precision)
    found = compute_proposals(engine, loader, training=True, ranks=run.ranks)
    loader.close()
    if run.ranks.first:
        write_proposals(file, found, run.train_data, network, run.config.model, weights)
        run.ranks.say(f"{file}: {sum(len(boxes) for boxes, _ in found.values())} proposals for {len(found)} images")
    run.ranks.wait()


def publish_stage(trained: Path, run: Run) -> Path:
    """The last stage's model and metrics become the run's."""
    if run.ranks.first:
        for name in (FINAL, METRICS):
            if (trained.parent / name).exists():
                copy_file(trained.parent / name, run.out / name)
    run.ranks.wait()
    return run.out / FINAL


# --- proposals of a data set -----------------------------------------------------------------------------------------


def propose(
    weights: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    batch: int = 1,
    workers: int = 2,
    precision: str = "auto",
    strict: bool = False,
    device: str | torch.device | None = None,
) -> Figures:
    """Writes a model's proposals for the images of a data set to the file `out`; returns how many objects they find.

    `weights` is a checkpoint of any origin, a run's folder, that of its first stage, or a name; `data` a json, or a
    folder with train.json. As many boxes of an image are kept as the model uses in training. Raises
    `CheckpointError`, `ConfigError` and `DataError`.
    """
    checkpoint = read_checkpoint(weights)
    config = replace(checkpoint.config, rpn=replace(checkpoint.config.rpn, features="own"))
    network = build(config)
    restore_rpn(network, checkpoint.state, weights)
    keypoints = config.keypoint_head.enabled
    dataset = read_dataset(
        find_splits(data, images=images, keypoints=keypoints)[0],
        images,
        strict=strict,
        keypoints=keypoints,
        page=config.input.page or None,
    )
    loader = EvalLoader(dataset, config, batch=batch, workers=workers, strict=strict)
    engine = Engine.of(network.to(choose_device(device)), checkpoint.categories, precision)
    found = compute_proposals(engine, loader, training=True)
    loader.close()
    write_proposals(out, found, dataset, network, config, fingerprint(locate(weights)))
    return recall_of(found, dataset)


def compute_proposals(engine: Engine, loader: EvalLoader, *, training: bool, ranks: Ranks | None = None) -> Boxes:
    """The proposals of every image of the loader's data set, on the first rank; none for images that cannot be read.

    As many as in training, or as in prediction. `ranks` share the images.
    """
    mine: Boxes = {}
    for images, _, image_ids in loader:
        found = engine.propose(images, training=training)
        for b, image_id in enumerate(image_ids.tolist()):
            real = found.valid[b]
            mine[image_id] = found.boxes[b][real].cpu(), found.scores[b][real].cpu()
    for image_id in loader.problems:
        mine[image_id] = torch.zeros(0, 4), torch.zeros(0)
    shares = (ranks or Ranks()).gather(mine) or []
    return {image_id: found for share in shares for image_id, found in share.items()}


def recall_of(found: Boxes, dataset: Dataset) -> Figures:
    """How many of a data set's objects, crowds left out, the proposals find, and how many proposals an image has."""
    records = ((int(id), dataset.record(i)) for i, id in enumerate(dataset.image_ids))
    figures = average_recall(
        covered(found[id][0], torch.from_numpy(record.boxes[~record.ignore])) for id, record in records
    )
    return figures | {"proposals": max((len(boxes) for boxes, _ in found.values()), default=0)}


def place_proposals(
    kept: Mapping[int, Tensor], images: Images, image_ids: Iterable[Any], augmentation: AugmentConfig, rule: InputConfig
) -> Proposals:
    """The kept boxes of a batch's images on the canvas, moved by the same augmentation, which follows from the seeds.

    Scores are zero: sampling does not read them.
    """
    moved = []
    for image_id, seed, size in zip(image_ids, images.seeds.tolist(), images.original_sizes.tolist(), strict=True):
        geometry = draw_geometry(np.random.default_rng(seed), (size[0], size[1]), augmentation, rule)
        moved.append(torch.from_numpy(move_boxes(kept[int(image_id)].numpy(), geometry)))
    P = slots(max(len(boxes) for boxes in moved))
    boxes = torch.stack([torch.nn.functional.pad(part, (0, 0, 0, P - len(part))) for part in moved])
    valid = torch.arange(P) < torch.tensor([len(part) for part in moved])[:, None]
    return Proposals(boxes, torch.zeros(valid.shape), valid)


# --- the file --------------------------------------------------------------------------------------------------------


class KeptProposals(NamedTuple):
    """What a file holds."""

    boxes: dict[int, Tensor]  # by image id: float32 [n 4], xyxy, pixels of the original image, best first
    images: ImageRows
    network: dict[str, Tensor]  # of the RPN and of the features that it reads
    config: ModelConfig  # of the model that proposed
    weights: str  # SHA-256 of the checkpoint that proposed


def write_proposals(
    path: str | Path, found: Boxes, dataset: Dataset, model: MaskRCNN, config: ModelConfig, weights: str
) -> None:
    """Writes a data set's proposals and the RPN of `model`, with its own features, atomically.

    `weights` is the SHA-256 of the checkpoint that the RPN comes from.
    """
    ids, images = sorted(found), image_rows(dataset)
    counts = torch.tensor([0, *(len(found[i][0]) for i in ids)])
    tensors = {
        "image_ids": torch.tensor(ids, dtype=torch.int64),
        "names": torch.tensor(list("\0".join(images[i][0] for i in ids).encode()), dtype=torch.uint8),
        "sizes": torch.tensor([images[i][1:] for i in ids], dtype=torch.int64).reshape(-1, 2),  # (height, width)
        "offsets": counts.cumsum(0),  # the boxes of row i are offsets[i]:offsets[i + 1]
        "boxes": torch.cat([torch.zeros(0, 4), *(found[i][0] for i in ids)]),
        "scores": torch.cat([torch.zeros(0), *(found[i][1] for i in ids)]),
    }
    network = {f"{_NETWORK}{name}": tensor for name, tensor in rpn_tensors(model.state_dict()).items()}
    write_tensors(path, tensors | network, KEY, FORMAT, {"model": to_dict(config), "weights": weights})


def read_proposals(path: str | Path) -> KeptProposals:
    """Reads what `write_proposals` wrote. Raises `CheckpointError` naming the file for anything else."""
    tensors, content = read_tensors(path, KEY, FORMAT)
    try:
        ids, sizes, offsets = (tensors[name].tolist() for name in ("image_ids", "sizes", "offsets"))
        names = tensors["names"].numpy().tobytes().decode().split("\0")
        boxes = {i: tensors["boxes"][a:b] for i, (a, b) in zip(ids, pairwise(offsets), strict=True)}
        images = {i: (name, height, width) for i, name, (height, width) in zip(ids, names, sizes, strict=True)}
        config, weights = from_dict(ModelConfig, content["model"]), str(content["weights"])
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: its contents are invalid: {error}") from error
    network = {name.removeprefix(_NETWORK): t for name, t in tensors.items() if name.startswith(_NETWORK)}
    return KeptProposals(boxes, images, network, config, weights)


def image_rows(dataset: Dataset) -> ImageRows:
    """The images of a data set, by id."""
    rows = enumerate(zip(dataset.image_ids.tolist(), dataset.sizes.tolist(), strict=True))
    return {image_id: (dataset.name(i), height, width) for i, (image_id, (height, width)) in rows}


def check_network(kept: KeptProposals, run: Run, path: str | Path) -> None:
    """Raises `ConfigError` if the network that proposed differs from what this model's RPN would be."""
    here, there = to_dict(run.config.model), to_dict(kept.config)
    rows = [
        f"  model.{room}.{name}: {there[room][name]} there, {value} here"
        for room in ("input", "backbone", "fpn", "anchors", "box_arithmetic")
        for name, value in here[room].items()
        if there[room][name] != value and name != "freeze_at"
    ]
    if rows:
        raise ConfigError(f"{path} was made by a network with other settings than this model's:\n" + "\n".join(rows))


def check_covers(kept: KeptProposals, dataset: Dataset, path: str | Path) -> None:
    """Raises `DataError` if a file has no proposals for some image of the data set, or those of another image."""
    there, here = kept.images, image_rows(dataset)
    if missing := [image_id for image_id in here if image_id not in there]:
        raise DataError(
            f"{path} has no proposals for {len(missing)} of {len(dataset)} images of {dataset.source}, such as "
            f"image {missing[0]}: make the file from the images to train on"
        )
    for image_id, image in here.items():  # ids alone prove little: most data sets count from 1
        if there[image_id] != image:
            was, now = ("{} ({} x {})".format(*each) for each in (there[image_id], image))
            raise DataError(
                f"{path} was made for other images than those of {dataset.source}: "
                f"image {image_id} is {was} there, {now} here"
            )
