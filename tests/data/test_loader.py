"""Order, shards, seeds and slots; broken images; workers."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.config import ONE_VIEW, TTA, AugmentConfig, InputConfig, MaskHeadConfig, ModelConfig
from maskrcnn.data.augment import MASK_SIDE
from maskrcnn.data.batch import sample_seed, slots, unpack
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import EvalLoader, TrainLoader
from maskrcnn.errors import DataError
from maskrcnn.images import tiff
from maskrcnn.ops.nms import nms

KEEP = ModelConfig(input=InputConfig(min_size=0, max_size=512))
CROP = AugmentConfig(crop=48, scale=(0.7, 1.4), vertical_flip=0.5, rotate90=True, brightness=0.2)
SIZES = [(40, 60), (60, 40), (64, 64), (50, 90)]


def write(folder, count=12, *, sizes=SIZES, objects=lambda i: i % 4, keypoints=False):
    """Images of noise with squares in them; image i has id 100 + i and `objects(i)` squares."""
    rng = np.random.default_rng(5)
    images, annotations = [], []
    for i in range(count):
        h, w = sizes[i % len(sizes)]
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        images.append({"id": 100 + i, "file_name": f"{i}.png", "height": h, "width": w})
        for _ in range(objects(i)):
            x, y = int(rng.integers(2, w - 14)), int(rng.integers(2, h - 14))
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": 100 + i,
                "category_id": 5,
                "iscrowd": 0,
                "area": 100,
            }
            entry["bbox"] = [x, y, 10, 10]
            entry["segmentation"] = [[x, y, x + 10, y, x + 10, y + 10, x, y + 10]]
            if keypoints:
                entry |= {"keypoints": [x, y, 2, x + 10, y, 2], "num_keypoints": 2}
            annotations.append(entry)
    category = {"id": 5, "name": "square"} | ({"keypoints": ["left", "right"], "skeleton": []} if keypoints else {})
    path = folder / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return read_dataset(path, keypoints=keypoints)


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path)


@pytest.mark.parametrize("resize", ["pillow", "float", "opencv"])
@pytest.mark.parametrize("kind", ["tiles", "strips, 16 bits"])
def test_of_a_large_image_only_the_crop_is_read(resize, kind, tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    data = write(tmp_path, 1, sizes=[(1100, 900)], objects=lambda _: 8)
    content = json.loads((tmp_path / "train.json").read_text())
    content["images"][0]["file_name"] = "0.tif"
    (tmp_path / "tiff.json").write_text(json.dumps(content))
    pixels = np.asarray(Image.open(tmp_path / "0.png"))
    deep = kind != "tiles"
    if deep:
        pixels = pixels.astype(np.uint16) * 100
        Image.fromarray(pixels[..., 0]).save(tmp_path / "0.png")
        tifffile.imwrite(tmp_path / "0.tif", pixels[..., 0], compression="zlib", rowsperstrip=32)
    else:
        tifffile.imwrite(tmp_path / "0.tif", pixels, photometric="rgb", tile=(64, 64), compression="zlib")
    monkeypatch.setattr("maskrcnn.images.tiff._LARGE", 1)
    decoded: list[int] = []
    decode = tiff._decode
    monkeypatch.setattr(tiff, "_decode", lambda *args: decoded.append(args[2]) or decode(*args))
    input = InputConfig(min_size=0, zoom=0.83, max_size=4096, resize=resize, range=((100.0, 20000.0),) * deep * 3)
    whole, parts = (
        TrainLoader(each, replace(KEEP, input=input), CROP, batch=1)
        for each in (data, read_dataset(tmp_path / "tiff.json"))
    )
    for epoch in range(3):
        (one,), (other,) = list(whole.batches(epoch)), list(parts.batches(epoch))
        assert torch.equal(one.images.pixels, other.images.pixels)
        assert one.gt is not None
        assert other.gt is not None
        pairs = zip(one.gt, other.gt, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor))
    assert 3 <= len(decoded) <= 3 * 9  # of 270 tiles or 35 strips in each epoch


def test_views_hold_the_same_images_at_every_scale(tmp_path):
    data = write(tmp_path)
    loader = EvalLoader(data, KEEP, batch=2, views=TTA((1.0, 2.0)))
    seen = []
    for images, gt, image_ids in loader:
        seen += image_ids.tolist()
        one, (two, mirrored, _) = images, images.views
        assert gt is None
        assert [view.views for view in images.views] == [(), (), ()]
        assert len({tuple(size) for size in one.original_sizes.tolist()}) == 1  # else their canvases could differ
        assert torch.equal(two.sizes, one.sizes * 2)
        assert torch.equal(two.original_sizes, one.original_sizes)
        for b, image_id in enumerate(image_ids.tolist()):
            height, width = one.sizes[b].tolist()
            image = np.asarray(Image.open(tmp_path / f"{image_id - 100}.png"))
            assert np.array_equal(one.pixels[b, :, :height, :width].permute(1, 2, 0), image)
            assert np.array_equal(mirrored.pixels[b, :, :height, :width].permute(1, 2, 0), image[:, ::-1])
    assert sorted(seen) == data.image_ids.tolist()
    plain, scaled = (
        {int(batch.image_ids): batch.images for batch in EvalLoader(data, KEEP, views=views)}
        for views in (ONE_VIEW, TTA((1.000001,), flip=False))  # the second is prepared as a view
    )
    assert len(plain) == len(scaled) == len(data)
    for image_id, images in plain.items():
        assert images.views == scaled[image_id].views == ()
        assert torch.equal(images.pixels, scaled[image_id].pixels)


def test_views_survive_torch_s_loader(dataset):
    """Which hands on a list for every plain tuple."""
    loader = EvalLoader(dataset, KEEP, views=TTA((1.0, 2.0), flip=False))
    packed = loader._maker[loader._whole[0]]
    assert isinstance(packed.images.views, tuple)
    listed = packed._replace(images=packed.images._replace(views=list(packed.images.views)))
    assert unpack(listed, gt=False).images.views == packed.images.views


def samples(batches):
    """Everything about each sample by image id, as bytes; what comes twice must be equal."""
    found = {}
    for batch in batches:
        for b, image_id in enumerate(batch.image_ids.tolist()):
            valid = batch.gt.valid[b]
            parts = [field[b] for field in batch.images[:-1]]
            assert batch.images.views == ()
            parts += [field[b][valid] for field in batch.gt if field is not None]
            content = b"".join(part.contiguous().numpy().tobytes() for part in parts)
            assert found.setdefault(image_id, content) == content
    return found


def ids(batches):
    return [batch.image_ids.tolist() for batch in batches]


def all_ids(batches):
    return [image_id for batch in batches for image_id in batch.image_ids.tolist()]


def test_seeds_differ_in_each_number_and_fit_int64():
    seeds = {sample_seed(a, b, c) for a in range(10) for b in range(10) for c in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sample_seed(1, 2, 3) != sample_seed(2, 1, 3)
    assert sample_seed(0, 0, -1) >= 0
    bits = np.array([[seed >> bit & 1 for bit in range(63)] for seed in seeds]).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.03


def test_slots_are_the_next_power_of_two_from_16():
    assert [slots(n) for n in (0, 1, 16, 17, 64, 65, 369)] == [16, 16, 16, 32, 64, 128, 512]


def test_an_epoch_has_every_image_once_in_an_order_of_its_own(dataset):
    loader = TrainLoader(dataset, KEEP, CROP, batch=4)
    epochs = [all_ids(loader.batches(epoch)) for epoch in (0, 1, 0)]
    assert len(loader) == 3
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(100, 112))
    assert epochs[0] == epochs[2] != epochs[1]
    assert ids(TrainLoader(dataset, KEEP, CROP, batch=4, seed=1).batches(0)) != ids(loader.batches(0))


@pytest.mark.parametrize("count", [12, 11, 9, 3])
def test_two_ranks_see_in_a_step_what_one_rank_sees_with_twice_the_batch(tmp_path, count):
    dataset = write(tmp_path, count)
    whole = TrainLoader(dataset, KEEP, CROP, batch=4)
    parts = [TrainLoader(dataset, KEEP, CROP, batch=2, rank=rank, world=2) for rank in (0, 1)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    streams = [list(loader.batches(0)) for loader in (whole, *parts)]
    for one, left, right in zip(*streams, strict=True):
        assert one.image_ids.tolist() == left.image_ids.tolist() + right.image_ids.tolist()
    assert samples(streams[0]) == samples(streams[1] + streams[2])
    assert set(samples(streams[0])) == set(range(100, 100 + count))


def test_an_epoch_goes_on_at_any_batch(dataset):
    loader = TrainLoader(dataset, KEEP, CROP, batch=2)
    everything = list(loader.batches(3))
    rest = list(loader.batches(3, start=4))
    assert ids(rest) == ids(everything)[4:]
    assert samples(rest) == samples(everything[4:])
    assert list(loader.batches(3, start=6)) == []


def test_a_sample_is_the_same_in_any_batch_and_another_one_in_the_next_epoch(dataset):
    alone, together = (TrainLoader(dataset, KEEP, CROP, batch=n) for n in (1, 6))
    assert samples(alone.batches(2)) == samples(together.batches(2))
    other = samples(together.batches(3))
    assert all(content != other[image_id] for image_id, content in samples(together.batches(2)).items())


@pytest.mark.parametrize("canvas", ["multiple-of-32", "buckets", "exact"])
def test_a_batch_has_one_canvas_and_is_full(dataset, canvas):
    augmentation = AugmentConfig(min_sizes=(48, 64), rotate90=True)
    model = ModelConfig(input=InputConfig(min_size=64, max_size=120, canvas=canvas))
    seen, lengths = Counter(), set()
    for rank in (0, 1):
        loader = TrainLoader(dataset, model, augmentation, batch=2, rank=rank, world=2)
        for epoch in range(8):
            batches = list(loader.batches(epoch))  # `to_images` raises if an image does not fit its canvas
            lengths.add(len(batches))
            assert all(batch.image_ids.shape == (2,) for batch in batches)
            if canvas != "exact":
                assert all(side % 32 == 0 for batch in batches for side in batch.images.pixels.shape[2:])
            seen.update(all_ids(batches))
    assert lengths == {3}
    assert set(seen) == set(range(100, 112))


def test_objects_fill_slots_and_no_image_is_lost(tmp_path):
    dataset = write(tmp_path, 4, objects=lambda i: (0, 1, 17, 40)[i])
    config = AugmentConfig(crop=96, horizontal_flip=0.0)  # larger than any image: nothing is cut
    (batch,) = TrainLoader(dataset, KEEP, config, batch=4).batches(0)
    order = (batch.image_ids - 100).tolist()
    counts = torch.tensor([(0, 1, 17, 40)[i] for i in order])
    assert batch.gt.boxes.shape == (4, 64, 4)
    assert batch.gt.masks.shape == (4, 64, MASK_SIDE, MASK_SIDE)
    assert torch.equal(batch.gt.valid.sum(1), counts)
    assert torch.equal(batch.gt.valid, torch.arange(64) < counts[:, None])
    for field in (batch.gt.boxes, batch.gt.masks, batch.gt.mask_boxes, batch.gt.labels):
        assert not field[~batch.gt.valid].any()
    assert batch.gt.masks[batch.gt.valid].all()  # squares fill their frames
    for b, i in enumerate(order):
        record = dataset.record(i)
        assert (batch.gt.boxes[b, : len(record.boxes)].numpy() == record.boxes).all()
        assert batch.images.seeds[b] == sample_seed(0, 0, int(dataset.image_ids[i]))
    assert batch.gt.keypoints is None
    (boxes_only,) = TrainLoader(
        dataset, replace(KEEP, mask_head=MaskHeadConfig(enabled=False)), config, batch=4
    ).batches(0)
    assert boxes_only.gt.masks is None
    assert boxes_only.gt.mask_boxes is None


def test_keypoints_come_if_the_data_has_them(tmp_path):
    dataset = write(tmp_path, 4, objects=lambda i: 2, keypoints=True)
    config = AugmentConfig(crop=96, horizontal_flip=1.0)
    (batch,) = TrainLoader(dataset, KEEP, config, batch=4).batches(0)
    keypoints = batch.gt.keypoints[batch.gt.valid]
    assert keypoints.shape == (8, 2, 3)
    assert (keypoints[:, 0, 0] < keypoints[:, 1, 0]).all()  # "left" is left in the mirror, too: the pair was exchanged
    assert (keypoints[..., 0] % 1 == 0.5).all()
    assert (keypoints[..., 2] == 2).all()


def break_images(dataset, *indices):
    for i in indices:
        dataset.path(i).write_bytes(b"not an image")


def test_a_broken_image_is_reported_once_and_replaced_by_the_next(dataset):
    break_images(dataset, 3, 4)
    reported = []
    loader = TrainLoader(dataset, KEEP, CROP, batch=4, warn=reported.append)
    found = Counter(all_ids(loader.batches(0)))
    assert found == {100 + i: 1 for i in range(12) if i not in (3, 4)} | {105: 3}
    assert set(loader.problems) == {103, 104}
    assert len(reported) == 2
    assert sum("3.png" in line for line in reported) == 1
    assert any(line.startswith(f"{dataset.source}, image 103: ") for line in reported)
    assert samples(loader.batches(0)) == samples(TrainLoader(dataset, KEEP, CROP, batch=3).batches(0))
    assert len(reported) == 2


def test_a_broken_image_whose_canvas_is_its_own_does_not_stop_the_run(tmp_path):
    dataset = write(tmp_path, 5, sizes=[(40, 60)] * 4 + [(200, 300)])
    break_images(dataset, 4)
    loader = TrainLoader(dataset, KEEP, AugmentConfig(), batch=2, warn=lambda line: None)
    for epoch in range(4):
        assert all(len(batch.image_ids) == 2 for batch in loader.batches(epoch))
    assert set(loader.problems) == {104}


def test_strict_or_nothing_readable_is_an_error(dataset):
    break_images(dataset, 3)
    with pytest.raises(DataError, match=r"3\.png"):
        list(TrainLoader(dataset, KEEP, CROP, batch=4, strict=True).batches(0))
    with pytest.raises(DataError, match=r"json, image 103: .*3\.png"):
        list(EvalLoader(dataset, KEEP, strict=True))
    break_images(dataset, *range(12))
    with pytest.raises(DataError, match="no image can be read"):
        list(TrainLoader(dataset, KEEP, CROP, batch=4, warn=lambda line: None).batches(0))


def test_an_image_of_another_size_than_annotated_is_a_problem(dataset):
    Image.new("RGB", (31, 17)).save(dataset.path(2))
    loader = EvalLoader(dataset, KEEP, warn=lambda line: None)
    assert len(all_ids(loader)) == 11
    assert "17 x 31" in loader.problems[102]


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_sees_every_image_once_whole_and_unchanged(dataset, world):
    batches = []
    for rank in range(world):
        batches += EvalLoader(dataset, KEEP, batch=2, rank=rank, world=world, gt=True)
    assert sorted(all_ids(batches)) == list(range(100, 112))
    for batch in batches:
        for b, image_id in enumerate(batch.image_ids.tolist()):
            record = dataset.record(image_id - 100)
            h, w = record.size
            assert batch.images.sizes[b].tolist() == [h, w]
            assert batch.images.pixels.shape[2:] == (-(-h // 32) * 32, -(-w // 32) * 32)
            image = batch.images.pixels[b, :, :h, :w].permute(1, 2, 0).numpy()
            assert (image == np.asarray(Image.open(record.path))).all()
            assert (batch.gt.boxes[b][batch.gt.valid[b]].numpy() == record.boxes).all()


def test_evaluation_keeps_the_order_if_canvases_are_equal(tmp_path):
    dataset = write(tmp_path, 7, sizes=[(40, 60)])
    loader = EvalLoader(dataset, KEEP, batch=3)
    assert ids(loader) == [[100, 101, 102], [103, 104, 105], [106]]
    assert len(loader) == 3
    assert next(iter(loader)).gt is None


def test_an_empty_data_set_is_an_error(dataset):
    with pytest.raises(DataError, match="no image"):
        TrainLoader(dataset.subset([]), KEEP, CROP, batch=2)


def test_loading_leaves_the_global_generators_alone(dataset):
    before = torch.random.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    list(TrainLoader(dataset, KEEP, CROP, batch=4).batches(0))
    list(EvalLoader(dataset, KEEP))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state(legacy=False)["state"]["key"]).all()


def test_what_a_worker_gets_is_the_buffers_and_little_more(dataset):
    loader = TrainLoader(dataset, KEEP, CROP, batch=4)
    assert len(pickle.dumps(loader._maker)) < len(pickle.dumps(dataset)) + 3000


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one processor
def test_workers_give_the_same_and_survive_parallel_kernels(dataset):
    boxes = torch.rand(2, 200, 4).cumsum(-1)
    everywhere = torch.ones(2, 200, dtype=torch.bool)
    nms(boxes, boxes[..., 0], torch.zeros(2, 200, dtype=torch.int64), everywhere, iou=0.5, top=10)  # starts threads
    break_images(dataset, 3)
    reported = []
    model = replace(KEEP, input=replace(KEEP.input, resize="float"))
    here = TrainLoader(dataset, model, CROP, batch=2, warn=reported.append)
    away = TrainLoader(dataset, model, CROP, batch=2, workers=2, warn=reported.append)
    before = torch.random.get_rng_state()
    try:
        for epoch in (0, 1):
            expected, got = list(here.batches(epoch)), list(away.batches(epoch))
            assert ids(got) == ids(expected)
            assert samples(got) == samples(expected)
        abandoned: Any = away.batches(2)
        next(abandoned)
        abandoned.close()
        assert ids(away.batches(2, start=1)) == ids(here.batches(2, start=1))
    finally:
        away.close()
    assert len(reported) == 2  # once by each loader
    assert away.problems == here.problems
    assert torch.equal(before, torch.random.get_rng_state())


KILLED = """
import os, signal, sys
from maskrcnn.config import AugmentConfig, InputConfig, ModelConfig
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import TrainLoader

model = ModelConfig(input=InputConfig(min_size=0))
loader = TrainLoader(read_dataset(sys.argv[1]), model, AugmentConfig(crop=32), batch=2, workers=2)
next(loader.batches(0))
print(*(worker.pid for worker in loader._torch_loader._iterator._workers), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


TERMINATED = """
import os, signal, sys
from maskrcnn.config import AugmentConfig, InputConfig, ModelConfig
from maskrcnn.data.formats import read_dataset
from maskrcnn.data.loader import TrainLoader

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
model = ModelConfig(input=InputConfig(min_size=0))
loader = TrainLoader(read_dataset(sys.argv[1]), model, AugmentConfig(crop=32), batch=2, workers=2)
batches = loader.batches(0)
next(batches)
os.killpg(0, signal.SIGTERM)  # which this process catches
assert heard
print(sum(1 for _ in batches))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups on Windows")
def test_workers_go_on_when_the_whole_group_is_asked_to_end(dataset):
    command = [sys.executable, "-c", TERMINATED, str(dataset.source)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert (run.returncode, run.stdout) == (0, "5\n"), run.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_no_worker_outlives_a_killed_run(dataset):
    command = [sys.executable, "-c", KILLED, str(dataset.source)]
    run = subprocess.run(command, stdout=subprocess.PIPE, timeout=120)
    workers = [int(pid) for pid in run.stdout.split()]
    assert run.returncode == -signal.SIGKILL
    assert len(workers) == 2
    until = time.monotonic() + 20
    while workers and time.monotonic() < until:
        workers = [pid for pid in workers if is_alive(pid)]
        time.sleep(0.1)
    assert not workers


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.data
def test_masks_of_real_nuclei_have_the_annotated_areas(test_data):
    dataset = read_dataset(test_data / "nuclei" / "val.json").subset(range(8))
    for batch in EvalLoader(dataset, ModelConfig(input=InputConfig(min_size=0, max_size=2000)), gt=True):
        for b, image_id in enumerate(batch.image_ids.tolist()):
            record = dataset.record(int(np.flatnonzero(dataset.image_ids == image_id)[0]))
            n = len(record.boxes)
            assert int(batch.gt.valid[b].sum()) == n
            frames = batch.gt.mask_boxes[b, :n]
            area = (frames[:, 2:] - frames[:, :2]).prod(1) * batch.gt.masks[b, :n].float().mean((1, 2))
            assert np.abs(area.numpy() / record.areas - 1).max() < 0.15
