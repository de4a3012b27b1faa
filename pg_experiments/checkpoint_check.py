"""Whether a file can be a run's checkpoint, from its size and its table of contents: before memory is taken for it.

torch writes a zip archive: `data.pkl`, a pickle of names, numbers and tensors' shapes, and one record of bytes for the
storage of every tensor. `torch.load(weights_only=True)` runs no code of it, but believes its sizes.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from pg_experiments.errors import UserError, first_line
from pg_experiments.seal import COMMENT, END_OF_ARCHIVE
from pg_experiments.untrusted_files import size_inside, size_text

FACTOR = 8  # parameters, up to three states of the optimizer for each, and as much again
SLACK = 1 << 20  # names, shapes, generator and counters
END = struct.Struct("<4s4H2LH")  # before the comment: ..., records, bytes and place of their table, size of the comment
LARGE = 1 << 32  # bytes; from here on the end says less
ELEMENT_BYTES = {
    **dict.fromkeys(("UntypedStorage", "ByteStorage", "CharStorage", "BoolStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage"), 8),
}
MAKERS = {("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")}


def check_checkpoint(run_dir: Path, path: Path, needed: int) -> None:
    """Refuse a file that claims more than the run's checkpoint can have, or is none.

    Args:
        run_dir: folder that the file has to be in.
        path: of the file.
        needed: bytes of the parameters of policy and baseline, by the run's config.

    Raises:
        UserError: one line; nothing but the archive's table of contents and its `data.pkl` was read.
    """
    most = FACTOR * needed + SLACK
    try:
        size = size_inside(run_dir, path)
        if size > most:
            raise _RefusedError(f"it has {size_text(size)}, and a checkpoint of this run at most {size_text(most)}")
        with path.open("rb") as file:
            _check_archive(file, size, most)
    except _RefusedError as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except UserError:
        raise
    except Exception as error:  # zipfile and pickle raise many kinds for a damaged file
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {first_line(error)})") from error


class _RefusedError(Exception):
    """Why a file is no checkpoint."""


def _check_archive(file: io.BufferedReader, size: int, most: int) -> None:
    file.seek(max(0, size - END.size - COMMENT))
    end = file.read(END.size)
    if not end.startswith(END_OF_ARCHIVE):
        raise _RefusedError("it is no archive of tensors as torch writes it, or not all of it is there")
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        *_, count, _, start, _ = END.unpack(end)
        if size < LARGE and (count, start) != (len(archive.infolist()), archive.start_dir):
            raise _RefusedError("its table of contents is not where its end says")  # torch's reader would find another
        claimed = sum(record.file_size for record in archive.infolist())
        if claimed > most:
            raise _RefusedError(
                f"its records claim {size_text(claimed)}, and a checkpoint of this run has at most {size_text(most)}"
            )
        if len({name.lower() for name in records}) < len(archive.infolist()):
            raise _RefusedError("two of its records have the same name")  # torch's reader takes a for A
        if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
            raise _RefusedError("its records are compressed, which torch's never are")
        tables = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
        if len(tables) != 1:
            raise _RefusedError("it is no archive of tensors: it has no data.pkl, or several")
        outline = _Outline(io.BytesIO(archive.read(tables[0])))
        outline.load()
    folder = tables[0].removesuffix("data.pkl")
    for name, claim in outline.storages.items():
        record = records.get(f"{folder}data/{name}")
        if record is None or record.file_size != claim:
            there = "nothing" if record is None else size_text(record.file_size)
            raise _RefusedError(f"a tensor of it claims {size_text(claim)}, and {there} is there for it")


class _Named:
    """What stands for a class or function that a pickle names: it can be called, and does nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> "_Named":
        return self


class _Outline(pickle._Unpickler):
    """Goes through a pickle with nothing that could be run in reach, and notes what its tensors' storages claim.

    Only the instructions are known that torch needs for dictionaries of tensors and numbers. Keys are texts or numbers,
    because the hash of a nested tuple can take for ever.

    Attributes:
        storages: bytes by name of the record.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in MAKERS or (module in ("torch", "torch.storage") and name in ELEMENT_BYTES):
            return _Named(name)
        raise _RefusedError(f"it names {module}.{name}, which no tensor needs, and which is not run")

    def persistent_load(self, claim: Any) -> Any:
        kind, storage, name, _, count = claim
        if kind != "storage" or not isinstance(storage, _Named) or not isinstance(count, int) or count < 0:
            raise _RefusedError("it holds something that is no tensor")
        self.storages[str(name)] = max(self.storages.get(str(name), 0), count * ELEMENT_BYTES[storage.name])
        return None

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_plain(key)] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update({_plain(key): value for key, value in zip(items[::2], items[1::2], strict=True)})

    dispatch: ClassVar[dict[int, Any]] = {
        ord(code): pickle._Unpickler.dispatch[ord(code)] for code in "\x80}]).(tqrhjXcKMJ\x8aG\x88\x89N\x85\x86\x87QRae"
    } | {ord("s"): load_setitem, ord("u"): load_setitems}


def _plain(key: Any) -> Any:
    if not isinstance(key, str | int):
        raise _RefusedError("it has a key that is neither a text nor a number")
    return key
