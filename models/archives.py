"""Files of `torch.save`: what one says of its kind and its size, looked at before a byte is unpacked."""

import zipfile
from typing import BinaryIO

from stylematte.errors import InputError

_ZIP = b"PK\x03\x04"
# torch.save packs without compression, and no packer makes weights much smaller; bombs grow a thousand times.
_MOST_GROWTH = 2


def check_archive(file: BinaryIO) -> None:
    """Refuse what cannot be a file of torch.save, and an archive that unpacks to far more than it is.

    The file is left at its start.

    Args:
        file: Opened, at its start.

    Raises:
        InputError: It is of another kind, or a bomb.
    """
    head = file.read(16)
    file.seek(0)
    if head[:4] == _ZIP:
        _check_sizes(file)
    elif head[:1] == b"\x08":
        raise InputError("an ONNX model, not a file of torch.save")
    elif head[8:9] == b"{":
        raise InputError("a safetensors file, not one of torch.save")
    elif head[:1] != b"\x80":  # of pickles of protocol 2 and later
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
            f"its {size / 1e6:.1f} MB unpack to {unpacked / 1e6:,.0f} MB, as no weights do; it was not read"
        )
