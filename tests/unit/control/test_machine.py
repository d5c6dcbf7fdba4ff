"""Samples of a node; GPUs are played."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pynvml
import pytest

from orchestrator.control.machine import Machine
from tests.fakes.clock import FakeClock

GIB = 2**30


class Traffic(NamedTuple):
    bytes_recv: int
    bytes_sent: int


class Disks(NamedTuple):
    read_bytes: int
    write_bytes: int


class FakeNvml:
    """Two GPUs; the second does not know its power, as some do not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_lost = False
        for name in ("UtilizationRates", "MemoryInfo", "Temperature", "PowerUsage"):
            monkeypatch.setattr(pynvml, f"nvmlDeviceGet{name}", getattr(self, name))
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda number: number)

    def UtilizationRates(self, gpu: int) -> Any:  # noqa: N802 (NVML's name)
        if self.is_lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(gpu=90 + gpu)

    def MemoryInfo(self, gpu: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=(40 + gpu) * GIB)

    def Temperature(self, gpu: int, sensor: int) -> int:  # noqa: N802
        return 60 + gpu

    def PowerUsage(self, gpu: int) -> int:  # noqa: N802
        if gpu == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 350_500


@pytest.fixture
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)


@pytest.mark.usefixtures("no_gpus")
def test_a_machine_without_gpus_tells_of_the_rest() -> None:
    clock = FakeClock()
    machine = Machine(clock)
    clock.sleep(1)
    values = machine.sample()
    assert 0 <= values["cpu_percent"] <= 100
    assert 0 < values["memory_percent"] < 100
    assert 0 < values["memory_gb"] < psutil.virtual_memory().total / GIB
    assert not [name for name in values if name.startswith("gpu")]


@pytest.mark.usefixtures("no_gpus")
def test_rates_are_over_the_time_since_the_last_look_and_leave_out_what_stays_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = {"lo": Traffic(0, 0), "eth0": Traffic(1_000_000, 0), "ib0": Traffic(0, 500_000)}
    disks = [Disks(0, 2_000_000)]
    monkeypatch.setattr(psutil, "net_io_counters", lambda pernic: net)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: disks[0])
    clock = FakeClock()
    machine = Machine(clock)
    clock.sleep(2)
    net |= {"lo": Traffic(9_000_000, 9_000_000), "eth0": Traffic(5_000_000, 0), "ib0": Traffic(0, 1_500_000)}
    disks[0] = Disks(1_000_000, 2_000_000)
    values = machine.sample()
    rates = {name: value for name, value in values.items() if name.endswith("_mb_s")}
    assert rates == {"network_in_mb_s": 2, "network_out_mb_s": 0.5, "disk_read_mb_s": 0.5, "disk_write_mb_s": 0}
    del net["eth0"]  # gone: what it had counted is not a negative rate
    net["ib0"] = Traffic(0, 4_500_000)
    clock.sleep(1)
    values = machine.sample()
    assert (values["network_in_mb_s"], values["network_out_mb_s"]) == (0, 3)


@pytest.mark.usefixtures("no_gpus")
def test_what_a_container_does_not_see_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NotImplementedError

    monkeypatch.setattr(psutil, "disk_io_counters", refuse)
    clock = FakeClock()
    machine = Machine(clock)
    clock.sleep(1)
    values = machine.sample()
    assert "disk_read_mb_s" not in values
    assert "cpu_percent" in values


def test_gpus_tell_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(monkeypatch)
    clock = FakeClock()
    machine = Machine(clock)
    clock.sleep(1)
    gpus = {name: value for name, value in machine.sample().items() if name.startswith("gpu")}
    assert gpus == {
        "gpu0_util": 90,
        "gpu0_memory_gb": 40,
        "gpu0_temperature_c": 60,
        "gpu0_power_w": 350.5,
        "gpu1_util": 91,
        "gpu1_memory_gb": 41,
        "gpu1_temperature_c": 61,
    }
    nvml.is_lost = True
    clock.sleep(1)
    assert "gpu0_util" not in machine.sample()
