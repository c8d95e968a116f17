"""The language model: the published MusicGen decoder with a lean training forward, the delay pattern and the loss."""

import functools

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MusicgenForCausalLM, T5EncoderModel
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from common import CODEBOOK_SIZE, CODEBOOKS
from text import STATE_SCALE, text_config

START = CODEBOOK_SIZE  # also the padding of the delay pattern
# Early codebooks carry most of the sound.
CODEBOOK_WEIGHTS = (1.4, 1.2, 1.0, 0.9, 0.8, 0.7)


def decoder_config(**changes) -> MusicgenDecoderConfig:
    settings = {
        "vocab_size": CODEBOOK_SIZE,
        "num_codebooks": CODEBOOKS,
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "ffn_dim": 1024,
        "max_position_embeddings": 2048,
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
        "initializer_factor": 0.02,
        "scale_embedding": False,
        "audio_channels": 1,
        "use_cache": True,
        "pad_token_id": START,
        "bos_token_id": START,
        "decoder_start_token_id": START,
        "tie_word_embeddings": False,
    }
    return MusicgenDecoderConfig(**(settings | changes))


@functools.cache
def ahead(begin: int, end: int, dtype: torch.dtype) -> torch.Tensor:
    """What queries `begin..end` add to the scores of keys `0..end`: keys ahead of a query are out of reach."""
    return torch.full((end - begin, end), -1e9, dtype=dtype).triu(begin + 1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None, chunks: int = 4):
    """Attention over `[batch, heads, length, width]`; causal when `bias` is None.

    Plain products: on a CPU in bf16 they took 30 ms where the fused kernel took 90. Causal queries go in chunks that
    look no further than their own end, which saves most of the masked half.
    """
    q = q * q.shape[-1] ** -0.5
    with torch.autocast("cpu", enabled=False):
        if bias is not None:
            return torch.softmax(q @ k.transpose(-1, -2) + bias.to(q.dtype), -1) @ v
        size = -(-q.shape[2] // chunks)
        parts = []
        for begin in range(0, q.shape[2], size):
            end = min(begin + size, q.shape[2])
            scores = q[:, :, begin:end] @ k[:, :, :end].transpose(-1, -2)
            parts.append(torch.softmax(scores + ahead(begin, end, q.dtype), -1) @ v[:, :, :end])
        return torch.cat(parts, 2)


class LanguageModel(nn.Module):
    """Text encoder, projection and decoder under the names of the published checkpoint."""

    def __init__(self, vocabulary: int | None = None, decoder=None, text=None, text_scale: float = STATE_SCALE):
        super().__init__()
        text = text or (text_config(vocabulary) if vocabulary else text_config())
        decoder = decoder or decoder_config()
        self.text_encoder = T5EncoderModel(text)
        self.decoder = MusicgenForCausalLM(decoder)
        self.enc_to_dec_proj = nn.Linear(text.d_model, decoder.hidden_size)
        self.start_weights(text_scale)

    def start_weights(self, text_scale: float) -> None:
        """Replaces the class's 0.02 everywhere, with which the position table (amplitude 1) drowns the codes."""
        for table in self.decoder.model.decoder.embed_tokens:
            nn.init.normal_(table.weight, std=0.3)
        for name, weight in self.decoder.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                last = name.endswith(("out_proj.weight", "fc2.weight")) or "lm_heads" in name
                nn.init.normal_(weight, std=0.02 if last else weight.shape[1] ** -0.5)
            if name.endswith("encoder_attn.k_proj.weight"):
                weight.data.mul_(min(1.0, 2.5 / text_scale))  # or large states make for sharp attention
        # Replaced by the pretrained one, which is as wide.
        nn.init.normal_(self.enc_to_dec_proj.weight, std=text_scale * self.enc_to_dec_proj.in_features**-0.5)
        nn.init.zeros_(self.enc_to_dec_proj.bias)

    def load_text(self, state: dict) -> None:
        """The pretrained encoder and its projection."""
        self.text_encoder.load_state_dict(state["encoder"])
        self.enc_to_dec_proj.load_state_dict(state["projection"])

    def load_decoder(self, tensors: dict[str, torch.Tensor]) -> None:
        """Decoder weights of an exported model; what listens to the text starts anew, since the text says it anew."""
        ours = dict(self.decoder.named_parameters())
        for name, value in tensors.items():
            name = name.removeprefix("decoder.")
            if name in ours and ".encoder_attn." not in name:
                ours[name].data.copy_(value)

    def condition(self, ids: torch.Tensor, mask: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Projected text states `[batch, length, hidden]`, zero at padding and, where `keep` is 0, everywhere.

        Zero states give zero values (the projections have no bias), which is the reference's unconditional half.
        """
        states = self.enc_to_dec_proj(self.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state)
        states = states * mask[..., None].to(states.dtype)
        return states if keep is None else states * keep[:, None, None].to(states.dtype)

    def forward(self, columns: torch.Tensor, states: torch.Tensor, mask: torch.Tensor, dropout: float = 0.0):
        """`columns [batch, codebooks, steps]` (delayed, start column first) -> logits `[codebooks, batch, steps, size]`.

        The same sums as `MusicgenForCausalLM.forward`, without its cache and mask building.
        """
        return self.heads(self.layers(columns, states, mask, dropout)[-1])

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        x = self.decoder.model.decoder.layer_norm(x)
        return torch.stack([head(x) for head in self.decoder.lm_heads])

    def layers(self, columns, states, mask, dropout: float = 0.0, depth: int | None = None) -> list[torch.Tensor]:
        """The residual stream `[batch, steps, hidden]` after each of the first `depth` layers."""
        decoder = self.decoder.model.decoder
        heads = decoder.layers[0].self_attn.num_heads
        steps = columns.shape[-1]

        def split(x):
            return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

        def merge(x):
            return x.transpose(1, 2).flatten(2)

        def drop(x):
            return F.dropout(x, dropout) if dropout else x

        x = sum(table(columns[:, k]) for k, table in enumerate(decoder.embed_tokens))
        x = drop(x + decoder.embed_positions.weights[:steps])
        bias = torch.zeros(mask.shape, dtype=torch.float32).masked_fill(mask == 0, -1e9)[:, None, None, :]
        stream = []
        for layer in decoder.layers[:depth]:
            h = layer.self_attn_layer_norm(x)
            own = layer.self_attn
            q, k, v = split(own.q_proj(h)), split(own.k_proj(h)), split(own.v_proj(h))
            x = x + drop(own.out_proj(merge(attend(q, k, v, None))))
            h = layer.encoder_attn_layer_norm(x)
            other = layer.encoder_attn
            q, k, v = split(other.q_proj(h)), split(other.k_proj(states)), split(other.v_proj(states))
            x = x + drop(other.out_proj(merge(attend(q, k, v, bias))))
            h = layer.final_layer_norm(x)
            x = x + drop(layer.fc2(F.gelu(layer.fc1(h))))
            stream.append(x)
        return stream


class Clock(nn.Module):
    """Tells from the stream of some layers where in the bar, the beat and half the beat a frame is.

    A teacher of the pulse: what it needs must be in the stream, and then the rest of the decoder can use it. It is not
    exported.
    """

    LAYERS = (1, 3)
    PARTS_OF_A_BEAT = (1, 2)
    WEIGHTS = (0.6, 1.4, 1.0)
    lowest = LAYERS[0] + 1

    def __init__(self, hidden: int):
        super().__init__()
        hands = 2 * (1 + len(self.PARTS_OF_A_BEAT))
        self.hands = nn.ModuleList([nn.Linear(hidden, hands) for _ in self.LAYERS])

    def forward(self, stream: list[torch.Tensor], truth: torch.Tensor) -> torch.Tensor:
        """Squared error for the bar, the beat and its half, `[layers, 3]`, of those of `LAYERS` that `stream` has; 0.5
        knows nothing."""
        read = zip([stream[at] for at in self.LAYERS if at < len(stream)], self.hands)
        told = torch.stack([hands(F.layer_norm(x, x.shape[-1:])) for x, hands in read])
        error = (told.float() - truth).square().mean((1, 2))
        return error.view(len(told), 2, -1).mean(1)

    def weighted(self, error: torch.Tensor) -> torch.Tensor:
        return (error * torch.tensor(self.WEIGHTS)).mean()

    @classmethod
    def truth(cls, at: torch.Tensor, bar: torch.Tensor, beat: torch.Tensor, steps: int) -> torch.Tensor:
        """`[batch, steps, hands]`: cosine and sine of each phase, for crops that begin `at [batch]` frames."""
        periods = torch.stack([bar] + [beat / n for n in cls.PARTS_OF_A_BEAT], -1)
        time = at[:, None] + torch.arange(steps)
        phase = 2 * torch.pi * time[..., None] / periods[:, None]
        return torch.cat([phase.cos(), phase.sin()], -1).float()


def delay(codes: torch.Tensor, start: int = START) -> tuple[torch.Tensor, torch.Tensor]:
    """`codes [batch, codebooks, frames]` -> (inputs, targets), both `[batch, codebooks, frames + codebooks - 1]`.

    Codebook k runs k steps late. Column 0 of the inputs is all start tokens; targets are the inputs one column on,
    with -100 where the pattern holds no code.
    """
    batch, books, frames = codes.shape
    columns = torch.full((batch, books, frames + books), start, dtype=torch.long)
    for k in range(books):
        columns[:, k, 1 + k : 1 + k + frames] = codes[:, k]
    targets = columns[..., 1:].clone()
    targets[targets == start] = -100
    return columns[..., :-1], targets


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each code, `[codebooks, batch, steps]`; 0 where the delay pattern holds none."""
    return torch.stack(
        [
            F.cross_entropy(
                logits[k].flatten(0, 1).float(), targets[:, k].flatten(), ignore_index=-100, reduction="none"
            ).view(targets.shape[0], targets.shape[2])
            for k in range(logits.shape[0])
        ]
    )


def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of each codebook, `[codebooks]`."""
    count = (targets[:, 0] != -100).sum()
    return token_losses(logits, targets).sum((1, 2)) / count


def weighted(per_book: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(CODEBOOK_WEIGHTS[: len(per_book)])
    return (per_book * weights).sum() / weights.sum()
