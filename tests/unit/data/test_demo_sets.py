"""The sets of scikit-learn as shards."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.shards.demo import make_demo
from tests.fakes.shards import read_tree


def read_samples(folder):
    """Members by key and suffix."""
    samples = {}
    for path in sorted(folder.iterdir()):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, suffix = info.name.partition(".")
                samples.setdefault(key, {})[suffix] = tar.extractfile(info).read()
    return samples


def make(tmp_path, name):
    make_demo(name, tmp_path / name)
    return read_samples(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "target", "classes"),
    [
        ("iris", 150, 4, "species", {"setosa": 50, "versicolor": 50, "virginica": 50}),
        ("breast_cancer", 569, 30, "diagnosis", {"malignant": 212, "benign": 357}),
        ("diabetes", 442, 10, "progression", None),
    ],
)
def test_tables_have_named_columns_and_a_target(tmp_path, name, rows, columns, target, classes):
    samples = [json.loads(sample["json"]) for sample in make(tmp_path, name).values()]
    assert len(samples) == rows
    assert {len(sample) for sample in samples} == {columns + 1}
    assert all(name.replace("_", "").isalnum() for name in samples[0])
    if classes:
        assert Counter(sample[target] for sample in samples) == classes


def test_a_row_is_what_scikit_learn_has(tmp_path):
    rows = make(tmp_path, "diabetes")
    first = json.loads(rows["00000"]["json"])
    assert (first["age"], first["bmi"], first["progression"]) == (59.0, 32.1, 151.0)


def test_digits_are_grey_pictures_with_their_digit(tmp_path):
    from sklearn.datasets import load_digits

    samples, digits = make(tmp_path, "digits"), load_digits()
    assert len(samples) == len(digits.target)
    for number in (0, 5, 1796):
        sample = samples[f"{number:05d}"]
        assert int(sample["cls"]) == digits.target[number]
        assert (np.asarray(Image.open(io.BytesIO(sample["png"]))) == digits.images[number] * 15).all()


def test_the_same_installation_gives_the_same_bytes(tmp_path):
    make_demo("iris", tmp_path / "a")
    make_demo("iris", tmp_path / "b")
    assert read_tree(tmp_path / "a") == read_tree(tmp_path / "b") != {}
