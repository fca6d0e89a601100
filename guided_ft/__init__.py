"""guided_ft: find the parts of a language model that matter for a task, train only those, and prove it.

The public names are listed in ``__init__.pyi``, each with the module that it lives in. They are loaded on first use, so
that ``import guided_ft`` and the command line stay fast.
"""

from .system.lazy import by_stub, when_imported
from .system.progress import drop_kernel_notice

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = by_stub(__name__, __file__)

drop_kernel_notice()
# To load an adapter PEFT must know the slice method; importing PEFT here would cost every command seconds.
when_imported("peft", "guided_ft.slice")
# What proves an anatomy stands on rooms above it, and enters itself there.
when_imported("guided_ft.anatomy", "guided_ft.proofs")
