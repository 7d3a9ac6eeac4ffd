#!/usr/bin/env bash
# The study behind reports/dose_response: does the gap between BN and IN grow with the style dose?
#
#     bash benchmarks/studies/dose_response.sh PHOTOS PAINTINGS RUNS
#
# A pilot in size, fixed before any number was seen: 60 photographs (every eighth of the folder
# PHOTOS), 8 of them held out; 3 blocks (the first three of PAINTINGS), so that D1 and D2 are not
# testable and slopes are descriptive; 32 pixels, width 8, one residual block, 60 iterations, one
# learning rate for all. Style doses: one style, one of 2, 4 or 8 styles an image, the originals;
# one contrast dose beside them. Doses are measured on the same 60 images through VGG-16, at the
# size of the training. Resumable; minutes on one CPU core. Then:
#     statsnorm report RUNS/train RUNS/doses --analysis dose_response --out reports/dose_response
set -euo pipefail
photos=$1 paintings=$2 runs=$3
mkdir -p "$runs"
find "$(realpath "$photos")" -name '*.jpg' | LC_ALL=C sort | awk 'NR % 8 == 1 && n++ < 60' \
    > "$runs.images.txt"
conditions=original,style,styles-2,styles-4,styles-8,gains-60

statsnorm train --images "$runs.images.txt" --target "$paintings" --norm in,bn \
    --condition "$conditions" --blocks 3 --iterations 60 --size 32 --width 8 --residual-blocks 1 \
    --heldout 8 --checkpoint-every 0 --keep-generators '' --out "$runs/train"
statsnorm extract --images "$runs.images.txt" --condition "$conditions" --size 32 \
    --network vgg16,pixels --out "$runs/doses"
