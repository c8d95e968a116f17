//! A small network and its training: standardised numbers, at most one hidden layer, a softmax over candidates.
//!
//! An example is a list of candidates, each a list of numbers that the network turns into `outputs` logits; the softmax runs
//! over all logits of all candidates, and one or several of them are right. With one candidate this is the usual
//! classifier; with many it is a shared judge of candidates (tempi, tonics). Training is deterministic.

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use serde::{Deserialize, Serialize};

/// Standardised numbers are held within this many deviations: what is far outside must not decide alone.
const LIMIT: f32 = 5.0;
const BATCH: usize = 32;

/// Mean and deviation of each number.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Norm {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Norm {
    /// Of all rows.
    pub fn fit<'a>(rows: impl Iterator<Item = &'a Vec<f32>> + Clone) -> Self {
        let width = rows.clone().next().map_or(0, Vec::len);
        let count = rows.clone().count().max(1) as f64;
        let mut sums = vec![(0.0f64, 0.0f64); width];
        for row in rows {
            for (sum, &x) in sums.iter_mut().zip(row) {
                sum.0 += f64::from(x);
                sum.1 += f64::from(x).powi(2);
            }
        }
        // Four digits are plenty, and keep the file small.
        let short = |x: f64| (x * 1e4).round() as f32 / 1e4;
        let mean: Vec<f32> = sums.iter().map(|s| short(s.0 / count)).collect();
        let spread = |s: &(f64, f64)| (s.1 / count - (s.0 / count).powi(2)).max(0.0).sqrt();
        let deviation = sums.iter().map(|s| short(spread(s) + 1e-3)).collect();
        Self { mean, deviation }
    }

    /// Standardises one row.
    pub fn apply(&self, row: &[f32]) -> Vec<f32> {
        let all = row.iter().zip(&self.mean).zip(&self.deviation);
        all.map(|((x, m), d)| ((x - m) / d).clamp(-LIMIT, LIMIT)).collect()
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.mean.len()
    }
}

/// Weights in 8 bits, row by row: `value * scale`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Packed {
    inputs: usize,
    scales: Vec<f32>,
    biases: Vec<f32>,
    /// One byte a weight, offset by 128, in base64.
    weights: String,
}

/// The network as it is stored: one layer or two.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PackedNet {
    layers: Vec<Packed>,
}

/// One layer: `[outputs][inputs]` and biases.
#[derive(Debug, Clone)]
struct Layer {
    inputs: usize,
    weights: Vec<f32>,
    biases: Vec<f32>,
}

/// A network.
#[derive(Debug, Clone)]
pub struct Net {
    layers: Vec<Layer>,
}

/// A list of candidates, already standardised, and which of their logits (candidate major) are right.
#[derive(Debug, Clone)]
pub struct Example {
    /// `[candidates][inputs]`.
    pub candidates: Vec<Vec<f32>>,
    /// `[candidates * outputs]`.
    pub right: Vec<bool>,
}

/// How a network is trained.
#[derive(Debug, Clone, Copy)]
pub struct Training {
    /// Width of the hidden layer; 0 is none.
    pub hidden: usize,
    /// Logits of a candidate.
    pub outputs: usize,
    /// Passes over the examples.
    pub epochs: usize,
    /// Pull of the weights to zero, as in AdamW.
    pub decay: f32,
    /// Share of hidden units left out at a step.
    pub dropout: f32,
}

/// A small generator for starts, orders and dropout (splitmix64).
pub struct Draws(pub u64);

impl Draws {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Evenly in 0..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Brings `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.bits() % (i as u64 + 1)) as usize);
        }
    }
}

impl Layer {
    fn new(inputs: usize, outputs: usize, draws: &mut Draws) -> Self {
        let reach = 1.0 / (inputs as f32).sqrt();
        let weights = (0..inputs * outputs).map(|_| reach * (2.0 * draws.unit() - 1.0)).collect();
        Self { inputs, weights, biases: vec![0.0; outputs] }
    }

    fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.weights.chunks_exact(self.inputs).zip(&self.biases);
        rows.map(|(row, bias)| bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()).collect()
    }
}

/// Gradient and moments of one layer's weights and biases.
struct Adam {
    gradient: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Adam {
    fn new(size: usize) -> Self {
        Self { gradient: vec![0.0; size], first: vec![0.0; size], second: vec![0.0; size] }
    }

    fn step(&mut self, values: &mut [f32], rate: f32, decay: f32, time: i32) {
        let (c1, c2) = (1.0 - 0.9f32.powi(time), 1.0 - 0.999f32.powi(time));
        for (i, value) in values.iter_mut().enumerate() {
            let g = self.gradient[i];
            self.first[i] = 0.9 * self.first[i] + 0.1 * g;
            self.second[i] = 0.999 * self.second[i] + 0.001 * g * g;
            *value -= rate * (self.first[i] / c1 / ((self.second[i] / c2).sqrt() + 1e-8) + decay * *value);
        }
        self.gradient.fill(0.0);
    }
}

impl Net {
    /// Logits of one candidate.
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        let mut x = self.layers[0].forward(x);
        for layer in &self.layers[1..] {
            x.iter_mut().for_each(|x| *x = x.max(0.0));
            x = layer.forward(&x);
        }
        x
    }

    /// Probabilities of all logits of all candidates, candidate major.
    pub fn probabilities(&self, candidates: &[Vec<f32>]) -> Vec<f32> {
        softmax(candidates.iter().flat_map(|candidate| self.logits(candidate)).collect())
    }

    /// Trains on `examples` with AdamW and a rate that falls as a cosine.
    pub fn train(examples: &[Example], training: &Training) -> Self {
        let mut draws = Draws(1);
        let inputs = examples.first().and_then(|e| e.candidates.first()).map_or(1, Vec::len);
        let widths: &[usize] = if training.hidden == 0 {
            &[inputs, training.outputs]
        } else {
            &[inputs, training.hidden, training.outputs]
        };
        let layers = widths.windows(2).map(|w| Layer::new(w[0], w[1], &mut draws)).collect();
        let mut net = Self { layers };
        let mut moments: Vec<(Adam, Adam)> =
            net.layers.iter().map(|l| (Adam::new(l.weights.len()), Adam::new(l.biases.len()))).collect();
        let mut order: Vec<usize> = (0..examples.len()).collect();
        let mut time = 0;
        for epoch in 0..training.epochs {
            let done = epoch as f32 / training.epochs as f32;
            let rate = 3e-3 * 0.5 * (1.0 + (std::f32::consts::PI * done).cos());
            draws.shuffle(&mut order);
            for batch in order.chunks(BATCH) {
                for &i in batch {
                    net.learn(&examples[i], training.dropout, 1.0 / batch.len() as f32, &mut moments, &mut draws);
                }
                time += 1;
                for (layer, (weights, biases)) in net.layers.iter_mut().zip(&mut moments) {
                    weights.step(&mut layer.weights, rate, training.decay, time);
                    biases.step(&mut layer.biases, rate, 0.0, time);
                }
            }
        }
        net
    }

    /// Adds the gradient of one example.
    fn learn(&self, example: &Example, dropout: f32, weight: f32, moments: &mut [(Adam, Adam)], draws: &mut Draws) {
        let keep = 1.0 / (1.0 - dropout);
        let two = self.layers.len() == 2;
        let mut hidden = Vec::new();
        let mut logits = Vec::new();
        for x in &example.candidates {
            if two {
                let mut h = self.layers[0].forward(x);
                h.iter_mut().for_each(|h| *h = if draws.unit() < dropout { 0.0 } else { keep * h.max(0.0) });
                logits.extend(self.layers[1].forward(&h));
                hidden.push(h);
            } else {
                logits.extend(self.layers[0].forward(x));
            }
        }
        // Of -log(sum of the right ones): all probabilities less those among the right ones.
        let all = softmax(logits);
        let sum: f32 = all.iter().zip(&example.right).filter(|(_, right)| **right).map(|(p, _)| p).sum::<f32>();
        let errors: Vec<f32> = all
            .iter()
            .zip(&example.right)
            .map(|(p, right)| weight * (p - if *right { p / sum.max(1e-9) } else { 0.0 }))
            .collect();
        let outputs = errors.len() / example.candidates.len().max(1);
        for (i, (x, errors)) in example.candidates.iter().zip(errors.chunks_exact(outputs.max(1))).enumerate() {
            if !two {
                accumulate(&mut moments[0], errors, x);
                continue;
            }
            accumulate(&mut moments[1], errors, &hidden[i]);
            let top = &self.layers[1];
            let back: Vec<f32> = (0..hidden[i].len())
                .map(|j| {
                    let sum: f32 = errors.iter().enumerate().map(|(o, e)| e * top.weights[o * top.inputs + j]).sum();
                    if hidden[i][j] > 0.0 { keep * sum } else { 0.0 }
                })
                .collect();
            accumulate(&mut moments[0], &back, x);
        }
    }

    /// In 8 bits.
    pub fn pack(&self) -> PackedNet {
        let layers = self.layers.iter().map(|layer| {
            let rows: Vec<&[f32]> = layer.weights.chunks_exact(layer.inputs).collect();
            let scales: Vec<f32> =
                rows.iter().map(|row| row.iter().fold(1e-9f32, |a, w| a.max(w.abs())) / 127.0).collect();
            let bytes: Vec<u8> = rows
                .iter()
                .zip(&scales)
                .flat_map(|(row, scale)| {
                    row.iter().map(move |w| ((w / scale).round() as i32 + 128).clamp(1, 255) as u8)
                })
                .collect();
            let weights = BASE64.encode(bytes);
            Packed { inputs: layer.inputs, scales, biases: layer.biases.clone(), weights }
        });
        PackedNet { layers: layers.collect() }
    }
}

impl PackedNet {
    /// The network again, or what is wrong with it.
    pub fn unpack(&self, inputs: usize, outputs: usize) -> Result<Net, String> {
        let mut width = inputs;
        let mut layers = Vec::new();
        for packed in &self.layers {
            let rows = packed.biases.len();
            let bytes = BASE64.decode(&packed.weights).map_err(|e| format!("weights of a layer: {e}"))?;
            if packed.inputs != width || packed.scales.len() != rows || bytes.len() != rows * width {
                return Err(format!("a layer of {} inputs and {rows} outputs, expected {width} inputs", packed.inputs));
            }
            let mut weights: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) - 128.0).collect();
            for (row, scale) in weights.chunks_exact_mut(width.max(1)).zip(&packed.scales) {
                row.iter_mut().for_each(|w| *w *= scale);
            }
            layers.push(Layer { inputs: width, weights, biases: packed.biases.clone() });
            width = rows;
        }
        if layers.is_empty() || width != outputs {
            return Err(format!("{} layers and {width} outputs, expected {outputs} outputs", layers.len()));
        }
        Ok(Net { layers })
    }
}

fn accumulate((weights, biases): &mut (Adam, Adam), errors: &[f32], x: &[f32]) {
    for (o, &error) in errors.iter().enumerate() {
        biases.gradient[o] += error;
        if error != 0.0 {
            let row = &mut weights.gradient[o * x.len()..(o + 1) * x.len()];
            row.iter_mut().zip(x).for_each(|(g, x)| *g += error * x);
        }
    }
}

fn softmax(mut logits: Vec<f32>) -> Vec<f32> {
    let largest = logits.iter().fold(f32::MIN, |a, &b| a.max(b));
    logits.iter_mut().for_each(|x| *x = (*x - largest).exp());
    let sum: f32 = logits.iter().sum();
    logits.iter_mut().for_each(|x| *x /= sum);
    logits
}
