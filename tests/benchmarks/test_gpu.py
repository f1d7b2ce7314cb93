"""`benchmarks/gpu.py` without a GPU: the sentence that it prints, and how it reads traces and rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_measure, gpu_sections
from benchmarks.gpu import markdown, run_section
from benchmarks.gpu_measure import interleaved, is_product, summary

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "benchmarks/gpu.py measures on an NVIDIA GPU, but torch finds none here: nothing was run\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kernel", "product"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", True),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_TNT", True),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x128_32x5_nn_align8>", True),
        ("triton_tem_fused_addmm_3", True),
        ("void cudnn::ops::nchwToNhwcKernel<float, float>", False),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor>", False),
        ("triton_poi_fused_convolution_relu_12", False),
        ("_nms_kernel", False),
        ("Memcpy DtoD (Device -> Device)", False),
    ],
)
def test_products_are_recognised_by_name(kernel, product) -> None:
    assert is_product(kernel) == product


def test_the_kernels_of_a_trace_are_added_up() -> None:
    events = [
        {"cat": "kernel", "name": "sm90_gemm", "dur": 3000.0},
        {"cat": "kernel", "name": "relu", "dur": 500.0},
        {"cat": "gpu_memset", "name": "Memset (Device)", "dur": 500.0},
        {"cat": "cuda_runtime", "name": "cudaStreamSynchronize", "dur": 70.0},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "dur": 9.0},
        {"cat": "cpu_op", "name": "aten::gemm", "dur": 9000.0},
        {"name": "process_name"},
    ]
    found = summary(events)
    assert (found["device_ms"], found["products_share"], found["kernels"], found["waits_traced"]) == (4.0, 0.75, 3, 1)
    assert found["top"][0] == {"kernel": "sm90_gemm", "ms": 3.0, "product": True}


def test_a_slow_machine_makes_fewer_rounds(monkeypatch) -> None:
    asked = []

    def milliseconds(run, calls) -> float:
        asked.append(calls)
        return run()

    monkeypatch.setattr(gpu_measure, "milliseconds", milliseconds)
    found = interleaved({"slow": lambda: 4000.0, "fast": lambda: 1.0}, 12.0)
    assert asked == [2, 1, 2, 1, *[1, 2, 1, 50] * 3]  # warm-ups, then one call alone and several in a row, in turns
    assert found["slow"] == {"p20": 4000.0, "ms": 4000.0, "p80": 4000.0, "alone": 4000.0}


def test_a_contestant_that_fails_does_not_stop_the_others(monkeypatch) -> None:
    """It may fail at the first call, or later, when the memory of others is held too."""
    calls = []

    def breaks_later() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("out of memory")

    runs = {"never": lambda: 1 / 0, "once": breaks_later, "fine": lambda: torch.tensor(0.5)}
    rows: list[dict] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu_sections, "where_time_goes", lambda run: None)
    gpu_sections._compare(lambda row: rows.append(dict(row)), {"what": "training", "batch": 8}, runs)
    kinds = [(row["kind"], row.get("who")) for row in rows]
    assert kinds[:3] == [("failure", "never"), ("first call", "once"), ("first call", "fine")]
    assert rows[2]["loss"] == 0.5
    assert ("failure", "once") in kinds
    assert [who for kind, who in kinds if kind == "measurement"] == ["fine"]
    assert rows[-1]["images_per_second"] > 0


def test_a_section_that_fails_is_reported_as_a_row(capfd) -> None:
    rows = run_section("no such section", 120.0)
    assert (rows[-1]["kind"], rows[-1]["passed"]) == ("section", False)
    assert rows[-1]["ended"].startswith("failed with exit code")


def test_a_section_that_hangs_is_stopped(capfd) -> None:
    rows = run_section("machine", 0.01)
    assert rows[-1]["ended"] == "stopped after 0 s"


def test_the_table_holds_what_was_measured_and_what_was_not() -> None:
    times = {"p20": 1.0, "ms": 2.0, "p80": 3.0, "alone": 2.5, "peak_gib": 4.5, "waits": 7}
    row = {"kind": "measurement", "section": "detection-8", "what": "detection", "batch": 8, **times}
    rows = [
        {**row, "who": "torchvision", "images_per_second": 100.0, "profile": None},
        {**row, "who": "ours", "images_per_second": 250.0, "profile": {"products_share": 0.876, "device_ms": 1.9}},
        {"kind": "check", "section": "checks", "name": "nms", "passed": False, "error": 3.0, "tolerance": 0.0},
        {"kind": "failure", "section": "training-8", "who": "ours", "failure": "Traceback\nOutOfMemoryError: 60 GiB"},
        {"kind": "note", "section": "kernels", "text": "not run: the time is up"},
        {"kind": "section", "section": "answers", "ended": "failed with exit code -11", "passed": False},
    ]
    text = markdown({"gpu": "a card"}, json.loads(json.dumps(rows)))
    assert "| detection | 8 | ours | 250.0 | 2.50 | 1.0 2.0 3.0 | 2.5 | 4.5 | 88% | 1.9 | 7 |" in text
    assert "| detection | 8 | torchvision | 100.0 | 1.00 | 1.0 2.0 3.0 | 2.5 | 4.5 |  |  | 7 |" in text
    assert "| nms | NO | 3.0 | 0.0 |" in text
    assert "- training-8: ours: OutOfMemoryError: 60 GiB" in text
    assert "- kernels: not run: the time is up" in text
    assert "- answers: section failed with exit code -11" in text
