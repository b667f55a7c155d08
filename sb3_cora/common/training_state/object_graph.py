"""
The state of any Python object and of all that it refers to, such as an environment in its wrappers, and its return to another
object that was made the same way, in this process or a later one.

Objects are pickled, but restored in place: an object that the other one has in the same place keeps its identity and gets the
saved attributes. Local functions get the saved values of the variables that they have from around them. What else cannot be
pickled (open files, windows) stays as the other object has it, except for generators, whose state nothing tells.
"""

import contextlib
import functools
import importlib
import io
import pickle
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor

Path = tuple[Any, ...]

# Attributes that stay as they are: tables of a class's methods, and the file that a process logs to.
KEPT_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    VecEnvWrapper: ("class_attributes",),
    VecMonitor: ("results_writer",),
    Monitor: ("results_writer",),
}
# Objects without parts.
LEAVES = (bool, int, float, complex, str, bytes, type(None), np.ndarray, np.generic, np.dtype, th.Tensor, type)
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
CONTAINERS = (list, tuple, dict, set, frozenset, deque)


class StateFunctions(NamedTuple):
    """
    How objects of a class give and take their state, where it is not in their attributes.

    :param get: From an object to its state, which can be pickled.
    :param set: Gives an object this state.
    """

    get: Callable[[Any], Any]
    set: Callable[[Any, Any], None]


_state_functions: dict[type, StateFunctions] = {}


def register_state(of_class: type, get: Callable[[Any], Any], set: Callable[[Any, Any], None]) -> None:
    """
    Tell how objects of a class give and take their state, where it is not in their attributes.

    :param of_class: The class; it holds for its subclasses as well.
    :param get: From an object to its state, which can be pickled.
    :param set: Gives an object this state.
    """
    _state_functions[of_class] = StateFunctions(get, set)


def state_of_object(root: Any) -> bytes:
    """
    :param root: An object.
    :return: Its state, with that of all objects that it refers to.
    :raises pickle.PicklingError: If something can neither be pickled nor be found again by its place.
    """
    file = io.BytesIO()
    try:
        _Pickler(file, root).dump(root)
    except (TypeError, AttributeError, RecursionError, NotImplementedError) as error:
        raise pickle.PicklingError(f"{type(error).__name__}: {error}") from error
    return file.getvalue()


def set_state_of_object(root: Any, state: bytes) -> None:
    """
    :param root: An object that was made the same way as the one whose state it gets.
    :param state: The result of :func:`state_of_object`.
    """
    _Unpickler(io.BytesIO(state), root).load()


class _Place(NamedTuple):
    """
    Stands in a pickle for an object by its place.

    :param path: How it is reached from the root.
    :param of_class: Its class, of which one is made if there is none in this place; for functions and classes ``type``, of
        which none can be made; ``None`` if there need not be one.
    """

    path: Path
    of_class: type | None


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, root: Any) -> None:
        super().__init__(file, protocol=5)
        places = list(_places(root))
        self.paths = {id(part): path for path, part in places}
        # Objects made on access would be collected, and their ids be those of others.
        self.alive = [part for _, part in places]

    def persistent_id(self, obj: Any) -> Any:
        return tuple(obj) if type(obj) is _Place else None

    def reducer_override(self, obj: Any) -> Any:
        own = _own_state_functions(type(obj))
        if own is not None:
            return _same, (self._place(obj, type(obj)),), own.get(obj), None, None, own.set
        if type(obj) is np.ndarray and type(obj.base) is np.ndarray and not obj.base.dtype.hasobject:
            offset = obj.__array_interface__["data"][0] - obj.base.__array_interface__["data"][0]
            return _array_on, (obj.base, obj.dtype, offset, obj.shape, obj.strides, obj.flags.writeable)
        if type(obj) is th.Tensor and _is_plain(obj):
            return _tensor_on, (obj.untyped_storage(), obj.dtype, obj.storage_offset(), obj.shape, obj.stride())
        if isinstance(obj, th.UntypedStorage):
            return _storage, (th.empty(0, dtype=th.uint8, device=obj.device).set_(obj).cpu().numpy(), obj.device)
        if isinstance(obj, types.ModuleType):
            return importlib.import_module, (obj.__name__,)
        if isinstance(obj, type | types.FunctionType):
            if _is_importable(obj):
                return NotImplemented
            place = self._place(obj, of_class=type)
            return _same, (place,), _variables(obj) or None, None, None, _set_variables
        if isinstance(obj, types.GeneratorType):
            raise pickle.PicklingError(f"a generator, {obj.__qualname__}(), cannot be pickled")
        if _is_restored_in_place(obj) and id(obj) in self.paths:
            kept = _kept_attributes(type(obj))
            attributes = {name: value for name, value in vars(obj).items() if name not in kept}
            return _same, (self._place(obj, type(obj)),), attributes, None, None, _set_attributes
        try:
            return obj.__reduce_ex__(5)
        except Exception:
            if id(obj) not in self.paths:
                raise
            return _same, (self._place(obj, of_class=None),)

    def _place(self, obj: Any, of_class: type | None) -> _Place:
        if id(obj) not in self.paths:
            raise pickle.PicklingError(f"a {type(obj).__name__} can neither be pickled nor found by its place")
        return _Place(self.paths[id(obj)], of_class)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, root: Any) -> None:
        super().__init__(file)
        self.parts = dict(_places(root))
        self.taken: set[int] = set()

    def persistent_load(self, place: Any) -> Any:
        path, of_class = place
        found = self.parts.get(path)
        if of_class is None:
            return found
        if of_class is type:
            if not isinstance(found, type | types.FunctionType):
                raise pickle.UnpicklingError(f"a function or class was in {'.'.join(map(str, path))}, where there is none now")
            return found
        # Two objects of the saved graph must not become one.
        if type(found) is not of_class or id(found) in self.taken:
            found = object.__new__(of_class)
            self.parts[path] = found
        self.taken.add(id(found))
        return found


def _same(obj: Any) -> Any:
    return obj


def _array_on(
    base: np.ndarray, dtype: np.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], writeable: bool
) -> np.ndarray:
    """
    :return: An array on the memory of another one. An environment that writes to one of them expects it in the other.
    """
    array: np.ndarray = np.ndarray(shape, dtype, base, offset, strides)
    array.flags.writeable = writeable
    return array


def _storage(content: np.ndarray, device: th.device) -> th.UntypedStorage:
    """
    :return: A storage with these bytes.
    """
    return th.from_numpy(content).to(device, copy=True).untyped_storage()


def _tensor_on(
    storage: th.UntypedStorage, dtype: th.dtype, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> th.Tensor:
    """
    :return: A tensor on a storage, which it may share with others.
    """
    return th.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, strides)


def _is_plain(tensor: th.Tensor) -> bool:
    """Whether a tensor is nothing but numbers on a storage."""
    marked = tensor.requires_grad or tensor.is_quantized or tensor.is_conj() or tensor.is_neg()
    return tensor.layout == th.strided and tensor.device.type != "meta" and not marked


def _set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    own = vars(obj)
    kept = {name: own[name] for name in _kept_attributes(type(obj)) if name in own}
    own.clear()
    own.update(kept)
    own.update(attributes)


def _get_own_state(env: Any) -> tuple[Any, Any]:
    """The state of an environment that has methods for it, and the generator that Gymnasium adds to it."""
    return env.get_state(), vars(env).get("_np_random")


def _set_own_state(env: Any, state: tuple[Any, Any]) -> None:
    own, generator = state
    if generator is not None:
        env._np_random = generator
    env.set_state(own)


_own_methods = StateFunctions(_get_own_state, _set_own_state)


def _own_state_functions(of_class: type) -> StateFunctions | None:
    for parent in of_class.__mro__:
        if parent in _state_functions:
            return _state_functions[parent]
    is_environment = callable(getattr(of_class, "step", None)) and callable(getattr(of_class, "reset", None))
    has_methods = callable(getattr(of_class, "get_state", None)) and callable(getattr(of_class, "set_state", None))
    return _own_methods if is_environment and has_methods and not issubclass(of_class, gym.Wrapper) else None


def _kept_attributes(of_class: type) -> tuple[str, ...]:
    return tuple(name for parent in of_class.__mro__ for name in KEPT_ATTRIBUTES.get(parent, ()))


def _is_restored_in_place(obj: Any) -> bool:
    """Whether the attributes of an object are its state, so that they can be given to another object of its class."""
    if not hasattr(obj, "__dict__") or isinstance(obj, (*LEAVES, *FUNCTIONS, *CONTAINERS)):
        return False
    # Those with Gymnasium's or another EzPickle pickle only the arguments that they were made with.
    if isinstance(obj, gym.Env | VecEnv) or "_ezpickle_args" in vars(obj):
        return True
    own = type(obj)
    customized = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")
    has_slots = any("__slots__" in vars(parent) and vars(parent)["__slots__"] for parent in own.__mro__)
    return not has_slots and all(getattr(own, name, None) is getattr(object, name, None) for name in customized)


def _variables(function: Any) -> dict[str, Any]:
    """
    :param function: A function or class.
    :return: The variables that a function has from around it, by name, as far as they have a value.
    """
    if getattr(function, "__closure__", None) is None:
        return {}
    variables = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True):
        # Empty until the variable is assigned
        with contextlib.suppress(ValueError):
            variables[name] = cell.cell_contents
    return variables


def _set_variables(function: Any, variables: dict[str, Any]) -> None:
    cells = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    for name, cell in cells:
        if name in variables:
            cell.cell_contents = variables[name]


def _is_importable(obj: Any) -> bool:
    """Whether a class or function is found in its module under its name, which is how it is pickled."""
    found: Any = sys.modules.get(obj.__module__ or "")
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj


def _places(root: Any) -> Iterator[tuple[Path, Any]]:
    """
    :param root: An object.
    :return: All objects that it refers to, and it, each once, with the path on which it is reached first.
    """
    seen: set[int] = set()
    waiting: deque[tuple[Path, Any]] = deque([((), root)])
    while waiting:
        path, obj = waiting.popleft()
        if id(obj) in seen or (isinstance(obj, LEAVES) and not isinstance(obj, type)):
            continue
        seen.add(id(obj))
        yield path, obj
        if isinstance(obj, types.FunctionType) and not _is_importable(obj):
            waiting.extend(((*path, name), part) for name, part in _variables(obj).items())
        elif not isinstance(obj, (type, types.ModuleType, *FUNCTIONS)):
            waiting.extend(((*path, name), part) for name, part in _parts(obj))


def _parts(obj: Any) -> Iterator[tuple[Any, Any]]:
    if not _is_importable(type(obj)):
        yield "__class__", type(obj)
    if isinstance(obj, dict):
        for number, (key, part) in enumerate(obj.items()):
            yield ("item", key) if isinstance(key, str | int) else ("numbered item", number), part
        if isinstance(obj, defaultdict):
            yield "default_factory", obj.default_factory
    elif isinstance(obj, list | tuple | deque):
        yield from enumerate(obj)
    elif isinstance(obj, functools.partial):
        yield from (("func", obj.func), ("args", obj.args), ("keywords", obj.keywords))
    if hasattr(obj, "__dict__"):
        kept = _kept_attributes(type(obj))
        yield from ((name, part) for name, part in vars(obj).items() if name not in kept)
