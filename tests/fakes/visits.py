"""A cluster for the doctor whose nodes answer from this process, some of them otherwise than they should."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from orchestrator.control.connect import NodeFacts
from orchestrator.control.visit import Silence


class FakeVisits:
    """`told`: by (node, function name) what is answered instead, or a function of the question's arguments."""

    def __init__(self, *names: str, told: Mapping[tuple[str, str], Any]) -> None:
        self.nodes = {
            name: NodeFacts(node_id=f"{i:056x}", host=name, cpus=8, gpus=0) for i, name in enumerate(names, start=1)
        }
        self.told = dict(told)
        self.asked: list[tuple[str, str]] = []

    def ask(self, questions: Mapping[str, Callable[[], Any]], timeout_s: float) -> dict[str, Any]:
        return {node: self._answer(node, question) for node, question in questions.items()}

    def _answer(self, node: str, question: Callable[[], Any]) -> Any:
        function = question.func if isinstance(question, partial) else question
        arguments = question.args if isinstance(question, partial) else ()
        self.asked.append((node, function.__name__))
        told = self.told.get((node, function.__name__), question)
        if isinstance(told, Silence) or not callable(told):
            return told
        return told() if told is question else told(*arguments)
