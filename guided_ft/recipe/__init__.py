"""``Recipe``: a run written down as YAML, strictly read. Imports no torch."""

from .recipe import Recipe as Recipe
from .recipe import shipped as shipped
