"""How much text an input, and the responses of a request, may have."""

import pytest

from service import characters
from service.errors import TooLarge
from service.places import LocatedError, as_input


@pytest.mark.parametrize(("max_length", "limit"), [(512, 2**20), (2**17, 2**23)])
def test_an_input_may_have_a_megabyte_or_what_a_model_with_a_long_context_could_read(
    max_length: int, limit: int
) -> None:
    characters.check([limit], max_length, as_input)
    with pytest.raises(LocatedError) as refused:
        characters.check([1, limit + 1], max_length, as_input)
    assert refused.value.fields["index"] == 1


def test_a_prompt_counts_as_often_as_it_has_responses() -> None:
    characters.check_sum(8 * 2**20, 512)
    with pytest.raises(TooLarge, match="once for each response"):
        characters.check_sum(8 * 2**20 + 1, 512)
