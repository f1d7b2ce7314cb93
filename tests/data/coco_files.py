"""COCO json for tests: a good file with answers by hand, the same with keypoints, and what data sets have in common."""

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from pycocotools import mask as mask_api

from maskrcnn.data.validate import wrong_name

SQUARE = [2, 3, 8, 3, 8, 7, 2, 7]  # x 2..8, y 3..7 of an image 12 wide, 10 high
BITMAP = np.zeros((10, 12), np.uint8)
BITMAP[3:7, 2:8] = 1
COMPRESSED = bytes(mask_api.encode(np.asfortranarray(BITMAP))["counts"]).decode()  # type: ignore[arg-type]
# Column by column: two empty columns and three pixels, four set, six not, ... ; the last run closes the 120.
COUNTS = [23, 4, 6, 4, 6, 4, 6, 4, 6, 4, 6, 4, 43]


def coco(**changes):
    """A good file of two images, three kinds of masks and a box; `changes` replace its lists."""
    return {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 10, "width": 12},
            {"id": 3, "file_name": "b.png", "height": 10, "width": 12},
            {"id": 5, "file_name": "empty.png", "height": 10, "width": 12},
        ],
        "categories": [{"id": 90, "name": "pear"}, {"id": 0, "name": "apple"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 90, "bbox": [2, 3, 6, 4], "segmentation": [SQUARE], "area": 24},
            {"id": 2, "image_id": 7, "category_id": 0, "bbox": [2, 3, 6, 4], "iscrowd": 1,
             "segmentation": {"size": [10, 12], "counts": COUNTS}},
            {"id": 3, "image_id": 3, "category_id": 0, "bbox": [2, 3, 6, 4],
             "segmentation": {"size": [10, 12], "counts": COMPRESSED}},
            {"id": 4, "image_id": 3, "category_id": 0, "bbox": [1.5, 2, 4, 4.5]},
        ],
    } | changes  # fmt: skip


def write(folder: Path, content, name="data.json"):
    """`content` as json in `folder`, beside an (empty) file for every image it names."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if isinstance(content, dict):
        for image in content.get("images", []):
            name = image.get("file_name") if isinstance(image, dict) else None
            if isinstance(name, str) and wrong_name(name) is None and "/" not in name:
                (folder / name).touch()
    return path


GOOD = {"id": 9, "image_id": 3, "category_id": 90, "bbox": [2, 3, 6, 4], "segmentation": [SQUARE]}
BROKEN = {  # what is changed of a good annotation -> words of the reason
    "unknown image": ({"image_id": 99}, "unknown image"),
    "image id is another text": ({"image_id": "3a"}, "unknown image"),
    "image id is a list": ({"image_id": [3]}, "unknown image"),
    "image id is true": ({"image_id": True}, "unknown image"),
    "unknown category": ({"category_id": 1}, "unknown category"),
    "no category": ({"category_id": None}, "unknown category"),
    "odd polygon": ({"segmentation": [[1, 1, 5, 1, 5, 5, 1]]}, "odd number"),
    "two points": ({"segmentation": [[1, 1, 5, 5]]}, "fewer than 3"),
    "no points": ({"segmentation": [[2, 3]]}, "fewer than 3"),
    "words": ({"segmentation": [["a"] * 6]}, "not a list of numbers"),
    "nested too deeply": ({"segmentation": [[[[[["a"] * 6]]]]]}, "not pairs of x and y"),
    "NaN": ({"segmentation": [[1, 1, float("nan"), 1, 5, 5]]}, "invalid coordinates"),
    "infinite": ({"segmentation": [[1, 1, float("inf"), 1, 5, 5]]}, "invalid coordinates"),
    "huge": ({"segmentation": [[1, 1, 1e300, 1, 5, 5]]}, "invalid coordinates"),
    "huge integer": ({"segmentation": [[1, 1, 10**400, 1, 5, 5]]}, "not a list of numbers"),
    "a line": ({"segmentation": [[1, 1, 3, 3, 5, 5]]}, "without an area"),
    "a point": ({"segmentation": [[4, 4, 4, 4, 4, 4]]}, "without an area"),
    "outside": ({"segmentation": [[20, 1, 25, 1, 25, 5]]}, "outside its image"),
    "a sliver inside": ({"segmentation": [[-2, 1, 1e-130, 1, 1e-130, 5]], "bbox": None}, "outside its image"),
    "segmentation is text": ({"segmentation": "abc"}, "neither polygons nor RLE"),
    "segmentation is a number": ({"segmentation": 5}, "neither polygons nor RLE"),
    "counts do not add up": ({"segmentation": {"size": [10, 12], "counts": [60, 59]}}, "do not add up"),
    "counts too many": ({"segmentation": {"size": [10, 12], "counts": [60, 61]}}, "do not add up"),
    "negative count": ({"segmentation": {"size": [10, 12], "counts": [130, -10]}}, "do not add up"),
    "no counts": ({"segmentation": {"size": [10, 12], "counts": []}}, "do not add up"),
    "counts overflow": ({"segmentation": {"size": [10, 12], "counts": [2**62] * 4 + [120]}}, "do not add up"),
    "counts beyond int64": ({"segmentation": {"size": [10, 12], "counts": [2**64]}}, "not whole numbers"),
    "fractions": ({"segmentation": {"size": [10, 12], "counts": [60.5, 59.5]}}, "not whole numbers"),
    "no counts at all": ({"segmentation": {"size": [10, 12]}}, "neither polygons nor RLE"),
    "empty mask": ({"segmentation": {"size": [10, 12], "counts": [120]}}, "empty mask"),
    "string is cut": ({"segmentation": {"size": [10, 12], "counts": COMPRESSED[:-2]}}, "do not add up"),
    "string is cut in a count": ({"segmentation": {"size": [10, 12], "counts": COMPRESSED[:-1]}}, "cannot be decoded"),
    "string ends in a count": ({"segmentation": {"size": [10, 12], "counts": COMPRESSED + "o"}}, "cannot be decoded"),
    "string of other letters": ({"segmentation": {"size": [10, 12], "counts": "7%!"}}, "cannot be decoded"),
    "string is not ASCII": ({"segmentation": {"size": [10, 12], "counts": "é"}}, "cannot be decoded"),
    "count without end": ({"segmentation": {"size": [10, 12], "counts": "o" * 99 + "0"}}, "cannot be decoded"),
    "bomb": ({"segmentation": {"size": [100000, 100000], "counts": [0, 10**10]}}, "another size than its image"),
    "size transposed": ({"segmentation": {"size": [12, 10], "counts": COUNTS}}, "another size than its image"),
    "no size": ({"segmentation": {"counts": COUNTS, "size": [10]}}, "RLE without a size"),
    "no size that fits": ({"segmentation": {"counts": COUNTS[1:]}}, "do not add up"),
    "neither box nor mask": ({"segmentation": [], "bbox": None}, "neither"),
    "box of three": ({"segmentation": None, "bbox": [1, 2, 3]}, "not four numbers"),
    "box with negative size": ({"segmentation": None, "bbox": [8, 7, -6, -4]}, "negative width"),
    "box without size": ({"segmentation": None, "bbox": [2, 3, 0, 4]}, "invalid box"),
    "box of NaN": ({"segmentation": None, "bbox": [2, 3, float("nan"), 4]}, "invalid box"),
    "box outside": ({"segmentation": None, "bbox": [20, 3, 5, 4]}, "box outside"),
    "crowd is another text": ({"iscrowd": "perhaps"}, "iscrowd that is not 0 or 1"),
}  # fmt: skip
IMAGES = {
    "climbs": ({"file_name": "../x.png"}, "leaves"),
    "climbs inside": ({"file_name": "sub/../../x.png"}, "leaves"),
    "absolute": ({"file_name": "/etc/passwd"}, "leaves"),
    "drive": ({"file_name": "C:\\x.png"}, "leaves"),
    "climbs on Windows": ({"file_name": "..\\x.png"}, "leaves"),
    "share": ({"file_name": "\\\\host\\share\\x.png"}, "leaves"),
    "folder": ({"file_name": ".."}, "leaves"),
    "here": ({"file_name": "."}, "names no file"),
    "NUL": ({"file_name": "a\0.png"}, "names no file"),
    "half a surrogate": ({"file_name": "\ud800.png"}, "not valid text"),
    "empty": ({"file_name": ""}, "without a file name"),
    "number": ({"file_name": 5.5}, "without a file name"),
    "missing": ({"file_name": "nowhere.png"}, "missing"),
    "no id": ({"id": None}, "without an id"),
    "no height": ({"height": None}, "invalid height or width"),
    "negative": ({"width": -5}, "invalid height or width"),
    "text": ({"width": "12 px"}, "invalid height or width"),
    "enormous": ({"width": 100000, "height": 100000}, "too many pixels"),
}
NOT_COCO = {
    "list": ("[]", "not COCO"),
    "number": ("5", "not COCO"),
    "no lists": ("{}", "'images', 'annotations', 'categories'"),
    "lists are not lists": ('{"images": 5, "annotations": [], "categories": []}', "'images'"),
    "truncated": (json.dumps(coco())[:200], "truncated"),
    "empty": ("", "is empty"),
    "text": ("hello", "json"),
    "deep": ("[" * 100_000, "nested|truncated"),
    "no categories": (json.dumps(coco(categories=[])), "no categories"),
    "id twice": (json.dumps(coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])), r"id 1 [^$]*1  a"),
    "name twice": (json.dumps(coco(categories=[{"id": 0, "name": "a"}, {"id": 90, "name": "a"}])),
                   r"name a [^$]*90  a"),
    "no name": (json.dumps(coco(categories=[{"id": 1}])), "name"),
    "name is half a surrogate": (json.dumps(coco(categories=[{"id": 1, "name": "\ud800"}])), "a name"),
    "id is a fraction": (json.dumps(coco(categories=[{"id": 1.5, "name": "a"}])), "whole number"),
    "category is text": (json.dumps(coco(categories=["a"])), "is not an object"),
}  # fmt: skip


def with_keypoints(**changes):
    category = {"id": 2, "name": "fish", "keypoints": ["nose", "Left_fin", "right_fin"], "skeleton": [[1, 2], [1, 3]]}
    plain = {"id": 1, "name": "stone"}
    snail = {"id": 3, "name": "snail", "keypoints": ["head"], "sigmas": [0.2], "flip_pairs": []}
    points = [1, 2, 2, 3, 4, 1, 0, 0, 0]
    return coco(
        categories=[category | changes, plain, snail],
        annotations=[GOOD | {"category_id": 2, "keypoints": points},
                     GOOD | {"id": 10, "category_id": 3, "keypoints": [5, 6, 2]},
                     GOOD | {"id": 11, "category_id": 1}],
    )  # fmt: skip


def same_objects(one, two) -> None:
    """Everything but the polygons' and counts' places in their buffers."""
    assert one.categories == two.categories
    assert one.image_ids.tolist() == two.image_ids.tolist()
    assert one.sizes.tolist() == two.sizes.tolist()
    for name in ("offsets", "ids", "labels", "ignore", "areas", "keypoints", "kinds", "scores"):
        np.testing.assert_array_equal(getattr(one.objects, name), getattr(two.objects, name), err_msg=name)
    np.testing.assert_allclose(one.objects.boxes, two.objects.boxes, rtol=1e-14)
    for i in range(len(one)):
        assert one.name(i) == two.name(i)
        for a, b in zip(one.record(i).segmentations, two.record(i).segmentations, strict=True):
            if isinstance(a, list):
                assert [part.tolist() for part in a] == [part.tolist() for part in b]
            else:
                assert (a and (a[0].tolist(), a[1])) == (b and (b[0].tolist(), b[1]))


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 200), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
segmentations = st.one_of(
    anything,
    st.lists(st.lists(scalars, max_size=9), max_size=3),
    st.lists(st.lists(st.floats(-20, 30), min_size=5, max_size=9), min_size=1, max_size=3),
    st.fixed_dictionaries({"size": st.just([10, 12]) | anything, "counts": anything | st.text("04OPQo`", max_size=9)}),
    st.fixed_dictionaries({"size": st.just([10, 12]), "counts": st.lists(st.integers(-1, 130), max_size=6)}),
)  # fmt: skip
