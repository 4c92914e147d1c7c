"""The demo reward model: what `make serve` trains and serves where no model is named.

`train.jsonl` and `heldout.jsonl` are this project's own preference pairs; the backbone is all-MiniLM-L6-v2, taken from
a Python package, so that neither a model hub nor a data set is needed.
"""
