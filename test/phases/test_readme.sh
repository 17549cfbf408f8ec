#!/bin/sh
# README's generated references are those of this program.
exec build/venv/bin/python postproc/update_readme.py "$1" README.md --check
