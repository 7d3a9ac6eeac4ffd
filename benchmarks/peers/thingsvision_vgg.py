"""Five layers of VGG-16 by thingsvision, in its own environment; prints the seconds it took.

python thingsvision_vgg.py IMAGES OUT BATCH DEVICE
"""

import sys
import time

import torch
from thingsvision import get_extractor
from thingsvision.utils.data import DataLoader, ImageDataset
from thingsvision.utils.storing import save_features

LAYERS = ("features.1", "features.6", "features.11", "features.18", "features.20")


def main(images: str, out: str, batch: int, device: str) -> None:
    torch.manual_seed(0)
    extractor = get_extractor(
        model_name="vgg16", source="torchvision", device=device, pretrained=False
    )
    start = time.perf_counter()
    for layer in LAYERS:  # one module a call is what it offers
        dataset = ImageDataset(
            root=images,
            out_path=out,
            backend=extractor.get_backend(),
            transforms=extractor.get_transformations(),
        )
        features = extractor.extract_features(
            batches=DataLoader(dataset, batch_size=batch, backend=extractor.get_backend()),
            module_name=layer,
            flatten_acts=True,
        )
        save_features(features, out_path=f"{out}/{layer}", file_format="npy")
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
