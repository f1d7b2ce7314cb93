"""What a run is before its first step: defaults, slots, categories, and whose the folder is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskrcnn.config import preset
from maskrcnn.errors import ConfigError, DataError
from maskrcnn.training.distributed import Ranks, join_ranks
from maskrcnn.training.run import claim_folder, resolve_precision
from maskrcnn.training.task import Task, build_model
from maskrcnn.weights.checkpoint import Checkpoint, save_checkpoint
from maskrcnn.weights.interop.profiles import with_profile
from tests.scenes import NONE, SMALL, TWO_APART, Scene, Thing, write_coco
from tests.training.small import make_run

MANY = Scene((64, 64), tuple(Thing("brick", (x, y, x + 3, y + 3)) for x in range(0, 60, 4) for y in range(0, 60, 4)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path, {"a.png": TWO_APART, "b.png": NONE, "c.png": SMALL})
    write_coco(tmp_path, {"d.png": TWO_APART}, "val.json")
    return tmp_path


def test_from_scratch_nothing_is_frozen_and_norms_are_live(data: Path) -> None:
    for batch, norm in ((4, "bn"), (3, "gn")):
        made, _ = make_run(data, f"train.batch={batch}")
        assert (made.config.model.backbone.norm, made.config.model.backbone.freeze_at) == (norm, 0)


def test_what_was_dropped_is_listed_below_its_file(data: Path) -> None:
    for name, bad in (("train.json", 5), ("val.json", 1)):
        content = json.loads((data / name).read_text())
        content["annotations"] += [
            {"id": 100 + i, "image_id": 1, "category_id": 3, "bbox": [1, 1, -5, 5]} for i in range(bad)
        ]
        (data / name).write_text(json.dumps(content))
    _, said = make_run(data)
    train = said.index("  dropped      5")
    assert said[train - 1].startswith("train: 3 images")
    assert said[train + 2].strip().startswith("train.json, image 1, annotation 100:")
    assert said[train + 5].strip() == "... and 2 more"
    assert said[train + 6].startswith("val: 1 images")
    assert said[train + 7] == "  dropped      1"


def test_what_the_user_sets_wins_over_every_default(data: Path) -> None:
    made, _ = make_run(
        data,
        "model.backbone.norm=frozen_bn",
        "model.box_head.max_detections=7",
        "train.epochs=3",
        "model.mask_head.enabled=false",
    )
    assert made.config.model.backbone.norm == "frozen_bn"
    assert made.config.model.box_head.max_detections == 7
    assert made.config.train.epochs == 3.0
    assert not made.config.model.mask_head.enabled


def test_classes_and_slots_follow_the_data(data: Path) -> None:
    made, said = make_run(data)
    assert made.config.model.classes == 3
    assert made.config.model.box_head.max_detections == 100
    assert made.config.model.rpn.post_nms_train == made.config.model.rpn.post_nms_test == 300
    assert any("at most 2 objects" in line and "100 detections" in line for line in said)
    write_coco(data, {"m.png": MANY, "c.png": SMALL})  # 225 objects: 337.5 goes up to 400
    made, _ = make_run(data)
    assert made.config.model.box_head.max_detections == 400
    assert made.config.model.rpn.post_nms_test == 1200


def test_keypoints_follow_the_data(data: Path) -> None:
    enabled = "model.keypoint_head.enabled=true"
    with pytest.raises(DataError, match=r"train\.json: no category has keypoints"):
        make_run(data, enabled)
    keypoints = {"wave": ["head", "left_end", "right_end"], "leaf": ["stalk"]}
    for path in (data / "train.json", data / "val.json"):
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category |= {"keypoints": keypoints.get(category["name"], [])}
            for annotation in content["annotations"]:
                if annotation["category_id"] == category["id"]:
                    annotation["keypoints"] = [3, 4, 2] * len(category["keypoints"])
        path.write_text(json.dumps(content))
    made, said = make_run(data, enabled)
    assert made.config.model.keypoint_head.num_keypoints == made.train_data.num_keypoints == 4
    assert "keypoints of wave: 3, a mirror swaps 1 pairs, sigma 0.05 to 0.05" in said
    without, said = make_run(data)
    assert not without.config.model.keypoint_head.enabled
    assert without.train_data.num_keypoints == 0
    assert not any(line.startswith("keypoints") for line in said)


@pytest.mark.parametrize(("profile", "expected"), [("detectron", 60), ("torchvision", 61), ("ours", 60.5)])
def test_a_mirror_moves_keypoints_as_the_profile_does(data: Path, profile: str, expected: float) -> None:
    """Keypoints at column 3 of 64."""
    content = json.loads((data / "train.json").read_text())
    content["categories"] = [category | {"keypoints": ["top"]} for category in content["categories"]]
    content["annotations"] = [row | {"keypoints": [3, 4, 2]} for row in content["annotations"] if row["image_id"] == 1]
    (data / "train.json").write_text(json.dumps(content))
    mirror = ("train.augment.horizontal_flip=1", "train.batch=1", "model.input.min_size=0", "model.input.zoom=2")
    val = str(data / "train.json")
    made, _ = make_run(data, *mirror, "model.keypoint_head.enabled=true", val=val)
    made = replace(made, config=replace(made.config, model=with_profile(made.config.model, profile)))
    keypoints = [gt.keypoints[gt.valid] for (_, gt), _ in Task(made, build_model(made)).batches(0)]
    assert {float(x) for found in keypoints for x in found[:, :, 0].sum(1)} == {2 * expected}


def test_the_rate_is_printed_for_the_images_of_a_step(data: Path) -> None:
    _, said = make_run(data, "train.lr=0.02", "train.batch=2", "train.accumulate=2")
    assert any("4 images a step (2 x 2 x 1)" in line and line.endswith("per 16 images: 0.005") for line in said)


def test_a_schedule_gives_way_to_what_is_asked_for_by_name(data: Path) -> None:
    made, said = make_run(data, "train.epochs=5", schedule="3x")
    assert made.config.train.epochs == 5
    assert made.config.train.milestones == pytest.approx((7 / 9, 25 / 27))
    assert any(line == "schedule: step, 5 epochs, 8 steps; the rate drops after 7 and 8" for line in said)
    with pytest.raises(ConfigError, match="no schedule '9x'"):
        make_run(data, schedule="9x")


def test_one_json_holds_out_a_tenth_and_lists_it(tmp_path: Path) -> None:
    json_path = write_coco(tmp_path, {f"{i}.png": TWO_APART for i in range(20)})
    made, _ = make_run(json_path, out=tmp_path / "run")
    assert made.val_data is not None
    assert (len(made.train_data), len(made.val_data)) == (18, 2)
    assert not {*made.train_data.image_ids.tolist()} & {*made.val_data.image_ids.tolist()}
    claim_folder(made)
    listed = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert [row["id"] for row in listed["val"]] == made.val_data.image_ids.tolist()
    assert [row["id"] for row in listed["train"]] == made.train_data.image_ids.tolist()
    assert listed["fractions"] == [0.9, 0.1]


def test_groups_stay_together_and_test_is_not_read(tmp_path: Path) -> None:
    json_path = write_coco(tmp_path, {f"{slide}_{i}.png": TWO_APART for slide in "abcdef" for i in range(4)})
    made, said = make_run(json_path, out=tmp_path / "run", split="0.6,0.2,0.2", group_by=r"(.)_\d")
    assert made.val_data is not None
    slides = [{data.name(i)[0] for i in range(len(data))} for data in (made.train_data, made.val_data)]
    assert not slides[0] & slides[1]
    claim_folder(made)
    listed = json.loads((tmp_path / "run" / "held_out.json").read_text())
    assert {row["file"][0] for row in listed["test"]} == set("abcdef") - slides[0] - slides[1] != set()
    assert any("divided by groups" in line for line in said)
    other, _ = make_run(json_path, out=tmp_path / "run", split="0.6,0.2,0.2", group_by=r"^.")
    with pytest.raises(ConfigError, match="group_by"):
        claim_folder(other)


def test_data_that_is_divided_is_not_divided_again(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"val\.json is what to evaluate on"):
        make_run(data, split="0.8,0.2")


def test_a_category_that_train_does_not_know_is_an_error_with_both_tables(data: Path) -> None:
    path = data / "val.json"
    path.write_text(path.read_text().replace('"wave"', '"hail"'))
    with pytest.raises(DataError, match=r"hail[\s\S]*wave"):
        make_run(data)


def test_the_same_run_may_change_epochs_and_patience_only(data: Path) -> None:
    first, _ = make_run(data)
    assert not claim_folder(first)
    assert claim_folder(first)
    longer, _ = make_run(data, "train.epochs=99", "train.patience=3")
    assert claim_folder(longer)
    other, _ = make_run(data, "train.lr=0.5", "model.rpn.samples=17")
    with pytest.raises(ConfigError, match=r"model\.rpn\.samples: 256 there, 17 here\n  train\.lr: 0\.02 there, 0\.5"):
        claim_folder(other)


def test_a_run_of_a_release_without_a_setting_had_its_default(data: Path) -> None:
    first, _ = make_run(data)
    claim_folder(first)
    path = first.out / "run.json"
    written = json.loads(path.read_text())
    del written["identity"]["settings"]["model"]["rpn"]["features"], written["identity"]["stage"]
    path.write_text(json.dumps(written))
    assert claim_folder(first)
    with pytest.raises(ConfigError, match="features: 'shared' there, 'own' here"):
        claim_folder(make_run(data, "model.rpn.features=own")[0])


def test_other_data_is_another_run(data: Path) -> None:
    claim_folder(make_run(data)[0])
    write_coco(data, {"a.png": TWO_APART, "b.png": NONE})
    with pytest.raises(ConfigError, match=r"data\.train"):
        claim_folder(make_run(data)[0])


def test_a_run_json_that_cannot_be_read_is_one_sentence(data: Path) -> None:
    made, _ = make_run(data)
    claim_folder(made)
    (made.out / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json"):
        claim_folder(made)


def test_config_toml_makes_the_same_run_again(data: Path) -> None:
    made, _ = make_run(data, "train.lr=0.3", "model.rpn.samples=33")
    claim_folder(made)
    again, _ = make_run(data, config=made.out / "config.toml", model=None)
    assert again.config == made.config


def test_weights_keep_their_switches_and_freeze_norms_and_stem(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, _ = make_run(data, "train.batch=4", "model.rpn.samples=33")
    path = tmp_path / "start.safetensors"
    start = build_model(made)
    save_checkpoint(path, Checkpoint(made.config.model, made.train_data.categories, start.state_dict(), {}))
    write_coco(data, {"a.png": TWO_APART})
    tuned, _ = make_run(data, weights=path, model=None)
    assert tuned.config.model.rpn.samples == 33
    assert (tuned.config.model.backbone.norm, tuned.config.model.backbone.freeze_at) == ("frozen_bn", 2)
    build_model(tuned)
    assert "new" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="is a R-18-FPN-tiny, not a R-50-FPN"):
        make_run(data, weights=path, model="R-50-FPN")


def test_equal_seeds_draw_equal_weights_and_leave_the_global_generator_alone(data: Path) -> None:
    import torch

    before = torch.random.get_rng_state()
    models = [build_model(make_run(data, f"train.seed={seed}")[0]) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    first, same, other = (model.state_dict()[_a_weight(model)] for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def _a_weight(model: Any) -> str:
    return next(name for name, parameter in model.named_parameters() if parameter.ndim == 4)


def test_precision_words() -> None:
    device = Ranks().device
    assert resolve_precision("fp32", device) == "fp32"
    assert resolve_precision("auto", device) in ("fp32", "bf16")
    with pytest.raises(ConfigError, match="GPU"):
        resolve_precision("fp16", device)


def test_presets_are_left_as_they_are(data: Path) -> None:
    before = preset("R-18-FPN-tiny")
    make_run(data)
    assert preset("R-18-FPN-tiny") == before


def test_numbers_and_devices_that_make_no_sense_are_told_at_once(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch must be at least 1"):
        make_run(data, "train.batch=0")
    for device in ("foo", "cuda:99"):
        with pytest.raises(ConfigError, match=f"there is no device '{device}'"), join_ranks(device):
            pass
