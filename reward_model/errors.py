"""What can go wrong with an input or a checkpoint, in terms its owner can act on.

    RewardModelError
    ├── InputError               this input cannot be scored; the others in the batch can
    │   ├── TooLong              longer than max_length, and truncation was not asked for (or cannot help)
    │   ├── NoTokens             nothing is left to score
    │   ├── NotRenderable        the checkpoint's template has no form for it
    │   ├── BadTokenId           an id outside the vocabulary
    │   └── SpecialTokenInContent  a special-token string inside a message, where that is refused
    └── CheckpointRefused        the checkpoint must not be served: it would not give the trained score
        ├── GoldenMismatch       its golden vectors score differently here
        └── DtypeRefused         its code cannot compute in the chosen dtype

Knows nothing of HTTP statuses (`service.errors` maps them) or of exit codes.
"""


class RewardModelError(Exception):
    """Base of all errors of this package; the message says what is wrong and what to do."""


class InputError(RewardModelError):
    """This input cannot be scored."""


class TooLong(InputError):
    """The input has more tokens than the model reads.

    Attributes:
        num_tokens: tokens of the rendered input.
        limit: the checkpoint's max_length.
        response: which of several responses to one prompt it is.
    """

    def __init__(self, message: str, *, num_tokens: int, limit: int, response: int | None = None) -> None:
        super().__init__(message)
        self.num_tokens = num_tokens
        self.limit = limit
        self.response = response


class NoTokens(InputError):
    """The input has no tokens at all."""


class NotRenderable(InputError):
    """The checkpoint's chat template refuses this conversation, or there is no template for its kind."""


class BadTokenId(InputError):
    """A token id lies outside the model's vocabulary."""


class SpecialTokenInContent(InputError):
    """A message contains the text of a special token, which could forge a turn."""


class CheckpointRefused(RewardModelError):
    """The checkpoint does not reproduce the score it was trained to give, or cannot be read safely."""


class GoldenMismatch(CheckpointRefused):
    """A golden vector does not score what it did when the checkpoint was written."""


class DtypeRefused(CheckpointRefused):
    """The model's code cannot compute in the dtype that was chosen."""
