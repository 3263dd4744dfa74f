"""When OpenVINO is refused."""

from __future__ import annotations

import pytest
import torch

from shotstream_rt.backends.openvino import unavailable_reason

pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_limited_cpu_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for limit in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(limit, raising=False)
    assert unavailable_reason(cpu) is None
    monkeypatch.setenv(name, "avx2")
    assert f"unset {name}=AVX2" in str(unavailable_reason(cpu))
    monkeypatch.setenv(name, "default")
    assert unavailable_reason(cpu) is None
