from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from runner.tokenizer.detokenizer import ByteDetokenizer, Detokenizer, StopStrings

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}"))


def decode(tokens: list[int]) -> str:
    """Decode bytes as tokens: the hardest case, since each character beyond ASCII takes several tokens."""
    return bytes(tokens).decode("utf-8", errors="replace")


def pieces_of(tokens: bytes) -> tuple[list[str], str]:
    detokenizer = Detokenizer(decode)
    return [detokenizer.feed(token) for token in tokens], detokenizer.flush()


@given(texts)
@example("héllo 👩‍👩‍👧 世界")
def test_the_pieces_of_a_text_join_to_the_text(text: str) -> None:
    """Decoding one token at a time neither loses nor repeats text."""
    pieces, rest = pieces_of(text.encode())
    assert text == "".join(pieces) + rest


@given(texts, st.integers(min_value=0, max_value=3))
def test_no_piece_has_half_a_character(text: str, missing: int) -> None:
    """Wherever the tokens end, the output is a beginning of the text in whole characters."""
    tokens = text.encode()
    pieces, rest = pieces_of(tokens[: max(0, len(tokens) - missing)])
    assert text.startswith("".join(pieces) + rest)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in (*pieces, rest))


@given(texts, st.integers(min_value=0, max_value=3))
def test_a_table_of_bytes_gives_the_same_text(text: str, missing: int) -> None:
    """Looking up bytes gives only whole characters, and all of a whole text."""
    detokenizer = ByteDetokenizer([bytes([byte]) for byte in range(256)])
    tokens = text.encode()
    pieces = [detokenizer.feed(token) for token in tokens[: max(0, len(tokens) - missing)]]
    output = "".join(pieces) + detokenizer.flush()
    assert text.startswith(output)
    assert missing or output == text


@given(st.binary(max_size=60))
def test_noise_is_returned_sooner_or_later(tokens: bytes) -> None:
    """Bytes that are not text neither raise an exception nor stay in the window forever."""
    pieces, _rest = pieces_of(tokens)
    assert len(tokens) <= 17 or "".join(pieces)


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Return all output, and whether a stop string ended it."""
    strings, out = StopStrings(stops), ""
    for piece in pieces:
        text, is_stopped = strings.feed(piece)
        out += text
        if is_stopped:
            return out, True
    return out + strings.flush(), False


small_texts = st.text(alphabet="ab\n", max_size=30)
small_stops = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4)


@given(st.lists(small_texts, max_size=8), small_stops)
def test_the_cuts_of_a_text_do_not_matter(pieces: list[str], stops: list[str]) -> None:
    """A stop string in several pieces ends the text at the same place as in one piece."""
    assert run(stops, ["".join(pieces)]) == run(stops, pieces) == run(stops, list("".join(pieces)))


@given(small_texts, small_stops)
def test_no_part_of_a_stop_string_is_passed_on(text: str, stops: list[str]) -> None:
    """The output is the text up to a stop string; without a stop string it is the whole text."""
    out, is_stopped = run(stops, list(text))
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    assert is_stopped == any(stop in text for stop in stops)
    if is_stopped:
        assert any(text[len(out) :].startswith(stop) for stop in stops)
    else:
        assert text == out


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    """Holding back costs latency, so only a possible beginning of a stop string waits."""
    strings = StopStrings(["\n\n"])
    assert ("one", False) == strings.feed("one")
    assert (" two", False) == strings.feed(" two\n")
    assert ("\nthree", False) == strings.feed("three")
