"""The codec: the published EnCodec modules, and the quantiser training that the inference class leaves out.

16 kHz mono, 50 frames a second, 6 residual codebooks of 512 entries (2.7 kbit/s).
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import EncodecConfig, EncodecModel
from transformers.models.encodec.modeling_encodec import EncodecConv1d, EncodecConvTranspose1d, EncodecResnetBlock

from common import CODEBOOK_SIZE, CODEBOOKS, HOP, SAMPLE_RATE

HIDDEN = 64


def codec_config() -> EncodecConfig:
    # The strides 5, 4, 4, 4 (read backwards by the encoder) leave the full sample rate at once, which keeps the
    # widest layers cheap, and the small last stride keeps their kernels small.
    return EncodecConfig(
        sampling_rate=SAMPLE_RATE,
        audio_channels=1,
        normalize=False,
        hidden_size=HIDDEN,
        codebook_dim=HIDDEN,
        codebook_size=CODEBOOK_SIZE,
        num_filters=16,
        num_residual_layers=1,
        upsampling_ratios=[4, 4, 4, 5],
        norm_type="weight_norm",
        kernel_size=5,
        last_kernel_size=5,
        residual_kernel_size=3,
        dilation_growth_rate=2,
        use_causal_conv=False,
        pad_mode="reflect",
        compress=2,
        num_lstm_layers=1,
        trim_right_ratio=1.0,
        use_conv_shortcut=False,
        target_bandwidths=[CODEBOOKS * 9 * SAMPLE_RATE / HOP / 1000],  # 2.7 kbit/s
    )


@torch.no_grad()
def calibrate(model: EncodecModel, audio: torch.Tensor) -> None:
    """Scales every new convolution so that it gives unit deviation on `audio [batch, 1, samples]`.

    The default start shrinks the signal at each of some thirty layers: the first minutes went by at 0 dB.
    """

    for name, parameter in model.named_parameters():
        if name.endswith("conv.bias"):
            parameter.zero_()

    def scale(module, _, output):
        # Kernels of a residual branch and the last layer start smaller than the path they add to.
        target = goals.get(module, 1.0)
        ratio = target / output.std().clamp(min=1e-6)
        module.conv.parametrizations.weight.original0.mul_(ratio)
        return output * ratio

    goals = {model.decoder.layers[-1]: float(audio.std())}
    for module in model.modules():
        if isinstance(module, EncodecResnetBlock):
            goals[module.block[-1]] = 0.5
    kinds = (EncodecConv1d, EncodecConvTranspose1d)
    hooks = [m.register_forward_hook(scale) for m in model.modules() if isinstance(m, kinds)]
    model.decoder(model.encoder(audio))
    for hook in hooks:
        hook.remove()


# The published spelling of a weight-normed convolution, and the one of torch's parametrisation.
WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def load_codec(model: EncodecModel, tensors: dict[str, torch.Tensor]) -> None:
    """The codec of an exported model; `tensors` as its file names them."""
    ours = model.state_dict()
    for name, value in tensors.items():
        if name.startswith("audio_encoder."):
            name = name.removeprefix("audio_encoder.")
            for theirs, here in WEIGHT_NORM.items():
                name = name.replace(theirs, here)
            ours[name].copy_(value)


class QuantizerTrainer:
    """Residual vector quantisation with codebooks that follow a moving average of their members.

    It works on the buffers of the published class (`embed`, `embed_avg`, `cluster_size`), always in f32.
    """

    def __init__(self, model: EncodecModel, decay: float = 0.98, dead: float = 0.5):
        self.books = [layer.codebook for layer in model.quantizer.layers]
        self.decay = decay
        self.dead = dead  # an entry with fewer members a batch (moving average) is moved to a random member
        self.restarts = 0

    @torch.no_grad()
    def kmeans_init(self, frames: torch.Tensor, iterations: int = 15) -> None:
        """`frames [n, hidden]`: fits the books one after the other on what the earlier ones leave."""
        residual = frames.float()
        for book in self.books:
            pick = torch.randperm(len(residual))[: book.codebook_size]
            book.embed.copy_(residual[pick])
            for _ in range(iterations):
                ids = book.quantize(residual)
                counts, sums = self._members(book, residual, ids)
                alive = counts > 0
                book.embed[alive] = sums[alive] / counts[alive, None]
                spare = torch.randperm(len(residual))[: int((~alive).sum())]
                book.embed[~alive] = residual[spare]
            book.cluster_size.fill_(float(len(residual)) / book.codebook_size)
            book.embed_avg.copy_(book.embed * book.cluster_size[:, None])
            residual = residual - book.embed[book.quantize(residual)]

    @staticmethod
    def _members(book, residual, ids):
        counts = torch.bincount(ids, minlength=book.codebook_size).float()
        sums = torch.zeros_like(book.embed).index_add_(0, ids, residual)
        return counts, sums

    @torch.no_grad()
    def update(self, seen: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> None:
        """Moves the codebooks towards the members `seen` by the workers: per worker and book (residual, ids)."""
        for index, book in enumerate(self.books):
            residual = torch.cat([worker[index][0] for worker in seen])
            ids = torch.cat([worker[index][1] for worker in seen])
            counts, sums = self._members(book, residual, ids)
            book.cluster_size.lerp_(counts, 1.0 - self.decay)
            book.embed_avg.lerp_(sums, 1.0 - self.decay)
            book.embed.copy_(book.embed_avg / book.cluster_size.clamp(min=1e-5)[:, None])
            dead = book.cluster_size < self.dead
            count = int(dead.sum())
            if count:
                self.restarts += count
                fresh = residual[torch.randint(len(residual), (count,))]
                size = float(len(residual)) / book.codebook_size
                book.embed[dead] = fresh
                book.cluster_size[dead] = size
                book.embed_avg[dead] = fresh * size

    def __call__(self, latent: torch.Tensor):
        """`latent [batch, hidden, frames]` -> (quantised with a straight-through gradient, commitment, seen)."""
        batch, hidden, frames = latent.shape
        flat = latent.float().transpose(1, 2).reshape(-1, hidden)
        residual = flat
        total = torch.zeros_like(flat)
        commitment = flat.new_zeros(())
        seen = []
        for book in self.books:
            with torch.no_grad():
                ids = book.quantize(residual)
                chosen = book.embed[ids]
            commitment = commitment + F.mse_loss(residual, chosen)
            seen.append((residual.detach(), ids))
            total = total + chosen
            residual = residual - chosen
        quantised = flat + (total - flat).detach()
        quantised = quantised.view(batch, frames, hidden).transpose(1, 2)
        return quantised, commitment / len(self.books), seen


@torch.no_grad()
def encode(model: EncodecModel, audio: torch.Tensor) -> torch.Tensor:
    """`audio [batch, 1, samples]` -> codes `[batch, codebooks, frames]`, exactly as the published class encodes."""
    return model.quantizer.encode(model.encoder(audio)).transpose(0, 1)


@torch.no_grad()
def decode(model: EncodecModel, codes: torch.Tensor) -> torch.Tensor:
    return model.decoder(model.quantizer.decode(codes.transpose(0, 1)))


def mel_filters(bins: int, mels: int, low: float = 30.0) -> torch.Tensor:
    """Triangles on the 2595*log10(1+f/700) scale, `[bins, mels]`, each summing to one."""

    def to_mel(f):
        return 2595.0 * torch.log10(1.0 + f / 700.0)

    top = torch.tensor(SAMPLE_RATE / 2.0)
    edges = torch.linspace(float(to_mel(torch.tensor(low))), float(to_mel(top)), mels + 2)
    edges = 700.0 * (10.0 ** (edges / 2595.0) - 1.0)
    grid = torch.linspace(0.0, float(top), bins)[:, None]
    rise = (grid - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - grid) / (edges[2:] - edges[1:-1])
    bank = torch.minimum(rise, fall).clamp(min=0.0)
    return bank / bank.sum(0, keepdim=True).clamp(min=1e-8)


class LogMel(nn.Module):
    """Log-mel spectra at several window lengths; `forward` gives their mean absolute difference in nepers."""

    def __init__(self, scales=((512, 40), (1024, 64), (2048, 96)), floor: float = 1e-3):
        super().__init__()
        self.scales = scales
        self.floor = floor
        for size, mels in scales:
            self.register_buffer(f"window_{size}", torch.hann_window(size))
            self.register_buffer(f"bank_{size}", mel_filters(size // 2 + 1, mels))

    def spectrum(self, audio: torch.Tensor, size: int) -> torch.Tensor:
        window = getattr(self, f"window_{size}")
        spec = torch.stft(audio, size, size // 4, window=window, return_complex=True)
        power = torch.view_as_real(spec).square().sum(-1) / window.square().sum()
        power = power.transpose(1, 2) @ getattr(self, f"bank_{size}")
        return 0.5 * torch.log(power + self.floor**2)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        parts = [(self.spectrum(x, size) - self.spectrum(y, size)).abs().mean() for size, _ in self.scales]
        return sum(parts) / len(parts)


def snr_db(target: torch.Tensor, estimate: torch.Tensor, floor: float = 1e-6) -> torch.Tensor:
    """Signal to noise in dB per row; `floor` is a mean square, so that silence is worth nothing."""
    signal = target.square().mean(-1)
    noise = (target - estimate).square().mean(-1)
    return 10.0 * torch.log10((signal + floor) / (noise + floor))


def si_sdr_db(target: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Scale-invariant signal to distortion ratio per row."""
    target = target - target.mean(-1, keepdim=True)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    scale = (target * estimate).sum(-1, keepdim=True) / target.square().sum(-1, keepdim=True).clamp(min=1e-8)
    clean = scale * target
    return 10.0 * torch.log10(clean.square().sum(-1) / (estimate - clean).square().sum(-1).clamp(min=1e-8) + 1e-8)
