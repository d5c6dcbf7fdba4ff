"""Transforms as a user may write them, for the samples of tests/fakes/arrays.py."""

import os
import signal


def cut_by_label(sample):
    """Every other sample has one row less."""
    return sample | {"values": sample["values"][: 1 + sample["label"] % 2]}


def refuse_label(sample, label):
    if sample["label"] == label:
        raise ValueError(f"label {label} is not wanted")
    return sample


def die(sample):
    os.kill(os.getpid(), signal.SIGKILL)


def take_for_ever(sample):
    while True:
        pass


def return_what_cannot_travel(sample):
    return sample | {"label": lambda: 1}
