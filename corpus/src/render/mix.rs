//! Effects and level of a piece: tone, room, saturation, loudness.

use super::filters::{Biquad, reverb};
use crate::attributes::{Attributes, Brightness, Dynamics};
use crate::genre::Genre;
use crate::rng::Stream;

/// Highest sample: -1.2 dB below full scale.
const CEILING: f32 = 0.87;

/// Where treble begins.
const TREBLE_HZ: f32 = 1500.0;

/// Settings of the mix; drawn from a piece's own stream, so that they are part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// Corner of the low-pass, in Hz; none where the piece is not dark.
    pub low_pass_hz: Option<f32>,
    /// Least and greatest level above 1.5 kHz against that of the whole, in dB; a shelf moves the piece inside.
    pub treble_db: (f32, f32),
    /// Share of the room added.
    pub reverb: f32,
    /// Size of the room, 1 for a hall.
    pub room: f32,
    /// Drive into a soft clipper, 0 for none.
    pub drive: f32,
    /// Loudness aimed at, in dB (RMS) below full scale.
    pub level_db: f32,
}

impl Mix {
    /// The mix of a piece.
    pub fn draw(attributes: &Attributes) -> Self {
        let mut rng = Stream::new(attributes.seed, "mix");
        let colour = rng.unit() as f32;
        let wet = rng.unit() as f32;
        let room = rng.uniform(0.7, 1.3) as f32;
        let push = rng.unit() as f32;
        // Instruments differ more in colour than any filter setting: the label must be true of the sum, so the shelf is
        // set from what is measured.
        let (low_pass_hz, treble_db) = match attributes.brightness {
            Brightness::Dark => (Some(900.0 + 900.0 * colour), (-60.0, -24.0)),
            Brightness::Neutral => (None, (-17.0 - 2.0 * colour, -13.0)),
            Brightness::Bright => (None, (-7.0 + 2.0 * colour, -1.0)),
        };
        let wide = matches!(attributes.genre, Genre::Ambient | Genre::Cinematic | Genre::Classical);
        let level_db = match attributes.dynamics {
            Dynamics::Soft => -21.0,
            Dynamics::Loud => -16.0,
            Dynamics::Medium | Dynamics::Crescendo => -18.0,
        };
        Self {
            low_pass_hz,
            treble_db,
            reverb: if wide { 0.3 + 0.4 * wet } else { 0.4 * wet * wet },
            room,
            drive: if attributes.dynamics == Dynamics::Loud { 0.6 * push } else { 0.2 * push },
            level_db,
        }
    }

    /// Applies the mix to mono samples.
    pub fn apply(&self, mut xs: Vec<f32>, rate: f32) -> Vec<f32> {
        Biquad::high_pass(35.0, rate).run(&mut xs);
        if let Some(hz) = self.low_pass_hz {
            Biquad::low_pass(hz, rate).run(&mut xs);
        }
        let treble = treble_level_db(&xs, rate);
        let shelf_db = (treble.clamp(self.treble_db.0, self.treble_db.1) - treble).clamp(-16.0, 16.0);
        Biquad::high_shelf(TREBLE_HZ, shelf_db, rate).run(&mut xs);
        reverb(&mut xs, self.reverb, self.room, rate);
        scale_to(&mut xs, -18.0, rate);
        if self.drive > 0.0 {
            let gain = 1.0 + 2.0 * self.drive;
            xs.iter_mut().for_each(|x| *x = (*x * gain).tanh());
        }
        scale_to(&mut xs, self.level_db, rate);
        limit(&mut xs, rate);
        fade(&mut xs, rate);
        xs
    }
}

/// Power above the treble corner as a share of all, in dB.
fn treble_level_db(xs: &[f32], rate: f32) -> f32 {
    let power = |xs: &[f32]| xs.iter().map(|x| x * x).sum::<f32>().max(1e-9);
    let mut high = xs.to_vec();
    Biquad::high_pass(TREBLE_HZ, rate).run(&mut high);
    10.0 * (power(&high) / power(xs)).log10()
}

/// Scales to an RMS level measured over the blocks that are not silent.
fn scale_to(xs: &mut [f32], level_db: f32, rate: f32) {
    let powers: Vec<f32> = xs
        .chunks((rate * 0.4) as usize)
        .map(|block| block.iter().map(|x| x * x).sum::<f32>() / block.len() as f32)
        .collect();
    let loudest = powers.iter().copied().fold(0.0, f32::max);
    let sounding: Vec<f32> = powers.into_iter().filter(|power| *power > loudest * 1e-3).collect();
    let power = sounding.iter().sum::<f32>() / sounding.len().max(1) as f32;
    if power > 0.0 {
        let gain = 10f32.powf(level_db / 20.0) / power.sqrt();
        xs.iter_mut().for_each(|x| *x *= gain);
    }
}

/// Look-ahead limiter: gain is the smoothed minimum of what each 3 ms neighbourhood allows.
fn limit(xs: &mut [f32], rate: f32) {
    let reach = (rate * 0.003) as usize;
    let blocks: Vec<f32> =
        xs.chunks(reach).map(|block| CEILING / block.iter().fold(CEILING, |peak, x| peak.max(x.abs()))).collect();
    let allowed = |block: usize| -> f32 {
        let low = block.saturating_sub(1);
        blocks[low..(block + 2).min(blocks.len())].iter().copied().fold(1.0, f32::min)
    };
    // Between the centres of two blocks the gain runs straight; both ends allow for the neighbours, so no peak escapes.
    let gains: Vec<f32> = (0..blocks.len()).map(allowed).collect();
    for (i, x) in xs.iter_mut().enumerate() {
        let block = i / reach;
        let part = (i % reach) as f32 / reach as f32;
        let next = gains.get(block + 1).copied().unwrap_or(gains[block]);
        *x *= gains[block] + (next - gains[block]) * part;
    }
}

/// Takes the last 0.4 s to nothing.
fn fade(xs: &mut [f32], rate: f32) {
    let length = ((rate * 0.4) as usize).min(xs.len());
    let start = xs.len() - length;
    for (i, x) in xs[start..].iter_mut().enumerate() {
        *x *= 1.0 - i as f32 / length as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Split;

    const RATE: f32 = 16_000.0;

    fn noise(seconds: f32) -> Vec<f32> {
        let mut rng = Stream::new(1, "noise");
        (0..(seconds * RATE) as usize).map(|_| rng.uniform(-0.3, 0.3) as f32).collect()
    }

    fn mixed(brightness: Brightness) -> Vec<f32> {
        let attributes = Attributes { brightness, ..Attributes::draw(Split::Train.seed(7)) };
        Mix::draw(&attributes).apply(noise(4.0), RATE)
    }

    #[test]
    fn brightness_orders_the_treble() {
        let [dark, neutral, bright] = [Brightness::Dark, Brightness::Neutral, Brightness::Bright]
            .map(|brightness| treble_level_db(&mixed(brightness), RATE));
        assert!(dark + 6.0 < neutral && neutral + 3.0 < bright, "treble {dark}, {neutral}, {bright} dB");
    }

    #[test]
    fn peaks_stay_below_the_ceiling_and_the_end_is_silent() {
        for seed in 0..20 {
            let mix = Mix::draw(&Attributes::draw(Split::Train.seed(seed)));
            let mut xs = noise(3.0);
            // Drum-like: a loud click every 0.2 s.
            xs.iter_mut().step_by(3200).for_each(|x| *x = 20.0);
            let out = mix.apply(xs, RATE);
            assert!(out.iter().all(|x| x.abs() <= CEILING + 1e-4), "seed {seed}");
            assert!(out.last().is_some_and(|x| x.abs() < 0.01), "seed {seed}");
        }
    }

    #[test]
    fn level_is_what_was_asked_for() {
        let mut xs = noise(3.0);
        scale_to(&mut xs, -18.0, RATE);
        let power = xs.iter().map(|x| x * x).sum::<f32>() / xs.len() as f32;
        assert!((10.0 * power.log10() + 18.0).abs() < 0.2);
    }
}
