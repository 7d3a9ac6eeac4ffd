"""What a normaliser removes: components of a crossed design, ratios of them, evidence for H5.

`crossed` finds the crossed designs in the tables and aligns their cells; `summary` reduces them to
variance components and delete-one replicates; `study` reads one network back from these; `ratios`
makes intervals; `evidence` the parts of H5a-d, `claims` the verdicts with what may block them,
`specifications` the specification curve; `tables` and `words` what a report prints. `indexed` has
the statistics of a content x index x input-style design.
"""
