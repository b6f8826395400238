"""Texts of many kinds, on which tokenizers tend to differ: the same ones in each run."""

from __future__ import annotations

import random
from collections.abc import Iterable

SEED = 16
PARTS = (
    # Words and contractions.
    *(
        "Hello",
        " world",
        "don't",
        "I'LL",
        "we've",
        "O'Brien's",
        "HelloWorld",
        "iPhone",
        "naïve",
        "ÀÉ",
        "ß",
        "ﬁ",
        "e\u0301",
        "İ",
    ),
    # Numbers.
    *("1", "12", "123", "1234", "1,234.50", " 3.14e-10", "٣٤", "½", "²", "Ⅷ", "0x1F", "v2.0.1"),
    # Spaces.
    *(" ", "  ", "    ", "\t", "\n", "\n\n", "\r\n", " \n ", "\n\t\t", "\u00a0", "\u3000", "\u200b", "\u2028"),
    # Symbols and code.
    *("!", "?!", "...", "…", "(", ")", "[]", "{}", "=>", "!=", "&&", "//", "/*", "*/", "#", "$x", "@", "_", "__init__"),
    *(
        "def f(x):\n    return x + 1\n",
        '<div class="a">',
        "SELECT * FROM t;",
        "a_b-c.d",
        "http://x.y/z?q=1",
        "\\n",
        "`",
        "~",
    ),
    # Other languages.
    *(
        "Привет",
        " мир",
        "Γειά",
        "こんにちは",
        "世界",
        "中文，标点。",
        "カタカナ",
        "안녕하세요",
        "สวัสดี",
        "हिन्दी",
        "عربي",
        "עברית",
    ),
    *("ქართული", "Ελληνικά", "Việt", "Türkçe", "ગુજરાતી", "অসমীয়া", "አማርኛ", "བོད"),
    # Emoji and rare letters.
    *("🙂", "👩‍👩‍👧", "🇩🇪", "👍🏽", "𝔘𝔫𝔦", "𐍈", "ﷺ", "\ufeff", "\u0000", "\U000e0041"),
)
SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Er sagte: „Das geht so nicht!“ – und ging.",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i]; // add\n}",
    "   leading and trailing   ",
    '{"name": "Ada", "age": 36, "tags": ["x", "y"]}',
    "2024-01-31T23:59:59Z costs 1.234,56 € or $99",
    "我今天去了北京，买了3本书。",
    "昨日、東京で123人が集まりました。",
    "ТЕКСТ С ЗАГЛАВНЫМИ и строчными буквами",
    "مرحبا بالعالم ١٢٣",
    "I'm sure they'd've said it's y'all's",
    "",
)


def texts(count: int, special: Iterable[str] = ()) -> list[str]:
    """Return `count` texts; some hold the names of special tokens."""
    rng = random.Random(SEED)
    parts = [*PARTS, *special]
    made = [*SENTENCES, *PARTS]
    while len(made) < count:
        made.append("".join(rng.choice(parts) for _ in range(rng.randint(1, 12))))
    return made[:count]
