"""`evagen demo`: a page to play with trained models in a browser.

What is computed (`rebuild`, `generate`) knows nothing of the page that shows it (`page`).
"""
