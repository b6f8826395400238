#!/bin/sh
# Changes two answers of the server, before it is compiled.
set -eu
source=/build/llama.cpp

# change FILE PATTERN SCRIPT: edit the one place that has the pattern.
change() {
    [ "$(grep -c "$2" "$source/$1")" = 1 ] || {
        echo "error: this version of llama.cpp has another $1; compare it with refuse.sh" >&2
        exit 1
    }
    sed -i "$3" "$source/$1"
}

# A chat model without a chat template would get the form of another family, and nothing would show it.
guess='^            default_template_src = CHATML_TEMPLATE_SRC;$'
refusal='the file has no chat template; write `task: completion`, or name a template'
change common/chat.cpp "$guess" \
    "s/$guess/            if (default_template_src.empty()) { throw std::runtime_error(\"$refusal\"); }\n&/"

# A text to embed that is too long is its sender's mistake, not the server's.
change tools/server/server-context.cpp 'is too large to process' \
    '/is too large to process/,/ERROR_TYPE/ s/ERROR_TYPE_SERVER/ERROR_TYPE_EXCEED_CONTEXT_SIZE/'
