"""Metrics against values worked out by hand: every expected number is written out, none computed by what is tested."""

import pytest
import torch

from orchestrator.config.training import EvaluateSection
from orchestrator.core.errors import TrainingFailed
from orchestrator.train.evaluation.classes import ClassMetrics, ClassScores
from orchestrator.train.evaluation.numbers import NumberMetrics
from orchestrator.train.evaluation.ranks import ALONE
from orchestrator.train.evaluation.scores import notes_of, values_of
from orchestrator.train.evaluation.validation import Outputs, check_shapes
from orchestrator.train.tasks.task import Measured
from tests.fakes.small_runs import small_config

ALL = ("accuracy", "precision", "recall", "f1", "roc_auc", "confusion_matrix")
#          true:  0  0  0  0  1  1  1  2  2  2
TRUE = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
SAID = torch.tensor([0, 0, 1, 2, 1, 1, 0, 2, 2, 1])


def logits_for(said: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return torch.nn.functional.one_hot(said, classes).float() * 4


def score(outputs, targets, wished=ALL, *, classes=3, counting=None, cuts=(3,)) -> ClassScores:
    """Fed in several batches."""
    metrics = ClassMetrics(classes, wished, ALONE)
    counting = torch.ones(len(targets), dtype=torch.bool) if counting is None else counting
    for part in zip(*(rows.tensor_split(cuts) for rows in (outputs, targets, counting)), strict=True):
        metrics.update(*part)
    return metrics.compute()


def test_accuracy_precision_recall_and_f1_of_three_classes():
    """Class 0: 2 of 4 found, 3 said; class 1: 2 of 3 found, 4 said; class 2: 2 of 3 found, 3 said."""
    scores = score(logits_for(SAID), TRUE)
    assert scores.counts == [4, 3, 3]
    assert scores.accuracy == 6 / 10
    assert scores.precision == pytest.approx([2 / 3, 2 / 4, 2 / 3])
    assert scores.recall == pytest.approx([2 / 4, 2 / 3, 2 / 3])
    assert scores.f1 == pytest.approx([4 / 7, 4 / 7, 4 / 6])  # twice what was found, over what is there and was said


def test_confusion_matrix_has_true_classes_as_rows():
    assert score(logits_for(SAID), TRUE).matrix == [[2, 1, 1], [1, 2, 0], [0, 1, 2]]


def test_averages_over_classes():
    scores = score(logits_for(SAID), TRUE)
    macro, micro, each = (values_of(scores, ALL, average) for average in ("macro", "micro", "none"))
    assert macro["precision"] == pytest.approx((2 / 3 + 2 / 4 + 2 / 3) / 3)
    assert macro["recall"] == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    assert macro["f1"] == pytest.approx((4 / 7 + 4 / 7 + 4 / 6) / 3)
    assert micro["precision"] == micro["recall"] == micro["f1"] == 0.6
    assert each["f1"] == pytest.approx([4 / 7, 4 / 7, 4 / 6])
    assert macro["accuracy"] == micro["accuracy"] == each["accuracy"] == 0.6


def test_roc_auc_of_two_classes_is_the_share_of_pairs_in_the_right_order():
    """Positives 3, 1, 1 and negatives 2, 1, 0, -1: of 12 pairs 4 + 2 + 2 are right, 2 are ties that count half."""
    outputs = torch.tensor([3.0, 1.0, 1.0, 2.0, 1.0, 0.0, -1.0])
    targets = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    for shaped in (outputs, outputs.unsqueeze(1), torch.stack([torch.zeros(7), outputs], dim=1)):
        scores = score(shaped, targets, classes=2)
        assert values_of(scores, ALL, "macro")["roc_auc"] == pytest.approx(9 / 12, abs=1e-6)
        assert scores.matrix == [[2, 2], [0, 3]]  # said to be of class 1 is what is above 0


def test_roc_auc_of_three_classes_is_the_mean_of_one_against_the_rest():
    """What is said to be of a class is above what is not, and the rest are ties, which count half.

    Class 0: of 3 x 3 pairs 2 x 2 in order and 2 + 2 ties, 6. Class 1: one is above all 4 others, one ties with them, 6
    of 8. Class 2: it is above 4 of 5 and ties with one."""
    said = torch.tensor([0, 0, 0, 1, 2, 2])
    targets = torch.tensor([0, 0, 1, 1, 2, 0])
    scores = score(logits_for(said), targets)
    assert scores.roc_auc == pytest.approx([6 / 9, 6 / 8, 4.5 / 5], abs=1e-6)
    assert values_of(scores, ALL, "macro")["roc_auc"] == pytest.approx((6 / 9 + 6 / 8 + 4.5 / 5) / 3, abs=1e-6)


def test_roc_curve_goes_through_its_points():
    outputs, targets = torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.tensor([1, 0, 1, 0])
    [curve] = score(outputs, targets, classes=2).curves
    assert curve.false_rates.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.true_rates.tolist() == [0, 0.5, 0.5, 1, 1]


def test_confident_outputs_are_still_told_apart():
    """A sigmoid in float32 takes 18 and 20 for the same."""
    outputs, targets = torch.tensor([20.0, 18.0, 19.0, 17.5]), torch.tensor([1, 0, 1, 0])
    assert score(outputs, targets, classes=2).roc_auc == [1.0, 1.0]


def test_a_class_without_samples_is_left_out_of_means_and_named():
    """Nobody is of class 1, and one of class 0 is taken for it."""
    targets, said = torch.tensor([0, 0, 2, 2]), torch.tensor([0, 1, 2, 2])
    scores = score(logits_for(said), targets)
    assert scores.absent == [1]
    assert scores.recall == [0.5, None, 1.0]
    assert scores.f1 == pytest.approx([2 / 3, None, 1.0])
    values = values_of(scores, ALL, "macro")
    assert values["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert values["precision"] == 1.0
    assert scores.roc_auc == pytest.approx([0.75, None, 1.0])  # class 0: of 2 x 2 pairs 2 in order and 2 ties
    assert values["roc_auc"] == pytest.approx(0.875)
    [note] = notes_of(scores, ALL, "validation", ["setosa", "versicolor", "virginica"])
    assert note == "validation has no sample of class 1 (versicolor): means are over the other classes"


def test_where_all_samples_are_of_one_class_there_is_no_roc_auc():
    scores = score(logits_for(torch.tensor([0, 1])), torch.tensor([1, 1]), cuts=())
    assert scores.roc_auc == [None, None, None]
    assert values_of(scores, ALL, "macro").keys() == set(ALL) - {"roc_auc"}
    assert "samples of one class only" in list(notes_of(scores, ALL, "test", []))[-1]


def test_many_absent_classes_are_counted():
    scores = score(logits_for(torch.tensor([0, 1]), 15), torch.tensor([0, 1]), classes=15, cuts=())
    [note] = notes_of(scores, ALL, "test", [])
    assert "of class 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 3 more" in note


def test_a_class_that_is_never_said_has_precision_zero():
    scores = score(logits_for(torch.tensor([0, 0])), torch.tensor([0, 1]), cuts=())
    assert scores.precision == [0.5, 0.0, None]


def test_rows_that_do_not_count_change_nothing():
    noise, targets = torch.full((3, 3), torch.nan), torch.tensor([0, 1, 99])
    outputs, all_targets = torch.cat([logits_for(SAID), noise]), torch.cat([TRUE, targets])
    counting = torch.arange(13) < 10
    assert score(outputs, all_targets, counting=counting, cuts=(3, 11)).matrix == score(logits_for(SAID), TRUE).matrix
    assert score(outputs, all_targets, counting=counting, cuts=(3, 11)).roc_auc == score(logits_for(SAID), TRUE).roc_auc


def numbers(outputs, targets, counting=None):
    metrics = NumberMetrics(ALONE)
    outputs, targets = torch.tensor(outputs, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
    metrics.update(outputs, targets, torch.tensor(counting or [True] * len(targets)))
    return metrics.compute()


def test_errors_of_numbers():
    """Errors 1, -1, 2, 0; targets have mean 4 and squared distances 9, 1, 1, 9 from it."""
    scores = numbers([2.0, 2.0, 7.0, 7.0], [1.0, 3.0, 5.0, 7.0])
    assert (scores.mse, scores.mae) == (6 / 4, 4 / 4)
    assert scores.r2 == pytest.approx(1 - 6 / 20)


def test_r2_does_not_depend_on_scale_or_origin():
    outputs, targets = torch.tensor([2.0, 2.0, 7.0, 7.0]).double(), torch.tensor([1.0, 3.0, 5.0, 7.0]).double()
    for scale, origin in ((1e-6, 0.0), (1.0, 1e8), (1e9, 0.0)):
        scores = numbers((outputs * scale + origin).tolist(), (targets * scale + origin).tolist())
        assert scores.r2 == pytest.approx(1 - 6 / 20, abs=1e-6)


def test_equal_targets_have_no_r2_and_that_is_said():
    scores = numbers([[1.0], [3.0]], [2.0, 2.0])
    assert (scores.mse, scores.mae, scores.r2) == (1.0, 1.0, None)
    assert values_of(scores, ("mse", "r2"), "macro") == {"mse": 1.0}
    assert list(notes_of(scores, ("mse", "r2"), "test", [])) == ["test: all targets are equal, so there is no r2"]


def test_numbers_that_do_not_count_are_left_out():
    assert numbers([2.0, 2.0, 100.0], [1.0, 3.0, 5.0], [True, True, False]).mse == 1.0


# ---- tasks of one's own ----


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [((4, 5, 9), (4, 5)), ((4, 3), (5,)), ((4, 2), (4,)), ((4,), (4, 1))],
)
def test_outputs_that_no_metric_is_made_for_are_named(outputs, targets):
    with pytest.raises(TrainingFailed, match=r"outputs \[4"):
        check_shapes(torch.zeros(outputs), torch.zeros(targets), torch.ones(targets[:1]))


def test_targets_without_an_output_are_named():
    with pytest.raises(TrainingFailed, match="targets from 0 to 3, and outputs for 3 classes"):
        score(logits_for(SAID[:2]), torch.tensor([0, 3]), cuts=())


def outputs_of(measured, **evaluate) -> Outputs:
    """Of a task that is not ours, fed once."""
    config = small_config(evaluate=evaluate)
    own = config.model_copy(update={"task": config.task.model_copy(update={"name": "package.module:Task"})})
    outputs = Outputs(own, everything=False, ranks=ALONE)
    outputs.take(measured)
    return outputs


def test_a_task_of_ones_own_has_the_metrics_of_its_targets():
    loss, ones = torch.zeros(()), torch.ones(10)
    classes = outputs_of(Measured(loss=loss, outputs=logits_for(SAID), targets=TRUE, weights=ones))
    assert classes.chosen == ("accuracy", "f1", "roc_auc")
    assert classes.compute().accuracy == 0.6
    numbers_told = outputs_of(Measured(loss=loss, outputs=SAID.float(), targets=TRUE.float(), weights=ones))
    assert numbers_told.chosen == ("mse", "mae", "r2")
    assert outputs_of(Measured(loss=loss)).compute() is None


def test_metrics_wished_of_a_task_that_gives_out_nothing_are_named():
    config = small_config().model_copy(update={"evaluate": EvaluateSection(metrics=["f1"])})
    with pytest.raises(TrainingFailed, match="f1 need outputs and targets"):
        Outputs(config, everything=False, ranks=ALONE).take(Measured(loss=torch.zeros(())))
