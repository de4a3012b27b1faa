"""The formats of an exported policy: how each is written and read, and what a user types to read it."""

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from pg_experiments.errors import needs_extra

Act = Callable[[Tensor], tuple[Tensor, ...]]  # from observations to actions, and how sure the policy is of them
EXAMPLE_BATCH = 3  # torch takes a size of 0 or 1 for a constant


@dataclass(frozen=True)
class Format:
    """One way to write a policy.

    Attributes:
        suffix: of the file's name.
        about: in words, with who can read it.
        write: from the module, the names of its outputs and an example of its input to the file.
        read: from the file to a function, by that format's own runtime.
        modules: that it takes and that come with the extra `onnx`.
        code: what a user types; `FILE` and `SIZE` stand for the file's name and the size of an observation.
    """

    suffix: str
    about: str
    write: Callable[[torch.nn.Module, Sequence[str], Tensor, Path], None]
    read: Callable[[Path], Act]
    code: str
    modules: tuple[str, ...] = ()

    def check_installed(self, name: str) -> None:
        """Raise a `ConfigError` with the command that installs what is missing."""
        if any(find_spec(module) is None for module in self.modules):
            raise needs_extra("--format", name, "onnx")


def _write_onnx(module: torch.nn.Module, outputs: Sequence[str], example: Tensor, path: Path) -> None:
    with redirect_stdout(StringIO()):
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["observation"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        program.save(path, external_data=False)


def _read_onnx(path: Path) -> Act:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda observation: tuple(
        torch.from_numpy(output) for output in session.run(None, {"observation": observation.numpy()})
    )


def _write_torchscript(module: torch.nn.Module, outputs: Sequence[str], example: Tensor, path: Path) -> None:
    torch.jit.save(torch.jit.trace(module, (example,)), str(path))


def _read_torchscript(path: Path) -> Act:
    return torch.jit.load(str(path))


def _write_torch(module: torch.nn.Module, outputs: Sequence[str], example: Tensor, path: Path) -> None:
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)


def _read_torch(path: Path) -> Act:
    return torch.export.load(path).module()


FORMATS = {
    "onnx": Format(
        ".onnx",
        "ONNX, for ONNX Runtime and every other program that reads it, without Python where need be",
        _write_onnx,
        _read_onnx,
        """
import numpy, onnxruntime
policy = onnxruntime.InferenceSession("FILE")
observation = numpy.zeros((1, SIZE), numpy.DTYPE)
action, SPREAD = policy.run(None, {"observation": observation})
print(action[0])
""",
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "torchscript": Format(
        ".ts",
        "TorchScript, for torch in Python and in C++ (LibTorch)",
        _write_torchscript,
        _read_torchscript,
        """
import torch
policy = torch.jit.load("FILE")
observation = torch.zeros(1, SIZE, dtype=torch.DTYPE)
action, SPREAD = policy(observation)
print(action[0])
""",
    ),
    "torch": Format(
        ".pt2",
        "a program of torch.export, read as a plain torch.nn.Module by this version of torch or a later one",
        _write_torch,
        _read_torch,
        """
import torch
policy = torch.export.load("FILE").module()  # policy.state_dict() holds its tensors
observation = torch.zeros(1, SIZE, dtype=torch.DTYPE)
action, SPREAD = policy(observation)
print(action[0])
""",
    ),
}


def write(chosen: Format, module: torch.nn.Module, outputs: Sequence[str], example: Tensor, path: Path) -> None:
    """Write a module; what torch has to say about its own exporters is not for the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            chosen.write(module.eval(), outputs, example, path)
    finally:
        logger.setLevel(level)


def read(chosen: Format, path: Path) -> Act:
    """Read it back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return chosen.read(path)
