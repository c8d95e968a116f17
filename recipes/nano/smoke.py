"""Writes a small stand-in corpus (decaying sines and noise bursts) in the corpus layout, to try the scripts on."""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile as sf

from common import SAMPLE_RATE

WORDS = {"mood": ["calm", "bright", "dark"], "tempo": ["slow", "fast"], "drums": ["with drums", "without drums"]}


def piece(rng: np.random.Generator, seconds: float, pick: dict) -> np.ndarray:
    total = int(seconds * SAMPLE_RATE)
    out = np.zeros(total, dtype=np.float32)
    gap = 0.5 if pick["tempo"] == "slow" else 0.25
    for begin in np.arange(0.0, seconds - 0.1, gap):
        t = np.arange(int(min(1.0, seconds - begin) * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 440.0 * 2.0 ** (rng.choice([0, 2, 4, 7, 9, 12]) / 12.0 - (2 if pick["mood"] == "dark" else 1))
        tone = sum(np.sin(2 * np.pi * pitch * h * t) / h**2 for h in range(1, 6)) * np.exp(-4 * t)
        if pick["drums"] == "with drums":
            tone = tone + rng.normal(size=len(t)) * np.exp(-60 * t) * 0.7
        at = int(begin * SAMPLE_RATE)
        out[at : at + len(t)] += tone[: total - at]
    return 0.7 * out / np.abs(out).max()


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--pieces", type=int, default=60)
    args = args.parse_args()
    rng = np.random.default_rng(0)
    for split, count in (("train", args.pieces), ("test", max(4, args.pieces // 10))):
        folder = args.out / split
        folder.mkdir(parents=True, exist_ok=True)
        with (args.out / f"{split}.jsonl").open("w") as index:
            for n in range(count):
                pick = {name: str(rng.choice(values)) for name, values in WORDS.items()}
                seconds = float(rng.integers(10, 20))
                name = f"{split}-{n:05d}"
                sf.write(folder / f"{name}.wav", piece(rng, seconds, pick), SAMPLE_RATE, subtype="PCM_16")
                captions = []
                for _ in range(8):
                    stated = [key for key in pick if rng.random() < 0.7] or ["mood"]
                    text = "a " + ", ".join(pick[key] for key in stated) + " piece of music"
                    captions.append({"text": text, "stated": stated})
                row = {"id": n, "file": f"{split}/{name}.wav", "seed": n, "seconds": seconds, "attributes": pick, "captions": captions}
                index.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
