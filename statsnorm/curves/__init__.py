"""Figure 1 from training curves: gaps between normalisers, paired by block, and their claims."""
