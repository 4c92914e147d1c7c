"""How a reward model is served: HTTP in front, a queue in the middle, one thread that owns the model behind.

What a reward model is stands in `reward_model`; how one is made is none of this package's business.
"""
