"""A transform that takes its time, for tests of what limits a loader."""

import time


def take_long(image, seconds):
    time.sleep(seconds)
    return image
