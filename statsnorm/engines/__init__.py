"""Where work runs, and what becomes of it when a worker dies.

Shards: `local` in this process, `ray` on a cluster. Taps of analyses: `tasks` keeps order and
retries, over `processes` of this machine or `actors` of Ray. `cluster` finds Ray, `decoders` are
threads that read ahead.
"""
