//! Key and mode: which pitch classes sound in bass, middle and treble, and which triads they make.
//!
//! A clip is described once; turned so that each of the twelve pitch classes in turn is the tonic, the description is
//! scored by one network with two outputs, major and minor. So what is learnt in one key holds in all.

use musaic_core::media::measure::Spectra;

/// Registers in Hz: bass, middle, treble.
const REGISTERS: [(f64, f64); 3] = [(50.0, 200.0), (200.0, 600.0), (600.0, 2200.0)];
/// Rows of twelve in a description.
const ROWS: usize = 9;

/// What sounds, by pitch class.
#[derive(Debug, Clone)]
pub struct Pitches {
    /// `[register][frame][pitch class]`, root of the magnitude.
    registers: [Vec<[f32; 12]>; 3],
}

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Pitch class, 0 is C.
    pub tonic: usize,
    /// Minor rather than major.
    pub minor: bool,
}

impl Key {
    /// Pitch classes of the scale; minor has its leading tone as well.
    fn holds(self, pitch: usize) -> bool {
        let scale: &[usize] = if self.minor { &[0, 2, 3, 5, 7, 8, 10, 11] } else { &[0, 2, 4, 5, 7, 9, 11] };
        scale.contains(&((pitch + 12 - self.tonic) % 12))
    }
}

impl Pitches {
    /// From long spectra, whose bins are narrow enough to tell semitones apart.
    pub fn of(spectra: &Spectra) -> Self {
        let mut registers = [const { Vec::new() }; 3];
        for frame in &spectra.frames {
            let mut sums = [[0.0f32; 12]; 3];
            let loudest = frame.iter().fold(0.0f32, |a, &b| a.max(b));
            for bin in 1..frame.len().saturating_sub(1) {
                let (a, b, c) = (frame[bin - 1], frame[bin], frame[bin + 1]);
                if !(b > a && b >= c && b > 0.01 * loudest && b > 1e-6) {
                    continue;
                }
                // The top of the parabola through three log magnitudes.
                let [x, y, z] = [a, b, c].map(|m| (m + 1e-9).ln());
                let hz = (bin as f64 + f64::from((0.5 * (x - z) / (x - 2.0 * y + z).min(-1e-6)).clamp(-0.5, 0.5)))
                    * spectra.bin_hz;
                let Some(register) = REGISTERS.iter().position(|(low, high)| (*low..*high).contains(&hz)) else {
                    continue;
                };
                let semitones = 69.0 + 12.0 * (hz / 440.0).log2();
                let purity = (1.0 - 2.0 * (semitones - semitones.round()).abs()).max(0.0) as f32;
                sums[register][(semitones.round() as i64).rem_euclid(12) as usize] += purity * b.sqrt();
            }
            for (all, sum) in registers.iter_mut().zip(sums) {
                all.push(sum);
            }
        }
        Self { registers }
    }

    fn frames(&self) -> usize {
        self.registers[0].len()
    }

    fn total(&self, frame: usize) -> [f32; 12] {
        std::array::from_fn(|p| {
            self.registers[0][frame][p] + self.registers[1][frame][p] + 0.5 * self.registers[2][frame][p]
        })
    }

    /// The description for each tonic.
    pub fn candidates(&self) -> Vec<Vec<f32>> {
        let mut rows = [[0.0f32; 12]; ROWS];
        let frames = self.frames();
        for frame in 0..frames {
            let total = self.total(frame);
            let loudest_bass = self.registers[0][frame].iter().fold(1e-6f32, |a, &b| a.max(b));
            let mut best = (f32::MIN, 0, 0.0);
            for triad in 0..24 {
                let (root, third) = (triad % 12, if triad < 12 { 4 } else { 3 });
                let inside = total[root] + total[(root + third) % 12] + total[(root + 7) % 12];
                let strength = inside - 0.25 * total.iter().sum::<f32>();
                let rooted = self.registers[0][frame][root] / loudest_bass;
                if strength * (1.0 + 0.3 * rooted) > best.0 {
                    best = (strength * (1.0 + 0.3 * rooted), triad, rooted);
                }
            }
            let (strength, triad, rooted) = best;
            rows[4 + triad / 12][triad % 12] += strength.max(0.0);
            rows[7 + triad / 12][triad % 12] += strength.max(0.0) * rooted * rooted;
            let edge = frame < 15 || frame + 15 >= frames;
            for p in 0..12 {
                for (row, register) in rows.iter_mut().zip(&self.registers) {
                    row[p] += register[frame][p];
                }
                rows[3][p] += total[p].sqrt();
                rows[6][p] += if edge { total[p] } else { 0.0 };
            }
        }
        // Rows in pairs (major and minor triads) share one scale.
        for group in [0..1, 1..2, 2..3, 3..4, 4..6, 6..7, 7..9] {
            let sum: f32 = rows[group.clone()].iter().flatten().sum();
            rows[group].iter_mut().flatten().for_each(|x| *x *= 12.0 / sum.max(1e-6));
        }
        (0..12).map(|tonic| rows.iter().flat_map(|row| (0..12).map(move |p| row[(p + tonic) % 12])).collect()).collect()
    }

    /// Share of the sound, the three strongest pitch classes of each frame, that belongs to `key`.
    pub fn share_in(&self, key: Key) -> f64 {
        let (mut inside, mut all) = (0.0, 0.0);
        for frame in 0..self.frames() {
            let total = self.total(frame);
            let mut order: [usize; 12] = std::array::from_fn(|p| p);
            order.sort_by(|&a, &b| total[b].total_cmp(&total[a]));
            for &p in order.iter().take(3) {
                all += f64::from(total[p]);
                inside += if key.holds(p) { f64::from(total[p]) } else { 0.0 };
            }
        }
        if all > 0.0 { inside / all } else { 0.0 }
    }
}
