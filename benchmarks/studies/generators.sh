#!/usr/bin/env bash
# The study behind reports/generators: does normalisation in cin26 remove style, content or contrast?
#
#     bash benchmarks/studies/generators.sh PHOTOS REFERENCE TEXTURE_NETS RUNS
#
# PHOTOS: a folder of at least 24 photographs. REFERENCE: a list of others, which calibrate the
# frozen maps. TEXTURE_NETS: the folder of the 2016 BN texture networks. Resumable; 114,240 forward
# passes in all. Then:
#
#     statsnorm report RUNS/* --analysis removed_variance --analysis divergence --out reports/generators
set -euo pipefail
photos=$1 reference=$2 nets=$(realpath "$3") runs=$4
here=$(dirname "$0")
mkdir -p "$runs"
design=$runs.design.toml
sed "s|TEXTURE_NETS|$nets|" "$here/generators.toml" > "$design"
blends=$runs.blends.toml
{ echo 'strength = [0.4, 0.7]'; sed 's|restore = "luminance"|restore = "none"|' "$design"; } > "$blends"

extract() { statsnorm extract --images "$photos" --size 64 --shard-size 4 --out "$@"; }
vgg=(--network vgg16,pixels --taps relu1_1,relu2_1,relu3_1,relu4_1,rgb,luminance)
net=(--network cin26 --index 0 --taps next_pre_norm,residual_sum,output --vgg-taps relu3_1
     --reference "$reference")
both=(--treatment none,frozen:prefix)
pixel=standardise,contrast,contrast-rgb,standardise-rgb,clahe,whiten

extract "$runs/inputs" --design "$design" "${vgg[@]}"
extract "$runs/design" --design "$design" "${net[@]}" "${both[@]}" --untrained 8
extract "$runs/blends" --design "$blends" "${net[@]}" "${both[@]}"
extract "$runs/perpendicular" --design "$design" "${net[@]}" "${both[@]}" \
    --condition match-luminance,match-rgb
extract "$runs/pixels" --design "$design" "${net[@]}" --treatment frozen:prefix --condition "$pixel"
