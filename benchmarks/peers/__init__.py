"""Other ways to serve the same model, each one runnable in a Python environment of its own.

The servers here import nothing of ours, so that their environments need only what a user of theirs would install.
"""
