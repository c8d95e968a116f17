"""Times transformers on the encoders that `musaic bench` times: MERT-330M on 30 s, ViT on a picture, ViViT on 32; f32 and bf16.

Random weights at the published shapes. MERT's own code is on the hub; the layers of HubertModel are the same ones, and its
configuration is read by it. Needs torch and transformers (docs/BENCHMARKS.md names the versions). Prints one JSON object.

    python benches/peer_encoders.py --threads 2 --configs tests/published-names
"""

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import HubertConfig, HubertModel, ViTConfig, ViTModel, VivitConfig, VivitModel

MUSIC_S, RATE = 30, 24_000
CONFIGS = {
    "mert:330m": ("m-a-p__MERT-v1-330M.json", HubertConfig, HubertModel, 2),
    "vit": ("google__vit-base-patch16-224-in21k.json", ViTConfig, ViTModel, 5),
    "vivit": ("google__vivit-b-16x2-kinetics400.json", VivitConfig, VivitModel, 2),
}


def inputs(name: str, config) -> torch.Tensor:
    if name.startswith("mert"):
        return torch.randn(1, MUSIC_S * RATE)
    size = config.image_size
    return torch.randn(1, 3, size, size) if name == "vit" else torch.randn(1, config.num_frames, 3, size, size)


def best(run, runs: int) -> float:
    """Seconds of the best of several runs after one that warms up."""
    run()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--configs", type=Path, required=True)
    parser.add_argument("--only", choices=CONFIGS, nargs="+", default=list(CONFIGS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    rows = {"torch": torch.__version__, "threads": args.threads}
    for name in args.only:
        file, config_of, model_of, runs = CONFIGS[name]
        drop = ("model_type", "architectures", "auto_map", "torch_dtype", "transformers_version")
        given = {k: v for k, v in json.loads((args.configs / file).read_text()).items() if k not in drop}
        config = config_of(**given)
        model = model_of(config).eval()
        data = inputs(name, config)
        states = {"output_hidden_states": True} if name.startswith("mert") else {}
        for dtype, suffix in [(torch.float32, "f32"), (torch.bfloat16, "bf16")]:
            model, data = model.to(dtype), data.to(dtype)
            with torch.inference_mode():
                rows[f"{name}:{suffix}"] = best(lambda: model(data, **states), runs)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
