"""Where shards run: :mod:`statsnorm.engines.local` in this process."""
