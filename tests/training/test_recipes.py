"""What is chosen for the user: answers of an expert for two real data sets, and what holds for any data."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskrcnn.config import Config, flat, preset, to_dict
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.statistics import Quantiles, Statistics, measure
from maskrcnn.errors import ConfigError
from maskrcnn.training import recipes, run
from maskrcnn.training.recipes import Asked, Machine, choose, name_recipe, weights_of
from maskrcnn.training.run import claim_folder
from tests.scenes import NONE, SMALL, TWO_APART, write_coco
from tests.training.small import make_run, train_small

TWO_CORES, GPU = Machine(gpu=False, cores=2), Machine(gpu=True, cores=16)
# Of 400 microscopy images of nuclei, and of 120 photographs of pedestrians.
NUCLEI = Statistics(
    images=400, objects=17254, most=313, short_side=256, side=256, elongation=1.34, mean_area=157302,
    sizes=Quantiles(7.3, 8.9, 12.4, 20.0, 28.4, 51.0, 62.5),
    shares=Quantiles(0.0186, 0.0234, 0.0389, 0.0537, 0.0731, 0.138, 0.184),
    ratios=Quantiles(0.51, 0.62, 0.8, 1.0, 1.22, 1.88, 3.22),
    upright_by_pixels=0.297, upright_by_boxes=0.53, judged=(128, 400),
)  # fmt: skip
PEOPLE = Statistics(
    images=120, objects=292, most=8, short_side=380, side=435.6, elongation=1.71, mean_area=196871,
    sizes=Quantiles(58.5, 98.0, 144, 168, 186, 215, 230),
    shares=Quantiles(0.155, 0.246, 0.326, 0.425, 0.491, 0.601, 0.684),
    ratios=Quantiles(1.81, 1.97, 2.37, 2.78, 3.11, 3.81, 4.97),
    upright_by_pixels=0.667, upright_by_boxes=1.0, judged=(120, 120),
)  # fmt: skip
# What was set by hand before there were recipes, and reached mask AP 0.51 and 0.47 in an hour and half an hour.
BY_HAND = {
    "train.optimizer": "adamw",
    "train.lr": 0.006,
    "train.weight_decay": 0.05,
    "train.schedule": "cosine",
    "train.ema": 0.995,
    "train.batch": 4,
    "train.workers": 0,
    "model.backbone.norm": "bn",
    "model.backbone.freeze_at": 0,
    "model.fpn.norm": "bn",
    "model.mask_head.norm": "bn",
    "model.rpn.pre_nms_train": 1000,
}
NUCLEI_BY_HAND = BY_HAND | {
    "train.epochs": 16,
    "model.input.min_size": 0,
    "model.input.zoom": 2,
    "model.input.max_size": 4096,
    "model.anchors.sizes": [[10], [20], [40], [80], [160]],
    "model.anchors.ratios": [0.5, 1, 2],
    "model.rpn.post_nms_train": 500,
    "model.box_head.samples": 96,
    "model.box_head.max_detections": 500,
    "train.augment.crop": 320,
    "train.augment.scale": [0.7, 1.4],
    "train.augment.vertical_flip": 0.5,
    "train.augment.rotate90": True,
    "train.augment.brightness": 0.2,
    "train.augment.contrast": 0.2,
    "train.augment.saturation": 0,
}
PEOPLE_BY_HAND = BY_HAND | {
    "train.epochs": 32,
    "model.input.min_size": 256,
    "model.input.max_size": 512,
    "model.anchors.sizes": [[16], [32], [64], [128], [256]],
    "model.anchors.ratios": [1, 2, 3],
    "model.rpn.post_nms_train": 300,
    "model.box_head.samples": 64,
    "model.box_head.smooth_l1_beta": 0.1,
    "train.augment.crop": 288,
    "train.augment.scale": [0.8, 1.3],
    "train.augment.vertical_flip": 0,
    "train.augment.rotate90": False,
    "train.augment.brightness": 0.3,
    "train.augment.contrast": 0.3,
    "train.augment.saturation": 0.3,
}


def chosen(
    seen: Statistics, *asked: str, recipe: str = "scratch", machine: Machine = TWO_CORES, weights: Any = "none", **words
) -> tuple[dict[str, Any], list[str]]:
    """The settings by name, and what is printed."""
    base = Config(model=preset(words.pop("model", "R-18-FPN")))
    config, lines = choose(recipe, seen, base, Asked(settings=asked, **words), machine, weights)
    return flat(to_dict(config)), lines


@pytest.mark.parametrize(("seen", "by_hand"), [(NUCLEI, NUCLEI_BY_HAND), (PEOPLE, PEOPLE_BY_HAND)])
def test_the_rules_come_to_what_was_set_by_hand(seen: Statistics, by_hand: dict[str, Any]) -> None:
    found, _ = chosen(seen)
    assert {name: found[name] for name in by_hand} == by_hand


def test_every_choice_is_a_line_with_what_set_takes() -> None:
    found, lines = chosen(NUCLEI)
    words = [word for line in lines for word in line.partition(": ")[2].partition(" (")[0].split()]
    assert {"train.augment.crop=320", "train.optimizer=adamw", "model.anchors.sizes=[[10],[20],[40],[80],[160]]"} <= {
        *words
    }
    again, _ = chosen(NUCLEI, *words, recipe="paper")  # they are all that the recipe did
    assert {name for name, value in again.items() if found[name] != value} <= {"train.milestones"}  # not of a cosine
    assert all("(" in line and line.endswith(")") for line in lines)


def test_the_user_wins_and_the_other_choices_follow() -> None:
    found, lines = chosen(NUCLEI, "model.input.zoom=4", "train.batch=2", "train.augment.crop=256")
    assert found["model.input.zoom"] == 4
    assert found["model.anchors.sizes"] == [[20], [40], [80], [160], [320]]  # the objects are twice as large
    assert found["model.backbone.norm"] == found["model.fpn.norm"] == "gn"
    assert found["train.augment.crop"] == 256
    assert not any("zoom=" in line or "train.batch=" in line or "crop=" in line for line in lines)


def test_a_file_and_a_schedule_win_too() -> None:
    found, lines = chosen(PEOPLE, file={"train": {"lr": 0.5, "epochs": 3}, "model": {"rpn": {"samples": 7}}})
    assert (found["train.lr"], found["train.epochs"], found["model.rpn.samples"]) == (0.5, 3, 7)
    assert found["train.optimizer"] == "adamw"
    assert not any("train.lr" in line or "train.epochs" in line for line in lines)
    found, lines = chosen(PEOPLE, "train.epochs=9", schedule="3x", file={"train": {"epochs": 3}})
    assert (found["train.schedule"], found["train.epochs"]) == ("step", 9)
    assert found["train.milestones"] == pytest.approx([7 / 9, 25 / 27])


def test_weights_keep_their_anchors_and_get_images_in_which_these_find_the_objects() -> None:
    found, _ = chosen(PEOPLE, recipe="finetune", weights="model", model="R-50-FPN")
    assert found["model.anchors.sizes"] == [[32], [64], [128], [256], [512]]
    assert found["train.optimizer"] == "sgd"
    assert (found["model.backbone.norm"], found["model.backbone.freeze_at"]) == ("frozen_bn", 2)
    assert 448 <= found["model.input.min_size"] < 800
    found, _ = chosen(NUCLEI, recipe="finetune", weights="model", model="R-50-FPN")
    assert found["model.input.zoom"] * NUCLEI.sizes.q10 > 32 / 2**0.5
    backbone, _ = chosen(PEOPLE, recipe="finetune", weights="backbone", model="R-50-FPN")
    assert backbone["model.anchors.ratios"] == [1, 2, 3]  # nothing has learned other ones
    model, _ = chosen(PEOPLE, recipe="finetune", weights="model")
    assert backbone["train.epochs"] == pytest.approx(2 * model["train.epochs"], abs=1)


@pytest.mark.parametrize(("recipe", "weights"), [("scratch", "none"), ("finetune", "model")])
def test_small_objects_in_large_images_are_not_shrunk_away(recipe: str, weights: Any) -> None:
    """Three slides of 8000 x 8000 with nuclei: too few to say whether up matters."""
    slides = replace(
        NUCLEI, images=3, short_side=8000, side=8000, elongation=1, mean_area=64e6, upright_by_pixels=None,
        shares=Quantiles(*(size / 8000 for size in NUCLEI.sizes)), most=9000, judged=(2, 3),
    )  # fmt: skip
    found, _ = chosen(slides, recipe=recipe, weights=weights)
    assert found["model.input.min_size"] == 0
    assert found["model.input.zoom"] >= 2
    assert found["train.augment.crop"] == 320
    assert not found["train.augment.rotate90"]


def test_the_paper_is_left_as_it_is() -> None:
    found, _ = chosen(NUCLEI, recipe="paper", model="R-50-FPN")
    expected = flat(to_dict(Config(model=preset("R-50-FPN"))))
    changed = {name for name, value in found.items() if value != expected[name]}
    assert changed == {
        "model.backbone.norm", "model.backbone.freeze_at", "model.box_head.max_detections", "model.rpn.post_nms_train",
        "model.rpn.post_nms_test", "model.rpn.pre_nms_test", "train.epochs", "train.milestones",
    }  # fmt: skip
    assert found["train.milestones"] == [0.75]  # 120k of 160k steps


def test_recipes_by_name_and_by_the_weights() -> None:
    assert [name_recipe(None, kind)[0] for kind in ("none", "backbone", "model")] == ["scratch", "finetune", "finetune"]
    assert name_recipe("paper", "none") == ("paper", "as asked")
    assert "--weights" in name_recipe("auto", "none")[1]
    assert name_recipe(None, "none", staged=True)[0] == "paper"
    with pytest.raises(ConfigError, match=r"no recipe 'best'.*scratch, finetune, paper"):
        name_recipe("best", "none")
    assert [weights_of(state) for state in (None, {"rpn.a": 0}, {"backbone.a": 0})] == ["none", "model", "backbone"]


def quantiles(low: float, high: float) -> st.SearchStrategy[Quantiles]:
    count = len(Quantiles._fields)
    return st.lists(st.floats(low, high), min_size=count, max_size=count).map(lambda found: Quantiles(*sorted(found)))


@st.composite
def any_statistics(draw: st.DrawFn) -> Statistics:
    images = draw(st.integers(1, 200_000))
    short, elongation = draw(st.floats(1, 50_000)), draw(st.floats(1, 100))
    sizes = draw(quantiles(0.5, 20_000))
    return Statistics(
        images=images,
        objects=draw(st.integers(0, 100 * images)),
        most=draw(st.integers(0, 20_000)),
        short_side=short,
        side=short * elongation**0.5,
        elongation=elongation,
        mean_area=short**2 * elongation,
        sizes=sizes,
        shares=Quantiles(*(size / short for size in sizes)),
        ratios=draw(quantiles(1e-3, 1e3)),
        upright_by_pixels=draw(st.none() | st.floats(0, 1)),
        upright_by_boxes=draw(st.none() | st.floats(0, 1)),
        judged=(draw(st.integers(24, 128)), images),
    )


@settings(max_examples=25)
@given(any_statistics(), st.sampled_from([TWO_CORES, GPU]), st.sampled_from(["none", "backbone", "model"]))
def test_any_data_gets_settings_that_hold_together(seen: Statistics, machine: Machine, weights: Any) -> None:
    recipe = name_recipe(None, weights)[0]
    found, lines = chosen(seen, recipe=recipe, machine=machine, weights=weights, model="R-50-FPN")
    assert found["train.augment.crop"] % 32 == 0
    sizes = [size for level in found["model.anchors.sizes"] for size in level]
    assert sizes == sorted(sizes)
    assert len(sizes) == 5
    assert len(found["model.anchors.ratios"]) == 3
    assert found["model.box_head.max_detections"] >= seen.most
    assert found["model.rpn.post_nms_test"] >= found["model.box_head.max_detections"]
    assert 1 <= found["train.epochs"] <= 500
    assert found["model.input.max_size"] >= found["model.input.min_size"]
    assert found["train.augment.rotate90"] == (not seen.up_matters)
    assert len({line.partition(":")[0] for line in lines}) == len(lines)


def test_more_images_get_more_steps_but_fewer_epochs() -> None:
    epochs = [chosen(replace(NUCLEI, images=images))[0]["train.epochs"] for images in (30, 120, 400, 1000)]
    assert epochs == sorted(epochs, reverse=True)
    steps = [images * passes for images, passes in zip((30, 120, 400, 1000), epochs, strict=True)]
    assert steps == sorted(steps)


def test_one_level_of_anchors_stays_one() -> None:
    found, _ = chosen(NUCLEI, model="R-50-C4")
    assert found["model.anchors.sizes"] == [[10, 20, 40, 80, 160]]
    assert found["model.fpn.norm"] == "none"


# --- what is measured ------------------------------------------------------------------------------------------------


def write_images(folder: Path, count: int, *, sky: bool, tall: bool, size: tuple[int, int] = (40, 40)) -> Path:
    """Noise, each image in all four directions, or with a bright upper half; boxes of 8 x 16, upright or in turn."""
    rng, rows, images = np.random.default_rng(3), [], []
    noise = rng.integers(0, 120, (-(-count // 4), *size, 3), dtype=np.uint8)
    for i in range(count):
        pixels = noise[i // 4] if size[0] != size[1] else np.rot90(noise[i // 4], i % 4).copy()
        if sky:
            pixels[: size[0] // 2] += 100
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]})
        w, h = (8, 16) if tall or i % 2 else (16, 8)
        rows.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": [4, 5, w, h]})
    rows.append({"id": count + 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 40, 40], "iscrowd": 1})
    path = folder / "train.json"
    content = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("sky", "tall", "matters"), [(False, False, False), (True, False, True), (False, True, True), (True, True, True)]
)
def test_up_matters_if_pixels_or_boxes_say_so(tmp_path: Path, sky: bool, tall: bool, matters: bool) -> None:
    seen = measure(read_dataset(write_images(tmp_path, 60, sky=sky, tall=tall)))
    assert seen.up_matters == matters
    assert seen.judged == (60, 60)
    if sky:
        assert seen.upright_by_pixels == 1.0
    if tall:
        assert seen.upright_by_boxes == 1.0


def test_sizes_are_those_of_the_boxes_without_crowds(tmp_path: Path) -> None:
    seen = measure(read_dataset(write_images(tmp_path, 30, sky=False, tall=True, size=(40, 80))))
    assert (seen.images, seen.objects, seen.most) == (30, 30, 2)
    assert (seen.short_side, seen.elongation, seen.mean_area) == (40, 2, 3200)
    assert seen.sizes == pytest.approx([128**0.5] * 7)
    assert seen.shares == pytest.approx([128**0.5 / 40] * 7)
    assert seen.ratios == pytest.approx([2] * 7)


def test_too_few_images_that_can_be_read_are_never_turned(tmp_path: Path) -> None:
    path = write_images(tmp_path, 30, sky=False, tall=False)
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    seen = measure(read_dataset(path))
    assert seen.judged == (20, 30)
    assert seen.upright_by_pixels is None
    assert seen.up_matters


# --- in a run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_coco(tmp_path, {"a.png": TWO_APART, "b.png": NONE, "c.png": SMALL})
    write_coco(tmp_path, {"d.png": TWO_APART}, "val.json")
    return tmp_path


def test_without_a_word_the_recipe_chooses_the_model_too(data: Path) -> None:
    made, said = make_run(data, model=None, recipe=None)
    assert made.config.model.name == "R-18-FPN"
    assert made.config.train.optimizer == "adamw"
    assert any(line.startswith("recipe: scratch") and "--weights" in line for line in said)
    assert any("--model R-18-FPN" in line for line in said)
    made, said = make_run(data, "train.lr=0.01", recipe="paper")
    assert (made.config.train.optimizer, made.config.train.lr) == ("sgd", 0.01)
    assert "recipe: paper, as asked" in said


def test_a_run_that_goes_on_chooses_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = make_run(data, "train.lr=0.1", model=None, recipe=None)
    claim_folder(first)
    rules = {name: (lambda now: recipes.Choice("a", {"train.batch": 3}, "b"),) for name in recipes.RULES}
    monkeypatch.setattr(recipes, "RULES", rules)
    monkeypatch.setattr(run, "measure", lambda *_, **__: pytest.fail("the data set is measured again"))
    monkeypatch.setattr(run, "cores", lambda: 64)
    again, said = make_run(data, "train.lr=0.1", "train.patience=7", model=None, recipe=None)
    assert again.config == replace(first.config, train=replace(first.config.train, patience=7))
    assert claim_folder(again)
    assert any("config.toml" in line for line in said)


def test_what_is_no_longer_asked_for_is_a_difference(data: Path) -> None:
    claim_folder(make_run(data, "train.lr=0.1", "train.epochs=5", recipe="scratch")[0])
    with pytest.raises(ConfigError, match=r"train\.lr: set to 0\.1 there, not set here"):
        claim_folder(make_run(data)[0])
    with pytest.raises(ConfigError, match="recipe: scratch there, paper here"):
        claim_folder(make_run(data, "train.lr=0.1", recipe="paper")[0])
    with pytest.raises(ConfigError, match="a run of R-18-FPN-tiny, not of R-50-FPN"):
        make_run(data, "train.lr=0.1", model="R-50-FPN", recipe="scratch")
    again, _ = make_run(data, "train.lr=0.1", recipe="scratch")
    assert again.config.train.epochs == 5
    assert claim_folder(again)


def test_the_recipe_trains_and_resumes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train.augment.crop=64", "train.batch=1")
    final = train_small(data, data / "run", *words, recipe="scratch", epochs=1)
    steps = [json.loads(line) for line in (final.parent / "log.jsonl").read_text().splitlines()]
    assert max(record["step"] for record in steps) == 3
    monkeypatch.setattr(recipes, "RULES", dict.fromkeys(recipes.RULES, ()))
    assert train_small(data, data / "run", *words, recipe="scratch", epochs=2) == final
