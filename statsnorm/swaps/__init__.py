"""What `analyses/cin_map.py` makes of the swaps of a conditional network (method.md 5.4)."""
