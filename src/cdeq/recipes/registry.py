"""The recipes by name."""

from collections.abc import Callable

from cdeq.recipes.base import Recipe
from cdeq.recipes.graph_sets import GRAPHS
from cdeq.recipes.image_sets import IMAGES
from cdeq.recipes.imaging import deblur, deblur_tiny
from cdeq.recipes.text_sets import TEXTS
from cdeq.recipes.vision import digits, digits_released, digits_tiny

ALL = (digits, digits_released, digits_tiny, deblur, deblur_tiny, *IMAGES, *GRAPHS, *TEXTS)

RECIPES: dict[str, Callable[[], Recipe]] = {function.__name__: function for function in ALL}
"""Calling one gives the recipe; its docstring says what it is."""
