"""Loads an exported folder with the published classes, generates a few pieces and looks at them in numbers.

Also tells what the codec loses when its weights are stored as f16 or q8_0 (blocks of 32 with one f16 scale).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from tokenizers import Tokenizer
from transformers import EncodecModel, MusicgenForConditionalGeneration

from codec import LogMel
from common import SAMPLE_RATE
from text import batch_ids
from train_codec import evaluate, held_out

PROMPTS = [
    "a bright fast electronic track with drums",
    "a dark slow piano piece without drums",
    "calm acoustic guitar, no percussion",
    "an energetic rock song with heavy drums in E minor",
    "soft strings in C major, 70 bpm",
]


def describe(x: np.ndarray) -> dict:
    """Loudness, onsets, spectral centre and the strongest pitch classes."""
    size, hop = 1024, 256
    frames = np.lib.stride_tricks.sliding_window_view(x, size)[::hop] * np.hanning(size)
    spectrum = np.abs(np.fft.rfft(frames))
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    power = spectrum**2
    flux = np.maximum(np.diff(np.log1p(100 * spectrum), axis=0), 0).mean(1)
    peak = (flux[1:-1] > flux[:-2]) & (flux[1:-1] >= flux[2:]) & (flux[1:-1] > flux.mean() + flux.std())
    long = np.lib.stride_tricks.sliding_window_view(x, 8192)[::4096] * np.hanning(8192)
    notes = np.abs(np.fft.rfft(long)) ** 2
    pitch = np.fft.rfftfreq(8192, 1 / SAMPLE_RATE)
    used = (pitch > 60) & (pitch < 2000)
    classes = np.round(12 * np.log2(pitch[used] / 440.0) + 9).astype(int) % 12
    chroma = np.array([notes[:, used][:, classes == c].sum() for c in range(12)])
    names = "C C# D D# E F F# G G# A A# B".split()
    strongest = [names[c] for c in np.argsort(-chroma)[:4]]
    return {
        "rms_db": round(float(10 * np.log10((x**2).mean() + 1e-12)), 1),
        "peak": round(float(np.abs(x).max()), 2),
        "onsets_per_s": round(float(peak.sum() / (len(x) / SAMPLE_RATE)), 2),
        "centroid_hz": round(float((power * frequency).sum() / power.sum())),
        "above_4khz": round(float(power[:, frequency > 4000].sum() / power.sum()), 4),
        "chroma": strongest,
        "chroma_share": round(float(np.sort(chroma)[-4:].sum() / chroma.sum()), 2),
    }


def stored(weight: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "f16" or weight.ndim < 2 or weight.numel() % 32:
        return weight.half().float()
    blocks = weight.reshape(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half().float().clamp(min=1e-12)
    return ((blocks / scale).round().clamp(-127, 127) * scale).view_as(weight)


def codec_under_storage(model: EncodecModel, data: Path) -> dict:
    clips, mel = held_out(data), LogMel()
    original = {name: value.clone() for name, value in model.state_dict().items()}
    out = {}
    for kind in ("f32", "f16", "q8_0"):
        if kind != "f32":
            model.load_state_dict({n: stored(v, kind) if "quantizer" not in n else v for n, v in original.items()})
        out[kind] = {k: round(v, 3) for k, v in evaluate(model, mel, clips).items() if k != "perplexity"}
    model.load_state_dict(original)
    return out


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--model", type=Path, required=True)
    args.add_argument("--data", type=Path, help="corpus with a test split: also measures the codec")
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--seconds", type=float, default=10)
    args.add_argument("--guidance", type=float, default=3.0)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = MusicgenForConditionalGeneration.from_pretrained(args.model).eval()
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    torch.manual_seed(args.seed)
    ids, mask = batch_ids(tokenizer, PROMPTS)
    frames = round(args.seconds * 50)
    with torch.no_grad():
        audio = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=250,
            guidance_scale=args.guidance,
            max_new_tokens=frames + 5,
        )
    for n, prompt in enumerate(PROMPTS):
        x = audio[n, 0].numpy()
        sf.write(args.out / f"{n}.wav", np.clip(x, -1, 1), SAMPLE_RATE, subtype="PCM_16")
        print(json.dumps({"prompt": prompt, "seconds": round(len(x) / SAMPLE_RATE, 2)} | describe(x)), flush=True)
    if args.data:
        print(json.dumps({"codec": codec_under_storage(model.audio_encoder, args.data)}))


if __name__ == "__main__":
    main()
