"""Training in two stages: who learns what, on which boxes, and that it can be stopped anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import maskrcnn
from maskrcnn.errors import CheckpointError, ConfigError, DataError
from maskrcnn.training import two_stage as module
from maskrcnn.training.distributed import Ranks
from maskrcnn.training.two_stage import check_stages, propose, read_proposals
from maskrcnn.weights.checkpoint import load_checkpoint
from tests.scenes import NONE, SMALL, TWO_APART, write_coco
from tests.training.processes import two_ranks
from tests.training.small import train_small

BOTH = ("rpn", "heads")


def run(data: Path, out: Path, *settings: str, **arguments: Any) -> Path:
    return train_small(data, out, "train.checkpoint_every=1", *settings, **{"stages": BOTH, **arguments})


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole")
    assert run(data, out) == out / "model.safetensors"
    return out


def part_of(state: dict[str, torch.Tensor], *parts: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name.partition(".")[0] in parts}


def test_two_stages_leave_two_runs_and_one_model(whole: Path, data: Path) -> None:
    for folder in (whole / "rpn", whole / "heads"):
        assert {path.name for path in folder.iterdir()} >= {"config.toml", "run.json", "log.jsonl", "metrics.json"}
    assert json.loads((whole / "rpn" / "metrics.json").read_text())["proposals"]["objects"] == 2
    assert {"box", "mask"} <= json.loads((whole / "metrics.json").read_text()).keys()
    losses = {}
    for stage in BOTH:
        lines = [json.loads(line) for line in (whole / stage / "log.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "step"]
        assert [step["step"] for step in steps] == [1, 2, 3, 4]
        losses[stage] = set(steps[0]["losses"])
    assert losses == {"rpn": {"rpn_class", "rpn_box"}, "heads": {"box_class", "box_box", "mask"}}
    assert len(list(maskrcnn.load(whole).predict([data / "images" / "a.png"]))) == 1


def test_the_rpn_is_that_of_the_first_stage_and_shares_no_features(whole: Path) -> None:
    first = load_checkpoint(whole / "rpn" / "model.safetensors")
    last = load_checkpoint(whole / "model.safetensors")
    assert {name.partition(".")[0] for name in first.state} == {"rpn"}
    assert first.provenance["stage"] == "rpn"
    torch.testing.assert_close(part_of(last.state, "rpn"), first.state, rtol=0, atol=0)
    torch.testing.assert_close(
        read_proposals(whole / "rpn" / "proposals.safetensors").network, first.state, rtol=0, atol=0
    )
    assert last.config.rpn.features == "own"
    backbone = part_of(last.state, "backbone")
    assert any(not torch.equal(t, last.state[f"rpn.features.{name}"]) for name, t in backbone.items())


def test_a_checkpoint_of_the_first_stage_alone_predicts_nothing(whole: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        maskrcnn.load(whole / "rpn")


def test_one_stage_after_the_other_is_both(whole: Path, data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, stages=("rpn",)) == tmp_path / "rpn" / "model.safetensors"
    assert not (tmp_path / "heads").exists()
    final = run(data, tmp_path, stages=("heads",))
    assert final.read_bytes() == (whole / "model.safetensors").read_bytes()


class Killed(Exception):
    pass


def die(*_arguments: Any) -> Any:
    raise Killed


@pytest.mark.parametrize(("name", "calls"), [("rpn_tensors", 2), ("compute_proposals", 3), ("place_proposals", 3)])
def test_wherever_it_dies_the_same_command_goes_on(
    whole: Path, data: Path, tmp_path: Path, name: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first stage, while its proposals are made, in the second stage."""
    left, function = calls, getattr(module, name)

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            raise Killed
        return function(*arguments, **named)

    monkeypatch.setattr(module, name, dying)
    with pytest.raises(Killed):
        run(data, tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "model.safetensors").exists()
    final = run(data, tmp_path)
    assert final.read_bytes() == (whole / "model.safetensors").read_bytes()
    file = tmp_path / "rpn" / "proposals.safetensors"
    written = file.stat().st_mtime_ns
    assert run(data, tmp_path) == final
    assert file.stat().st_mtime_ns == written


def steps_in(folder: Path) -> int:
    """How many steps a run's log tells of."""
    return sum(json.loads(line)["kind"] == "step" for line in (folder / "log.jsonl").read_text().splitlines())


def test_more_epochs_are_the_heads_alone_once_they_have_begun(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps an epoch. A folder that holds the heads' run with no step done yet has begun."""
    run(data, tmp_path, stages=("rpn",), epochs=1)
    run(data, tmp_path, stages=("rpn",), epochs=2)
    assert steps_in(tmp_path / "rpn") == 4
    monkeypatch.setattr(module, "place_proposals", die)
    with pytest.raises(Killed):
        run(data, tmp_path, epochs=2)
    monkeypatch.undo()
    stage = {path: path.read_bytes() for path in (tmp_path / "rpn").iterdir()}
    for epochs, steps in ((3, 6), (4, 8), (3, 8)):
        capsys.readouterr()
        final = run(data, tmp_path, epochs=epochs)
        assert capsys.readouterr().out.count("unchanged, because stage heads has begun on its proposals") == 1
        assert steps_in(tmp_path / "heads") == steps
        assert final.read_bytes() == (tmp_path / "heads" / "model.safetensors").read_bytes()
    assert run(data, tmp_path, stages=("rpn",), epochs=4) == tmp_path / "rpn" / "model.safetensors"
    assert {path: path.read_bytes() for path in (tmp_path / "rpn").iterdir()} == stage


def test_heads_learn_on_the_proposals_of_another_model(whole: Path, data: Path, tmp_path: Path) -> None:
    """The first stage's own, from `propose`: the boxes are the same, and the RPN is theirs."""
    file = tmp_path / "p.safetensors"
    propose(whole / "rpn" / "model.safetensors", data, file, batch=2, workers=0, precision="fp32")
    mine, theirs = read_proposals(file), read_proposals(whole / "rpn" / "proposals.safetensors")
    torch.testing.assert_close(mine.boxes, theirs.boxes, rtol=0, atol=1e-3)
    assert mine.weights == theirs.weights
    final = run(data, tmp_path / "run", stages=(), proposals=file)
    assert final == tmp_path / "run" / "model.safetensors"
    assert not (tmp_path / "run" / "rpn").exists()
    got, wanted = (load_checkpoint(path).state for path in (final, whole / "model.safetensors"))
    torch.testing.assert_close(part_of(got, "rpn"), part_of(wanted, "rpn"))


def test_proposals_that_do_not_fit_are_refused(whole: Path, data: Path, tmp_path: Path) -> None:
    file = whole / "rpn" / "proposals.safetensors"
    with pytest.raises(ConfigError, match=r"model\.anchors\.ratios: \[0\.5, 1\.0, 2\.0\] there, \[0\.5, 1\.0, 2\.5\]"):
        run(data, tmp_path / "a", "model.anchors.ratios=[0.5,1,2.5]", stages=("heads",), proposals=file)
    with pytest.raises(ConfigError, match="does not exist: train the stage rpn first"):
        run(data, tmp_path / "b", stages=("heads",))
    more = tmp_path / "more"
    write_coco(more, {f"{i}.png": TWO_APART for i in range(6)})
    with pytest.raises(DataError, match=r"no proposals for \d of 5 images"):  # one is held out
        run(more, tmp_path / "c", stages=("heads",), proposals=file)
    other = tmp_path / "other"
    write_coco(other, {"w.png": TWO_APART, "x.png": NONE, "y.png": SMALL, "z.png": TWO_APART})
    write_coco(other, {"v.png": TWO_APART}, "val.json")
    with pytest.raises(DataError, match=r"proposals\.safetensors was made for other images .* image 1 is a\.png"):
        run(other, tmp_path / "d", stages=("heads",), proposals=file)
    assert not list(tmp_path.glob("*/heads"))  # free for the right file


def test_other_proposals_or_another_kind_of_training_is_another_run(whole: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage: 'stages' there, None here"):
        run(data, whole, stages=())
    file = tmp_path / "p.safetensors"
    propose(whole / "model.safetensors", data, file, workers=0, precision="fp32")
    with pytest.raises(ConfigError, match="proposals: "):
        run(data, whole, stages=("heads",), proposals=file)


def work_stages(ranks: Ranks, folder: Path) -> None:
    for epochs in (1, 2):
        run(folder / "data", folder / "two", epochs=epochs, device="cpu")


def test_two_processes_share_the_work_of_both_stages(data: Path, tmp_path: Path) -> None:
    """The RPN learns as in one process with the images of both; the proposals of all images come together.

    The second epoch is the heads' alone, as they have begun.
    """
    (tmp_path / "data").symlink_to(data, target_is_directory=True)
    assert two_ranks(work_stages, tmp_path) == [0, 0]
    assert [steps_in(tmp_path / "two" / stage) for stage in BOTH] == [1, 2]
    run(data, tmp_path / "one", "train.batch=4", epochs=1, stages=("rpn",))
    one, two = (load_checkpoint(tmp_path / name / "rpn" / "model.safetensors").state for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)
    assert sorted(read_proposals(tmp_path / "two" / "rpn" / "proposals.safetensors").boxes) == [1, 2, 3, 4]
    whole = load_checkpoint(tmp_path / "two" / "model.safetensors").state
    assert all(tensor.isfinite().all() for tensor in whole.values())


def test_stages_have_names_and_an_order() -> None:
    assert check_stages(None, None) == check_stages((), None) == ()
    assert check_stages((), "p") == ("heads",)
    assert check_stages("rpn,heads", None) == BOTH
    assert check_stages(["rpn", "heads"], None) == BOTH
    for wrong in (["heads", "rpn"], ["rnp"], ["rpn", "rpn"]):
        with pytest.raises(ConfigError, match="the stages are"):
            check_stages(wrong, None)
    with pytest.raises(ConfigError, match="leave out the stage rpn"):
        check_stages(["rpn", "heads"], "p")


def test_both_networks_start_from_the_weights_given(whole: Path, data: Path, tmp_path: Path) -> None:
    """A checkpoint of shared features gives its backbone to both."""
    start = train_small(data, tmp_path / "shared", epochs=0.5)
    shared = load_checkpoint(start).state
    run(data, tmp_path / "run", "train.lr=0", model=None, weights=start, epochs=1)
    state = load_checkpoint(tmp_path / "run" / "model.safetensors").state
    for name, tensor in part_of(shared, "backbone", "neck").items():
        assert torch.equal(state[name], tensor), name
        assert torch.equal(state[f"rpn.features.{name}"], tensor), name
    for name, tensor in part_of(shared, "rpn", "box_head", "mask_head").items():
        assert torch.equal(state[name], tensor), name
