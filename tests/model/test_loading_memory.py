"""Peak memory while loading, measured in a fresh process on a student of 200 MB."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.loading.manifest import StudentManifest
from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.loading.student_weights import student_shapes

CONFIG = ModelConfig(
    dim=640, ffn_dim=2560, num_heads=5, num_layers=16, text_dim=128, text_len=64,
    latent_height=8, latent_width=8,
)  # fmt: skip
PEAK_OVER_HELD = 1.15

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")

_MEASURE = """
import json, sys, torch
from shotstream_rt.config import ModelConfig
from shotstream_rt.model.checkpoint import place_into
from shotstream_rt.model.student import Student
from shotstream_rt.loading.student_weights import open_student

def kilobytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key + ":"))

def fill_up_to_peak():
    # The peak counts from the start of the process: take as much as it was, so that all that is
    # taken afterwards raises it.
    gap = kilobytes("VmHWM") - kilobytes("VmRSS")
    return torch.ones(max(gap, 0) * 256)
"""


def measure(script, *arguments):
    """Run a script in a fresh process; its last line of output is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE + textwrap.dedent(script), *map(str, arguments)],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def random_weights(dtype):
    # The same noise in every row: the values do not matter, and drawing them all takes seconds.
    return {
        name: torch.randn(shape[-1]).expand(shape).to(dtype).contiguous()
        for name, shape in student_shapes(CONFIG).items()
    }


@pytest.mark.parametrize(("form", "stored", "rank"), [
    ("safetensors", torch.bfloat16, 0),
    ("safetensors", torch.float32, 8),
    ("zip", torch.bfloat16, 8),
    ("zip", torch.float32, 0),
])  # fmt: skip
def test_filling_a_network_holds_little_more_than_the_network(form, stored, rank, tmp_path):
    path, lora = tmp_path / f"student.{'safetensors' if form == 'safetensors' else 'pt'}", ""
    if form == "safetensors":
        save_file(random_weights(stored), path)
    else:
        # The second group must not be read.
        torch.save({"generator": random_weights(stored), "generator_ema": {}}, path)
    if rank:
        lora = tmp_path / "lora.safetensors"
        save_file({
            f"{name.removesuffix('.weight')}.lora_{side}.weight": torch.randn(sizes)
            for name, shape in student_shapes(CONFIG).items()
            if len(shape) == 2 and name.startswith("blocks.")
            for side, sizes in (("A", (rank, shape[1])), ("B", (shape[0], rank)))
        }, lora)  # fmt: skip
    found = measure(
        f"""
        config = ModelConfig.from_dict({CONFIG.to_dict()!r})
        with torch.device("meta"):
            network = Student(config)
        student = open_student(sys.argv[1], config, lora=sys.argv[2] or None)
        torch.ones(300, 300) @ torch.ones(300, 300)  # the maths library's own buffers
        filler = fill_up_to_peak()
        before = kilobytes("VmHWM")
        place_into(network, student.tensors, device="cpu", dtype=torch.bfloat16)
        held = sum(p.nbytes for p in network.parameters())
        print(json.dumps(dict(held=held, peak=(kilobytes("VmHWM") - before) * 1024)))
        """,
        path, lora,
    )  # fmt: skip
    assert found["held"] > 200e6
    assert 0.95 * found["held"] <= found["peak"] <= PEAK_OVER_HELD * found["held"]


def test_opening_a_model_holds_little_more_than_its_weights(tmp_path):
    save_file(random_weights(torch.bfloat16), tmp_path / "student.safetensors")
    for name in ("codec.safetensors", "text.safetensors"):
        shutil.copyfile(NANO_FOLDER / name, tmp_path / name)
    StudentManifest(
        stream=StreamConfig(model=CONFIG),
        codec={"kind": "nano", "file": "codec.safetensors"},
        text={"kind": "nano", "file": "text.safetensors"},
    ).write(tmp_path / "student.json")
    found = measure(
        """
        from shotstream_rt.loading.load_model import Model
        Model.open("nano", device="cpu", dtype="bfloat16").close()  # imports, codec, buffers
        filler = fill_up_to_peak()
        before = kilobytes("VmHWM")
        model = Model.open(sys.argv[1], device="cpu", dtype="bfloat16")
        held = model.info["weight_bytes"]
        print(json.dumps(dict(held=held, peak=(kilobytes("VmHWM") - before) * 1024)))
        """,
        tmp_path,
    )
    assert 0.9 * found["held"] <= found["peak"] <= PEAK_OVER_HELD * found["held"]
