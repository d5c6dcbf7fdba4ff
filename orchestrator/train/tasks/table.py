"""The tasks that a config may name, and how the loop gets one."""

from collections.abc import Callable, Mapping

from orchestrator.config.run import RunConfig
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.tasks.causal_lm import CausalLM
from orchestrator.train.tasks.images import ImageClassification
from orchestrator.train.tasks.task import Task

TASKS: Mapping[str, Callable[[RunConfig, Manifest], Task]] = {
    "causal_lm": CausalLM,
    "image_classification": ImageClassification,
}


def make_task(config: RunConfig, manifest: Manifest) -> Task:
    return TASKS[config.task.name](config, manifest)
