"""Pictures of an evaluation that tells classes apart: its confusion matrix and its ROC curves, as PNG bytes.

Comes after classes.py. They can be read with two classes and with a hundred, by people who see few colours, and in
print: the matrix is of one hue, and lines differ in their dashes too."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from orchestrator.train.evaluation.classes import ClassScores, Curve
from orchestrator.train.evaluation.scores import mean, name_class

Rates = NDArray[np.float64]
MOST_COUNTS_SHOWN = 20  # classes whose counts are written into the matrix
MOST_TICKS = 25
MOST_CURVES_NAMED = 10
DASHES = ("-", "--", "-.", ":")
LONGEST_NAME = 24  # characters


def draw_confusion_matrix(scores: ClassScores, names: Sequence[str], title: str) -> bytes:
    """Each row is shaded by its shares: what samples of that class were taken for."""
    matrix = np.array(scores.matrix, np.int64)
    size = len(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    inches = min(4.5 + 0.3 * size, 14)
    figure, axes = _open_figure(inches + 1, inches)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))  # few can be seen, too
    if size <= MOST_COUNTS_SHOWN:
        for row, column in np.ndindex(matrix.shape):
            colour = "white" if shares[row, column] > 0.25 else "black"
            axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=colour, fontsize=8)
    ticks = range(0, size, -(-size // MOST_TICKS))
    labels = [_short(name_class(number, names)) for number in ticks]
    axes.set_xticks(ticks, labels, rotation=90 if size * max(map(len, labels)) > 40 else 0)
    axes.set_yticks(ticks, labels)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.04)
    return _to_png(figure)


def draw_roc(scores: ClassScores, names: Sequence[str], title: str) -> bytes:
    """Each class against the rest. Of many classes the lowest curves are named, and all are shown behind their mean."""
    figure, axes = _open_figure(6.5, 6)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, label="by chance (0.5)")
    areas = {number: area for number, area in enumerate(scores.roc_auc) if area is not None}
    by_area = sorted(scores.curves, key=lambda curve: areas[curve.of_class])
    named = by_area[:MOST_CURVES_NAMED]
    for curve in by_area[MOST_CURVES_NAMED:]:
        axes.plot(curve.false_rates, curve.true_rates, color="0.85", linewidth=0.8)
    for number, curve in enumerate(sorted(named, key=lambda curve: curve.of_class)):
        label = f"{_short(name_class(curve.of_class, names))} ({areas[curve.of_class]:.4f})"
        colour = colormaps["viridis"](number / max(len(named), 2) * 0.9)
        dashes = DASHES[number % len(DASHES)]
        axes.plot(curve.false_rates, curve.true_rates, color=colour, linestyle=dashes, linewidth=1.6, label=label)
    if len(by_area) > 1:
        label = f"mean of {len(by_area)} classes ({mean(scores.roc_auc):.4f})"
        axes.plot(*mean_curve(by_area), color="black", linewidth=2.2, label=label)
    axes.set_xlabel("false positives as a share of all negatives")
    axes.set_ylabel("true positives as a share of all positives")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    return _to_png(figure)


def mean_curve(curves: Sequence[Curve]) -> tuple[Rates, Rates]:
    """The mean true rate at each false rate."""
    grid = np.linspace(0, 1, 501)
    rates = [np.interp(grid, curve.false_rates, curve.true_rates) for curve in curves]
    return np.concatenate([[0.0], grid]), np.concatenate([[0.0], np.mean(rates, axis=0)])


def _open_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # draws into memory, whatever the surroundings ask matplotlib for
    return figure, figure.add_subplot()


def _to_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
