//! SEANet: the convolutional stacks around the quantiser.

use candle_core::{Result, Tensor};
use musaic_core::{
    nn::{Lstm, LstmState},
    probe::Probe,
    weights::Weights,
};

use super::{
    config::EncodecConfig,
    conv::{ConvShape, ConvState, PaddedConv, PaddedConvTranspose, TransposeState, join, tail},
    elu::elu,
};

/// `x + conv1x1(elu(conv(elu(x))))`, with a 1x1 convolution on `x` where the configuration says so.
#[derive(Debug, Clone)]
struct ResidualBlock {
    narrow: PaddedConv,
    widen: PaddedConv,
    shortcut: Option<PaddedConv>,
}

#[derive(Debug, Clone, Default)]
struct ResidualState {
    narrow: ConvState,
    widen: ConvState,
    shortcut: ConvState,
    /// Samples of the shortcut that wait for the other branch.
    waiting: Option<Tensor>,
}

impl ResidualBlock {
    fn load(config: &EncodecConfig, dim: usize, index: usize, weights: &Weights) -> musaic_core::Result<Self> {
        let hidden = dim / config.compress;
        // The exponent is below 16, see `EncodecConfig::validate`.
        let dilation = (0..index).map(|_| config.dilation_growth_rate).product();
        let narrow = ConvShape { input: dim, output: hidden, kernel: config.residual_kernel_size, stride: 1, dilation };
        let widen = ConvShape { input: hidden, output: dim, kernel: 1, stride: 1, dilation: 1 };
        let shortcut = ConvShape { input: dim, output: dim, kernel: 1, stride: 1, dilation: 1 };
        let block = weights.pp("block");
        // 0 and 2 are the activations.
        Ok(Self {
            narrow: PaddedConv::load(config, narrow, &block.pp(1))?,
            widen: PaddedConv::load(config, widen, &block.pp(3))?,
            shortcut: config
                .use_conv_shortcut
                .then(|| PaddedConv::load(config, shortcut, &weights.pp("shortcut")))
                .transpose()?,
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let ys = self.widen.forward(&elu(&self.narrow.forward(&elu(xs)?)?)?)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(xs)? + ys,
            None => xs + ys,
        }
    }

    fn push(&self, state: &mut ResidualState, xs: Option<Tensor>, last: bool) -> Result<Option<Tensor>> {
        let active = xs.as_ref().map(elu).transpose()?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.push(&mut state.shortcut, xs, last)?,
            None => xs,
        };
        let hidden = self.narrow.push(&mut state.narrow, active, last)?;
        let hidden = hidden.as_ref().map(elu).transpose()?;
        let ys = self.widen.push(&mut state.widen, hidden, last)?;
        state.waiting = join(state.waiting.take(), shortcut)?;
        let Some(ys) = ys else { return Ok(None) };
        let Some(waiting) = state.waiting.take() else { candle_core::bail!("a residual block lost its input") };
        let ready = ys.dim(2)?;
        if ready < waiting.dim(2)? {
            state.waiting = Some(tail(&waiting, ready)?);
        }
        (waiting.narrow(2, 0, ready)? + ys).map(Some)
    }
}

/// LSTM over time with its input added.
#[derive(Debug, Clone)]
struct ResidualLstm(Lstm);

impl ResidualLstm {
    fn forward(&self, xs: &Tensor, state: &mut LstmState) -> Result<Tensor> {
        let ys = self.0.forward_with_state(&xs.transpose(1, 2)?.contiguous()?, state)?;
        ys.transpose(1, 2)?.contiguous()? + xs
    }
}

#[derive(Debug, Clone)]
enum Layer {
    Elu,
    Conv(PaddedConv),
    Transpose(PaddedConvTranspose),
    Residual(Box<ResidualBlock>),
    Lstm(ResidualLstm),
}

#[derive(Debug, Clone)]
enum LayerState {
    Elu,
    Conv(ConvState),
    Transpose(TransposeState),
    Residual(Box<ResidualState>),
    Lstm(LstmState),
}

/// Layers in checkpoint order; activations take an index of their own.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    name: &'static str,
    layers: Vec<Layer>,
}

/// What a [`Stack`] remembers between blocks.
#[derive(Debug, Clone)]
pub(super) struct StackState(Vec<LayerState>);

/// Appends layers under their running index.
struct Builder<'a> {
    config: &'a EncodecConfig,
    weights: Weights,
    layers: Vec<Layer>,
}

impl Builder<'_> {
    fn here(&self) -> Weights {
        self.weights.pp(self.layers.len())
    }

    fn elu(&mut self) {
        self.layers.push(Layer::Elu);
    }

    fn conv(&mut self, input: usize, output: usize, kernel: usize, stride: usize) -> musaic_core::Result<()> {
        let shape = ConvShape { input, output, kernel, stride, dilation: 1 };
        self.layers.push(Layer::Conv(PaddedConv::load(self.config, shape, &self.here())?));
        Ok(())
    }

    fn transpose(&mut self, input: usize, output: usize, stride: usize) -> musaic_core::Result<()> {
        let conv = PaddedConvTranspose::load(self.config, input, output, stride, &self.here())?;
        self.layers.push(Layer::Transpose(conv));
        Ok(())
    }

    fn residuals(&mut self, dim: usize) -> musaic_core::Result<()> {
        for index in 0..self.config.num_residual_layers {
            let block = ResidualBlock::load(self.config, dim, index, &self.here())?;
            self.layers.push(Layer::Residual(Box::new(block)));
        }
        Ok(())
    }

    fn lstm(&mut self, dim: usize) -> musaic_core::Result<()> {
        let lstm = Lstm::load(dim, self.config.num_lstm_layers, &self.here().pp("lstm"))?;
        self.layers.push(Layer::Lstm(ResidualLstm(lstm)));
        Ok(())
    }
}

impl Stack {
    /// Waveform `[batch, channels, samples]` to latents `[batch, hidden_size, frames]`.
    pub(super) fn encoder(config: &EncodecConfig, weights: &Weights) -> musaic_core::Result<Self> {
        let mut b = Builder { config, weights: weights.pp("encoder.layers"), layers: Vec::new() };
        let mut dim = config.num_filters;
        b.conv(config.audio_channels, dim, config.kernel_size, /* stride */ 1)?;
        for &ratio in config.upsampling_ratios.iter().rev() {
            b.residuals(dim)?;
            b.elu();
            b.conv(dim, 2 * dim, 2 * ratio, ratio)?;
            dim *= 2;
        }
        b.lstm(dim)?;
        b.elu();
        b.conv(dim, config.hidden_size, config.last_kernel_size, /* stride */ 1)?;
        Ok(Self { name: "encoder", layers: b.layers })
    }

    /// Latents `[batch, hidden_size, frames]` to waveform `[batch, channels, samples]`.
    pub(super) fn decoder(config: &EncodecConfig, weights: &Weights) -> musaic_core::Result<Self> {
        let mut b = Builder { config, weights: weights.pp("decoder.layers"), layers: Vec::new() };
        let mut dim = config.num_filters << config.upsampling_ratios.len();
        b.conv(config.hidden_size, dim, config.kernel_size, /* stride */ 1)?;
        b.lstm(dim)?;
        for &ratio in &config.upsampling_ratios {
            b.elu();
            b.transpose(dim, dim / 2, ratio)?;
            dim /= 2;
            b.residuals(dim)?;
        }
        b.elu();
        b.conv(dim, config.audio_channels, config.last_kernel_size, /* stride */ 1)?;
        Ok(Self { name: "decoder", layers: b.layers })
    }

    /// The whole signal at once; the probe sees every layer.
    pub(super) fn forward(&self, xs: &Tensor, probe: &mut dyn Probe) -> Result<Tensor> {
        let mut xs = xs.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            xs = match layer {
                Layer::Elu => elu(&xs)?,
                Layer::Conv(conv) => conv.forward(&xs)?,
                Layer::Transpose(conv) => conv.forward(&xs)?,
                Layer::Residual(block) => block.forward(&xs)?,
                Layer::Lstm(lstm) => lstm.forward(&xs, &mut LstmState::default())?,
            };
            probe.see(&format!("{}.layers.{index}", self.name), &xs)?;
        }
        Ok(xs)
    }

    /// Before the first block.
    pub(super) fn start(&self) -> StackState {
        let states = self.layers.iter().map(|layer| match layer {
            Layer::Elu => LayerState::Elu,
            Layer::Conv(_) => LayerState::Conv(ConvState::default()),
            Layer::Transpose(_) => LayerState::Transpose(TransposeState::default()),
            Layer::Residual(_) => LayerState::Residual(Box::default()),
            Layer::Lstm(_) => LayerState::Lstm(LstmState::default()),
        });
        StackState(states.collect())
    }

    /// The next block of the signal: gives all samples whose inputs are known, and with the `last` block all the rest.
    pub(super) fn push(&self, state: &mut StackState, xs: Option<Tensor>, last: bool) -> Result<Option<Tensor>> {
        let mut xs = xs;
        for (layer, state) in self.layers.iter().zip(&mut state.0) {
            xs = match (layer, state) {
                (Layer::Elu, _) => xs.as_ref().map(elu).transpose()?,
                (Layer::Conv(conv), LayerState::Conv(state)) => conv.push(state, xs, last)?,
                (Layer::Transpose(conv), LayerState::Transpose(state)) => conv.push(state, xs, last)?,
                (Layer::Residual(block), LayerState::Residual(state)) => block.push(state, xs, last)?,
                (Layer::Lstm(lstm), LayerState::Lstm(state)) => {
                    xs.as_ref().map(|xs| lstm.forward(xs, state)).transpose()?
                }
                _ => candle_core::bail!("the state belongs to another {}", self.name),
            };
            if xs.is_none() && !last {
                break;
            }
        }
        Ok(xs)
    }
}
