"""How every tool here is called and ends: exit code 0, or 2 and one line that says what is wrong."""

import argparse
import os
import sys
from collections.abc import Callable


class RunError(Exception):
    """A file that is needed is missing, or is not what it should be. The message names it."""


def parser_of(description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=description, epilog="examples:\n" + examples, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_tool(tool: str, work: Callable[[], None]) -> int:
    try:
        work()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # of `tool | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RunError, OSError) as fault:
        print(f"{tool}: {fault}", file=sys.stderr)
        return 2
    return 0
