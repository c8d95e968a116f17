"""Encodes the corpus once with the trained codec: `codes-<split>.npz`, one `[codebooks, frames]` array a piece."""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import EncodecModel

from codec import codec_config, encode, load_codec
from common import HOP, AudioPool, load_checkpoint


def load_codes(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--limit", type=int, help="pieces of the training split")
    args.add_argument("--init", type=Path, help="take the codec of this exported model (f32) instead of codec.pt")
    args.add_argument("--workers", type=int, default=2)
    args = args.parse_args()
    torch.set_num_threads(1)
    model = EncodecModel(codec_config())
    source = args.init / "model.safetensors" if args.init else args.out / "codec.pt"
    if args.init:
        load_codec(model, load_file(source))
    else:
        model.load_state_dict(load_checkpoint(source)["model"])
    model.eval()

    def one(clip: np.ndarray) -> np.ndarray:
        torch.set_flush_denormal(True)
        length = len(clip) // HOP * HOP
        audio = torch.from_numpy(clip[:length].astype(np.float32) / 32768.0)[None, None]
        return encode(model, audio)[0].numpy().astype(np.int16)

    for split, limit in (("test", 60), ("train", args.limit)):
        pool = AudioPool(args.data, split, limit)
        path = args.out / f"codes-{split}.npz"
        # Codes are kept only if the codec has not been trained further since.
        fresh = path.exists() and path.stat().st_mtime > source.stat().st_mtime
        codes = load_codes(path) if fresh else {}
        todo = [i for i in pool.ids if i not in codes]
        if not todo:
            continue
        with ThreadPoolExecutor(args.workers) as threads:
            codes.update(zip(todo, threads.map(lambda i: one(pool.clips[i]), todo)))
        partial = args.out / f"codes-{split}.part.npz"
        np.savez_compressed(partial, **codes)
        os.replace(partial, path)
        frames = sum(c.shape[1] for c in codes.values())
        print(f"{split}: {len(codes)} pieces, {len(todo)} new, {frames / 50 / 3600:.2f} h", flush=True)


if __name__ == "__main__":
    main()
