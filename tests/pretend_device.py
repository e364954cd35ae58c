"""A second device for machines that have none: its tensors compute on the CPU, but do not mix with the CPU's.

A tensor left behind on the CPU is an error on a GPU and goes unnoticed without one. Here every operation is
looked at before it runs: what would be refused on CUDA is refused, and the rest runs on the CPU, so that
results are those of the CPU bit for bit.

PyTorch lets a backend be written in Python (its PrivateUse1); tensors of it are a wrapper around one of the
CPU's. Threads that start while a mode is entered, such as those that read ahead, enter it too.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "pretend"
LIBRARY, NAME_OF_KEY = torch.library.Library("aten", "IMPL"), "PrivateUse1"
MOVES = {"aten::_to_copy", "aten::copy_", "aten::item", "aten::_local_scalar_dense"}
"""What may see tensors of both devices."""
LOOKUPS = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Indices may lie on the CPU where what they look up in does not."""
LAZY = {"aten::_conj": torch.ops.aten.conj_physical.default, "aten::_neg_view": torch.ops.aten.neg.default}
"""What only marks a tensor, which the wrapper would not know of."""


class Far(torch.Tensor):
    """A tensor on the pretended device."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Far":
        far = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        far.inner = inner
        return far

    def tolist(self) -> list:
        """As of every tensor; those of wrappers are refused otherwise."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    name, tensors = func._schema.name, list[torch.Tensor]()
    inner_args = _inner(args, tensors)
    inner_kwargs = {key: _inner(value, tensors) for key, value in kwargs.items()}
    far = [each for each in tensors if isinstance(each, Far)]
    if far and name not in MOVES:
        _refuse_mixed(name, args, tensors)
    wanted = kwargs.get("device")
    if wanted is not None:
        inner_kwargs["device"] = torch.device("cpu")
    result = (LAZY[name] if far and name in LAZY else func)(*inner_args, **inner_kwargs)
    goes = bool(far) if wanted is None else torch.device(wanted).type == NAME
    return _outer(result, goes, tensors)


def _inner(value, seen: list[torch.Tensor]):
    """Arguments with what the pretended tensors hold in place of them; all tensors are noted."""
    if isinstance(value, torch.Tensor):
        seen.append(value)
        return value.inner if isinstance(value, Far) else value
    if isinstance(value, (list, tuple)):
        return type(value)(_inner(each, seen) for each in value)
    return value


def _outer(value, goes: bool, given: list[torch.Tensor]):
    """A result, on the device where it belongs."""
    if isinstance(value, (list, tuple)):
        return type(value)(_outer(each, goes, given) for each in value)
    if not isinstance(value, torch.Tensor):
        return value
    for each in given:  # changed in place
        if value is each or (isinstance(each, Far) and value is each.inner):
            return each
    return Far(value) if goes else value


def _refuse_mixed(name: str, args: tuple, tensors: list[torch.Tensor]) -> None:
    """Numbers (tensors without axes) of the CPU are welcome everywhere, but cannot be written to."""
    if name in LOOKUPS and isinstance(args[0], Far):
        tensors = [args[0], *([] if name == "aten::index" else [args[2]])]
    near = [each for each in tensors if not isinstance(each, Far) and each.dim()]
    written = name.endswith("_") and not isinstance(args[0], Far)
    if near or written:
        shapes = [(tuple(each.shape), each.device.type) for each in tensors]
        raise RuntimeError(f"{name}: tensors of two devices, {shapes}")


def _made(factory, *args, **kwargs) -> Far:
    return Far(factory(*args, **{**kwargs, "device": "cpu", "pin_memory": False}))


def _copied(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _inner(target, []).copy_(_inner(source, []))
    return target


@cache
def _register() -> None:
    """Make the device known to PyTorch, once in a process."""
    try:
        from torch.utils import backend_registration

        base = backend_registration._DummyBackendModule
        setup = backend_registration._setup_privateuseone_for_python_backend
    except (ImportError, AttributeError):
        pytest.skip("this PyTorch has no backends written in Python", allow_module_level=True)

    class Backend(base):
        def get_amp_supported_dtype(self):
            return [torch.bfloat16]

        def is_autocast_enabled(self):
            return False

        def set_autocast_enabled(self, enabled):
            pass

        def get_autocast_dtype(self):
            return torch.bfloat16

        def set_autocast_dtype(self, dtype):
            pass

    setup(NAME, Backend())
    # Made by PyTorch's own C++ code, where no mode is looked at: such as for an index that is a list.
    for factory in ("empty_strided", "empty.memory_format"):
        LIBRARY.impl(factory, partial(_made, getattr(torch.ops.aten, factory.partition(".")[0])), NAME_OF_KEY)
    LIBRARY.impl("_copy_from", _copied, NAME_OF_KEY)


@contextmanager
def pretended_device() -> Iterator[str]:
    """Within it, tensors can be put on the device of the name that is given."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: what is pretended here is run there (-m gpu)")
    start = threading.Thread.run

    def run_in_mode(thread: threading.Thread) -> None:
        with _Mode():
            start(thread)

    with pytest.MonkeyPatch.context() as patch, _Mode():
        patch.setattr(threading.Thread, "run", run_in_mode)
        yield f"{NAME}:0"


# Here, as the threads of autograd are made for all devices there are when it is used first. Not beside a GPU,
# which autograd then takes for the pretended device.
if not torch.cuda.is_available():
    _register()
