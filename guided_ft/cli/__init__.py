"""The command line: one file for each group of commands. Each puts its own into ``app``, in the order of the help."""

from . import stages as stages  # isort: skip
from . import comparing as comparing  # isort: skip
from . import folders as folders  # isort: skip
from . import using as using  # isort: skip
from . import shipped as shipped  # isort: skip
from . import trl_files as trl_files  # isort: skip
from .program import Interrupted, app, main

__all__ = ["Interrupted", "app", "main"]
