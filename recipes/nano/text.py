"""Tokenizer and text encoder: a unigram vocabulary in T5's layout, and a small T5 encoder pretrained on captions.

Pretraining asks a mean-pooled state for every attribute that the caption states; words are dropped and misspelt and
clauses reordered on the way, so that wordings the grammar never makes still land nearby. The heads are thrown away.
"""

import argparse
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import Unigram
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from common import Budget, Curve, Every, Workers, load_checkpoint, read_rows, save_atomic, seed_all

PAD, EOS, UNK = 0, 1, 2
VOCABULARY = 1200
# The classes behind what a caption says it states.
STATED_AS = {
    "tempo": ["tempo_band"],
    "bpm": ["tempo_bpm"],
    "key": ["tonic"],
    "texture": ["texture.instrument", "texture.kind"],
    "structure": ["arrangement", "form"],
}
NOT_A_CLASS = {"seed", "bars", "flavour", "kit"}
DERIVED = ("tempo_band", "lead", "family")  # written beside the attributes


def text_config(vocabulary: int = VOCABULARY) -> T5Config:
    return T5Config(
        vocab_size=vocabulary,
        d_model=192,
        d_kv=32,
        num_heads=4,
        d_ff=320,
        num_layers=3,
        num_decoder_layers=3,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        is_encoder_decoder=False,
        use_cache=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )


def train_tokenizer(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    alphabet = [chr(c) for c in range(33, 127) if not chr(c).isupper()] + ["▁", "♯", "♭", "é"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=alphabet,
        show_progress=False,
    )
    # Single letters and digits are shown too, so that an unknown word falls apart into pieces rather than <unk>.
    tokenizer.train_from_iterator(texts + [" ".join(alphabet)] * 20, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    return tokenizer


def batch_ids(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their mask, both `[batch, longest]`."""
    rows = [encoding.ids[:96] for encoding in tokenizer.encode_batch(texts)]
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for n, row in enumerate(rows):
        ids[n, : len(row)] = torch.tensor(row)
        mask[n, : len(row)] = 1
    return ids, mask


def disturb(text: str, rng: random.Random, drop: float = 0.12, typo: float = 0.03) -> str:
    """A caption as another person might have typed it."""
    if "," in text and rng.random() < 0.3:
        clauses = [c.strip() for c in text.rstrip(".").split(",")]
        rng.shuffle(clauses)
        text = ", ".join(clauses)
    kept = []
    for word in text.split():
        if rng.random() < drop:
            continue
        if len(word) > 3 and rng.random() < typo:
            at = rng.randrange(len(word) - 1)
            change = rng.randrange(3)
            if change == 0:
                word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            elif change == 1:
                word = word[:at] + word[at + 1 :]
            else:
                word = word[:at] + word[at] + word[at:]
        kept.append(word)
    return " ".join(kept) if kept else text


def classes_of(row: dict) -> dict[str, str]:
    return flatten(row["attributes"] | {name: row[name] for name in DERIVED if name in row})


def flatten(attributes: dict, prefix: str = "") -> dict[str, str]:
    """Attributes as names of classes; tempo as 8-bpm bins; nested records as `outer.inner`."""
    out = {}
    for name, value in attributes.items():
        if name in NOT_A_CLASS:
            continue
        if isinstance(value, dict):
            out.update(flatten(value, f"{prefix}{name}."))
        elif name == "tempo_bpm":
            out[name] = str(int(value) // 8)
        elif isinstance(value, (str, bool, int)) or value is None:
            out[f"{prefix}{name}"] = "none" if value is None else str(value).lower()
            if value is None and name == "texture":
                out.update({"texture.instrument": "none", "texture.kind": "none"})
    return out


class Classes:
    """The attribute classes seen in a corpus, and targets (-100 where a caption is silent)."""

    def __init__(self, rows: list[dict]):
        seen: dict[str, set] = {}
        for row in rows:
            for name, value in classes_of(row).items():
                seen.setdefault(name, set()).add(value)
        self.values = {n: sorted(v) for n, v in sorted(seen.items()) if 1 < len(v) <= 64}

    def targets(self, row: dict, stated: list[str]) -> list[int]:
        told = {name for s in stated for name in [s, *STATED_AS.get(s, [])]}
        flat = classes_of(row)
        out = []
        for name, values in self.values.items():
            known = name in told and flat.get(name) in values
            out.append(values.index(flat[name]) if known else -100)
        return out


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--data", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--minutes", type=float, default=6)
    args.add_argument("--batch", type=int, default=128)
    args.add_argument("--workers", type=int, default=2)
    args.add_argument("--lr", type=float, default=2e-3)
    args = args.parse_args()
    seed_all(3)
    rng = random.Random(3)

    rows = read_rows(args.data, "train")
    test = read_rows(args.data, "test") or rows[-len(rows) // 10 :]
    args.out.mkdir(parents=True, exist_ok=True)
    vocabulary = args.out / "tokenizer.json"
    if not vocabulary.exists():
        train_tokenizer([c["text"] for row in rows for c in row["captions"]]).save(str(vocabulary))
    tokenizer = Tokenizer.from_file(str(vocabulary))
    classes = Classes(rows)

    model = T5EncoderModel(text_config(tokenizer.get_vocab_size()))
    heads = nn.ModuleList(nn.Linear(192, len(v)) for v in classes.values.values())
    parameters = list(model.parameters()) + list(heads.parameters())
    workers = Workers(args.workers, parameters)
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    path = args.out / "text.pt"
    if state := load_checkpoint(path):
        model.load_state_dict(state["model"])

    def logits_of(texts: list[str]) -> list[torch.Tensor]:
        ids, mask = batch_ids(tokenizer, texts)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None] / mask.sum(1)[:, None, None]
        pooled = (states * weight).sum(1)
        return [head(pooled) for head in heads]

    def loss_of(share: list[tuple[str, list[int]]]):
        targets = torch.tensor([t for _, t in share])
        total = sum(
            F.cross_entropy(out, targets[:, n], ignore_index=-100, reduction="sum")
            for n, out in enumerate(logits_of([text for text, _ in share]))
        )
        loss = total / (targets >= 0).sum().clamp(min=1)
        return loss, float(loss.detach())

    @torch.no_grad()
    def accuracy(disturbed: bool) -> dict:
        model.eval()
        right, seen = {n: 0 for n in classes.values}, {n: 0 for n in classes.values}
        probe = random.Random(5)
        items = [(c, row) for row in test[:150] for c in row["captions"][:4]]
        for at in range(0, len(items), 100):
            part = items[at : at + 100]
            texts = [disturb(c["text"], probe) if disturbed else c["text"] for c, _ in part]
            targets = torch.tensor([classes.targets(row, c["stated"]) for c, row in part])
            for n, (name, out) in enumerate(zip(classes.values, logits_of(texts))):
                known = targets[:, n] >= 0
                right[name] += int((out.argmax(1) == targets[:, n])[known].sum())
                seen[name] += int(known.sum())
        model.train()
        return {n: round(right[n] / seen[n], 3) for n in right if seen[n]}

    budget, curve, log = Budget(args.minutes), Curve(args.out / "text.jsonl"), Every(20)
    size = sum(p.numel() for p in model.parameters())
    heads_of = {name: len(values) for name, values in classes.values.items()}
    curve.write(parameters=size, vocabulary=tokenizer.get_vocab_size(), captions=8 * len(rows), heads=heads_of)
    step, total, count = 0, 0.0, 0
    while not budget.over:
        for group in optimiser.param_groups:
            group["lr"] = args.lr * budget.lr_scale()
        batch = []
        for _ in range(args.batch):
            row = rng.choice(rows)
            caption = rng.choice(row["captions"])
            drop, typo = (0.12, 0.03) if rng.random() < 0.7 else (0.0, 0.0)
            batch.append((disturb(caption["text"], rng, drop, typo), classes.targets(row, caption["stated"])))
        total += sum(workers.step(loss_of, [batch[n :: args.workers] for n in range(args.workers)])) / args.workers
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step, count = step + 1, count + 1
        if log.due():
            curve.write(step=step, spent=round(budget.spent), loss=total / count)
            total, count = 0.0, 0
    save_atomic({"model": model.state_dict(), "vocabulary": tokenizer.get_vocab_size()}, path)
    curve.write(step=step, accuracy=accuracy(False), accuracy_disturbed=accuracy(True))


if __name__ == "__main__":
    main()
