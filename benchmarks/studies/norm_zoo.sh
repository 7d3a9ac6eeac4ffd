#!/usr/bin/env bash
# The study behind reports/norm_zoo: which normaliser is selective, the weights being the same?
#
#     bash benchmarks/studies/norm_zoo.sh RUNS
#
# Eight random initialisations of a small texture generator under every normaliser; embedded
# photographs in eight cin26 styles at three gains. The frozen maps are calibrated on the same
# photographs in the 18 styles that the design leaves out. Resumable; minutes on two CPU cores.
# Then: statsnorm report RUNS/texture --analysis norm_zoo --out reports/norm_zoo
set -euo pipefail
runs=$1
here=$(dirname "$0")
mkdir -p "$runs"

python - "$runs/texture16.safetensors" <<'PYTHON'
import sys

import torch

from statsnorm.networks.texture import TextureGenerator
from statsnorm.networks.weights import save_checkpoint

torch.manual_seed(0)
generator = TextureGenerator("in", width=16, blocks=1)
save_checkpoint(sys.argv[1], generator, {**generator.architecture, "seed": 0, "iteration": 0})
PYTHON

statsnorm extract --images embedded --reference embedded --design "$here/norm_zoo.toml" \
    --network "$runs/texture16.safetensors+zoo" --untrained 8 --size 64 --vgg-of-output none \
    --treatment none,frozen:prefix --bn-mode eval,train \
    --batch-kind mixed,style-homogeneous,content-homogeneous --batch-size 24 \
    --taps next_pre_norm,conv1.norm.in,conv1.norm --out "$runs/texture"
