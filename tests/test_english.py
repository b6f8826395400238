"""The English of code and pages stays plain: `python -m tests.english` shows each place that counts here."""

from __future__ import annotations

import re

from controller.settings import ROOT
from tests.english import ODD_WORDS, bare_participles, odd_words

ODD_WORDS_PER_10_000 = 3
BARE_PARTICIPLES_PER_1_000 = 3


def test_odd_words_are_rare() -> None:
    """Of 10,000 words at most 3 are odd."""
    places, words = odd_words()
    assert words > 100_000
    assert len(places) * 10_000 <= ODD_WORDS_PER_10_000 * words, "\n".join(places)


def test_bare_participles_are_rare() -> None:
    """Of 1,000 names at most 3 are a bare participle."""
    places, names = bare_participles()
    assert names > 10_000
    assert len(places) * 1_000 <= BARE_PARTICIPLES_PER_1_000 * names, "\n".join(places)


def test_codespell_knows_the_odd_words() -> None:
    """codespell refuses every odd word that is counted here, and no other word of our own list."""
    lines = (ROOT / "tests" / "spelling.txt").read_text(encoding="utf-8").splitlines()
    words = [line.partition("->")[0] for line in lines]
    assert sorted(words) == words
    assert sorted(words) == sorted(re.findall(r"\w{3,}", ODD_WORDS.pattern))
