"""Images x networks x conditions -> shards of channel moments.

`plan` which images and cells, `pilot` what is calibrated on other images, `feed` the batches,
`variants` the networks as they are run, `measure` their moments, `content` the distances,
`shard` the tables of one shard, `estimate` the cost, `result` what is left, `run` the whole.
"""

from statsnorm.extraction.plan import ExtractConfig
from statsnorm.extraction.result import Extraction
from statsnorm.extraction.run import extract

__all__ = ["ExtractConfig", "Extraction", "extract"]
