#!/bin/sh
# Compiles llama.cpp's server step by step, inside its image's build: compile.sh configure | build TARGET
# Each step is a layer of its own, so that a build that was interrupted continues with the step at which it stopped.
set -eu
source=/build/llama.cpp
output=/build/output
PATH="/build/tools/cmake/data/bin:/build/tools/bin:$PATH"

# One module for each of these processors; the server loads the best one that the machine can run. Each costs half a minute
# of compiling, so neighbours are left out, and all with AMX: virtual machines announce it and then trap.
# The compiler does not know ARM's newest extensions, so those are left out as well.
variants='x64 sse42 haswell alderlake cascadelake zen4 armv8.0_1 armv8.2_2 armv8.6_1'

configure() {
    list="$source/ggml/src/CMakeLists.txt"
    kept="$(echo "$variants" | sed 's/\./\\./g; s/ /|/g')"
    grep -vE '^ *ggml_add_cpu_backend_variant\(' "$list" > /build/others
    sed -E "/^ *ggml_add_cpu_backend_variant\(/ { /\(($kept)[ )]/ !d }" "$list" > /build/kept
    [ "$(($(wc -l < /build/kept) - $(wc -l < /build/others)))" = "$(echo "$variants" | wc -w)" ] || {
        echo "error: this version of llama.cpp names its processors otherwise; compare compile.sh with $list" >&2
        exit 1
    }
    cp /build/kept "$list"
    # No HTTPS, no web page, no warnings of the compiler.
    cmake -S "$source" -B "$output" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
        -DLLAMA_OPENSSL=OFF -DLLAMA_ALL_WARNINGS=OFF \
        -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON '-DCMAKE_INSTALL_RPATH=$ORIGIN'
    left > /build/total
}

# Print how many commands the whole server still takes.
left() {
    ninja -C "$output" -n llama-server | sed -n 's/^\[[0-9]*\/\([0-9]*\)\].*/\1/p' | tail -n 1
}

# Build one target, in the background's priority. The set-up reads its progress from lines such as `[120+37/214]`.
build() {
    total="$(cat /build/total)"
    NINJA_STATUS="[$((total - $(left)))+%f/$total] " nice -n 10 ninja -C "$output" -j "$(jobs_at_once)" "$1"
}

# Print how many compilers may run at once: one for each processor, if each gets 1.5 GiB of memory.
jobs_at_once() {
    by_memory="$(awk '/^MemAvailable/ { print int($2 / 1572864) }' /proc/meminfo)"
    jobs="$(nproc)"
    [ "$by_memory" -ge "$jobs" ] || jobs="$by_memory"
    [ "$jobs" -ge 1 ] || jobs=1
    echo "$jobs"
}

"$@"
