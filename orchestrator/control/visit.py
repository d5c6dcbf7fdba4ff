"""Asking every node of a cluster something: a visitor actor on each, which takes no CPU and goes with its driver.

For what is looked at before or beside runs; launch/checks/cluster.py asks. Silent nodes are told, not waited for."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.control.connect import NodeFacts

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Silence:
    """A node that did not answer."""

    why: str


class Visitor:
    """The actor on one node."""

    def answer(self, question: Callable[[], Any]) -> Any:
        return question()


class Visits:
    """By name, the nodes of a connected cluster."""

    def __init__(self, nodes: Sequence[NodeFacts]) -> None:
        self.nodes = dict(sorted(zip(unique_names(nodes), nodes, strict=True), key=lambda named: named[0]))
        actor = ray.remote(Visitor)
        self._visitors = {
            name: actor.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            ).remote()
            for name, node in self.nodes.items()
        }

    def ask(self, questions: Mapping[str, Callable[[], Answer]], timeout_s: float) -> dict[str, Answer | Silence]:
        """Ask each named node its question, all at once. Questions are functions of a module, perhaps in a partial."""
        asked = {self._visitors[name].answer.remote(question): name for name, question in questions.items()}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
        answers: dict[str, Answer | Silence] = dict.fromkeys(questions, Silence(f"no answer within {timeout_s:g} s"))
        for reference in answered:
            answers[asked[reference]] = _answer_of(reference)
        return answers


def unique_names(nodes: Sequence[NodeFacts]) -> list[str]:
    """Host names; with the beginning of the node's id where several share one."""
    count = Counter(node.host for node in nodes)
    return [node.host if count[node.host] == 1 else f"{node.host}/{node.node_id[:6]}" for node in nodes]


def _answer_of(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayActorError as error:
        return Silence(f"no process could be kept there: {_last_line(error)}")
    except RayError as error:
        return Silence(_last_line(error))


def _last_line(error: RayError) -> str:
    """Ray's errors end with the one that caused them."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
