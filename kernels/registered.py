"""diffusers' `register_to_config`, by which a model keeps the arguments that it was made with, with types: it has none,
and a type checker knows nothing of a class whose `__init__` is decorated with what it does not know."""

from collections.abc import Callable
from typing import TypeVar

from diffusers.configuration_utils import register_to_config as without_types

Init = TypeVar("Init", bound=Callable)
register_to_config: Callable[[Init], Init] = without_types
