"""What is measured of the pixels of a data set before a training: channels, range, mean and deviation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskrcnn.config import read_toml
from maskrcnn.data import pixels
from maskrcnn.data.check import unreadable_images
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.pixels import measure_pixels, survey
from maskrcnn.errors import ConfigError
from maskrcnn.images import read_image
from maskrcnn.training.recipes import preview
from maskrcnn.training.run import claim_folder
from maskrcnn.training.task import build_model
from tests.training.small import make_run


def write_set(folder: Path, arrays: list[np.ndarray], empty: int = 0) -> Path:
    """Images as PNG if they are RGB or grey of 8 bits, else as .npy; each has one object but for the last `empty`."""
    images, annotations = [], []
    for i, array in enumerate(arrays, start=1):
        plain = array.dtype == np.uint8 and array.shape[2:] in ((3,), ())
        name = f"{i}.png" if plain else f"{i}.npy"
        Image.fromarray(array).save(folder / name) if plain else np.save(folder / name, array)
        images.append({"id": i, "file_name": name, "height": array.shape[0], "width": array.shape[1]})
        if i <= len(arrays) - empty:
            square = [[2, 2, 12, 2, 12, 14, 2, 14]]
            annotations.append({"id": i, "image_id": i, "category_id": 1, "segmentation": square})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    return path


def read(path: Path) -> Dataset:
    return read_dataset(path)


def grey(rng: np.random.Generator, low: int, high: int, dtype: type = np.uint16) -> np.ndarray:
    return rng.integers(low, high, (40, 60)).astype(dtype)


@pytest.mark.parametrize(
    ("shapes", "channels"),
    [
        ([(), (3,), ()], 3),
        ([(5,)] * 3, 5),
        ([(2,)] * 3, 2),
        ([(4,)] * 3, 4),
        ([(5,), (5,), (3,)], 5),
        ([(3,), (5,), ()], 3),
    ],
)
def test_most_images_say_how_many_channels_there_are(shapes, channels: int, tmp_path, rng) -> None:
    arrays = [rng.integers(0, 256, (20, 20, *shape), dtype=np.uint8) for shape in shapes]
    found = survey(read(write_set(tmp_path, arrays)))
    assert (found.channels, found.deep, found.types) == (channels, False, "uint8")


def test_the_range_is_that_of_all_images_together(tmp_path, rng) -> None:
    arrays = [grey(rng, 200, 200 + 100 * i) for i in range(5, 11)]
    measured = measure_pixels(read(write_set(tmp_path, arrays)), 3)
    pooled = np.stack(arrays)
    expected = np.percentile(pooled, 0.1, method="higher"), np.percentile(pooled, 99.9, method="lower")
    assert measured.range == (expected,) * 3
    scaled = (pooled.clip(*expected) - expected[0]) / (expected[1] - expected[0]) * 255
    np.testing.assert_allclose(measured.mean, [scaled.mean()] * 3, atol=0.6)
    np.testing.assert_allclose(measured.std, [scaled.std()] * 3, atol=0.6)
    assert measured.images == 6


def test_each_channel_is_measured(tmp_path, rng) -> None:
    arrays = [np.stack([grey(rng, 0, 100), grey(rng, 1000, 5000)], axis=2) for _ in range(3)]
    (low0, high0), (low1, high1) = measure_pixels(read(write_set(tmp_path, arrays)), 2).range
    assert (low0, low1) == (0, pytest.approx(1005, abs=5))
    assert (high0, high1) == (99, pytest.approx(4995, abs=6))


def test_very_different_exposures_have_no_range_in_common(tmp_path, rng) -> None:
    arrays = [grey(rng, 0, 4000) if i % 2 else grey(rng, 0, 60000) for i in range(6)]
    assert measure_pixels(read(write_set(tmp_path, arrays)), 3).range == ()
    arrays = [grey(rng, 0, 60000)] * 3 + [grey(rng, 0, 1000).astype(np.float64) / 1000] * 3
    assert measure_pixels(read(write_set(tmp_path, arrays)), 3).range == ()


def test_dark_images_without_objects_do_not_count_as_other_exposures(tmp_path, rng, monkeypatch) -> None:
    monkeypatch.setattr(pixels, "_IMAGES", 4)
    arrays = [grey(rng, 100, 9000) for _ in range(4)] + [grey(rng, 100, 120) for _ in range(4)]
    assert len(measure_pixels(read(write_set(tmp_path, arrays, empty=4)), 3).range) == 3


def test_8_bit_images_of_a_mixed_set_do_not_move_the_range(tmp_path, rng) -> None:
    deep, shallow = [grey(rng, 1000, 3000) for _ in range(3)], [grey(rng, 0, 256, np.uint8) for _ in range(3)]
    dataset = read(write_set(tmp_path, deep + shallow))
    assert survey(dataset).types == "uint16 and uint8"
    ((low, high), *_) = measure_pixels(dataset, 3).range
    assert 1000 <= low < high < 3000


def test_images_that_cannot_be_read_are_passed_over(tmp_path, rng) -> None:
    path = write_set(tmp_path, [grey(rng, 0, 900) for _ in range(3)])
    (tmp_path / "1.npy").write_bytes(b"nothing")
    dataset = read(path)
    assert measure_pixels(dataset, 3).images == 2
    for name in ("2.npy", "3.npy"):
        (tmp_path / name).write_bytes(b"nothing")
    assert measure_pixels(dataset, 3) is None
    assert survey(dataset) == (3, False, "uint8")


def test_a_set_without_objects_and_any_seed_is_measured(tmp_path, rng) -> None:
    dataset = read(write_set(tmp_path, [grey(rng, 0, 900) for _ in range(3)], empty=3))
    assert measure_pixels(dataset, 3, seed=-1).images == 3


# --- the settings of a run -------------------------------------------------------------------------------------------


def test_8_bit_rgb_and_grey_keep_the_usual_mean(tmp_path, rng) -> None:
    write_set(tmp_path, [rng.integers(0, 256, (20, 20, 3), dtype=np.uint8), grey(rng, 0, 256, np.uint8)])
    run, said = make_run(tmp_path)
    image = run.config.model.input
    assert (image.channels, image.mean, image.range) == (3, (123.675, 116.28, 103.53), ())
    assert not any(line.startswith("pixels") for line in said)


def test_a_resume_measures_nothing(tmp_path, rng, monkeypatch) -> None:
    write_set(tmp_path, [rng.integers(0, 5000, (20, 20, 5), dtype=np.uint16) for _ in range(3)])
    run, said = make_run(tmp_path)
    image = run.config.model.input
    assert image.channels == len(image.mean) == len(image.std) == len(image.range) == 5
    assert any(line.startswith("pixels: uint16, 5 channels; values from ") for line in said)
    model: Any = build_model(run)
    assert model.backbone.stem.conv.weight.shape[1] == 5
    claim_folder(run)
    assert read_toml(run.out / "config.toml") == run.config
    monkeypatch.setattr("maskrcnn.training.pixels.measure_pixels", None)
    monkeypatch.setattr("maskrcnn.training.pixels.survey", None)
    again, _ = make_run(tmp_path)
    assert again.config == run.config
    assert claim_folder(again)


def test_what_the_user_says_wins_over_what_is_measured(tmp_path, rng) -> None:
    write_set(tmp_path, [grey(rng, 0, 900) for _ in range(3)])
    run, _ = make_run(tmp_path, "model.input.range=[[0,4095],[0,4095],[0,4095]]", "model.input.mean=[1,2,3]")
    image = run.config.model.input
    assert (image.range, image.mean) == (((0, 4095),) * 3, (1, 2, 3))
    one, _ = make_run(tmp_path, "model.input.channels=1")
    assert (one.config.model.input.channels, len(one.config.model.input.mean)) == (1, 1)
    wrong, _ = make_run(tmp_path, "model.input.range=[[5,5],[0,1],[0,1]]")
    with pytest.raises(ConfigError, match=r"model\.input\.range must be empty or have a pair .* 3 channels"):
        build_model(wrong)


def test_training_sees_what_prediction_sees(tmp_path, rng) -> None:
    arrays = [grey(rng, 100, 2000) for _ in range(3)]
    path = write_set(tmp_path, arrays)
    run, _ = make_run(tmp_path, "model.input.min_size=0", "model.input.max_size=2000")
    from maskrcnn.data.loader import EvalLoader

    (batch,) = EvalLoader(read(path), run.config.model, batch=3)
    expected = read_image(arrays[0], ranges=run.config.model.input.range)
    np.testing.assert_array_equal(batch.images.pixels[0, :, :40, :60].permute(1, 2, 0).numpy(), expected)


def test_a_check_sees_what_training_would(tmp_path, rng) -> None:
    dataset = read(write_set(tmp_path, [rng.integers(0, 5000, (20, 20, 5), dtype=np.uint16) for _ in range(3)]))
    config, lines = preview(dataset, (), model="R-18-FPN-tiny", gpu=False)
    assert (config.model.input.channels, len(config.model.input.range)) == (5, 5)
    assert any(line.startswith("pixels: uint16, 5 channels; ") for line in lines)
    assert unreadable_images(dataset, config.model.input.channels) == []
