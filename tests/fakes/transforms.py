"""Functions of a user, as a config names them: tests.fakes.transforms:shade."""

import numpy as np

from orchestrator.data.decoding.decode import Undecodable


def shade(image, draw, depth=1.0):
    """Every picture becomes the one number it draws."""
    return np.full(image.shape, draw.uniform("shade", 0, depth))


def mirror_both(sample, draw):
    """An image and its mask, alike."""
    if draw.chance("mirror", 0.5):
        return {name: value[:, ::-1] for name, value in sample.items()}
    return sample


def add_length(sample):
    return sample | {"length": len(sample["text"])}


def keep_long(text, letters):
    if len(text) < letters:
        raise Undecodable(f"has {len(text)} letters of {letters}")
    return text


def count_marks(data):
    """A decoder."""
    return bytes(data).count(b"!")


def fail(value):
    raise ZeroDivisionError("of no use")


def forget_to_return(sample):
    sample.clear()


NOT_A_FUNCTION = 3
