"""Ray as the gang uses it: actors whose calls a test answers one by one, or lets fail."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorAlreadyExistsError


@dataclass(eq=False)
class Call:
    """A call of an actor's method, and what Ray gives back for it at once."""

    method: str
    arguments: tuple[Any, ...]
    outcome: Future[Any] = field(default_factory=Future)

    def future(self) -> Future[Any]:
        return self.outcome

    def end(self, result: Any = None) -> None:
        """With an error, too, which is raised then."""
        if isinstance(result, Exception):
            self.outcome.set_exception(result)
        else:
            self.outcome.set_result(result)


@dataclass(eq=False)
class FakeActor:
    made_with: tuple[Any, ...] = ()
    calls: list[Call] = field(default_factory=list)

    def __getattr__(self, method: str) -> "FakeMethod":
        return FakeMethod(self, method)

    def newest(self, method: str) -> Call:
        return [call for call in self.calls if call.method == method][-1]

    def count(self, method: str) -> int:
        return sum(call.method == method for call in self.calls)


@dataclass(frozen=True)
class FakeMethod:
    actor: FakeActor
    name: str

    def remote(self, *arguments: Any, **_options: Any) -> Call:
        self.actor.calls.append(Call(self.name, arguments))
        return self.actor.calls[-1]


@dataclass(eq=False)
class FakeRay:
    """In place of the module."""

    actors: list[FakeActor] = field(default_factory=list)
    killed: list[FakeActor] = field(default_factory=list)
    named: dict[str, FakeActor] = field(default_factory=dict)
    looks: int = 0  # for an actor by its name
    cannot_kill: bool = False

    def remote(self, _actor_class: type) -> "FakeRay":
        return self

    def options(self, name: str, **_options: Any) -> "FakeFactory":
        return FakeFactory(self, name)

    def get_actor(self, name: str, namespace: str) -> FakeActor:
        self.looks += 1
        if name not in self.named:
            raise ValueError(f"no actor {name} in {namespace}")
        return self.named[name]

    def get(self, call: Call, timeout: float = 0.0) -> Any:
        """None, where a test has not answered."""
        return call.outcome.result() if call.outcome.done() else None

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor)
        if not self.cannot_kill:
            self.named = {name: other for name, other in self.named.items() if other is not actor}


@dataclass(frozen=True)
class FakeFactory:
    ray: FakeRay
    name: str

    def remote(self, *arguments: Any) -> FakeActor:
        if self.name in self.ray.named:
            raise ActorAlreadyExistsError(f"The name {self.name} is already taken.")
        self.ray.actors.append(FakeActor(arguments))
        self.ray.named[self.name] = self.ray.actors[-1]
        return self.ray.actors[-1]
