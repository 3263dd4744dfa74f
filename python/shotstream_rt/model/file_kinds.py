"""What a file is, told by its first bytes.

Called by ``checkpoint.py``: a name's ending is not to be relied on, and a download that went wrong
leaves a file of another kind under the right name.
"""

from __future__ import annotations

HEAD_BYTES = 1024
"""How much of a file's beginning is looked at."""

SAFETENSORS, ZIP, PICKLE = "safetensors", "zip", "pickle"

_PAGE = (
    "a web page (HTML or XML): the address gave a page and not the file, often one to log in or to "
    "accept a licence. Download it again from the address of the file itself"
)
_PACKED = "an archive or a compressed file ({name}). Unpack it first"
_MEDIA = "{name}, and no weights at all"
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, a text of some lines that stands for the "
     "file. Fetch the file itself: git lfs install && git lfs pull"),
    (0, b"GGUF", "a GGUF file, weights quantised for llama.cpp and its kin. Take the original as "
     ".safetensors or .pt"),
    (0, b"ggml", "a GGML file of another runtime. Take the original as .safetensors or .pt"),
    (0, b"tjgg", "a GGML file of another runtime. Take the original as .safetensors or .pt"),
    (0, b"\x1f\x8b", _PACKED.format(name="gzip")),
    (0, b"\xfd7zXZ\x00", _PACKED.format(name="xz")),
    (0, b"BZh", _PACKED.format(name="bzip2")),
    (0, b"\x28\xb5\x2f\xfd", _PACKED.format(name="zstd")),
    (0, b"7z\xbc\xaf\x27\x1c", _PACKED.format(name="7z")),
    (0, b"Rar!", _PACKED.format(name="rar")),
    (257, b"ustar", _PACKED.format(name="tar")),
    (0, b"\x93NUMPY", "an array of NumPy (.npy). Save named tensors as .safetensors"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, weights for Keras. Take them for PyTorch"),
    (0, b"\x7fELF", _MEDIA.format(name="a program (ELF)")),
    (0, b"MZ", _MEDIA.format(name="a program of Windows")),
    (0, b"\x89PNG", _MEDIA.format(name="a picture (PNG)")),
    (0, b"\xff\xd8\xff", _MEDIA.format(name="a picture (JPEG)")),
    (4, b"ftyp", _MEDIA.format(name="a film (MP4)")),
    (0, b"%PDF", _MEDIA.format(name="a document (PDF)")),
)  # fmt: skip


def container(head: bytes) -> str | None:
    """Return which container of weights a file begins as, or ``None``.

    Args:
        head: the file's first bytes.

    Returns:
        ``SAFETENSORS``, ``ZIP`` (torch since 1.6), ``PICKLE`` (torch before) or ``None``.
    """
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    # The length of the header, then the header: a JSON object.
    if len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0":
        return SAFETENSORS
    if len(head) > 1 and head[0] == 0x80 and head[1] <= 5:
        return PICKLE
    return None


def foreign(head: bytes) -> str | None:
    """Say what a file is that holds no weights for this runtime, and what to do.

    Args:
        head: the file's first bytes.

    Returns:
        Such as ``"a Git LFS pointer, ... "``; ``None`` if nothing speaks against weights.
    """
    if not head:
        return "empty. Is the download complete, and was the disk full"
    # First, as the length of a header may look like the beginning of anything.
    if container(head) is not None:
        return None
    for at, begin, what in _FOREIGN:
        if head[at : at + len(begin)] == begin:
            return what
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return _PAGE
    if not head.strip(b"\0"):
        return "nothing but zeros where it begins. A download that was broken off leaves such files"
    if _is_text(head):
        line = head[:60].decode("utf-8", "replace").split("\n")[0]
        return (
            f"a text that begins {line!r}. A server or a tool may have written its message under "
            "the file's name"
        )
    return None


def _is_text(head: bytes) -> bool:
    try:
        # The last character may be cut in two.
        text = head[: len(head) - 3].decode("utf-8") if len(head) > 3 else head.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\t\r\n" for c in text)
