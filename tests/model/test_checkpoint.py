"""Checkpoint files: read tensor by tensor, checked by their header, refused and named if broken."""

import os
import pickle
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.errors import WeightsError
from shotstream_rt.model import safetensors_file
from shotstream_rt.model.checkpoint import (
    check_tensors,
    load_checkpoint,
    load_into,
    place_into,
    read_checkpoint,
)
from shotstream_rt.model.lazy_tensors import LazyTensor, LazyTensors
from shotstream_rt.model.open_file import OpenFile


@pytest.fixture
def state():
    torch.manual_seed(2)
    return {
        "head.weight": torch.randn(48, 40),
        "head.bias": torch.randn(48).bfloat16(),
        "scale": torch.randn(()),
        "steps": torch.arange(5),
        "mask": torch.tensor([True, False, True]),
        "none": torch.empty(0, 3),
        "halves": torch.randn(6, 7).half(),
    }


def same(got, wanted):
    return (
        got.dtype == wanted.dtype
        and got.shape == wanted.shape
        and torch.equal(
            got.contiguous().view(-1).view(torch.uint8),
            wanted.contiguous().view(-1).view(torch.uint8),
        )
    )


def save(state, path, form):
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    return path


FORMS = ["safetensors", "zip", "legacy"]


def file_of(folder, form):
    return folder / ("weights.safetensors" if form == "safetensors" else "weights.pt")


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_tensor_comes_back_bit_for_bit(form, state, tmp_path):
    read = load_checkpoint(save(state, file_of(tmp_path, form), form))
    assert set(read) == set(state)
    assert len(read) == len(state)
    for name, wanted in state.items():
        assert read.entries[name].shape == tuple(wanted.shape)
        assert read.entries[name].dtype == wanted.dtype
        assert same(read[name], wanted)
    with pytest.raises(KeyError):
        read["another"]


@pytest.mark.parametrize("form", ["safetensors", "zip"])  # the older format has no such type
def test_8_bit_floats_come_back(form, tmp_path):
    state = {"eighths": torch.randn(4, 4).to(torch.float8_e4m3fn)}
    read = load_checkpoint(save(state, file_of(tmp_path, form), form))
    assert same(read["eighths"], state["eighths"])


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_groups_are_lazy_and_the_rest_is_as_it_was_saved(form, state, tmp_path):
    content = {"generator": state, "step": 7, "losses": [1.0, 2.0], "args": {"rate": 0.1}}
    read = read_checkpoint(save(content, tmp_path / "weights.pt", form))
    assert isinstance(read["generator"], LazyTensors)
    assert same(read["generator"]["head.weight"], state["head.weight"])
    assert (read["step"], read["losses"], read["args"]) == (7, [1.0, 2.0], {"rate": 0.1})


def test_views_and_other_layouts_come_back_as_they_were(tmp_path):
    table = torch.randn(4, 6, 3, 5)
    content = {
        "rows": table[1:3],
        "turned": table[0, :, 0].t(),
        "last": table.contiguous(memory_format=torch.channels_last),
        "wide": torch.randn(3, 1).expand(3, 4),
        "parameter": torch.nn.Parameter(torch.randn(3)),
    }
    read = load_checkpoint(save(content, tmp_path / "weights.pt", "zip"))
    for name, wanted in content.items():
        assert torch.equal(read[name], wanted)
        assert not read[name].requires_grad


def test_a_file_of_the_other_byte_order_is_read(tmp_path, monkeypatch):
    wanted = {"a": torch.randn(30), "b": torch.randn(40)}
    other = "big" if sys.byteorder == "little" else "little"
    content = {name: (tensor.view(torch.uint8).reshape(-1, 4).flip(1).reshape(-1)).view(
        torch.float32) for name, tensor in wanted.items()}  # fmt: skip
    path = tmp_path / "weights.pt"
    with monkeypatch.context() as patched:
        patched.setattr(sys, "byteorder", other)
        torch.save(content, path)
    for _ in range(2):  # swapping must not be lost or done again
        read = load_checkpoint(path)
        assert all(torch.equal(read[name], wanted[name]) for name in wanted)
        assert all(torch.equal(read[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("form", FORMS)
def test_every_read_is_a_copy_of_its_own(form, state, tmp_path):
    read = load_checkpoint(save(state, file_of(tmp_path, form), form))
    read["head.weight"].zero_()
    assert same(read["head.weight"], state["head.weight"])
    wrapped = LazyTensors.of(state)
    wrapped["head.weight"].zero_()
    assert wrapped["head.weight"].any()
    assert LazyTensors.of(wrapped) is wrapped


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", ["deleted", "replaced"])
@pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be removed there")
def test_an_opened_file_may_be_deleted_or_replaced(form, change, state, tmp_path):
    path = save(state, file_of(tmp_path, form), form)
    read = load_checkpoint(path)
    path.unlink()
    if change == "replaced":
        save({name: torch.zeros_like(value) for name, value in state.items()}, path, form)
    assert all(same(read[name], wanted) for name, wanted in state.items())


def test_a_file_replaced_while_it_is_opened_is_one_of_the_two(tmp_path, monkeypatch):
    path, other = tmp_path / "weights.pt", tmp_path / "other.pt"
    torch.save({"a": torch.zeros(9, 9)}, path)
    torch.save({"more": torch.zeros(2), "a": torch.ones(9, 9)}, other)
    load = torch.load

    def replace_first(*arguments, **options):
        if other.exists():
            other.replace(path)
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", replace_first)
    read = load_checkpoint(path)
    assert set(read) == {"more", "a"}
    assert torch.equal(read["a"], torch.ones(9, 9))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where files are mapped")
def test_torch_files_are_read_and_not_mapped_in(state, tmp_path):
    path = save(state, tmp_path / "weights.pt", "zip")
    read = load_checkpoint(path)
    assert read.entries["head.weight"].fill.func.__name__ == "fill"
    link = tmp_path / "link.pt"
    link.symlink_to(path)
    assert load_checkpoint(link).entries["head.weight"].fill.func.__name__ == "fill"


def test_a_file_cut_short_after_opening_is_named(state, tmp_path):
    path = save(state, tmp_path / "weights.safetensors", "safetensors")
    read = load_checkpoint(path)
    os.truncate(path, path.stat().st_size - 1)
    last = max(read.entries, key=lambda name: read.entries[name].fill.args[1])
    with pytest.raises(WeightsError, match=r"weights\.safetensors: a tensor of shape .*too early"):
        read[last]


def test_an_unknown_type_is_named(state, tmp_path, monkeypatch):
    path = save(state, tmp_path / "weights.safetensors", "safetensors")
    monkeypatch.delitem(safetensors_file.DTYPES, "F16")
    with pytest.raises(WeightsError, match=r"tensor 'halves' is of type F16, wanted one of"):
        load_checkpoint(path)


@pytest.mark.parametrize("form", FORMS)
def test_checking_reads_nothing(form, state, tmp_path, monkeypatch):
    weights = {name: state[name] for name in ("head.weight", "head.bias", "halves")}
    read = load_checkpoint(save(weights, file_of(tmp_path, form), form))

    def refuse(*_):
        raise AssertionError("read")

    monkeypatch.setattr(OpenFile, "fill", refuse)
    untouched = LazyTensors({
        name: LazyTensor(entry.shape, entry.dtype, refuse)
        for name, entry in read.entries.items()
    })  # fmt: skip
    check_tensors(untouched, {name: value.shape for name, value in weights.items()}, "file")
    with pytest.raises(WeightsError, match=r"1 missing: extra; 1 of another shape: head\.bias"):
        check_tensors(
            untouched,
            {"extra": (1,), "head.bias": (3,), "head.weight": (48, 40), "halves": (6, 7)},
            "file",
        )
    assert "head.bias" in untouched
    assert "3 tensors: head.weight" in repr(untouched)


class Payload:
    """Pickles into a call that makes a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_a_hostile_pickle_is_refused_unexecuted(form, tmp_path):
    path, target = tmp_path / "student.pt", tmp_path / "executed"
    content = {"generator": {"model.a": torch.zeros(1)}, "step": Payload(target)}
    if form == "bare":
        path.write_bytes(pickle.dumps(content["step"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match=r"student\.pt: refused"):
        read_checkpoint(path)
    assert not target.exists()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.98])
def test_a_truncated_file_is_refused(ending, kept, state, tmp_path):
    path = tmp_path / f"student{ending}"
    if ending == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError, match="student"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02.", b"PK\x03\x04" + bytes(50), bytes(99)])
@pytest.mark.parametrize("name", ["student.pt", "student.safetensors"])
def test_files_of_another_kind_are_refused(content, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="student"):
        read_checkpoint(path)


def test_pickles_are_refused_by_an_unsafe_torch(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "student.pt")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1+cpu"))
    with pytest.raises(WeightsError, match=r"torch >= 2\.6"):
        read_checkpoint(tmp_path / "student.pt")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pt: is missing"):
        load_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(WeightsError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_a_flat_file_must_hold_tensors_only(tmp_path):
    torch.save({"a": torch.zeros(1), "step": 3}, tmp_path / "vae.pth")
    with pytest.raises(WeightsError, match=r"step \(int\)"):
        load_checkpoint(tmp_path / "vae.pth")


def test_loading_casts_and_survives_the_file(tmp_path):
    source = torch.nn.Linear(3, 2)
    path = tmp_path / "linear.safetensors"
    save_file(dict(source.state_dict()), path)
    with torch.device("meta"):
        network = torch.nn.Linear(3, 2)
    load_into(network, load_checkpoint(path), source=str(path), device="cpu", dtype=None)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(network.weight, source.weight)
    load_into(
        network, source.state_dict(), source="memory", device="cpu", dtype=torch.bfloat16
    )  # fmt: skip
    assert network.weight.dtype == torch.bfloat16


def test_unreadable_files_are_refused(state):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.pt"
        torch.save(state, path)
        Path(folder).chmod(0o755)
        path.chmod(0)
        user = os.geteuid()
        if user == 0:  # root may read anything, and becomes nobody for this
            os.seteuid(65534)
        try:
            with pytest.raises(WeightsError, match="student"):
                read_checkpoint(path)
        finally:
            os.seteuid(user)


def test_a_network_does_not_depend_on_what_it_was_filled_from():
    source = torch.nn.Linear(3, 2)
    wanted = source.weight.detach().clone()
    with torch.device("meta"):
        network = torch.nn.Linear(3, 2)
    place_into(network, source.state_dict(), device="cpu", dtype=None)
    with torch.no_grad():
        source.weight.zero_()
    assert torch.equal(network.weight, wanted)
    with pytest.raises(WeightsError, match="1 missing: bias"):
        load_into(network, {"weight": wanted}, source="f", device="cpu", dtype=None)
