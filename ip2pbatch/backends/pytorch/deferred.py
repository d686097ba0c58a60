"""What torch, diffusers and transformers load beside what makes pictures, loaded where it is first asked for.

diffusers' UNet draws in torch's compiler, for marks that only a compiler reads, and more than fifty other models'
transformers, because they lie in one package with its own block. Nothing is replaced here: a package is found as ever
and stands in `sys.modules` as itself, only its `__init__` runs later, when it is asked for something that is not there.
A version that asks for more at its start loads what it asks for.

In a process of ours both libraries are besides as they are where only ip2pbatch is installed: what they would load
because somebody installed it too, and no picture needs, they are told is not there.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_ALONE = f"{_COMPILER}._trace_wrapped_higher_order_op"
"""All that transformers takes of the compiler at its start: a module that needs nothing of its package."""

_PACKAGES = (
    "diffusers.models.transformers", "diffusers.models.unets", "diffusers.models.autoencoders", "diffusers.hooks",
    "transformers.models",  # reads every file of every model for their names, which `transformers` has done before
)  # fmt: skip
_OF_SCIPY = ("scipy.stats", "scipy.integrate")  # of diffusers' schedules, for two that a model may ask for
_LOADING = threading.RLock()
_alone = False


def process_is_ours() -> None:
    """Note that nobody else's code runs in this process, as the command line knows of its own, and that it trains
    nothing: `defer` may then leave out for good what only processes that work together need.
    """
    global _alone
    _alone = "WORLD_SIZE" not in os.environ


def defer() -> None:
    """Have the packages that no picture needs wait until they are asked for; what is loaded already stays so.

    Raises ModuleNotFoundError where torch, diffusers or transformers is not installed.
    """
    if compiler := _put_in_place(_COMPILER, DeferredCompiler):
        _load_alone(_counted_on(compiler))
    if _alone:
        _as_installed_alone()
        for name in _OF_SCIPY if find_spec("scipy") else ():
            if part := _put_in_place(name, Deferred):
                _counted_on(part)
    for name in _PACKAGES:
        _put_in_place(name, Deferred)


@contextmanager
def loading() -> Iterator[None]:
    """Imports without the collector of cycles, in a process of ours: it would look again and again through all that is
    being made, of which nothing goes away. What is there at the end it never looks through again.
    """
    if not (_alone and gc.isenabled()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _as_installed_alone() -> None:
    """Have the libraries be as where nothing is that shares a model among machines, trains adapters or matches boxes:
    half of their start. Each asks once and remembers; a version that does not remember is as ever.
    """
    import torch.distributed

    import_without("transformers.utils", "scipy")  # which losses need; diffusers' schedules may ask for it
    import_without("diffusers.utils", "peft")
    from transformers import utils

    real = torch.distributed.is_available
    torch.distributed.is_available = lambda: False
    try:
        with _absent("scipy"), suppress(AttributeError):
            utils.is_scipy_available()
            utils.is_torch_distributed_available()
    finally:
        torch.distributed.is_available = real


def import_without(name: str, library: str) -> None:
    """Import a package that looks for a library and is to find none. One that cannot do without is left for the next
    who imports it.
    """
    with _absent(library), suppress(ImportError):
        importlib.import_module(name)


@contextmanager
def _absent(library: str) -> Iterator[None]:
    """Whoever looks for a library in the block finds none, in the way that Python has for that. One that is loaded
    already stays.
    """
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[library]


def _put_in_place(name: str, kind: type[Deferred]) -> Deferred | None:
    """The package of this name, not run; None where it is loaded already, or not there."""
    if name in sys.modules or not (spec := find_spec(name)):
        return None
    package = module_from_spec(spec)
    package.__class__ = kind
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, package)
    return package if isinstance(package, Deferred) else None


def _counted_on(package: Deferred) -> Sequence[str]:
    """Have its `__init__` run before any of its submodules is looked for, which count on that; where they lie."""
    places = package.__path__
    vars(package).update(__path__=_Locations(package, places), _places=places)
    return places


def _load_alone(places: Sequence[str]) -> None:
    if (spec := PathFinder.find_spec(_ALONE, places)) is None or spec.loader is None:
        return
    sys.modules[_ALONE] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[_ALONE])
    except BaseException:
        del sys.modules[_ALONE]
        raise


class Deferred(ModuleType):
    """A package whose `__init__` has not run yet; its submodules are imported without it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not self._load():
            raise AttributeError(f"module {self.__name__} is being loaded and has no {name} yet")
        return getattr(self, name)

    def _load(self) -> bool:
        """Run `__init__`; False where that is under way in this thread."""
        with _LOADING:
            if not _waits(self):
                return True
            if vars(self).get("_under_way"):
                return False
            vars(self)["_under_way"] = True
            try:
                assert self.__spec__
                assert self.__spec__.loader
                self.__spec__.loader.exec_module(self)
            finally:
                del vars(self)["_under_way"]
            self._loaded()
        return True

    def _loaded(self) -> None:
        if "_places" in vars(self):
            vars(self)["__path__"] = vars(self).pop("_places")
        there = sys.modules[self.__name__]
        if there is not self:  # `__init__` put another object in its place, as transformers' does
            parent, _, child = self.__name__.rpartition(".")
            setattr(sys.modules[parent], child, there)
        self.__class__ = ModuleType if there is self else _Gone  # type: ignore[assignment]


class _Gone(ModuleType):
    """A package in whose place its own `__init__` has put another object, for those who hold it from before."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules[self.__name__], name)


class DeferredCompiler(Deferred):
    """torch's compiler, which answers what is asked of it by libraries that are only being imported.

    As long as it has not run, nothing is compiled: marks for it can wait, and there is nothing to keep it away from.
    Its submodules count on its `__init__`, so that it runs before any of them is looked for.
    """

    def allow_in_graph(self, function: Any) -> Any:
        """Mark `function` as one that goes into a graph as it is, once there may be graphs."""
        if _waits(self):
            vars(self).setdefault("_marked", []).append(function)
            return function
        return self.allow_in_graph(function)

    def disable(self, fn: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
        """`fn` as it is until there is a compiler, and then as the compiler has it: as a decorator, or called."""
        if fn is None:
            return lambda fn: self.disable(fn, *args, **options)

        @functools.wraps(fn)
        def apart(*given: Any, **named: Any) -> Any:
            function = fn if _waits(self) else self.disable(fn, *args, **options)
            return function(*given, **named)

        vars(apart)["_torchdynamo_disable"] = True  # what the compiler goes by
        return apart

    def assume_constant_result(self, fn: Any) -> Any:
        """The same mark that the compiler would set."""
        fn._dynamo_marked_constant = True
        return fn

    def _loaded(self) -> None:
        marked = vars(self).pop("_marked", ())
        super()._loaded()
        for function in marked:
            self.allow_in_graph(function)


def _waits(package: ModuleType) -> bool:
    """Whether its `__init__` has not run to its end."""
    return isinstance(package, Deferred)


class _Locations:
    """Where a package's submodules lie: whoever looks for one has its `__init__` run before."""

    def __init__(self, package: Deferred, places: Sequence[str]) -> None:
        self.package, self.places = package, places

    def __iter__(self) -> Iterator[str]:
        self.package._load()
        return iter(self.places)
