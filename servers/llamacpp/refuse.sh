#!/bin/sh
# Changes what would mislead, before it is compiled: each place is named by its text, and another version stops here.
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

# Tools that a template does not show to the model, and a call that is demanded in a form that is not known, would be ignored.
demand='^        if (params.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE \&\& !params.grammar.empty()) {$'
refusal='tools: the chat template of this model has none; leave them out, or ask another model'
change common/chat.cpp "$demand" \
    "s/$demand/        if (params.tool_choice != COMMON_CHAT_TOOL_CHOICE_NONE \&\& !caps.supports_tools \&\& !caps.supports_tool_calls) { throw std::invalid_argument(\"$refusal\"); }\n&/"
end='^        return auto_params;$'
refusal='tool_choice: the form of the calls of this model is not known, so none can be demanded; write auto'
change common/chat.cpp "$end" \
    "s/$end/        if (params.tools.is_array() \&\& params.tool_choice == COMMON_CHAT_TOOL_CHOICE_REQUIRED \&\& auto_params.grammar.empty()) { throw std::invalid_argument(\"$refusal\"); }\n&/"
