"""Comparisons that a paper's tables make, as commands: `evagen study NAME CONFIG`."""
