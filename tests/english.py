"""Count what makes the English of this project hard to read: `python -m tests.english [PATH-PREFIX…]` shows each place.

There are two counts. Odd words are not a plain subject (`nobody`) or not in common use (`anew`); they are counted per
10,000 words of code and pages. Bare participles are names such as `found` or `told`; a name should say what a thing is,
not what happened to it. They are counted per 1,000 names.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from controller.settings import ROOT

ODD_WORDS = re.compile(r"\b(nobody|whoever|somebody|told|anew)\b", re.IGNORECASE)
# Without names that the standard library uses (`cancelled`, `closed`), and without `expected` in tests.
PARTICIPLES = frozenset(
    re.findall(
        r"\w+",
        """
    accepted added adjusted adopted allowed answered armed arrived asked attempted awaited begun billed broken
    brought built called caught changed checked chosen claimed collected compared compiled composed computed
    converted copied counted dechunked deleted deployed described done drawn dropped encoded ended entered escaped
    evicted exchanged fed fetched filled finished fired fitted followed forgotten formed found framed freed gated
    gathered given gone got granted grown guessed handed heard held hidden joined kept killed known labelled laid
    linked listed loaded looked lost lowered made marked matched meant measured merged met missed moved named
    needed noted noticed offered opened ordered owed paced packed paid parsed passed picked planned posted
    prepared printed progressed promised published pulled queued raised reached received refused relaxed released
    removed rendered repeated reported reserved resolved resumed said saved seen sent served settled shared
    shipped shown skipped spent spoken started stopped stored streamed struck surfaced survived taken tested
    thrown told touched tried turned typed understood unpacked used waited wanted warned watched withheld won
    worded worked written
    """,
    )
)
CODE = ("*.py",)
PROSE = ("*.py", "*.md", "*.j2", "*.yaml", "*.toml", "Makefile", "*/Dockerfile", "*.cpp", "*.hpp")
# The changelog keeps the words of its time, and this file contains the words that it looks for.
EXCLUDED = ("CHANGELOG.md", "tests/english.py")


def tracked(*patterns: str) -> list[Path]:
    """Return the files of this checkout that match, including new ones."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = sorted({name for name in listing.stdout.split("\0") if name and name not in EXCLUDED})
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names of variables, parameters, attributes, functions and classes in the code, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


def is_bare_participle(name: str) -> bool:
    return name.strip("_").lower() in PARTICIPLES


def odd_words() -> tuple[list[str], int]:
    """Return the places of odd words, and the number of all words."""
    places, words = [], 0
    for file in tracked(*PROSE):
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            words += len(re.findall(r"[A-Za-z']+", line))
            for match in ODD_WORDS.finditer(line):
                places.append(f"{file.relative_to(ROOT)}:{number}: {match.group()}")
    return places, words


def bare_participles() -> tuple[list[str], int]:
    """Return the places of bare participles, and the number of all names."""
    places, names = [], 0
    for file in tracked(*CODE):
        for name, line in defined_names(ast.parse(file.read_text(encoding="utf-8"))):
            names += 1
            if is_bare_participle(name):
                places.append(f"{file.relative_to(ROOT)}:{line}: {name}")
    return places, names


def main(*folders: str) -> int:
    """Print the places below the given path prefixes (default: all places) and both counts."""
    odd, words = odd_words()
    bare, names = bare_participles()
    for place in (*odd, *bare):
        if not folders or place.startswith(folders):
            print(place)
    by_folder = Counter("/".join(place.split("/")[:2]).split(":")[0] for place in (*odd, *bare))
    print(", ".join(f"{folder} {count}" for folder, count in by_folder.most_common(12)))
    print(f"odd words: {len(odd)}, {10_000 * len(odd) / words:.1f} per 10,000 words")
    print(f"bare participles: {len(bare)}, {1_000 * len(bare) / names:.1f} per 1,000 names")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
