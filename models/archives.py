"""Check `torch.save` files before unpacking them: file type and uncompressed size."""

import zipfile
from typing import BinaryIO

from stylematte.errors import InputError

_ZIP = b"PK\x03\x04"
# torch.save does not compress, and weights barely compress anyway; zip bombs expand a thousandfold.
_MOST_GROWTH = 2


def check_archive(file: BinaryIO) -> None:
    """Reject files that are not `torch.save` output, and archives that unpack to far more than their size.

    The file position is reset to the start.

    Args:
        file: Open binary file, positioned at the start.

    Raises:
        InputError: The file is of another type, or a zip bomb.
    """
    head = file.read(16)
    file.seek(0)
    if head[:4] == _ZIP:
        _check_sizes(file)
    elif head[:1] == b"\x08":
        raise InputError("an ONNX model, not a torch.save file")
    elif head[8:9] == b"{":
        raise InputError("a safetensors file, not a torch.save file")
    elif head[:1] != b"\x80":  # pickle protocol 2 and later
        raise InputError("damaged, or not a file of plain tensors")


def _check_sizes(file: BinaryIO) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        raise InputError("damaged, or not a file of plain tensors") from None
    size = file.seek(0, 2)
    file.seek(0)
    if unpacked > _MOST_GROWTH * size + (1 << 20):
        raise InputError(
            f"its {size / 1e6:.1f} MB would unpack to {unpacked / 1e6:,.0f} MB, which no weights file does; "
            "it was not read"
        )
