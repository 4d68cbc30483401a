"""What is compiled by numba (`pip install 'cospec[numba]'`) of forward passes on a CPU: products, and whole passes.

`pool` (torch's own threads), `tiles` (products of weights in panels) and `steps` (all else that a decoder computes) are
imported where numba is there, by `panels` and `forward`.
"""
