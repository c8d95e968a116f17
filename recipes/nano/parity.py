"""Writes a tiny training run that another trainer can repeat: weights, batches and the loss of every step.

Plain f32 AdamW with a fixed rate; no dropout, no averaging, no mixed precision, no random draw after the start.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from common import seed_all
from export import published_names
from lm import LanguageModel, decoder_config, delay, losses
from text import text_config

STEPS, BATCH, FRAMES, BOOKS, SIZE, WORDS, VOCABULARY = 20, 4, 24, 4, 48, 10, 120
SETTINGS = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.05, "clip_norm": 0.32}

README = """# Training parity fixture

- `init.safetensors`: starting weights by their MusicGen names (`text_encoder.*`, `enc_to_dec_proj.*`, `decoder.*`);
  `final.safetensors`: the weights after the last step of run `all`.
- `config.json`: `decoder` and `text_encoder` sub-configs as in a MusicGen folder. Start token = pad token = vocab_size.
- `batches.safetensors`, {steps} batches: `codes` [steps, batch, codebooks, frames] (not delayed), `ids` and `mask`
  [steps, batch, words] of the text, `keep` [steps, batch] (0: this row is trained without its text).
- `losses.json`: settings, and for two runs `loss`, `books` (loss of each codebook) and `norm` (gradient norm before
  clipping) of each step. Run `all` trains every tensor of `init.safetensors`; run `decoder` keeps `text_encoder.*` fixed.

One step:
1. states = enc_to_dec_proj(text_encoder(ids, mask)), times mask, times keep (zeros replace the states of a row
   that is not kept; its mask stays as it is).
2. Delay pattern: S = frames + codebooks - 1 columns. Input column 0 is the start token in every codebook; codebook k
   holds code t in input column 1 + k + t; all other places hold the start token. Input columns are 0 .. S-1.
3. The target at column s is what stands in column s + 1 (up to column S). A target that would be the start token is
   left out of the loss.
4. Loss of codebook k: mean of the cross entropy over its targets of the whole batch (batch * frames of them). The
   loss is the plain mean over codebooks, f32, no label smoothing, no dropout.
5. Gradients of all trained tensors together are scaled by min(1, clip_norm / (norm + 1e-6)).
6. AdamW with decoupled decay: w -= lr * weight_decay * w; m, v moving averages; w -= lr * mhat / (sqrt(vhat) + eps),
   bias-corrected, fixed rate, the same decay for every trained tensor. `text_encoder.shared.weight` counts once. The
   position table is not trained. The reported loss is the one before the step's update.
"""


def build() -> LanguageModel:
    decoder = decoder_config(
        vocab_size=SIZE, num_codebooks=BOOKS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
        max_position_embeddings=64, pad_token_id=SIZE, bos_token_id=SIZE, decoder_start_token_id=SIZE,
    )  # fmt: skip
    text = text_config(VOCABULARY)
    text.d_model, text.d_kv, text.num_heads, text.d_ff, text.num_layers, text.num_decoder_layers = 24, 8, 4, 40, 2, 2
    text.relative_attention_num_buckets, text.relative_attention_max_distance = 8, 16
    return LanguageModel(decoder=decoder, text=text, text_scale=2.5)


def batches() -> dict[str, torch.Tensor]:
    """Codes with something to learn: a walk whose step depends on the first word of the text."""
    ids = torch.randint(3, VOCABULARY, (STEPS, BATCH, WORDS))
    lengths = torch.randint(3, WORDS + 1, (STEPS, BATCH))
    mask = (torch.arange(WORDS) < lengths[..., None]).long()
    ids = ids * mask
    stride = ids[..., :1, None] % 5 + 1
    start = torch.randint(SIZE, (STEPS, BATCH, 1, 1))
    codes = (start + stride * torch.arange(FRAMES) + 7 * torch.arange(BOOKS)[:, None]) % SIZE
    noise = torch.rand(codes.shape) < 0.1
    codes = torch.where(noise, torch.randint(SIZE, codes.shape), codes)
    keep = (torch.rand(STEPS, BATCH) >= 0.15).long()
    return {"codes": codes, "ids": ids, "mask": mask, "keep": keep}


def run(model: LanguageModel, data: dict[str, torch.Tensor], frozen: str | None) -> list[dict]:
    named = dict(model.named_parameters())
    trained = [p for name, p in named.items() if not (frozen and name.startswith(frozen))]
    optimiser = torch.optim.AdamW(
        trained,
        lr=SETTINGS["lr"],
        betas=(SETTINGS["beta1"], SETTINGS["beta2"]),
        eps=SETTINGS["eps"],
        weight_decay=SETTINGS["weight_decay"],
    )
    rows = []
    for step in range(STEPS):
        codes, ids, mask, keep = (data[name][step] for name in ("codes", "ids", "mask", "keep"))
        inputs, targets = delay(codes, start=SIZE)
        per_book = losses(model(inputs, model.condition(ids, mask, keep), mask), targets)
        loss = per_book.mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, SETTINGS["clip_norm"])
        optimiser.step()
        rows.append({"loss": loss.item(), "books": per_book.tolist(), "norm": norm.item()})
    return rows


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--out", type=Path, required=True)
    args = args.parse_args()
    torch.set_num_threads(1)
    seed_all(17)
    args.out.mkdir(parents=True, exist_ok=True)
    model, data = build().eval(), batches()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(published_names(first), args.out / "init.safetensors")
    save_file(data, args.out / "batches.safetensors")
    runs = {"decoder": run(model, data, "text_encoder")}
    model.load_state_dict(first)
    runs["all"] = run(model, data, None)
    save_file(published_names(model.state_dict()), args.out / "final.safetensors")
    (args.out / "losses.json").write_text(json.dumps({"settings": SETTINGS, "steps": STEPS, "runs": runs}, indent=1))
    config = {
        "model_type": "musicgen",
        "decoder": model.decoder.config.to_dict(),
        "text_encoder": model.text_encoder.config.to_dict(),
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=1, default=str))
    (args.out / "README.md").write_text(README.format(steps=STEPS))
    print("loss", [round(row["loss"], 3) for row in runs["all"]])


if __name__ == "__main__":
    main()
