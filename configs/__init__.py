"""The shipped configs. A package, so that an installed evagen finds them."""
