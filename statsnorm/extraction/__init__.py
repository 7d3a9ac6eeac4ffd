"""Images x networks x conditions -> shards of channel moments.

`plan` which images and cells, `pilot` what is calibrated on other images, `loading` the networks,
`survey` what each offers, `treated` the `variants` of them that are run, `prepare` all of that;
`describe` what is hashed, `singles` the tables of which a run has one each; `feed` the batches,
`measure` their moments, `content` the distances, `shard` the tables of one shard, `execution` how
shards are made, `estimate` the cost, `result` what is left, `run` the whole.
"""

from statsnorm.extraction.plan import ExtractConfig
from statsnorm.extraction.result import Extraction
from statsnorm.extraction.run import extract

__all__ = ["ExtractConfig", "Extraction", "extract"]
