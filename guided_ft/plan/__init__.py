"""``Plan``: a selection and the way it is trained."""

from .plan import Plan as Plan
