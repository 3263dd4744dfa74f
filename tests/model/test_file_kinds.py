"""What a file is, whatever its name: weights are read, other things named with what to do."""

import gzip
import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shotstream_rt.errors import WeightsError
from shotstream_rt.model.checkpoint import load_checkpoint, read_checkpoint

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3).bfloat16()}


def packed(kind):
    file = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("student.pt"), io.BytesIO())
    elif kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("weights/readme.txt", "hello")
    else:
        np.save(file, np.zeros(3))
    return file.getvalue()


FOREIGN = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64, "git lfs pull"),
    "page": (b"\n <!DOCTYPE html><html><head><title>Sign in</title>", "a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    "gguf": (b"GGUF\3\0\0\0" + bytes(40), "a GGUF file"),
    "gzip": (gzip.compress(b"weights"), r"compressed file \(gzip\)"),
    "tar": (packed("tar"), r"compressed file \(tar\)"),
    "zip": (packed("zip"), r"a zip archive of weights/readme\.txt"),
    "npy": (packed("npy"), "an array of NumPy"),
    "json": (b'{"error": "Invalid credentials"}', 'a text that begins \'{"error"'),
    "text": (b"Entry not found", "a text that begins 'Entry not found'"),
    "escapes": (b"\x1b[31mred", "not a readable|refused"),
    "zeros": (bytes(5000), "nothing but zeros"),
    "empty": (b"", "got empty"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(40), "a picture"),
}


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_checkpoint_is_named(kind, ending, tmp_path):
    data, told = FOREIGN[kind]
    path = tmp_path / f"student{ending}"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=told) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\x1b" not in message
    assert "weights_only" not in message


@pytest.mark.parametrize("ending", [".pt", ".bin", ".safetensors", ""])
def test_weights_are_read_under_any_name(ending, tmp_path):
    path = tmp_path / f"student{ending}"
    for write in (
        lambda: save_file(STATE, path),
        lambda: torch.save(STATE, path),
        lambda: torch.save(STATE, path, _use_new_zipfile_serialization=False),
        lambda: torch.save({"state_dict": STATE, "epoch": 3}, path),
    ):
        write()
        read = load_checkpoint(path)
        assert {name: read[name].tolist() for name in read} == {
            name: value.tolist() for name, value in STATE.items()
        }


def test_a_header_may_begin_as_anything(tmp_path):
    # 0x5A4D bytes of header: the file begins with MZ, as programs of Windows do.
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = header.ljust(0x5A4D)
    path = tmp_path / "a.bin"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert path.read_bytes().startswith(b"MZ")
    assert load_checkpoint(path)["a"].tolist() == [0.0]


@pytest.mark.parametrize("kind", ["class", "function", "array"])
def test_a_refused_pickle_is_told_by_what_it_holds(kind, tmp_path):
    import argparse

    held = {"class": argparse.Namespace(rate=1), "function": os.getcwd, "array": np.zeros(3)}[kind]
    path = tmp_path / "student.pt"
    torch.save({"generator": STATE, "args": held}, path)
    with pytest.raises(WeightsError, match="refused: it holds an object of class") as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert {"class": "argparse.Namespace", "function": "posix.getcwd", "array": "numpy"}[
        kind
    ] in message
    assert "\x1b" not in message
    assert "weights_only" not in message


@pytest.mark.parametrize("kind", ["pipe", "device", "endless name", "zero byte", "loop"])
def test_what_is_no_regular_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "student.pt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "endless name":
        path = tmp_path / ("x" * 5000)
    elif kind == "zero byte":
        path = tmp_path / "a\0b"
    else:
        path.symlink_to(path)
    with pytest.raises(WeightsError, match="wanted a checkpoint file"):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["sparse", "meta", "quantized"])
@pytest.mark.filterwarnings("ignore")  # torch warns of its quantized tensors
def test_tensors_of_unusual_kinds_are_refused(kind, tmp_path):
    tensor = {
        "sparse": lambda: torch.eye(3).to_sparse(),
        "meta": lambda: torch.zeros(3, device="meta"),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    }[kind]()
    torch.save({"a": tensor}, tmp_path / "student.pt")
    with pytest.raises(WeightsError, match=f"'a' is {kind}|not a readable|refused"):
        read_checkpoint(tmp_path / "student.pt")
