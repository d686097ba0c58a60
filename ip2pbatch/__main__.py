"""Where the program begins, as `ip2pbatch` and as `python -m ip2pbatch`: it can be stopped with a word from here on."""

from __future__ import annotations

import signal
import sys

from ip2pbatch.errors import INTERRUPTED, TerminatedError
from ip2pbatch.run.stop import terminated


def main() -> None:
    """Run the command line. Importing it takes a moment, in which a signal may come."""
    signal.signal(signal.SIGTERM, terminated)
    try:
        from ip2pbatch.backends.pytorch import deferred
        from ip2pbatch.cli.app import main as command
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except TerminatedError:
        print("terminated", file=sys.stderr)
        raise
    if "train" not in sys.argv[1:2]:
        deferred.process_is_ours()
    command()


if __name__ == "__main__":
    main()
