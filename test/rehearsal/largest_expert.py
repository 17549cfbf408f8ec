"""Prints the expert to which assignment.h5 sends most training prompts: largest_expert.py ASSIGNMENT."""

import sys

import h5py
import numpy as np

with h5py.File(sys.argv[1]) as file:
    print(np.bincount(file["train/expert"][...]).argmax())
