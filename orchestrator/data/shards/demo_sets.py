"""The small data sets that come with scikit-learn, as samples: rows of a table as JSON, digits as pictures.

demo.py writes them into shards. scikit-learn is imported only here, when a set is made."""

import json
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import Any

from PIL import Image

SAMPLES_A_SHARD = 128
SPECIES, DIAGNOSES = ("setosa", "versicolor", "virginica"), ("malignant", "benign")


def list_samples(name: str) -> Iterator[dict[str, Any]]:
    """In the order of scikit-learn, which is that of the classes for some sets."""
    for number, members in enumerate(SETS[name]()):
        yield {"__key__": f"{number:05d}", **members}


def list_digits() -> Iterator[dict[str, bytes]]:
    """1,797 grey pictures of 8 by 8 pixels, and the digit that each shows."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for picture, digit in zip(digits.images, digits.target, strict=True):
        stream = BytesIO()
        Image.fromarray((picture * 15).astype("uint8")).save(stream, "png")  # 0 to 16 becomes 0 to 240
        yield {"png": stream.getvalue(), "cls": str(digit).encode()}


def list_iris() -> Iterator[dict[str, bytes]]:
    """150 flowers: four measures in cm, and the species."""
    from sklearn.datasets import load_iris

    flowers = load_iris()
    names = [name.removesuffix(" (cm)").replace(" ", "_") for name in flowers.feature_names]
    return _list_rows(names, flowers.data, "species", [SPECIES[number] for number in flowers.target])


def list_breast_cancer() -> Iterator[dict[str, bytes]]:
    """569 tumours: thirty measures of their cells, and the diagnosis."""
    from sklearn.datasets import load_breast_cancer

    tumours = load_breast_cancer()
    names = [name.replace(" ", "_") for name in tumours.feature_names]
    return _list_rows(names, tumours.data, "diagnosis", [DIAGNOSES[number] for number in tumours.target])


def list_diabetes() -> Iterator[dict[str, bytes]]:
    """442 patients: age, sex and eight measures, and how far the disease had got a year later."""
    from sklearn.datasets import load_diabetes

    patients = load_diabetes(scaled=False)
    return _list_rows(patients.feature_names, patients.data, "progression", patients.target.tolist())


def _list_rows(names: list[str], values: Any, target: str, targets: list[Any]) -> Iterator[dict[str, bytes]]:
    for row, learned in zip(values.tolist(), targets, strict=True):
        yield {"json": json.dumps(dict(zip(names, row, strict=True)) | {target: learned}).encode()}


SETS: Mapping[str, Callable[[], Iterator[dict[str, bytes]]]] = {
    "digits": list_digits,
    "iris": list_iris,
    "breast_cancer": list_breast_cancer,
    "diabetes": list_diabetes,
}
