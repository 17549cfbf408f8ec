"""Tools of postproc called in this process: Matplotlib is slow to load, and once is enough."""
import importlib
import io
import pathlib
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

POSTPROC = pathlib.Path(__file__).resolve().parents[2] / "postproc"
sys.path.insert(0, str(POSTPROC))


def call(name, *arguments):
    """Exit code, standard output and error of `python postproc/NAME.py ARGUMENTS`. What Python would print of a traceback is an exception."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.object(sys, "argv", [f"{name}.py", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            status = importlib.import_module(name).main()
        except SystemExit as end:  # of argparse
            status = end.code
    return status, out.getvalue(), err.getvalue()
