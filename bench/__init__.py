"""The benchmark of dlkernels: `python -m bench`, or `make bench`."""
