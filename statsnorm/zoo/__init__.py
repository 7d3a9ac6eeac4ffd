"""What the analysis `norm_zoo` is made of: arms, sufficient statistics, table, H7a and H7b."""
