"""``GuidedCallback``: applies a plan inside a trainer, guards it and certifies it."""

from .callback import GuidedCallback as GuidedCallback
