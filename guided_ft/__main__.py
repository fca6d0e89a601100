"""``python -m guided_ft`` is ``guided-ft``."""

from .cli import main

if __name__ == "__main__":
    main()
