#!/usr/bin/env bash
# A real llama-server with the tiny model, built once from the llama.cpp tree inside the llama-cpp-python sdist.
#   llamacpp.sh --install          builds it and makes the model
#   llamacpp.sh PORT [FLAG ...]    the same, then serves on 127.0.0.1:PORT in the foreground
# CACHE (~/.cache/statecar-backends) holds what is built; JOBS (2) is how many compilers run at once; PYTHON is a 3.11 or
# newer. Needs a C++17 compiler; cmake comes from PyPI where there is none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${CACHE:-$HOME/.cache/statecar-backends}
server=$cache/llama-server
model=$cache/tiny/tiny.gguf
python=${PYTHON:-python3}
[ $# -gt 0 ] || { echo "usage: llamacpp.sh --install | PORT [FLAG ...]" >&2; exit 2; }

if [ ! -x "$server" ]; then
  command -v c++ >/dev/null || { echo "llama.cpp needs a C++17 compiler as c++, for example from apt-get install g++" >&2; exit 1; }
  mkdir -p "$cache"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  "$python" -m venv "$work/venv"
  PATH=$work/venv/bin:$PATH
  pip install -q ninja $(command -v cmake >/dev/null || echo cmake)
  pip download -q --no-deps --no-binary llama-cpp-python -d "$work" llama-cpp-python==0.3.36
  tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
  cmake -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$work/build" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" -DCMAKE_C_FLAGS_RELEASE="-O2 -DNDEBUG" \
    -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF -DGGML_OPENMP=OFF -DGGML_NATIVE=OFF
  cmake --build "$work/build" --target llama-server -j "${JOBS:-2}"
  strip "$work/build/bin/llama-server" || true
  mv "$work/build/bin/llama-server" "$server"
  rm -rf "$work"
  trap - EXIT
fi >&2

if [ ! -f "$model" ]; then
  [ -x "$cache/mk/bin/python" ] || "$python" -m venv "$cache/mk"
  "$cache/mk/bin/python" -c 'import gguf' 2>/dev/null || "$cache/mk/bin/pip" install -q gguf
  "$cache/mk/bin/python" "$here/model/make_gguf.py" "$model"
fi >&2

[ "$1" != --install ] || exit 0
port=$1
shift
exec "$server" -m "$model" --alias tiny --host 127.0.0.1 --port "$port" -c 8192 -np 2 -t 2 --jinja --metrics --slots "$@"
