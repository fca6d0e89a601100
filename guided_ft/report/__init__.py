"""What a run found, told twice: as one self-contained HTML page and as a few lines of text. Imports no torch."""

from .page import write_report as write_report
from .story import story as story
