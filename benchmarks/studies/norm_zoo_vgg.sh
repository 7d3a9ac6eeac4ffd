#!/usr/bin/env bash
# The study behind reports/norm_zoo_vgg: norm_zoo.sh with VGG of the output, and R_S_perp.
#
#     bash benchmarks/studies/norm_zoo_vgg.sh RUNS
#
# H7b is judged at two places, of which norm_zoo.sh measures the first alone. The same eight random
# initialisations, photographs, styles and gains, but at 32 pixels, since VGG of every output costs
# several times the generator. Every arm is run too with the luminance of each styled image matched
# to its content's (R_S_perp); with its colours matched BN on style-homogeneous batches and IN alone.
# The design was fixed before any of its numbers was seen, but for the arms with matched luminance
# other than those two, which were added after the others had been seen. Resumable; minutes on two CPU cores. Then:
#     statsnorm report RUNS/bn-in RUNS/others RUNS/bn-in-matched RUNS/others-matched RUNS/palette \
#         --analysis norm_zoo --out reports/norm_zoo_vgg
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

extract() {
    statsnorm extract --images embedded --reference embedded --design "$here/norm_zoo.toml" \
        --untrained 8 --size 32 --vgg-of-output vgg16 --vgg-taps relu3_1 --batch-size 24 \
        --treatment none,frozen:prefix --taps next_pre_norm,conv1.norm.in,conv1.norm --out "$@"
}
net=$runs/texture16.safetensors
extract "$runs/bn-in" --network "$net+bn,$net+in" --bn-mode eval,train \
    --batch-kind mixed,style-homogeneous,content-homogeneous
extract "$runs/others" --network "$net+none,$net+ln,$net+gn8,$net+gn32,$net+in-whiten"
extract "$runs/bn-in-matched" --network "$net+bn,$net+in" --bn-mode eval,train \
    --batch-kind mixed,style-homogeneous,content-homogeneous --condition match-luminance
extract "$runs/others-matched" --network "$net+ln,$net+gn8,$net+gn32,$net+in-whiten" \
    --condition match-luminance
extract "$runs/palette" --network "$net+bn,$net+in" --bn-mode train \
    --batch-kind style-homogeneous --condition match-rgb
