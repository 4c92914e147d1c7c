"""How a reward model is made: preference data, loss, training, evaluation and calibration, one runnable file per stage.

Builds on `reward_model`, which alone turns a conversation into a score; knows nothing of HTTP or of the service.
"""
