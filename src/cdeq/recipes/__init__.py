"""Recipes: every published number, as a frozen dataclass of settings."""

from cdeq.recipes.base import Recipe as Recipe
from cdeq.recipes.registry import RECIPES as RECIPES
