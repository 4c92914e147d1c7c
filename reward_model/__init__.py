"""What a reward model is: records, rendering, packing, the forward pass and the checkpoint.

Knows neither HTTP nor optimisers: `service` and `training` both build on it, so that "conversation to number" exists
once.
"""

__version__ = "0.1.0"
