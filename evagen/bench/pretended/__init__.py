"""A pretended GPU: what would fail, or wait, on the first day with a real one shows on any machine.

Tensors say that they are on `cuda:0` and compute real values on the CPU (`device.py`). Mixed devices raise as they do
with CUDA, autocast follows CUDA's lists, and every time host and device meet is counted with its place in the code.
It cannot tell speed, memory, and whether a kernel exists or is right.
"""
