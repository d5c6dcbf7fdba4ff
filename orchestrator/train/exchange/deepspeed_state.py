"""What one of DeepSpeed's checkpoints holds of each named tensor, at every ZeRO stage: a source of fragments.

Comes after deepspeed_files.py. The files keep flat tensors without names in them; how those are cut is the same
knowledge as in train/layouts.py, here of what lies on disk. Whatever is not as known raises."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from orchestrator.checkpoint.fragments import MASTER, VALUE, Piece, TensorInfo, check_coverage
from orchestrator.checkpoint.layout import dtype_name
from orchestrator.core.errors import CheckpointDamaged, DataError
from orchestrator.train.exchange.deepspeed_files import ZeroFiles, load_file
from orchestrator.train.loss_scale import LOSS_SCALE_FIELDS

SHOWN = 3


class Stretch(NamedTuple):
    start: int
    values: torch.Tensor  # 1-D, mapped


class Wanted(NamedTuple):
    """What our model is made of. Groups are the optimizer's: without ZeRO its files name no parameters."""

    shapes: Mapping[str, tuple[int, ...]]
    tied: Mapping[str, str]
    groups: tuple[tuple[str, ...], ...]
    states: tuple[str, ...]  # the optimizer's, of every element


class DeepSpeedState:
    """A FragmentSource."""

    def __init__(self, files: ZeroFiles, wanted: Wanted, precision: torch.dtype) -> None:
        self._files, self._wanted = files, wanted
        self._rows: dict[str, dict[str, list[Stretch]]] = defaultdict(lambda: defaultdict(list))
        self._scalars: dict[str, dict[str, float]] = {}
        self._scaler: Any = None
        self.settings: list[dict[str, Any]] = []  # of the optimizer's groups
        try:
            self.step = int(files.first["global_steps"])
            self._prefix = _find_prefix(files.first["module"], wanted.shapes)
            self._check_names()
            self._hold_everything()
            self._check_sizes()
            self.tensors = {name: self._describe(name, shape, precision) for name, shape in wanted.shapes.items()}
            check_coverage(self.tensors, self._pieces())
        except (KeyError, AttributeError, TypeError, IndexError, ValueError) as error:
            raise self._unknown(f"{type(error).__name__}: {error}") from error
        except CheckpointDamaged as error:
            raise self._unknown(str(error)) from error

    def states(self, name: str) -> tuple[str, ...]:
        return tuple(self._rows[name]) if name in self._rows else ()

    def read(self, name: str, state: str, start: int, count: int) -> torch.Tensor:
        """A copy: nobody holds on to the mapped files."""
        held = self._rows[name][state]
        out = torch.empty(count, dtype=held[0].values.dtype)
        for begin, values in held:
            first, last = max(start, begin), min(start + count, begin + len(values))
            if first < last:
                out[first - start : last - start] = values[first - begin : last - begin]
        return out

    def scalars(self, name: str) -> dict[str, float]:
        return self._scalars.get(name, {})

    def engine(self) -> dict[str, float]:
        """The loss scale of fp16, where it moves."""
        if not (_field(self._scaler, "dynamic") or _field(self._scaler, "dynamic_loss_scale")):
            return {}
        found = {ours: _field(self._scaler, theirs) for ours, theirs in LOSS_SCALE_FIELDS.items()}
        return {ours: float(value) for ours, value in found.items() if value is not None}

    # ---- what the files hold ----

    def _hold_everything(self) -> None:
        if self._files.first["ds_config"].get("zero_optimization", {}).get("round_robin_gradients"):
            raise self._unknown("round_robin_gradients: its address map is wrong")
        if not self._files.optimizers:
            self._hold_plain()
        for rank, path in enumerate(self._files.optimizers):
            content = load_file(path)["optimizer_state_dict"]
            self._scaler = content.get("loss_scaler")
            if "fp32_flat_groups" in content:
                self._hold_cut(rank, content)
            else:
                self._hold_partition(content)
        self._hold_values()

    def _hold_plain(self) -> None:
        """No ZeRO: whole tensors, which the optimizer numbers; in 16 bits with fp32 copies."""
        first = self._files.first
        optimizer, module = first["optimizer"], first["module"]
        if optimizer is None:
            raise self._unknown("no optimizer in it, and no *_optim_states.pt beside it")
        inner = optimizer.get("optimizer_state_dict", optimizer)
        self._scaler, self.settings = optimizer, inner["param_groups"]
        if "fp32_groups_flat" in optimizer:
            raise self._unknown("one flat tensor for all parameters, without names")
        copies = [copy for group in optimizer.get("fp32_groups", ()) for copy in group]
        names = self._name_numbered([group["params"] for group in self.settings])
        for number, name in enumerate(names):
            master = copies[number] if copies else module[f"{self._prefix}{name}"]
            self._hold(name, 0, master.numel(), 0, master.flatten(), inner["state"].get(number, {}))

    def _name_numbered(self, groups: list[list[int]]) -> list[str]:
        """Parameters in the order of our own optimizer's groups, or of the model where there is one group."""
        ours = [list(group) for group in self._wanted.groups]
        if len(groups) == 1:
            in_groups = {name for group in ours for name in group}
            ours = [[name for name in self._wanted.shapes if name in in_groups]]
        if [len(group) for group in groups] != [len(group) for group in ours]:
            raise self._unknown(
                f"its optimizer has groups of {[len(group) for group in groups]} parameters, which have no names "
                f"without ZeRO; this config's groups have {[len(group) for group in ours]}"
            )
        return [name for group in ours for name in group]

    def _hold_partition(self, content: dict[str, Any]) -> None:
        """Stages 1 and 2: each group in a row, of which every rank has a part; `addresses` say what lies where."""
        kept = content["base_optimizer_state"]
        if isinstance(kept, dict):
            self.settings = kept["param_groups"]
            kept = [kept["state"].get(group["params"][0], {}) for group in kept["param_groups"]]
        flats, addresses = content["single_partition_of_fp32_groups"], content["param_slice_mappings"]
        for flat, states, inside in zip(flats, kept, addresses, strict=True):
            for name, address in inside.items():
                reached = sum(len(held.values) for held in self._rows[self._ours(name)][MASTER])
                self._hold(name, reached, address.numel, address.start, flat, states)

    def _hold_cut(self, rank: int, content: dict[str, Any]) -> None:
        """Stage 3: each parameter is cut into equal parts, the last one padded; a rank's parts lie in a row."""
        flats, inner = content["fp32_flat_groups"], content["optimizer_state_dict"]
        self.settings = inner["param_groups"]
        for number, (flat, inside) in enumerate(zip(flats, self._files.first["param_shapes"], strict=True)):
            offset = 0
            for name, shape in inside.items():
                start, count, size = self._part_of(rank, torch.Size(shape).numel())
                self._hold(name, start, count, offset, flat, inner["state"].get(number, {}))
                offset += size
            if offset != flat.numel():
                raise self._unknown(f"a flat tensor of {flat.numel()} elements, its parameters have {offset}")

    def _hold_values(self) -> None:
        """Frozen parameters and buffers."""
        first = self._files.first
        if self._files.cuts_parameters:
            for rank, path in enumerate(self._files.models):
                for name, part in load_file(path)["frozen_param_fragments"].items():
                    numel = torch.Size(first["frozen_param_shapes"][name]).numel()
                    start, count, _ = self._part_of(rank, numel)
                    self._add(name, VALUE, start, part.flatten()[:count])
        for name, tensor in first["module"].items():
            if self._ours(name) not in self._rows:
                self._add(name, VALUE, 0, tensor.flatten())

    def _hold(
        self, name: str, start: int, count: int, offset: int, flat: torch.Tensor, states: Mapping[str, Any]
    ) -> None:
        """A stretch of a parameter, which lies at `offset` in a flat tensor and in the optimizer's states of it."""
        if not count:
            return
        rows = {state: states[state].flatten() for state in self._wanted.states if state in states}
        for state, row in {MASTER: flat, **rows}.items():
            self._add(name, state, start, row[offset : offset + count])
        numbers = {key: float(value) for key, value in states.items() if _is_number(value)}
        self._scalars[self._ours(name)] = numbers

    def _add(self, name: str, state: str, start: int, values: torch.Tensor) -> None:
        self._rows[self._ours(name)][state].append(Stretch(start, values.detach()))

    # ---- what fits ----

    def _ours(self, name: str) -> str:
        name = name.removeprefix(self._prefix)
        return self._wanted.tied.get(name, name)

    def _part_of(self, rank: int, numel: int) -> tuple[int, int, int]:
        """Start and count of a rank's part under ZeRO-3, and its size with padding."""
        size = -(-numel // len(self._files.optimizers))
        start = min(rank * size, numel)
        return start, min(size, numel - start), size

    def _describe(self, name: str, shape: tuple[int, ...], precision: torch.dtype) -> TensorInfo:
        """Of what is trained: the precision in which it will be computed with."""
        held = self._rows[name]
        if MASTER in held:
            return TensorInfo(shape, dtype_name(precision), "trainable")
        is_buffer = f"{self._prefix}{name}" in self._files.first["buffer_names"]
        return TensorInfo(shape, dtype_name(held[VALUE][0].values.dtype), "buffer" if is_buffer else "frozen")

    def _check_names(self) -> None:
        stored = {self._ours(name) for name in self._files.first["module"]}
        lacking = [f"{name} is not there" for name in self._wanted.shapes if name not in stored]
        shared = {name.removeprefix(self._prefix) for name in self._files.first.get("shared_params") or ()}
        lacking += [f"{name} was tied to another" for name in sorted(shared & self._wanted.shapes.keys())]
        lacking += [f"the model has no {name}" for name in sorted(stored - self._wanted.shapes.keys())]
        if lacking:
            raise self._other_model(lacking)

    def _check_sizes(self) -> None:
        lacking = []
        for name, shape in self._wanted.shapes.items():
            numel = torch.Size(shape).numel()
            counts = {sum(len(held.values) for held in states) for states in self._rows[name].values()}
            if counts != {numel} and numel:
                lacking.append(f"{name} has {' and '.join(map(str, counts))} elements there, the model's has {numel}")
        if lacking:
            raise self._other_model(lacking)
        learning = [name for name, held in self._rows.items() if MASTER in held]
        bare = [name for name in learning if set(self._wanted.states) - set(self._rows[name])]
        if bare and self.step:
            raise DataError(
                f"the optimizer keeps {', '.join(self._wanted.states)} of each parameter, {bare[0]} comes without",
                where=str(self._files.folder),
                remedy="set optim.name to the optimizer that DeepSpeed stepped",
            )

    def _pieces(self) -> Iterable[Piece]:
        for name, states in self._rows.items():
            for state, held in states.items():
                yield from (Piece(name, state, start, len(values)) for start, values in held)

    def _other_model(self, lacking: list[str]) -> DataError:
        return DataError(
            f"{len(lacking)} tensors do not fit: {'; '.join(lacking[:SHOWN])}",
            where=str(self._files.folder),
            remedy="correct the model section: it must describe the very model that DeepSpeed trained",
        )

    def _unknown(self, found: str) -> DataError:
        written = self._files.first.get("ds_version", "an unknown version")
        return DataError(
            f"written by DeepSpeed {written}, keeps its state in an unknown way: {found}",
            where=str(self._files.folder),
            remedy="save it once more with DeepSpeed 0.19 and ZeRO stage 1 or higher",
        )


def _find_prefix(stored: Iterable[str], wanted: Mapping[str, Any]) -> str:
    """What a wrapper has put before every name, as "module."."""
    first = next(iter(wanted))
    ends = [name for name in stored if name == first or name.endswith(f".{first}")]
    return min(ends, key=len).removesuffix(first) if ends else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, torch.Tensor) and not value.ndim)


def _field(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
