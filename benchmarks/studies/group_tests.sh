#!/usr/bin/env bash
# The study behind reports/group_tests: do conditions differ from the originals, and in what?
#
#     bash benchmarks/studies/group_tests.sh RUNS
#
# The first 16 embedded photographs, by name, under contrast, style and ck, through VGG-16 and
# through cin26 with its normalisers at work and frozen; the maps are calibrated on the other 8
# photographs. Resumable; minutes on one CPU core. Then:
#     statsnorm report RUNS/groups --analysis group_tests --out reports/group_tests
set -euo pipefail
runs=$1
mkdir -p "$runs"
photos=$(python -c "import statsnorm; print(statsnorm.__path__[0])")/assets/photos
ls -d "$photos"/*.jpg | LC_ALL=C sort > "$runs/photographs.txt"
head -n 16 "$runs/photographs.txt" > "$runs/tested.txt"
tail -n +17 "$runs/photographs.txt" > "$runs/reference.txt"

statsnorm extract --images "$runs/tested.txt" --size 64 --condition original,contrast,style,ck \
    --network vgg16,cin26 --treatment none,frozen:prefix --reference "$runs/reference.txt" \
    --taps relu1_1,relu1_2,relu2_1,relu2_2,relu3_1,relu3_2,relu3_3,relu4_1,relu4_2,next_pre_norm \
    --vgg-of-output none --out "$runs/groups"
