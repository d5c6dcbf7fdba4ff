"""Values of samples -> one array a field. Comes after fields.py; sampled.py makes batches of the arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import DataError


def stack_values(field: str, values: Sequence[Any], name_value: Callable[[int], str]) -> NDArray[Any]:
    """Arrays and numbers as one array [n, ...]; anything else, like texts, as n objects. There must be one at least."""
    if not isinstance(values[0], np.ndarray | np.generic | bool | int | float):
        return np.fromiter(values, object, len(values))
    arrays = list(map(np.asarray, values))
    for n, array in enumerate(arrays):
        if array.shape != arrays[0].shape or array.dtype != arrays[0].dtype:
            raise DataError(
                f"{name_value(0)} is {_describe(arrays[0])} and {name_value(n)} is {_describe(array)}; a batch needs "
                "them alike",
                where=f"data.fields.{field}",
                remedy="add a resize transform to data.transforms, or one that crops, pads or converts",
            )
    return np.stack(arrays)


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}" if array.shape else f"one {array.dtype}"
