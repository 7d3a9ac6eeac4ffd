#!/usr/bin/env bash
# The studies behind reports/where_style_lives and reports/cin_map, on embedded photographs.
#
#     bash benchmarks/studies/second_order.sh RUNS
#
# Resumable; minutes on two CPU cores, hence few contents and styles. The reference images are the
# tested ones, rendered in styles that the design leaves out. Then:
#     statsnorm report RUNS/styles --analysis where_style_lives --out reports/where_style_lives
#     statsnorm report RUNS/swaps --analysis cin_map --out reports/cin_map
set -euo pipefail
runs=$1
mkdir -p "$runs"
cat > "$runs.styles.toml" <<'TOML'
restore = "luminance"
[styles]
generator = "cin26"
indices = [1, 4, 7, 10, 13, 16, 19, 22]
TOML
cat > "$runs.swaps.toml" <<'TOML'
limit = 6
[contrast]
family = "gain"
values = [1.0]
TOML
blocks=res.1.0.norm.in,res.1.0.norm,res.3.0.norm.in,res.5.0.norm.in,expand.0.norm.in
vgg=relu1_1,relu2_1,relu3_1,relu4_1
others=swap:gamma:to=others,swap:beta:to=others,swap:both:to=others,swap:both@each:to=others
others=$others,swap:both@orders-2:to=others
others=$others,blend:0.25:to=others,blend:0.5:to=others,blend:0.75:to=others

statsnorm extract --images embedded --size 64 --design "$runs.styles.toml" \
    --network cin26,vgg16 --treatment none,frozen:prefix --reference embedded \
    --taps "contract.*.norm.in,contract.0.norm,contract.2.norm,$blocks,$vgg" --vgg-taps "$vgg" \
    --correlations 48 --out "$runs/styles"
statsnorm extract --images embedded --size 48 --design "$runs.swaps.toml" \
    --network cin26 --index 1,4,7,10,13,16,19,22 --treatment "none,$others" --batch-size 6 \
    --taps post_norm,output --vgg-taps relu1_1,relu2_1,relu3_1 --out "$runs/swaps"
