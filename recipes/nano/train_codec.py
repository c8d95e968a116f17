"""Trains the codec for a time budget: waveform SNR + multi-scale log-mel + commitment, no adversary.

The first tenth runs without the quantiser; then k-means places the codebooks and the rest is trained through them.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import EncodecModel

from codec import LogMel, QuantizerTrainer, calibrate, codec_config, decode, encode, si_sdr_db, snr_db
from common import SAMPLE_RATE, AudioPool, Budget, Curve, Every, Workers, load_checkpoint, save_atomic, seed_all


@torch.no_grad()
def evaluate(model: EncodecModel, mel: LogMel, clips: torch.Tensor) -> dict:
    """Quality through real codes of `clips [n, 1, samples]`."""
    model.eval()
    codes, output = [], []
    for part in clips.split(8):
        code = encode(model, part)
        codes.append(code)
        output.append(decode(model, code)[..., : part.shape[-1]])
    codes, output = torch.cat(codes), torch.cat(output)
    x, y = clips[:, 0], output[:, 0]
    loud = x.square().mean(-1) > 1e-6
    sdr = si_sdr_db(x, y)[loud]
    use = []
    for book in codes.unbind(1):
        share = torch.bincount(book.flatten(), minlength=512).float() / book.numel()
        use.append(float(torch.exp(-(share * (share + 1e-12).log()).sum())))
    model.train()
    return {
        "si_sdr": float(sdr.mean()),
        "si_sdr_median": float(sdr.median()),
        "snr": float(snr_db(x, y)[loud].mean()),
        "mel": float(mel(x, y)),
        "perplexity": [round(u) for u in use],
    }


def held_out(data: Path, seconds: int = 5, count: int = 48) -> torch.Tensor:
    pool = AudioPool(data, "test", limit=count)
    if not pool.ids:
        pool = AudioPool(data, "train", limit=8)  # nothing held out yet: say so by a training figure
    return pool.crops(count, seconds * SAMPLE_RATE, np.random.default_rng(7))


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--minutes", type=float, default=45)
    args.add_argument("--batch", type=int, default=24)
    args.add_argument("--crop", type=float, default=1.0, help="seconds")
    args.add_argument("--lr", type=float, default=1e-3)
    args.add_argument("--mel-weight", type=float, default=0.5)
    args.add_argument("--workers", type=int, default=2)
    args.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    seed_all(args.seed)

    model = EncodecModel(codec_config())
    trainable = list(model.encoder.parameters()) + list(model.decoder.parameters())
    workers = Workers(args.workers, trainable)
    quantiser = QuantizerTrainer(model)
    optimiser = torch.optim.AdamW(trainable, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.0)
    path = args.out / "codec.pt"
    step, spent, placed = 0, 0.0, False
    if state := load_checkpoint(path):
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent, placed = state["step"], state["spent"], state["placed"]
        seed_all(args.seed + step)
    mel = LogMel()
    pool = AudioPool(args.data, "train", limit=2000)
    budget = Budget(args.minutes, spent)
    curve = Curve(args.out / "codec.jsonl")
    rng = np.random.default_rng(args.seed + step)
    length = int(args.crop * SAMPLE_RATE)
    if step == 0:
        calibrate(model, pool.crops(16, length, rng))
    size = sum(p.numel() for p in trainable)
    curve.write(step=step, parameters=size, clips=len(pool.ids), hours=pool.seconds / 3600)

    def checkpoint() -> None:
        save_atomic(
            {
                "model": model.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "spent": budget.spent,
                "placed": placed,
            },
            path,
        )

    def loss_of(audio: torch.Tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            latent = model.encoder(audio)
        latent = latent.float()
        commitment, seen = latent.new_zeros(()), None
        if placed:
            latent, commitment, seen = quantiser(latent)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            output = model.decoder(latent)
        x, y = audio[:, 0], output.float()[:, 0]
        snr = snr_db(x, y, floor=1e-5).mean()
        distance = mel(x, y)
        loss = -0.1 * snr + args.mel_weight * distance + 0.25 * commitment
        return loss, ({"snr": snr.item(), "mel": distance.item(), "commitment": commitment.item()}, seen)

    log, save, refresh, test = Every(20), Every(180), Every(240), Every(300)
    sums, count = {}, 0
    while not budget.over:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * budget.lr_scale()
        audio = pool.crops(args.batch, length, rng)
        audio = audio * torch.empty(args.batch, 1, 1).uniform_(0.5, 1.3)
        if not placed and budget.fraction > 0.1:
            with torch.no_grad():
                frames = [model.encoder(pool.crops(32, length, rng)) for _ in range(12)]
            quantiser.kmeans_init(torch.cat([f.transpose(1, 2).reshape(-1, f.shape[1]) for f in frames]))
            placed = True
        extras = workers.step(loss_of, list(audio.chunk(args.workers)))
        norm = torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        if torch.isfinite(norm):
            optimiser.step()
            if placed:
                quantiser.update([seen for _, seen in extras])
        step += 1

        for parts, _ in extras:
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value / len(extras)
        count += 1
        if log.due():
            row = {name: value / count for name, value in sums.items()}
            curve.write(step=step, spent=round(budget.spent), lr=args.lr * budget.lr_scale(), **row,
                        restarts=quantiser.restarts)  # fmt: skip
            sums, count, quantiser.restarts = {}, 0, 0
        if save.due():
            checkpoint()
        if refresh.due():
            pool.refresh()
        if placed and test.due():
            curve.write(step=step, spent=round(budget.spent), clips=len(pool.ids), hours=pool.seconds / 3600,
                        held_out=evaluate(model, mel, held_out(args.data)))  # fmt: skip
    checkpoint()
    curve.write(step=step, spent=round(budget.spent), final=evaluate(model, mel, held_out(args.data)))


if __name__ == "__main__":
    main()
