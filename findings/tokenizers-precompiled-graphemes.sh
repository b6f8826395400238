#!/usr/bin/env bash
# tokenizers 0.23.3: the normalizer `Precompiled`, which tokenizer.json files of XLM-R, bge-m3, mT5 and ALBERT hold.
#
# Guess: it applies a SentencePiece model's own character map, so it gives what SentencePiece 0.2.3 gives for any text.
# Seen:  the map is looked up for a whole grapheme only if that has fewer than 6 bytes in UTF-8, and otherwise for each
#        of its characters alone. Decomposed text (NFD, as macOS writes file names) of French, Arabic, Hindi and Hebrew
#        comes out alike; of Korean and Japanese, and narrow kana with marks, stays decomposed; Greek with two marks too.
#        Vietnamese changes its letters: "Việt" becomes "Viẹt", and "Tiếng" becomes "Tiêng": a mark is lost.
# Means: the same model reads other words by tokenizer.json than by its own sentencepiece.bpe.model. Compose texts (NFC)
#        before they are embedded: then both agree.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check tokenizers==0.23.3 sentencepiece==0.2.3 protobuf==7.36.1

cat >compare.py <<'PYTHON'
import io
import sys
import unicodedata

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import normalizers

file = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(f"some words {number}" for number in range(200)),
    model_writer=file, vocab_size=40, hard_vocab_limit=False, minloglevel=2,
)
model = sentencepiece_model_pb2.ModelProto.FromString(file.getvalue())
own = sentencepiece.SentencePieceNormalizer(
    model_proto=file.getvalue(), add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=False
)
library = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
TEXTS = {
    "French": "été", "Arabic": "آ", "Hindi": "क़ख़", "Hebrew": "שׁ", "Vietnamese": "Tiếng Việt", "Korean": "한국어",
    "Japanese": "がぎぐ パピプ", "narrow kana": "ﾊﾟﾋﾟ ｶﾞ", "Greek": "ἄνδρα μοι ἔννεπε, ᾧ",
}
ALIKE = {"French", "Arabic", "Hindi", "Hebrew"}
seen = set()
for language, text in TEXTS.items():
    decomposed, composed = (unicodedata.normalize(form, text) for form in ("NFD", "NFC"))
    pair = library.normalize_str(decomposed), own.normalize(decomposed)
    print(language, *(f"{result!r} of {len(result)} characters" for result in pair))
    if pair[0] == pair[1]:
        seen.add(language)
    if language != "narrow kana" and library.normalize_str(composed) != own.normalize(composed):
        sys.exit(f"this has changed: composed {language} is no longer alike")
if seen != ALIKE:
    sys.exit(f"this has changed: alike are {sorted(seen)}")
if library.normalize_str(unicodedata.normalize("NFD", "Việt")) != unicodedata.normalize("NFC", "Viẹt"):
    sys.exit("this has changed: Vietnamese keeps its marks")
PYTHON
venv/bin/python compare.py
