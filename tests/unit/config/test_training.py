"""What the sections about learning refuse, and in which words."""

import pytest

from orchestrator.config.check import replace_values
from orchestrator.config.training import METRICS
from orchestrator.core.errors import ConfigError
from orchestrator.core.measures import LARGER_IS_BETTER
from tests.fakes.small_runs import small_config

CONFIG = small_config(evaluate={"every_steps": 2})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optim.name": "LAMB"}, "optim.name: LAMB scales a step by norms of whole parameters"),
        ({"optim.name": "muon"}, "optim.name: muon looks at whole matrices"),
        ({"optim.name": "adafactor"}, "optim.name: adafactor keeps sums over rows and columns of whole matrices"),
        ({"optim.name": "my.module:Optimizer"}, "an optimizer of your own cannot be moved to another world"),
        ({"optim.name": "adamx"}, "did you mean 'adam'?"),
        ({"optim.name": "sgd", "optim.nesterov": True}, "optim.nesterov needs optim.momentum above 0"),
        ({"optim.rates": {"head.*": 0.0}}, "optim.rates.head.*: must be above 0"),
        ({"schedule.name": "step"}, "schedule step needs schedule.every_steps"),
        (
            {"schedule.name": "plateau", "evaluate.every_steps": None},
            "schedule.name: plateau needs evaluate.every_steps",
        ),
        (
            {"evaluate.every_steps": None, "evaluate.early_stop": {"patience": 2}},
            "evaluate.early_stop needs evaluate.every_steps",
        ),
        ({"evaluate.best_by": "acuracy"}, "'acuracy' is no single number to be best by; did you mean 'accuracy'?"),
        ({"evaluate.best_by": "confusion_matrix"}, "is no single number to be best by"),
        ({"data.split.folds": 5}, "data.split.folds takes the place of validation, which is 0.1"),
        (
            {"data.split.folds": 5, "data.split.validation": 0.0, "data.split.fold": 5},
            "data.split.fold 5 must be below data.split.folds, which is 5",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_the_reason(changes, told):
    with pytest.raises(ConfigError) as caught:
        replace_values(CONFIG, changes)
    assert told in str(caught.value)


def test_folds_are_enough_to_validate_on():
    changes = {"data.split.folds": 5, "data.split.validation": 0.0}
    assert replace_values(CONFIG, changes).evaluate.every_steps == 2


def test_every_metric_is_known_by_which_way_it_gets_better_or_is_no_single_number():
    assert {"loss", *METRICS} - LARGER_IS_BETTER.keys() == {"confusion_matrix"}
