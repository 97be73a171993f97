"""Where the figures of a reply may stand, and what is told when there are none (wire §5.4, §11.5)."""

import pytest

from tests.translate.replies import USAGE, chunk, plain, read, texts

STOP = chunk(finish="stop")


@pytest.mark.parametrize(
    ("chunks", "figures"),
    [
        pytest.param([chunk({"content": "Hi"}, "stop", usage=USAGE)], (9, 3), id="with the last text"),
        pytest.param([*texts("Hi"), STOP, chunk(choices=[], usage=USAGE)], (9, 3), id="in a chunk of its own"),
        pytest.param([plain({"content": "Hi"}, usage=USAGE)], (9, 3), id="in a plain reply"),
        pytest.param([*texts("Hi"), STOP], (0, 0), id="nowhere"),
        pytest.param([*texts("Hi"), chunk(finish="stop", usage={})], (0, 0), id="empty"),
    ],
)
def test_missing_figures_are_zeros_and_are_known_to_be_missing(chunks, figures):
    result = read(chunks)
    usage = result.response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == figures
    assert usage["total_tokens"] == sum(figures)
    assert bool(result.stream.figures.usages) == (figures != (0, 0))
