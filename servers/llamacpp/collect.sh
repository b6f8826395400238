#!/bin/sh
# Copies what runs, and the licences, out of the build: collect.sh FOLDER
set -eu
source=/build/llama.cpp
programs=/build/output/bin

mkdir -p "$1/licenses"
for file in "$programs"/llama-server "$programs"/libggml-cpu-*.so "$programs"/libllama-server-impl.so "$programs"/lib*.so.0; do
    cp -L "$file" "$1/"
done
# Not every base has GCC's library for threads.
cp -L "$(g++ -print-file-name=libgomp.so.1)" "$1/"
strip --strip-unneeded "$1"/llama-server "$1"/lib*
cp "$source/LICENSE" "$1/licenses/LICENSE-llama.cpp"
cp "$source/vendor/cpp-httplib/LICENSE" "$1/licenses/LICENSE-cpp-httplib"
cp "$source"/licenses/* "$1/licenses/"
