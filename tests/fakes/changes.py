"""Changes of pictures for tests, as the config has them."""

from typing import Any

ROTATE: dict[str, Any] = {"name": "rotate", "args": {"degrees": [-30, 30]}}
FLIP: dict[str, Any] = {"name": "flip", "p": 0.5}
CROP: dict[str, Any] = {"name": "crop", "args": {"size": 8, "padding": 3}}
HUE: dict[str, Any] = {"name": "hue", "p": 0.5, "args": {"degrees": [-40, 40]}}
EVERYTHING: list[dict[str, Any]] = [
    ROTATE,
    {"name": "shear", "args": {"x": [-10, 10], "y": [-5, 5]}},
    {"name": "zoom", "args": {"factor": [0.8, 1.25]}, "p": 0.7},
    FLIP,
    *({"name": name, "args": {"factor": [0.6, 1.4]}} for name in ("brightness", "contrast", "saturation")),
    HUE,
    CROP,
    {"name": "normalize", "args": {"mean": [0.5, 0.4, 0.3], "std": [0.2]}},
]
