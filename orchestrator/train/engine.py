"""DeepSpeed's front door: join a world, build a model empty, fill it with fragments, step it, drop it, leave.

Comes after the node actor's store and the config; before train/loop.py, which drives it. deepspeed is imported inside
functions, once the accelerator is chosen. Engines and worlds may come and go many times in one process."""

import ctypes
import gc
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import nn
from torch.distributed import HashStore, Store  # type: ignore[attr-defined]

from orchestrator.checkpoint.fragments import FragmentSource, RankState
from orchestrator.config.run import RunConfig
from orchestrator.core.words import World
from orchestrator.train import reshard
from orchestrator.train.agreement import use_group
from orchestrator.train.compile import compile_in_place, forget_compiled
from orchestrator.train.deepspeed_config import is_plain_torch, make_deepspeed_config
from orchestrator.train.look import Lookout
from orchestrator.train.loss_scale import read_loss_scale, write_loss_scale
from orchestrator.train.models.buffers import BatchStatistics
from orchestrator.train.models.tensors import parameters_on_meta
from orchestrator.train.optim.optimizer import make_optimizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_M_ARENA_MAX = -8  # of malloc.h


def describe_deepspeed() -> dict[str, Any]:
    """For the doctor: what is installed, and what it makes of this machine."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops import __compatible_ops__ as ops

    return {
        "version": deepspeed.__version__,
        "accelerator": get_accelerator().device_name(),
        "ops": {name: bool(can) for name, can in ops.items() if name != "deepspeed_not_implemented"},
    }


# ---- worlds ----


def warm(device: str, threads: int) -> None:
    """Pay for imports ahead of time; on the CPU also for what DeepSpeed loads when the first engine is built."""
    torch.set_num_threads(threads)
    _share_one_arena()
    import transformers  # noqa: F401 (the models' import)

    if torch.device(device).type == "cpu":  # with CUDA not even DeepSpeed: a process that has begun it must not fork
        deepspeed = _import_deepspeed(device)
        join_world(World.flat(0, 1), device, HashStore(), timeout_s=60.0)
        module = nn.Linear(2, 2)
        engine = deepspeed.initialize(
            model=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=0.0),
            config={"train_batch_size": 1, "zero_allow_untested_optimizer": True, "zero_optimization": {"stage": 2}},
        )[0]
        engine.destroy()
        leave_world()
    gc.collect()
    gc.freeze()  # what was imported stays for good: collecting in drop takes a tenth of the time without it


def join_world(world: World, device: str, store: Store, timeout_s: float) -> None:
    """Form the process groups of a world on a store that outlives its ranks."""
    own, timeout = torch.device(device), timedelta(seconds=timeout_s)
    kind = own.type
    # DeepSpeed and NCCL read these when they are imported and when groups are made
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(own.index or 0))
    os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"  # its watchdog would take the process down, not the collective
    deepspeed = _import_deepspeed(device)
    if kind == "cuda":
        torch.cuda.set_device(own)
    excepthook = sys.excepthook
    torch.distributed.init_process_group(
        backend="nccl" if kind == "cuda" else "gloo",
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=timeout,
        device_id=own if kind == "cuda" else None,
    )
    sys.excepthook = excepthook  # torch lays one more around it with each world
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)
    _forget_earlier_engines()
    everybody = torch.distributed.group.WORLD
    if kind == "cuda":
        everybody = torch.distributed.new_group(backend="gloo", timeout=timeout)
    use_group(everybody)


def leave_world() -> None:
    """Destroy the process groups, also those of a world that could not be joined. Engines must have been dropped."""
    from deepspeed.comm import comm

    use_group(None)
    if comm.cdb is not None:
        comm.destroy_process_group()  # forgets the groups that DeepSpeed keeps in module variables, too
        comm.cdb = None
    elif torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # a group that could not be formed has been counted: later ones would have other names here than in a new process
    torch.distributed.distributed_c10d._world.group_count = 0


# ---- engines ----


def build_empty(build: Callable[[], nn.Module], config: RunConfig, device: str) -> nn.Module:
    """The module with real buffers and undefined parameters on the device, in the training precision.

    Under ZeRO-3 each parameter is cut up as soon as it exists, so no rank ever holds the model: join a world first."""
    with parameters_on_meta():
        module = build()
    dtype = DTYPES[config.train.precision]
    partition = _partitioner(config) if config.zero_stage == 3 else None
    made: dict[nn.Parameter, nn.Parameter] = {}  # by the meta parameter: tied ones stay tied
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if parameter not in made:
                made[parameter] = _materialise(parameter, dtype, device)
                if partition is not None:
                    partition(made[parameter])
            setattr(owner, name, made[parameter])  # recurrent modules keep a list of theirs, which follows
        for name, buffer in owner.named_buffers(recurse=False, remove_duplicate=False):
            owner._buffers[name] = buffer.to(device)
    return module


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of an optimizer step; `grad_norm` is that before clipping, infinite or NaN when not applied."""

    applied: bool
    grad_norm: float


class Engine:
    """One model, sharded over the world, and its optimizer. Built from build_empty, then filled by insert."""

    def __init__(
        self, module: nn.Module, *, config: RunConfig, world: World, device: str, micro_batch: int, accumulation: int
    ) -> None:
        self.module = module
        self._world = world
        self._engine: Any = None
        self._accumulation = accumulation
        self._backwards = 0  # since the last optimizer step
        self._stage = config.zero_stage
        self._plain = is_plain_torch(config)
        self._clip_norm = config.train.clip_norm
        self._compiled = config.train.compile
        # Stage 0 in fp16: DeepSpeed divides gradients by the loss scale but never multiplies the loss by it
        self._scales_loss = config.train.precision == "fp16" and self._stage == 0
        self._scale_before: dict[str, float] = {}  # of the last step
        try:
            self._build(config, device, micro_batch)
        except BaseException:
            self.drop()
            raise

    def _build(self, config: RunConfig, device: str, micro_batch: int) -> None:
        import deepspeed

        keys = make_deepspeed_config(
            config, data_size=self._world.data_size, micro_batch=micro_batch, accumulation=self._accumulation
        )
        optimizer = make_optimizer(self.module, config.optim, device)
        with _nothing_broadcast():
            self._engine = deepspeed.initialize(
                model=self.module, optimizer=optimizer, config=keys, dist_init_required=False
            )[0]
        self._lookout = Lookout(self._engine, self._world)
        self._statistics = BatchStatistics(self._engine.module)
        if self._compiled:
            compile_in_place(self.module, device)

    def forward(self, **inputs: Any) -> Any:
        return self._engine(**inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """Add one micro-batch's gradients. Call it `accumulation` times, then step.

        The loss is already normalised: its weighted sum * world.data_size / weight of the global batch."""
        if self._backwards == self._accumulation:
            raise RuntimeError(f"backward was called more than {self._accumulation} times without a step")
        if self._scales_loss:
            loss = loss * self._engine.optimizer.loss_scale
        self._engine.backward(loss, scale_wrt_gas=False)
        self._backwards += 1
        if self._backwards < self._accumulation:
            self._engine.step()  # only counts the micro-batch

    def step(self, lr: float) -> StepResult:
        """One optimizer update on all ranks; on none when a gradient of any rank is not finite."""
        if self._backwards != self._accumulation:
            raise RuntimeError(f"step was called after {self._backwards} of {self._accumulation} backward calls")
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr * group["lr_share"]
        self._scale_before = read_loss_scale(self._engine.optimizer)
        if self._plain:
            grad_norm = self._clip_or_clear()
            self._engine.step()
        else:
            grad_norm = self._step_wrapped()
        self._backwards = 0
        applied = self._engine.was_step_applied() and math.isfinite(grad_norm)
        self._statistics.average() if applied else self._statistics.put_back()
        return StepResult(applied, grad_norm)

    def put_back_scale(self) -> None:
        """As if the last step, which was not applied, had never been tried: fp16 has lowered its loss scale for it."""
        write_loss_scale(self._engine.optimizer, self._scale_before)

    def look(self) -> RankState:
        """This rank's part of the state where it lies: views of memory that the next step changes."""
        return self._lookout.look()

    def insert(self, source: FragmentSource) -> None:
        """Fill the engine from a source; all ranks call it with equal sources, before the first step."""
        reshard.insert(self._engine, source)
        self._statistics = BatchStatistics(self._engine.module)

    def drop(self) -> None:
        """Free everything, also what DeepSpeed would keep of an engine for the life of the process. This object has
        nothing any more then."""
        from deepspeed.runtime.zero import parameter_offload
        from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

        if self._engine is not None:
            self._engine.destroy()
        if self._compiled:
            forget_compiled()
        vars(self).clear()
        parameter_offload.FWD_MODULE_STACK.clear()
        kept = PartitionedParameterCoordinator.__dict__["_PartitionedParameterCoordinator__params_to_release"]
        for cell in kept.__closure__:  # an lru_cache, inside a wrapper, whose keys hold the coordinator
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()
        # autograd keeps the graph of a backward that died until the next one in this thread
        torch.autograd.backward(torch.zeros((), requires_grad=True))
        gc.collect()
        gc.collect()  # what finalizers of the first round let go
        _give_back_memory()

    def _step_wrapped(self) -> float:
        """DeepSpeed clips and skips. With a loss scale, two of its stages misstate the norm: corrected here."""
        optimizer = self._engine.optimizer
        scale = getattr(optimizer, "loss_scale", 1.0)  # BF16_Optimizer has none
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if self._stage == 0:
            return norm / scale  # it is that of the scaled gradients
        if self._stage == 3:
            return norm * float(optimizer.loss_scale / scale)  # it was divided by the scale of the next step
        return norm

    def _clip_or_clear(self) -> float:
        """Stage 0 in fp32, where DeepSpeed would apply NaN: every rank has the same gradients, so all decide alike."""
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not bool(torch.isfinite(norm)):
            for parameter in parameters:
                parameter.grad = None  # torch's optimizers pass over parameters without a gradient
        elif self._clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)
        return float(norm)


# ---- inside ----


def _import_deepspeed(device: str) -> Any:
    """Import deepspeed for this kind of device, quietly and without compiling anything."""
    os.environ["DS_ACCELERATOR"] = torch.device(device).type
    import deepspeed
    from deepspeed import ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # names of collectives that DeepSpeed still uses; nothing a user could change
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiling it takes half a minute
    return deepspeed


@contextmanager
def _nothing_broadcast() -> Iterator[None]:
    """DeepSpeed sends rank 0's parameters to all others when an engine is built. Ours are empty until they are filled,
    and a parameter without dimensions would be refused."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    broadcast = DeepSpeedEngine._broadcast_model
    DeepSpeedEngine._broadcast_model = lambda _: None
    try:
        yield
    finally:
        DeepSpeedEngine._broadcast_model = broadcast


def _share_one_arena() -> None:
    """glibc gives threads memory of their own, and keeps what they have freed: the readers of a state come and go with
    every world, and would take tens of megabytes more each time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def _give_back_memory() -> None:
    """glibc keeps most of what was freed, and the next engine does not fit into the holes: ten of them would take half
    as much memory again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


def _forget_earlier_engines() -> None:
    """A survivor of other worlds computes as a newcomer does. ZeRO-3 numbers modules and parameters through the life of
    a process, and refuses ranks that number differently. It also leaves another linear function behind, whose gradients
    come in another order: below ZeRO-3 ranks would then add up gradients of different parameters."""
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload
    from deepspeed.runtime.zero.partition_parameters import Init

    nn.functional.linear = getattr(Init, "linear_bk", nn.functional.linear)
    (next_module_id,) = DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__
    next_module_id[0] = 0
    Init.param_id = 0


def _materialise(parameter: nn.Parameter, dtype: torch.dtype, device: str) -> nn.Parameter:
    kept = dtype if parameter.is_floating_point() else parameter.dtype
    return nn.Parameter(torch.empty(parameter.shape, dtype=kept, device=device), requires_grad=parameter.requires_grad)


def _partitioner(config: RunConfig) -> Callable[[nn.Parameter], None]:
    """What zero.Init does with each new parameter, except that nothing is broadcast: there are no values yet."""
    import deepspeed

    size = torch.distributed.get_world_size()
    init = deepspeed.zero.Init(module=nn.Module(), config_dict_or_path=make_deepspeed_config(config, data_size=size))

    def partition(parameter: Any) -> None:
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()

    return partition
