"""Parts of a data set: of the right size, apart, the same for every order, and never a group in two of them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn.categories import Category
from maskrcnn.data.dataset import Dataset
from maskrcnn.data.split import divide, parse_fractions
from maskrcnn.errors import ConfigError, DataError
from tests.data.records import dataset_of_names

SHARES = (0.8, 0.1, 0.1)


def names_in(data: Dataset, indices: np.ndarray) -> set[str]:
    return {data.name(i) for i in indices.tolist()}


@pytest.mark.parametrize(
    ("text", "shares"), [("0.8,0.1,0.1", (0.8, 0.1, 0.1)), ("0.75,0.25", (0.75, 0.25)), (" 0.5, 0.5", (0.5, 0.5))]
)
def test_shares_are_read(text, shares) -> None:
    assert parse_fractions(text) == shares


@pytest.mark.parametrize("text", ["", "0.8", "0.8,0.1", "1,0", "0.8,0.3,-0.1", "a,b", "nan,1", "0.25,0.25,0.25,0.25"])
def test_other_shares_are_refused_with_an_example(text) -> None:
    with pytest.raises(ConfigError, match=r"such as 0\.8,0\.1,0\.1; not '"):
        parse_fractions(text)


def test_the_images_are_parted_by_their_shares() -> None:
    data = dataset_of_names([f"{i}.png" for i in range(40)])
    parts = divide(data, SHARES, seed=3).parts
    assert [len(indices) for indices in parts.values()] == [32, 4, 4]
    assert sorted(np.concatenate([*parts.values()]).tolist()) == list(range(40))
    assert all((np.diff(indices) > 0).all() for indices in parts.values())
    again, other = divide(data, SHARES, seed=3).parts, divide(data, SHARES, seed=4).parts
    assert all((parts[name] == again[name]).all() for name in parts)
    assert parts["val"].tolist() != other["val"].tolist()


@settings(max_examples=50)
@given(st.integers(2, 60), st.randoms(use_true_random=False), st.integers(0, 9))
def test_the_order_of_the_images_changes_nothing(count, random, seed) -> None:
    names = [f"{i}.png" for i in range(count)]
    mixed = random.sample(names, count)
    data, other = dataset_of_names(names), dataset_of_names(mixed)
    ours, theirs = divide(data, seed=seed).parts, divide(other, seed=seed).parts
    assert {part: names_in(data, ours[part]) for part in ours} == {part: names_in(other, theirs[part]) for part in ours}


@settings(max_examples=100)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=20), st.integers(0, 9))
def test_a_group_is_never_in_two_parts_and_no_part_is_empty(sizes, seed) -> None:
    names = [f"slide{group}_crop{i}.png" for group, size in enumerate(sizes) for i in range(size)]
    data = dataset_of_names(names)
    parts = divide(data, SHARES, seed=seed, group_by=r"slide\d+").parts
    groups = [{name.split("_")[0] for name in names_in(data, indices)} for indices in parts.values()]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups)) == len(sizes)
    assert sorted(np.concatenate([*parts.values()]).tolist()) == list(range(len(names)))


def test_groups_come_close_to_the_shares() -> None:
    data = dataset_of_names([f"{group}-{i}.png" for group in range(50) for i in range(1 + group % 5)])
    sizes = [len(indices) / len(data) for indices in divide(data, SHARES, group_by=r"^\d+").parts.values()]
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_the_first_group_of_the_match_counts() -> None:
    data = dataset_of_names(["a_1.png", "b_1.png", "a_2.png", "b_2.png"])
    together = divide(data, (0.5, 0.5), group_by=r"(.)_\d").parts
    assert {frozenset(names_in(data, indices)) for indices in together.values()} == {
        frozenset({"a_1.png", "a_2.png"}),
        frozenset({"b_1.png", "b_2.png"}),
    }


def test_an_image_that_is_added_moves_few_others() -> None:
    names = [f"{i}.png" for i in range(100)]
    data, more = dataset_of_names(names), dataset_of_names([*names, "new.png"])
    before, after = (names_in(each, divide(each).parts["val"]) for each in (data, more))
    assert len(before ^ after) <= 2


def test_the_same_file_listed_twice_is_in_one_part() -> None:
    data = dataset_of_names([f"{i // 2}.png" for i in range(20)])
    parts = divide(data, (0.5, 0.5)).parts
    assert not names_in(data, parts["train"]) & names_in(data, parts["val"])


@pytest.mark.parametrize(("shares", "images", "held"), [((0.9, 0.1), 2, 1), ((0.1, 0.9), 4, 3), ((0.001, 0.999), 4, 3)])
def test_an_image_is_on_either_side(shares, images, held) -> None:
    parts = divide(dataset_of_names([f"{i}.png" for i in range(images)]), shares).parts
    assert (len(parts["train"]), len(parts["val"])) == (images - held, held)


def test_too_few_groups_are_an_error_with_their_number() -> None:
    with pytest.raises(DataError, match=r"data: has 1 images of different names, too few to fill train, val"):
        divide(dataset_of_names(["a.png"]))
    with pytest.raises(DataError, match=r"2 groups of --group-by '\^\.', too few to fill train, val, test"):
        divide(dataset_of_names(["a1.png", "a2.png", "b.png"]), SHARES, group_by="^.")


def test_an_expression_that_is_wrong_or_matches_nothing() -> None:
    data = dataset_of_names(["a.png", "b.png"])
    with pytest.raises(ConfigError, match="not a regular expression"):
        divide(data, group_by="(")
    with pytest.raises(ConfigError, match=r"matches no file name, such as 'a\.png'"):
        divide(data, group_by="slide")


def test_images_without_a_group_are_counted_and_stand_alone() -> None:
    data = dataset_of_names(["s1_a.png", "s1_b.png", "x.png", "y.png"])
    division = divide(data, (0.5, 0.5), group_by=r"s\d")
    assert division.ungrouped == 2
    assert "2 images do not match and stand alone" in division.describe()


def test_everything_is_listed() -> None:
    data = dataset_of_names(["a.png", "b.png", "c.png"])
    division = divide(data, (0.34, 0.33, 0.33), seed=5)
    listed = json.loads(json.dumps(division.listing()))
    assert (listed["data"], listed["fractions"], listed["seed"], listed["group_by"]) == (
        "data",
        [0.34, 0.33, 0.33],
        5,
        None,
    )
    rows = [row for part in ("train", "val", "test") for row in listed[part]]
    assert sorted(rows, key=lambda row: row["file"]) == [
        {"id": 1, "file": "a.png"}, {"id": 2, "file": "b.png"}, {"id": 3, "file": "c.png"}
    ]  # fmt: skip
    assert data.categories == (Category(1, "cell"),)
