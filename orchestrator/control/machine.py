"""How one node is doing: CPUs, memory, network, disks, GPUs. Sampled by its node actor, written down by the scribe."""

from collections.abc import Iterator
from contextlib import suppress

import psutil
import pynvml

from orchestrator.core.clock import Clock

MB = 10**6
GIB = 2**30

Sample = dict[str, float]


class Machine:
    """Made and used in one thread: rates and percentages are over the time since the last look."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gpus = _find_gpus()
        psutil.cpu_percent()  # the first answer means nothing
        self._looked, self._counters = clock.monotonic(), _read_counters()

    def sample(self) -> Sample:
        memory = psutil.virtual_memory()
        values = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_gb": memory.used / GIB,
            "memory_percent": memory.percent,
            **self._measure_rates(),
        }
        for number, gpu in enumerate(self._gpus):
            values |= {f"gpu{number}_{name}": value for name, value in _read_gpu(gpu)}
        return {name: round(value, 2) for name, value in values.items()}

    def _measure_rates(self) -> Sample:
        now, counters = self._clock.monotonic(), _read_counters()
        seconds, before = now - self._looked, self._counters
        self._looked, self._counters = now, counters
        # a counter falls when a device goes away
        grown = {name: max(0, count - before[name]) for name, count in counters.items() if name in before}
        return {f"{name}_mb_s": size_bytes / MB / seconds for name, size_bytes in grown.items()}


def _read_counters() -> dict[str, int]:
    """Bytes since the machine started; nothing where it does not tell."""
    counters = {}
    nets = [net for name, net in psutil.net_io_counters(pernic=True).items() if name != "lo"]
    if nets:
        counters["network_in"] = sum(net.bytes_recv for net in nets)
        counters["network_out"] = sum(net.bytes_sent for net in nets)
    with suppress(NotImplementedError):  # a container may not see the machine's disks
        if disks := psutil.disk_io_counters():
            counters["disk_read"], counters["disk_write"] = disks.read_bytes, disks.write_bytes
    return counters


def _find_gpus() -> list[object]:
    """Their handles; NVML stays open as long as this process lives."""
    with suppress(pynvml.NVMLError):  # no NVIDIA driver here
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    return []


def _read_gpu(gpu: object) -> Iterator[tuple[str, float]]:
    """What it tells: some kinds do not know all of it, and a lost one knows nothing."""
    with suppress(pynvml.NVMLError):
        yield "util", pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
    with suppress(pynvml.NVMLError):
        yield "memory_gb", pynvml.nvmlDeviceGetMemoryInfo(gpu).used / GIB
    with suppress(pynvml.NVMLError):
        yield "temperature_c", pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)
    with suppress(pynvml.NVMLError):
        yield "power_w", pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000  # in milliwatts
