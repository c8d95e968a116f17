"""Times LLaMA-7B elsewhere with random weights: transformers in bf16 (keys and values cached), and llama.cpp on a GGUF file.

The same as `musaic bench --only llama:7b:FORMAT:prefill llama:7b:FORMAT:decode`: a prompt of 64 tokens to the first
logits, then 32 tokens one at a time. Needs torch and transformers (docs/BENCHMARKS.md names the versions), for `--gguf` the
package xllamacpp, which carries llama.cpp. Prints one JSON object.

    python benches/peer_llama.py --threads 2
    python benches/peer_llama.py --threads 2 --gguf model.gguf    # as `musaic convert --to gguf:q4_k` or any other writes it
    python benches/peer_llama.py --threads 2 --size 135m          # small, to see that it runs
"""

import argparse
import json
import time

PROMPT, ANSWER, RUNS = 64, 32, 3
SIZES = {
    "7b": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
    },
    "135m": {
        "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
}  # fmt: skip


def transformers(size: str, threads: int) -> dict:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    config = LlamaConfig(max_position_embeddings=4096, rms_norm_eps=1e-5, torch_dtype="bfloat16", **SIZES[size])
    # Made in bf16 and filled tensor by tensor: 7B in f32 would not fit.
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02, generator=generator)
    # Buffers that `to_empty` left without content.
    rotary = model.model.rotary_emb
    inverse, rotary.attention_scaling = rotary.rope_init_fn(config, "cpu")
    rotary.inv_freq = rotary.original_inv_freq = inverse.float()
    model.tie_weights()
    ids = (torch.arange(PROMPT + ANSWER) * 31 % config.vocab_size)[None]
    prefill, decode = float("inf"), float("inf")
    with torch.inference_mode():
        for _ in range(RUNS + 1):
            started = time.perf_counter()
            out = model(ids[:, :PROMPT], use_cache=True, logits_to_keep=1)
            prefill = min(prefill, time.perf_counter() - started)
            started = time.perf_counter()
            for i in range(PROMPT, PROMPT + ANSWER):
                out = model(ids[:, i : i + 1], past_key_values=out.past_key_values, use_cache=True)
            decode = min(decode, time.perf_counter() - started)
    return {
        "torch": torch.__version__,
        f"llama:{size}:bf16:prefill": PROMPT / prefill,
        f"llama:{size}:bf16:decode": ANSWER / decode,
    }


def llama_cpp(path: str, threads: int) -> dict:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_ctx, params.n_parallel, params.warmup = 256, 1, True
    server = xllamacpp.Server(params)
    best = {"prefill": 0.0, "decode": 0.0}
    for run in range(RUNS + 1):
        # Another first token each time: nothing of the last run is reused.
        prompt = [1 + run] + [3 + i * 31 % 900 for i in range(1, PROMPT)]
        request = {"prompt": prompt, "n_predict": ANSWER, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        answer = server.handle_completions(request)
        timings = answer["timings"]
        best["prefill"] = max(best["prefill"], timings["prompt_per_second"])
        best["decode"] = max(best["decode"], timings["predicted_per_second"])
    return {"llama.cpp": path} | {f"llama.cpp:{name}": rate for name, rate in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--gguf")
    args = parser.parse_args()
    rows = llama_cpp(args.gguf, args.threads) if args.gguf else transformers(args.size, args.threads)
    print(json.dumps({"threads": args.threads, **rows}, indent=1))


if __name__ == "__main__":
    main()
