"""A model's proposals for a data set, in a file: what the paper trains its heads on, of an RPN trained before.

One safetensors file. It holds the boxes of every image, best first, and the network that proposed them, so that a model
trained on them can propose on images that it has not seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from ..accelerate.prepare import prepare
from ..canvas import boxes_to_image
from ..config import AugmentConfig, InputConfig, ModelConfig, from_dict, to_dict
from ..data.augment import draw_geometry, move_boxes
from ..data.batch import slots
from ..data.dataset import Dataset
from ..data.formats import find_splits, read_dataset
from ..data.loader import EvalLoader
from ..device import Precision, arithmetic, choose_device, choose_precision
from ..errors import CheckpointError, ConfigError, DataError
from ..evaluation.recall import Figures, average_recall, covered
from ..files import fingerprint
from ..model.build import build
from ..model.mask_rcnn import MaskRCNN
from ..structures import Images, Proposals
from ..weights.checkpoint import read_tensors, restore, write_tensors
from ..weights.read import locate, read_checkpoint
from .distributed import Ranks, alone, gather
from .job import to_device

KEY, FORMAT = "maskrcnn-proposals", 2
_NETWORK = "network."  # before the names of the network's tensors in a file

ImageRows = dict[int, tuple[str, int, int]]  # by image id: file name as in the json, height, width as annotated
Boxes = dict[int, tuple[Tensor, Tensor]]  # by image id: boxes [n 4], pixels of the image, best first; scores [n]


class KeptProposals(NamedTuple):
    """What a file holds. Boxes are xyxy, pixels of the original image, best first."""

    image_ids: Int[Tensor, " N"]
    names: UInt8[Tensor, " bytes"]  # file names, UTF-8, each but the last ended by a zero byte, which none contains
    sizes: Int[Tensor, "N 2"]  # (height, width)
    offsets: Int[Tensor, " N1"]  # those of image row i are offsets[i]:offsets[i + 1]
    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    network: dict[str, Tensor]  # of the RPN and of the features that it reads
    config: ModelConfig  # of the model that proposed
    weights: str  # SHA-256 of the checkpoint that proposed

    def by_image(self) -> dict[int, Tensor]:
        """The boxes by image id."""
        ends = self.offsets.tolist()
        return {
            image_id: self.boxes[first:last]
            for image_id, first, last in zip(self.image_ids.tolist(), ends[:-1], ends[1:], strict=True)
        }

    def images(self) -> ImageRows:
        """What the images were."""
        names = self.names.numpy().tobytes().decode().split("\0")
        rows = zip(self.image_ids.tolist(), names, self.sizes.tolist(), strict=True)
        return {image_id: (name, height, width) for image_id, name, (height, width) in rows}


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
    """Writes what a model proposes for the images of a data set to the file `out`; returns how much that recalls.

    `weights` is a checkpoint of any origin, a run's folder, or that of its first stage; `data` a json, or a folder
    whose training images are taken. As many boxes of an image are kept as the model trains on. Raises
    `CheckpointError`, `ConfigError` and `DataError`.
    """
    checkpoint = read_checkpoint(weights)
    config = replace(checkpoint.config, rpn=replace(checkpoint.config.rpn, features="own"))
    target = choose_device(device)
    network = build(config, skip_empty=target.type == "cpu")
    restore(rpn_of(network), rpn_tensors(checkpoint.state), weights)
    keypoints = config.keypoint_head.enabled
    dataset = read_dataset(find_splits(data, keypoints=keypoints)[0], images, strict=strict, keypoints=keypoints)
    loader = EvalLoader(dataset, config.input, batch=batch, workers=workers, strict=strict)
    network = network.to(target)
    found = compute_proposals(network, loader, precision=choose_precision(precision, target, config.profile))
    loader.close()
    write_proposals(out, found, dataset, network, config, fingerprint(locate(weights)))
    return recall_of(found, dataset)


@torch.inference_mode()
def compute_proposals(
    model: MaskRCNN, loader: EvalLoader, *, precision: Precision, step: str = "train", among: Ranks | None = None
) -> Boxes:
    """The proposals of every image of the loader's data set, on the first rank; an image that cannot be read has none.

    `step` says how many: as in a "train" step or in a "test". `among` are the ranks that share the images.
    """
    network = prepare(model, precision)
    choose = network.steps.propose_train if step == "train" else network.steps.propose_test
    device = next(model.parameters()).device
    mine: Boxes = {}
    for images, _, image_ids in loader:
        here = cast(Images, to_device(images, device))
        with arithmetic(precision, device):
            found = choose(network.score_anchors(here), here.sizes)
        boxes = boxes_to_image(found.boxes, here)
        for b, image_id in enumerate(image_ids.tolist()):
            real = found.valid[b]
            mine[image_id] = boxes[b][real].cpu(), found.scores[b][real].cpu()
    for image_id in loader.problems:
        mine[image_id] = torch.zeros(0, 4), torch.zeros(0)
    together: Boxes = {}
    for share in gather(mine, among or alone()) or []:
        together |= share
    return together


def recall_of(found: Boxes, dataset: Dataset) -> Figures:
    """How much of a data set's objects, without crowds, the proposals find, and how many there are for an image."""
    records = (dataset.record(i) for i in range(len(dataset)))
    figures = average_recall(
        covered(found[record.image_id][0], torch.from_numpy(record.boxes[~record.ignore])) for record in records
    )
    return figures | {"proposals": max((len(boxes) for boxes, _ in found.values()), default=0)}


# --- the file --------------------------------------------------------------------------------------------------------


def write_proposals(
    path: str | Path, found: Boxes, dataset: Dataset, model: MaskRCNN, config: ModelConfig, weights: str
) -> None:
    """Writes a data set's proposals and the RPN of `model`, with features of its own, atomically.

    `weights` names where the RPN is of.
    """
    ids, images = sorted(found), image_rows(dataset)
    counts = torch.tensor([0, *(len(found[i][0]) for i in ids)])
    tensors = {
        "image_ids": torch.tensor(ids, dtype=torch.int64),
        "names": torch.tensor(list("\0".join(images[i][0] for i in ids).encode()), dtype=torch.uint8),
        "sizes": torch.tensor([images[i][1:] for i in ids], dtype=torch.int64).reshape(-1, 2),
        "offsets": counts.cumsum(0),
        "boxes": torch.cat([torch.zeros(0, 4), *(found[i][0] for i in ids)]),
        "scores": torch.cat([torch.zeros(0), *(found[i][1] for i in ids)]),
    }
    network = {f"{_NETWORK}{name}": tensor for name, tensor in rpn_tensors(model.state_dict()).items()}
    write_tensors(path, tensors | network, KEY, FORMAT, {"model": to_dict(config), "weights": weights})


def read_proposals(path: str | Path) -> KeptProposals:
    """Reads what `write_proposals` wrote. Raises `CheckpointError` naming the file for anything else."""
    tensors, content = read_tensors(path, KEY, FORMAT)
    try:
        own = {name: tensors.pop(name) for name in ("image_ids", "names", "sizes", "offsets", "boxes", "scores")}
        config, weights = from_dict(ModelConfig, content["model"]), str(content["weights"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: what it holds cannot be understood: {error}") from error
    network = {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items()}
    return KeptProposals(**own, network=network, config=config, weights=weights)


# --- the network -----------------------------------------------------------------------------------------------------


def rpn_of(model: MaskRCNN) -> nn.ModuleDict:
    """The RPN and the features of its own, under the names that they have in the model."""
    assert model.rpn_features is not None
    return nn.ModuleDict({"rpn": model.rpn, "rpn_features": model.rpn_features})


def rpn_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the RPN, and of the features that it reads, as if they were its own: for `rpn_of`."""
    own = {name: tensor for name, tensor in state.items() if name.startswith("rpn_features.")}
    if not own:
        shared = ((name, tensor) for name, tensor in state.items() if name.startswith(("backbone.", "neck.")))
        own = {f"rpn_features.{name}": tensor for name, tensor in shared}
    return own | {name: tensor for name, tensor in state.items() if name.startswith("rpn.")}


# --- in training -----------------------------------------------------------------------------------------------------


def image_rows(dataset: Dataset) -> ImageRows:
    """What the images of a data set are."""
    rows = enumerate(zip(dataset.image_ids.tolist(), dataset.sizes.tolist(), strict=True))
    return {image_id: (dataset.name(i), height, width) for i, (image_id, (height, width)) in rows}


def check_covers(kept: KeptProposals, dataset: Dataset, path: str | Path) -> None:
    """Raises `DataError` where a file has no proposals for some image of the data set, or those of another image."""
    there, here = kept.images(), image_rows(dataset)
    missing = [image_id for image_id in here if image_id not in there]
    if missing:
        raise DataError(
            f"{path} has no proposals for {len(missing)} of {len(dataset)} images of {dataset.source}, such as "
            f"image {missing[0]}: they must have been made for the images to train on"
        )
    for image_id, image in here.items():  # most data sets count their images from 1
        if there[image_id] != image:
            was, now = ("{} ({} x {})".format(*each) for each in (there[image_id], image))
            raise DataError(
                f"{path} was made for other images than those of {dataset.source}: "
                f"image {image_id} is {was} there, {now} here"
            )


def place_proposals(
    kept: Mapping[int, Tensor], images: Images, image_ids: Iterable[Any], augmentation: AugmentConfig, rule: InputConfig
) -> Proposals:
    """The kept boxes of a batch's images where their augmentation, which follows from their seeds, has taken them.

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
