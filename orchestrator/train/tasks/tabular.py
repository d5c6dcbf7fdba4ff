"""Learn one column of a table from others: a class, or a number."""

import torch

from orchestrator.config.run import RunConfig
from orchestrator.core.errors import ConfigError
from orchestrator.data.shards.manifest import Manifest
from orchestrator.train.engine import DTYPES
from orchestrator.train.tasks.classes import Classes
from orchestrator.train.tasks.losses import make_number_loss
from orchestrator.train.tasks.task import Fields, Forward, Inputs, Measured, logits_of, move


class TabularClassification:
    """`features` [n, columns], `target` [n]: classes from 0."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:
        self._dtype = DTYPES[config.train.precision]
        self._classes = Classes(config, manifest)

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        return {
            "features": move(fields["features"], device).to(self._dtype),
            "labels": move(fields["target"], device),
            "weights": move(fields["weights"], device),
        }

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        logits = logits_of(forward(features=inputs["features"]))
        return self._classes.measure(logits, inputs["labels"], inputs["weights"])


class TabularRegression:
    """`features` [n, columns], `target` [n]: numbers."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:  # noqa: ARG002 - a Task
        self._dtype = DTYPES[config.train.precision]
        self._loss = make_number_loss(config.task.loss)

    def collate(self, fields: Fields, device: torch.device) -> Inputs:
        return {
            "features": move(fields["features"], device).to(self._dtype),
            "targets": move(fields["target"], device),
            "weights": move(fields["weights"], device),
        }

    def step(self, forward: Forward, inputs: Inputs) -> Measured:
        outputs, targets, weights = (
            logits_of(forward(features=inputs["features"])),
            inputs["targets"],
            inputs["weights"],
        )
        if outputs.shape not in ((len(targets), 1), (len(targets),)):
            raise ConfigError(
                f"the model gives {list(outputs.shape)} for {len(targets)} rows; one number each is learned",
                where="model",
                remedy="give it one output",
            )
        outputs = outputs.reshape(-1)
        return Measured(
            loss=torch.dot(self._loss(outputs, targets), weights),
            outputs=outputs.detach(),
            targets=targets,
            weights=weights,
        )
