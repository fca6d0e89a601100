"""What training would need, from the configuration alone."""

from .estimate import estimate as estimate
