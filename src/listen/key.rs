//! Key and mode: which pitch classes sound in bass, middle and treble, and which triads they make.
//!
//! A clip is described once; turned so that each of the twelve pitch classes in turn is the tonic, the description is
//! scored by one network with two outputs, major and minor. So what is learnt in one key holds in all.

use musaic_core::media::measure::Spectra;

/// Registers in Hz: bass, middle, treble.
const REGISTERS: [(f64, f64); 3] = [(50.0, 200.0), (200.0, 600.0), (600.0, 2200.0)];
/// Rows of twelve in a description.
const ROWS: usize = 12;
/// Frames of 50 ms that chords are smoothed over, and after which the next one is looked for.
const STEADY: usize = 8;

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

/// The major (0 to 11) or minor (12 to 23) triad that fits a frame best.
struct Triad {
    index: usize,
    strength: f32,
    /// How much of the bass is its root, 0 to 1.
    rooted: f32,
}

impl Triad {
    fn of(total: &[f32; 12], bass: &[f32; 12]) -> Self {
        let sum: f32 = total.iter().sum();
        let loudest = bass.iter().fold(1e-6f32, |a, &b| a.max(b));
        let mut best = (f32::MIN, Self { index: 0, strength: 0.0, rooted: 0.0 });
        for index in 0..24 {
            let (root, third) = (index % 12, if index < 12 { 4 } else { 3 });
            let strength = total[root] + total[(root + third) % 12] + total[(root + 7) % 12] - 0.25 * sum;
            let rooted = bass[root] / loudest;
            let score = strength * (1.0 + 0.3 * rooted);
            if score > best.0 {
                best = (score, Self { index, strength: strength.max(0.0), rooted });
            }
        }
        best.1
    }
}

/// Mean over [`STEADY`] frames around each.
fn smooth(frames: &[[f32; 12]]) -> Vec<[f32; 12]> {
    (0..frames.len())
        .map(|t| {
            let near = &frames[t.saturating_sub(STEADY / 2)..frames.len().min(t + STEADY / 2)];
            std::array::from_fn(|p| near.iter().map(|frame| frame[p]).sum::<f32>() / STEADY as f32)
        })
        .collect()
}

/// How often, weighed by how clearly, one triad is followed by another, `[from][to]`; 24 in all.
fn moves(chords: &[Triad]) -> [[f32; 24]; 24] {
    let mut moves = [[0.0f32; 24]; 24];
    for (a, b) in chords.iter().zip(chords.iter().skip(STEADY)) {
        if a.index != b.index {
            moves[a.index][b.index] += (a.strength * b.strength).sqrt();
        }
    }
    let sum: f32 = moves.iter().flatten().sum();
    moves.iter_mut().flatten().for_each(|x| *x *= 24.0 / sum.max(1e-6));
    moves
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

    /// What sounds in each frame of 50 ms, by pitch class.
    pub fn totals(&self) -> Vec<[f32; 12]> {
        (0..self.frames()).map(|frame| self.total(frame)).collect()
    }

    /// The description for each tonic: who sounds, which triads, and which triads follow each other.
    pub fn candidates(&self) -> Vec<Vec<f32>> {
        let frames = self.frames();
        let total: Vec<[f32; 12]> = (0..frames).map(|frame| self.total(frame)).collect();
        let (steady, bass) = (smooth(&total), smooth(&self.registers[0]));
        let upper: Vec<[f32; 12]> =
            (0..frames).map(|t| std::array::from_fn(|p| self.registers[1][t][p] + self.registers[2][t][p])).collect();
        let upper = smooth(&upper);
        let mut rows = [[0.0f32; 12]; ROWS];
        let mut chords = Vec::with_capacity(frames);
        for frame in 0..frames {
            for (row, register) in rows.iter_mut().zip(&self.registers) {
                row.iter_mut().zip(&register[frame]).for_each(|(sum, x)| *sum += x);
            }
            rows[3].iter_mut().zip(&total[frame]).for_each(|(sum, x)| *sum += x.sqrt());
            let now = Triad::of(&total[frame], &self.registers[0][frame]);
            let chord = Triad::of(&steady[frame], &bass[frame]);
            rows[4 + now.index / 12][now.index % 12] += now.strength;
            rows[6 + chord.index / 12][chord.index % 12] += chord.strength;
            rows[8 + chord.index / 12][chord.index % 12] += chord.strength * chord.rooted * chord.rooted;
            for (row, values) in [(10, &bass[frame]), (11, &upper[frame])] {
                let loudest = super::largest(values);
                rows[row][loudest] += if values[loudest] > 0.0 { 1.0 } else { 0.0 };
            }
            chords.push(chord);
        }
        // Rows in pairs (major and minor triads) share one scale.
        for group in [0..1, 1..2, 2..3, 3..4, 4..6, 6..8, 8..10, 10..11, 11..12] {
            let sum: f32 = rows[group.clone()].iter().flatten().sum();
            rows[group].iter_mut().flatten().for_each(|x| *x *= 12.0 / sum.max(1e-6));
        }
        let moves = moves(&chords);
        let describe = |tonic: usize| -> Vec<f32> {
            let turned = |triad: usize| triad / 12 * 12 + (triad + tonic) % 12;
            let mut out: Vec<f32> = rows.iter().flat_map(|row| (0..12).map(move |p| row[(p + tonic) % 12])).collect();
            // Into the tonic triads, out of them, and out of the dominants.
            for target in [0, 12] {
                out.extend((0..24).map(|from| moves[turned(from)][turned(target)]));
            }
            for source in [0, 12, 7, 19] {
                out.extend((0..24).map(|to| moves[turned(source)][turned(to)]));
            }
            out
        };
        (0..12).map(describe).collect()
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
