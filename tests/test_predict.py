"""`load` and `predict`: order, batches, bad images, memory; an image has the same result alone and in a batch."""

import gc
import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maskrcnn
from maskrcnn.config import TTA
from maskrcnn.errors import CheckpointError, ConfigError, DataError
from maskrcnn.images import read_image
from maskrcnn.model.build import build
from maskrcnn.predict import Predictor, load
from maskrcnn.results import Result
from tests.scenes import NONE, SMALL, TWO_APART, WIDE
from tests.tiny import CATEGORIES, tiny_config, write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("run") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> Predictor:
    return load(checkpoint)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Six files on two canvases, mixed."""
    paths = []
    for i, scene in enumerate((TWO_APART, WIDE, SMALL, NONE, WIDE, TWO_APART)):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(scene.pixels).save(paths[-1])
    return paths


def same(got: Result, want: Result) -> None:
    assert got.size == want.size
    assert got.labels.tolist() == want.labels.tolist()
    np.testing.assert_allclose(got.scores, want.scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(got.boxes, want.boxes, rtol=0, atol=0.01)
    assert got.small_masks is not None
    assert want.small_masks is not None
    np.testing.assert_allclose(got.small_masks, want.small_masks, rtol=0, atol=1e-3)


def test_each_image_has_one_result_in_the_order_of_the_inputs(predictor: Predictor, images: list[Path]) -> None:
    results = list(predictor.predict(images, batch=3))
    assert [result.path for result in results] == images
    assert [result.size for result in results] == [(48, 64), (40, 120), (32, 32), (48, 64), (40, 120), (48, 64)]
    for result in results:
        assert len(result) > 0
        assert set(result.labels.tolist()) <= {3, 7, 20}
        assert (np.diff(result.scores) <= 0).all()
        assert (result.boxes >= 0).all()
        assert (result.boxes <= np.array([*result.size[::-1], *result.size[::-1]])).all()


def test_the_model_is_prepared_once_and_again_after_it_changed(
    checkpoint: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, made = load(checkpoint), []
    prepare = maskrcnn.engine.prepare
    monkeypatch.setattr("maskrcnn.engine.prepare", lambda *a: made.append(a[1]) or prepare(*a))
    first = next(predictor.predict(images[0], precision="fp32"))
    few = next(predictor.predict(images[0], precision="fp32", max_detections=1))
    same(next(predictor.predict(images[0], precision="fp32")), first)
    assert (len(few), made) == (1, ["fp32"])
    with torch.no_grad():
        predictor.model.box_head.class_logits.bias[0] += 1.0  # type: ignore[index, operator]
    changed = next(predictor.predict(images[0], precision="fp32"))
    assert made == ["fp32", "fp32"]
    fresh = Predictor(predictor.model, predictor.categories, predictor.thresholds)
    same(changed, next(fresh.predict(images[0], precision="fp32")))
    assert not np.array_equal(changed.scores, first.scores)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_an_image_has_the_same_result_alone_and_in_a_batch(
    predictor: Predictor, images: list[Path], batch: int
) -> None:
    alone = [next(predictor.predict(path, precision="fp32")) for path in images]
    for got, want in zip(predictor.predict(images, batch=batch, precision="fp32"), alone, strict=True):
        same(got, want)


def test_a_batch_holds_images_of_one_canvas(
    predictor: Predictor, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    detect = maskrcnn.model.mask_rcnn.MaskRCNN.detect

    def watched(self: object, images: Any, *rest: Any) -> object:
        seen.append(tuple(images.pixels.shape))
        return detect(self, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("maskrcnn.model.mask_rcnn.MaskRCNN.detect", watched)
    list(predictor.predict(images, batch=3))
    assert seen == [(3, 3, 64, 64), (2, 3, 64, 128), (1, 3, 32, 32)]


def test_files_arrays_and_pil_images_give_the_same_result(predictor: Predictor, images: list[Path]) -> None:
    array = TWO_APART.pixels
    mixed = [images[0], array, [Image.fromarray(array)], str(images[5])]
    first, *others = predictor.predict(mixed, precision="fp32")
    for other in others:
        same(other, first)
    assert others[0].path is None
    np.testing.assert_array_equal(others[0].image, array)


def test_a_call_gives_the_result_of_one_image_or_a_list(predictor: Predictor, images: list[Path]) -> None:
    one = predictor(images[0])
    assert isinstance(one, Result)
    assert one.path == images[0]
    several = predictor(images[:2], batch=2)
    assert isinstance(several, list)
    assert [result.path for result in several] == images[:2]
    pixels = torch.from_numpy(read_image(images[0])).permute(2, 0, 1)
    same = predictor(pixels)
    assert isinstance(same, Result)
    assert np.array_equal(same.boxes, one.boxes)
    assert repr(predictor).startswith("Predictor(R-18-FPN-tiny on cpu: ")
    assert predictor.classes == tuple(category.name for category in predictor.categories)


def test_folders_and_globs(predictor: Predictor, images: list[Path]) -> None:
    folder = images[0].parent
    assert [result.path for result in predictor.predict(folder)] == images
    assert [result.path for result in predictor.predict(str(folder / "[24].png"))] == [images[2], images[4]]


def test_thresholds_and_limits(predictor: Predictor, images: list[Path]) -> None:
    (everything,) = predictor.predict(images[0], precision="fp32")
    middle = float(np.median(everything.scores))
    (above,) = predictor.predict(images[0], precision="fp32", score_threshold=middle)
    assert 0 < len(above) < len(everything)
    assert (above.scores > middle).all()
    (two,) = predictor.predict(images[0], precision="fp32", max_detections=2)
    same(two, everything.select([0, 1]))
    (again,) = predictor.predict(images[0], precision="fp32")
    same(again, everything)


def test_one_view_gives_the_plain_result(predictor: Predictor, images: list[Path]) -> None:
    plain = predictor.predict(images, precision="fp32")
    got = predictor.predict(images, precision="fp32", tta=TTA((1.0,), flip=False))
    for one, other in zip(got, plain, strict=True):
        same(one, other)


def test_an_image_of_several_views_has_the_same_result_alone_and_in_a_batch(
    predictor: Predictor, images: list[Path]
) -> None:
    views = TTA((0.75, 1.5))
    alone = [next(predictor.predict(path, precision="fp32", tta=views)) for path in images]
    for got, want in zip(predictor.predict(images, batch=3, precision="fp32", tta=views), alone, strict=True):
        same(got, want)
        assert (got.boxes <= np.array([*got.size[::-1], *got.size[::-1]])).all()


def test_the_order_of_views_does_not_matter(predictor: Predictor, images: list[Path]) -> None:
    (one,) = predictor.predict(images[0], precision="fp32", tta=TTA((0.5, 1.0, 0.75)))
    (other,) = predictor.predict(images[0], precision="fp32", tta=TTA((1.0, 0.75, 0.5)))
    assert len(one) > 0
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.small_masks, other.small_masks)


def test_bf16_finds_the_best_object_too(predictor: Predictor, images: list[Path]) -> None:
    (exact,) = predictor.predict(images[0], precision="fp32")
    (rough,) = predictor.predict(images[0], precision="bf16")
    assert abs(float(rough.scores[0]) - float(exact.scores[0])) < 0.05


def test_a_bad_image_is_an_error_that_names_it(predictor: Predictor, images: list[Path]) -> None:
    images[2].write_bytes(images[2].read_bytes()[:60])
    stream = predictor.predict(images)
    assert next(stream).path == images[0]
    assert next(stream).path == images[1]
    with pytest.raises(DataError, match=r"2\.png"):
        next(stream)


def test_bad_images_are_skipped_with_a_warning(predictor: Predictor, images: list[Path]) -> None:
    images[1].write_text("no image")
    inputs = [*images, images[0].parent / "missing.png"]
    with pytest.warns(UserWarning, match=r"1\.png|missing\.png|skipped") as warned:
        results = list(predictor.predict(inputs, batch=4, on_error="skip"))
    assert [result.path for result in results] == [path for path in images if path != images[1]]
    words = [str(one.message) for one in warned]
    assert any("1.png" in word for word in words)
    assert any("missing.png" in word for word in words)
    assert words[-1].startswith("2 images")


def test_bad_images_go_to_a_function(predictor: Predictor, images: list[Path]) -> None:
    images[0].write_text("no image")
    errors: list[DataError] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = list(predictor.predict(images, on_error=errors.append))
    assert len(results) == 5
    assert [str(images[0]) in str(error) for error in errors] == [True]


def test_an_endless_stream_is_read_only_a_little_ahead(predictor: Predictor) -> None:
    asked = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal asked
        while True:
            asked += 1
            yield SMALL.pixels

    stream: Any = predictor.predict(endless(), batch=2)
    for _ in range(10):
        next(stream)
    assert 10 <= asked <= 10 + 3 * 2 + 2
    stream.close()


def test_memory_stays_flat(predictor: Predictor) -> None:
    """After 24 images Python holds as much memory as after 8."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    stream = predictor.predict((TWO_APART.pixels for _ in range(24)), batch=2)
    tracemalloc.start()
    try:
        for _ in range(8):
            next(stream)
        early = held()
        for _ in stream:
            pass
        late = held()
    finally:
        tracemalloc.stop()
    assert late - early < 200_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"threads": 0},
        {"on_error": "ignore"},
        {"score_threshold": 1.5},
        {"max_detections": 0},
        {"precision": "fp8"},
    ],
)
def test_impossible_arguments_are_refused_at_once(predictor: Predictor, wrong: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, TypeError)):  # in tests, types are checked first
        predictor.predict([], **wrong)


@pytest.mark.parametrize("scales", [(), (0.05,), (1.0, 11.0)])
def test_impossible_views_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"scales between 0\.1 and 10"):
        TTA(scales)


def test_without_inputs_there_are_no_results(predictor: Predictor) -> None:
    assert list(predictor.predict([])) == []


def test_load_takes_the_folder_of_a_run(checkpoint: Path) -> None:
    assert load(checkpoint.parent).categories == CATEGORIES


def test_a_file_that_cannot_be_loaded_is_an_error_that_names_it(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="missing"):
        load(tmp_path / "missing.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut"):
        load(cut)
    with pytest.raises(ConfigError, match="there is no device"):
        load(checkpoint, device="cuda:99")


# --- deep images and stacks -------------------------------------------------------------------------------------------


def test_a_page_of_a_stack_is_seen_as_if_it_were_alone(predictor: Predictor, tmp_path: Path) -> None:
    frames = [Image.fromarray(scene.pixels) for scene in (TWO_APART, NONE)]
    frames[0].save(tmp_path / "stack.png", save_all=True, append_images=frames[1:])
    (alone,) = predictor.predict(TWO_APART.pixels)
    (seen,) = predictor.predict(tmp_path / "stack.png", page=1)
    same(seen, alone)
    assert seen.path == tmp_path / "stack.png"
    assert seen.overlay().tobytes() == alone.overlay().tobytes()
    with pytest.raises(
        DataError, match=r"stack\.png: an animation of 2 frames; predict and evaluate see one of them with --page"
    ):
        list(predictor.predict(tmp_path / "stack.png"))
    with pytest.raises(ConfigError, match="page counts from 1 and excludes max_project"):
        predictor.predict([], page=1, max_project=True)
    with pytest.raises(ConfigError, match="it is 0"):
        predictor.predict([], page=0)


def test_the_maximum_over_a_stack_is_seen(predictor: Predictor, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pages = np.stack([TWO_APART.pixels, NONE.pixels])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="rgb", metadata=None)
    (alone,) = predictor.predict(pages.max(axis=0))
    (seen,) = predictor.predict(tmp_path / "stack.tif", max_project=True)
    same(seen, alone)


def test_a_deep_image_is_seen_and_one_line_says_how(
    predictor: Predictor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = TWO_APART.pixels.astype(np.uint16) * 16
    np.save(tmp_path / "a.npy", deep)
    np.save(tmp_path / "b.npy", deep)
    results = list(predictor.predict([tmp_path / "a.npy", TWO_APART.pixels, tmp_path / "b.npy"]))
    same(results[0], results[2])
    assert len(results[0]) > 0
    (line,) = caplog.messages
    assert line.startswith("images with uint16 pixels: each is scaled by its own")


def test_a_model_of_five_channels_draws_on_the_first_three(tmp_path: Path) -> None:
    config = tiny_config()
    image = replace(config.input, channels=5, mean=(100.0,) * 5, std=(50.0,) * 5, range=((0.0, 4080.0),) * 5)
    config = replace(config, input=image)
    five = Predictor(build(config), CATEGORIES)
    deep = np.concatenate([TWO_APART.pixels, TWO_APART.pixels[..., :2]], axis=2).astype(np.uint16) * 16
    np.save(tmp_path / "five.npy", deep)
    for result in five.predict([tmp_path / "five.npy", deep], score_threshold=0.05):
        assert result.overlay().size[0] >= 640
    with pytest.raises(DataError, match="the image has 3 channels; expected 5"):
        list(five.predict(TWO_APART.pixels))
