"""Training in two stages, as in the paper's experiments: first the RPN; then, on its fixed proposals, everything else.

The two share no features (section 3.1, "for convenient ablation"): a model of this kind has two backbones, and its RPN
keeps the first. Each stage is a run in a folder of its own, with its own schedule of the same settings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ..config import to_dict
from ..data.loader import EvalLoader
from ..engine import Engine
from ..errors import ConfigError
from ..files import fingerprint, replacing
from ..model.mask_rcnn import MaskRCNN
from ..structures import GroundTruth, Images, Losses, Proposals
from ..weights.checkpoint import load_checkpoint, restore
from .distributed import Ranks, from_first, wait_for_all
from .folder import claim_folder, holds_run
from .job import FINAL, METRICS, Batch, Job
from .proposals import (
    KeptProposals,
    check_covers,
    compute_proposals,
    place_proposals,
    read_proposals,
    recall_of,
    rpn_of,
    rpn_tensors,
    write_proposals,
)
from .setup import Plan, build_model

STAGES = ("rpn", "heads")
PROPOSALS = "proposals.safetensors"  # in the first stage's folder

Narrow = Callable[[nn.Module, Job], Job]  # makes a whole run's model and job those of a stage
Start = Callable[[Plan, Narrow], Path]  # trains in the plan's folder, or goes on there; returns the checkpoint
Say = Callable[[str], None]


def check_stages(stages: Sequence[str], proposals: str | Path | None) -> tuple[str, ...]:
    """The stages to train, in order; given a file of proposals, the heads. Raises `ConfigError` for others."""
    wanted = tuple(stages) or (("heads",) if proposals is not None else ())
    if wanted not in ((), ("rpn",), ("heads",), STAGES):
        raise ConfigError(f"the stages are 'rpn', 'heads' or 'rpn,heads', in this order; not {','.join(wanted)!r}")
    if "rpn" in wanted and proposals is not None:
        raise ConfigError("proposals are what the heads learn from: with a file of them there is no stage rpn")
    return wanted


def train_in_stages(
    run: Plan, stages: Sequence[str], proposals: str | Path | None, start: Start, among: Ranks, say: Say
) -> Path:
    """Trains the stages asked for in folders of the run's, and returns the last one's checkpoint.

    "rpn" leaves its proposals for the training images in `rpn/proposals.safetensors`, and does no more once "heads" has
    begun. "heads" learns from these, or from the file `proposals`, whose network becomes the model's RPN, and leaves
    the whole model in the run's folder.
    Raises `ConfigError` and `DataError` for proposals that do not fit the model or the data.
    """
    from_first(claim_folder(run._replace(stage="stages"), among, None) if among.first else None, among)
    final, file = run.out / FINAL, run.out / "rpn" / PROPOSALS
    if "rpn" in stages:
        part = run._replace(out=run.out / "rpn", stage="rpn")
        final = part.out / FINAL
        if from_first(file.exists() and holds_run(run.out / "heads"), among):  # on these very boxes
            say(f"stage rpn, in {part.out}: left as it is, with its proposals, as stage heads has begun")
        else:
            say(f"stage rpn, in {part.out}")
            start(part, partial(narrow_to_rpn, plan=part, among=among))
            keep_proposals(file, final, part, among, say)
    if "heads" in stages:
        file = file if proposals is None else Path(proposals)
        say(f"stage heads, in {run.out / 'heads'}, on the proposals in {file}")
        if not file.is_file():
            raise ConfigError(f"{file} is not there: train the stage rpn before, or name a file of proposals")
        part = run._replace(out=run.out / "heads", stage="heads", proposals=fingerprint(file))
        kept = read_proposals(file)  # and judged before the folder is claimed for it
        _check_network(kept, part, file)
        check_covers(kept, part.train, file)
        trained = start(part, partial(narrow_to_heads, plan=part, file=file, kept=kept))
        final = publish(trained, run.out, among)
    return final


# --- first the RPN ---------------------------------------------------------------------------------------------------


def narrow_to_rpn(model: nn.Module, job: Job, *, plan: Plan, among: Ranks) -> Job:
    """The job of the first stage: nothing learns but the RPN and its features, which are judged by their recall."""
    network = cast(MaskRCNN, model)
    _learn_only(network, rpn=True)
    judge = None if plan.val is None else partial(_recall, plan=plan, among=among)

    def write(path: Path, trained: nn.Module, provenance: Mapping[str, Any]) -> None:
        job.write(path, rpn_of(cast(MaskRCNN, trained)), {"stage": "rpn", **provenance})

    return job._replace(loss=rpn_stage_loss, evaluate=judge, write=write)


def rpn_stage_loss(model: MaskRCNN, images: Images, gt: GroundTruth) -> Losses:
    """The RPN's terms alone."""
    return Losses(*model.rpn_terms(model.rpn([], images), gt, images))


def _recall(model: nn.Module, *, plan: Plan, among: Ranks) -> Mapping[str, Any]:
    """How much of the validation images' objects the proposals find; the same on every rank."""
    assert plan.val is not None
    loader = _loader(plan, plan.val, among)
    engine = Engine.of(cast(MaskRCNN, model), plan.train.categories, plan.precision)
    found = compute_proposals(engine, loader, training=False, among=among)
    loader.close()
    return from_first({"proposals": recall_of(found, plan.val)} if among.first else None, among)


def keep_proposals(file: Path, trained: Path, plan: Plan, among: Ranks, say: Say) -> None:
    """Writes the trained RPN's proposals for the training images, unless the file holds these already."""
    weights = fingerprint(trained)
    if from_first(file.exists() and read_proposals(file).weights == weights if among.first else None, among):
        return
    network = cast(MaskRCNN, build_model(plan._replace(start=None), among, say))
    restore(rpn_of(network), rpn_tensors(load_checkpoint(trained).state), trained)
    loader = _loader(plan, plan.train, among)
    engine = Engine.of(network, plan.train.categories, plan.precision)
    found = compute_proposals(engine, loader, training=True, among=among)
    loader.close()
    if among.first:
        write_proposals(file, found, plan.train, network, plan.config.model, weights)
        say(f"{file}: {sum(len(boxes) for boxes, _ in found.values())} proposals for {len(found)} images")
    wait_for_all(among)


def _loader(plan: Plan, data: Any, among: Ranks) -> EvalLoader:
    train = plan.config.train
    return EvalLoader(
        data,
        plan.config.model.input,
        batch=train.batch,
        rank=among.rank,
        world=among.world,
        workers=train.workers,
        strict=plan.strict,
        pin_memory=among.device.type == "cuda",
    )


# --- then the rest ---------------------------------------------------------------------------------------------------


def narrow_to_heads(model: nn.Module, job: Job, *, plan: Plan, file: Path, kept: KeptProposals) -> Job:
    """The job of the second stage: the file's network is the model's RPN and stays so; the rest learns on its boxes."""
    network = cast(MaskRCNN, model)
    restore(rpn_of(network), kept.network, file)
    _learn_only(network, rpn=False)
    boxes = kept.by_image()
    augmentation, rule = plan.config.train.augment, plan.config.model.input

    def epoch(number: int, first: int) -> Iterator[Batch]:
        for images, gt, image_ids in job.epoch(number, first):
            yield images, gt, place_proposals(boxes, images, image_ids, augmentation, rule), image_ids

    return job._replace(loss=heads_loss, epoch=epoch)


def heads_loss(model: MaskRCNN, images: Images, gt: GroundTruth, proposals: Proposals | None = None) -> Losses:
    """The terms of the heads, on the proposals given, or else on those that the RPN makes: of validation images."""
    if proposals is None:
        with torch.no_grad():
            proposals = model.propose(images, training=True)
    return Losses(None, None, *model.head_terms(model.pyramid(images), proposals, gt, images))


def _check_network(kept: KeptProposals, plan: Plan, file: Path) -> None:
    """Raises `ConfigError` where the proposing network is another than this model's RPN would be."""
    here, there = to_dict(plan.config.model), to_dict(kept.config)
    rows = [
        f"  model.{room}.{name}: {there[room][name]} there, {value} here"
        for room in ("input", "backbone", "fpn", "anchors", "box_arithmetic")
        for name, value in here[room].items()
        if there[room][name] != value and name != "freeze_at"
    ]
    if rows:
        raise ConfigError(f"{file} was made by a network of other settings than this model's:\n" + "\n".join(rows))


def publish(trained: Path, out: Path, among: Ranks) -> Path:
    """The last stage's model and metrics become the run's."""
    if among.first:
        for name in (FINAL, METRICS):
            if (trained.parent / name).exists():
                with replacing(out / name) as temporary:
                    temporary.write_bytes((trained.parent / name).read_bytes())
    wait_for_all(among)
    return out / FINAL


def _learn_only(model: MaskRCNN, *, rpn: bool) -> None:
    """Takes the gradient from every parameter but the RPN's, or from these. What the config freezes stays frozen."""
    of_rpn = set(rpn_of(model).parameters())
    for parameter in model.parameters():
        if (parameter in of_rpn) != rpn:
            parameter.requires_grad_(False)
