"""The tasks that a config may name, and how the loop gets one."""

from collections.abc import Callable, Mapping

from orchestrator.config.run import RunConfig
from orchestrator.core.dotted import find_function, is_dotted
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.tasks.causal_lm import CausalLM
from orchestrator.train.tasks.images import ImageClassification
from orchestrator.train.tasks.own import OwnStep
from orchestrator.train.tasks.tabular import TabularClassification, TabularRegression
from orchestrator.train.tasks.task import Task
from orchestrator.train.tasks.texts import TextClassification

TASKS: Mapping[str, Callable[[RunConfig, Manifest], Task]] = {
    "causal_lm": CausalLM,
    "text_classification": TextClassification,
    "image_classification": ImageClassification,
    "tabular_classification": TabularClassification,
    "tabular_regression": TabularRegression,
}


def make_task(config: RunConfig, manifest: Manifest) -> Task:
    """One of ours, or the user's own; with the user's own step, where there is one."""
    name, step = config.task.name, config.task.step
    make = find_function(name, "task.name") if is_dotted(name) else TASKS[name]
    task: Task = make(config, manifest)
    return task if step is None else OwnStep(task, step)
