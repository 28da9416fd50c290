"""CUDA kernels of the fast guided filter, and two ways to run them: see README.md in this folder."""
