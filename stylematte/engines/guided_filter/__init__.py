"""The fast guided filter as CUDA kernels of our own, and the two ways to run them: see README.md here."""
