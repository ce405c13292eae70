"""The command dynbench, as `python -m robustbench_dyn` and as the script of the package."""

from __future__ import annotations

import sys
from typing import NoReturn

from robustbench_dyn import interruption


def main() -> NoReturn:
    """Run the command; Ctrl-C ends it in one line from its first moment on."""
    try:
        interruption.listen()
        from robustbench_dyn.cli import main as run  # noqa: PLC0415
    # While the command line itself is imported, nothing else can say it.
    except KeyboardInterrupt:
        interruption.ignore()
        sys.stderr.write(f"dynbench: {interruption.MESSAGE}\n")
        sys.exit(interruption.EXIT_CODE)
    run()


if __name__ == "__main__":
    main()
