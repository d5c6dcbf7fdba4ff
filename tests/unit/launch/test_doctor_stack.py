import json
import subprocess
import sys

import pynvml
import pytest

from launch.checks import stack
from launch.checks.stack import (
    Gpus,
    check_cuda_compiler,
    check_deepspeed,
    check_gpus,
    check_torch,
    nvcc_version,
    parse_findings,
    read_gpus,
)

H100 = Gpus(names=["H100"] * 2, memory_bytes=80 * 2**30, driver="580.65")
NO_GPU = Gpus()
ON_CUDA = {
    "version": "2.13.0+cu130", "cuda": "13.0", "cuda_home": None, "trouble": "", "bf16": True, "nccl": "2.28.3",
    "devices": ["", ""],
}  # fmt: skip


# ---- verdicts ----


def test_gpus_are_counted_by_name():
    mixed = Gpus(names=["H100", "H100", "L4"], memory_bytes=24 * 2**30, driver="580.65")
    assert check_gpus(mixed).detail == "2 x H100, 1 x L4 with 24.0 GiB, driver 580.65"
    assert check_gpus(NO_GPU).level == "ok"
    assert check_gpus(Gpus(names=["H100"], trouble="GPU 1 does not answer: GPU is lost")).level == "problem"


def test_torch_is_tried_on_every_gpu():
    fine = check_torch(ON_CUDA, H100)
    assert (fine.level, fine.detail) == ("ok", "2.13.0+cu130 computes on 2 GPU(s), bf16, NCCL 2.28.3")
    one_lost = check_torch(ON_CUDA | {"devices": ["", "CUDA error: no kernel image is available"]}, H100)
    assert one_lost.level == "problem"
    assert "GPU 1: CUDA error: no kernel image" in one_lost.detail
    assert "GPU 0" not in one_lost.detail


def test_gpus_need_a_torch_that_can_use_them():
    assert check_torch({"version": "2.13.0+cpu", "cuda": None}, H100).level == "warning"
    assert check_torch({"version": "2.13.0+cpu", "cuda": None}, NO_GPU).level == "ok"
    old_driver = check_torch(ON_CUDA | {"trouble": "The NVIDIA driver on your system is too old"}, H100)
    assert (old_driver.level, "too old" in old_driver.detail) == ("problem", True)


def test_a_torch_that_cannot_be_imported_is_a_problem_with_or_without_gpus():
    for gpus in (H100, NO_GPU):
        check = check_torch({"error": "ImportError: libcudart.so.13: cannot open shared object file"}, gpus)
        assert (check.level, "libcudart" in check.detail) == ("problem", True)


def test_deepspeeds_operators_are_counted_and_those_that_cannot_be_built_named():
    check = check_deepspeed({"version": "0.19.8", "accelerator": "cuda", "ops": {"cpu_adam": True, "async_io": False}})
    assert check.level == "ok"
    assert "1 of its operators could be built here, not async_io" in check.detail
    assert check_deepspeed({"error": "ModuleNotFoundError: No module named 'hjson'"}).level == "problem"


def test_the_cuda_compiler_must_be_of_torchs_major_version():
    assert check_cuda_compiler("13.0", "13.1").level == "ok"
    assert check_cuda_compiler("13.0", "12.8").level == "warning"
    assert check_cuda_compiler("13.0", None).level == "ok"


# ---- looking ----


def test_the_installed_stack_tells_about_itself_and_nothing_its_libraries_print():
    done = subprocess.run(
        [sys.executable, "-m", "launch.checks.stack_probe"], capture_output=True, text=True, timeout=120, check=True
    )
    assert [list(json.loads(line)) for line in done.stdout.splitlines()] == [["torch"], ["deepspeed"]]
    found = parse_findings(done.stdout, "")
    assert check_torch(found.torch, NO_GPU).level == "ok"
    assert check_deepspeed(found.deepspeed).level == "ok"


def test_what_failed_after_torch_was_imported_is_a_problem_of_deepspeed_only():
    found = parse_findings('{"torch": {"version": "2.13.0+cpu", "cuda": null}}\n', "the import ended by SIGILL")
    assert check_torch(found.torch, NO_GPU).level == "ok"
    assert check_deepspeed(found.deepspeed).detail == "cannot be imported: the import ended by SIGILL"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "the import ended by SIGILL"),
        ("raise SystemExit('OSError: libc10.so is damaged')", "OSError: libc10.so is damaged"),
        ("import time; time.sleep(60)", "it took longer than 0.3 s"),
    ],
)
def test_a_stack_that_takes_its_process_down_or_hangs_is_told(code, expected):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        found = stack.Probe(process).read(timeout_s=0.3 if "sleep" in code else 30.0)
    assert found.torch == {"error": expected}


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", raising(pynvml.NVMLError_LibraryNotFound()))
    assert read_gpus() == NO_GPU


def test_a_driver_that_does_not_start_is_no_machine_without_gpus(monkeypatch):
    monkeypatch.setattr(pynvml, "nvmlInit", raising(pynvml.NVMLError_LibRmVersionMismatch()))
    check = check_gpus(read_gpus())
    assert check.level == "problem"
    assert "version mismatch" in check.detail


def test_a_lost_gpu_is_told_by_its_number(monkeypatch):
    def handle_of(index):
        if index == 1:
            raise pynvml.NVMLError_GpuIsLost
        return index

    answers = {
        "nvmlInit": lambda: None, "nvmlShutdown": lambda: None, "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": handle_of, "nvmlDeviceGetName": lambda handle: "H100",
        "nvmlDeviceGetMemoryInfo": lambda handle: pynvml.c_nvmlMemory_t(total=80 * 2**30),
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)
    gpus = read_gpus()
    assert gpus.names == ["H100"]
    assert gpus.trouble.startswith("GPU 1 does not answer: ")


def test_the_version_of_nvcc_is_read_from_the_toolkit_that_torch_uses(tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.61'\n")
    nvcc.chmod(0o755)
    assert nvcc_version(str(tmp_path)) == "12.8"
    assert nvcc_version(str(tmp_path / "elsewhere")) is None


def raising(error: Exception):
    def refuse():
        raise error

    return refuse
