"""Times transformers on the components that `musaic bench` times: the same shapes, random weights, f32 (and bf16).

Needs torch and transformers (docs/BENCHMARKS.md names the versions). Prints one JSON object.

    python benches/peer.py --threads 2 --config tests/published-names/facebook__musicgen-small.json
"""

import argparse
import json
import time

import torch
from transformers import MusicgenConfig, MusicgenForConditionalGeneration

STEPS, PROMPT_TOKENS, CODEC_S, RUNS = 250, 32, 10, 5


def best(run) -> float:
    """Seconds of the best of several runs after one that warms up."""
    run()
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def guided_steps(model) -> float:
    """Guided steps a second, mean of the first 250 after the prompt is encoded, as `generate` runs them."""
    ids = (torch.arange(PROMPT_TOKENS) * 31 % 32_000)[None]
    mask = torch.ones_like(ids)
    stamps = []

    class Clock:
        def __call__(self, input_ids, scores):
            stamps.append(time.perf_counter())
            return scores

    with torch.inference_mode():
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            guidance_scale=3.0,
            max_new_tokens=STEPS + 1,
            logits_processor=[Clock()],
        )
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--config", required=True)
    parser.add_argument("--skip-bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    config = MusicgenConfig(**{k: v for k, v in json.load(open(args.config)).items() if k != "model_type"})
    model = MusicgenForConditionalGeneration(config).eval()
    model.generation_config.decoder_start_token_id = config.decoder.vocab_size
    model.generation_config.pad_token_id = config.decoder.vocab_size
    rows = {"torch": torch.__version__, "threads": args.threads}

    codec, books = model.audio_encoder, config.decoder.num_codebooks
    sound = torch.randn(1, 1, CODEC_S * config.audio_encoder.sampling_rate) * 0.1
    codes = torch.randint(0, config.audio_encoder.codebook_size, (1, 1, books, CODEC_S * 50))
    ids = (torch.arange(PROMPT_TOKENS) * 31 % 32_000)[None]
    with torch.inference_mode():
        rows["encodec:decode"] = CODEC_S / best(lambda: codec.decode(codes, [None]))
        rows["encodec:encode"] = CODEC_S / best(lambda: codec.encode(sound))
        rows["t5:f32"] = 1 / best(lambda: model.text_encoder(ids))
    rows["lm:small:f32"] = guided_steps(model)
    if not args.skip_bf16:
        rows["lm:small:bf16"] = guided_steps(model.to(torch.bfloat16))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
