use super::{
    net::{Example, Net, Training},
    *,
};

const LENGTH: usize = 10 * RATE_HZ as usize;

fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut draws = net::Draws(seed);
    move || 2.0 * draws.unit() - 1.0
}

/// Bursts of noise on every beat, 30 ms long.
fn clicks(bpm: f64) -> Vec<f32> {
    let mut draw = noise(1);
    let beat = 60.0 / bpm * f64::from(RATE_HZ);
    (0..LENGTH).map(|i| if (i as f64 % beat) < 480.0 { 0.5 * draw() } else { 0.001 * draw() }).collect()
}

/// Held chords, each of four seconds, with three partials.
fn chords(all: &[[i32; 4]]) -> Vec<f32> {
    let hz = |note: i32| 440.0 * 2f64.powf(f64::from(note - 69) / 12.0);
    (0..LENGTH)
        .map(|i| {
            let t = i as f64 / f64::from(RATE_HZ);
            let chord = all[(t / 2.0) as usize % all.len()];
            let partials = chord.iter().flat_map(|&n| (1..4).map(move |k| (hz(n) * f64::from(k), 0.1 / f64::from(k))));
            partials.map(|(f, a)| a * (std::f64::consts::TAU * f * t).sin()).sum::<f64>() as f32
        })
        .collect()
}

/// I IV V I, with the bass below.
fn cadence(tonic: i32, minor: bool) -> Vec<f32> {
    let third = if minor { 3 } else { 4 };
    let triad = |root: i32, third: i32| [root - 12, root, root + third, root + 7];
    chords(&[triad(tonic, third), triad(tonic + 5, third), triad(tonic + 7, 4), triad(tonic, third)])
}

#[test]
fn the_true_period_agrees_best_with_itself() {
    for bpm in [95.0, 120.0, 140.0, 170.0] {
        let candidates = Features::of(&clicks(bpm)).tempo;
        // The autocorrelation of the whole band at one beat.
        let best = (0..candidates.len()).max_by(|&a, &b| candidates[a][5].total_cmp(&candidates[b][5])).unwrap();
        assert!(tempo::agrees(tempo::bpm(best), bpm), "{bpm}: {}", tempo::bpm(best));
    }
    assert!(tempo::agrees(70.0, 145.0) && !tempo::agrees(70.0, 100.0));
}

#[test]
fn pitch_classes_and_keys() {
    for (tonic, minor) in [(60, false), (60, true), (65, false), (57, true)] {
        let features = Features::of(&cadence(tonic, minor));
        let key = Key { tonic: tonic as usize % 12, minor };
        assert!(features.pitches.share_in(key) > 0.95, "{tonic} {minor}");
        let far = Key { tonic: (key.tonic + 6) % 12, minor };
        assert!(features.pitches.share_in(far) < 0.7);
        // Triads of the tonic: row 4 is major, row 5 minor.
        let row = &features.key[key.tonic];
        let (major, minor_triad) = (row[4 * 12], row[5 * 12]);
        assert_eq!(minor_triad > major, minor, "{major} {minor_triad}");
    }
}

#[test]
fn built_in_detectors_know_the_plain_cases() {
    let detectors = Detectors::built_in().unwrap();
    let judge = |samples: &[f32]| detectors.judge(&Features::of(samples));
    let clicks = judge(&clicks(120.0));
    assert!(tempo::agrees(clicks.tempo_bpm, 120.0), "{}", clicks.tempo_bpm);
    let (major, minor) = (judge(&cadence(60, false)), judge(&cadence(60, true)));
    assert!(major.minor < 0.5 && minor.minor > 0.5, "{} {}", major.minor, minor.minor);
    assert!(major.drums < 0.5, "held chords are no drums: {}", major.drums);
    assert!(judge(&clicks_dense(8.0)).density > judge(&clicks_dense(1.0)).density);
    let bright: Vec<f32> = cadence(84, false);
    let dark: Vec<f32> = cadence(48, false);
    assert!(judge(&bright).brightness > judge(&dark).brightness);
}

/// Short tones, so many a second.
fn clicks_dense(rate: f64) -> Vec<f32> {
    (0..LENGTH)
        .map(|i| {
            let t = i as f64 / f64::from(RATE_HZ);
            let since = (t * rate).fract() / rate;
            (0.4 * (std::f64::consts::TAU * 440.0 * t).sin() * (-since * 12.0).exp()) as f32
        })
        .collect()
}

#[test]
fn worthless_clips_are_called_so() {
    let of = |samples: Vec<f32>| Features::of(&samples).failure;
    assert_eq!(of(vec![0.0; LENGTH]), Some(Failure::Silent));
    assert_eq!(of(clicks(120.0).iter().map(|x| (x * 40.0).clamp(-1.0, 1.0)).collect()), Some(Failure::Clipped));
    let hold = |i: usize| 0.3 * (i as f32 * 0.17).sin();
    assert_eq!(of((0..LENGTH).map(hold).collect()), Some(Failure::OneNote));
    assert_eq!(of(clicks(120.0)), None);
}

#[test]
fn a_network_learns_packs_and_unpacks() {
    let mut draw = noise(9);
    // Which of three candidates has the product of its numbers largest: not linear.
    let examples: Vec<Example> = (0..600)
        .map(|_| {
            let candidates: Vec<Vec<f32>> = (0..3).map(|_| vec![2.0 * draw(), 2.0 * draw()]).collect();
            let products: Vec<f32> = candidates.iter().map(|c| c[0] * c[1]).collect();
            let best = largest(&products);
            Example { candidates, right: (0..3).map(|i| i == best).collect() }
        })
        .collect();
    let training = Training { hidden: 16, outputs: 1, epochs: 60, decay: 0.0, dropout: 0.0 };
    let net = Net::train(&examples[..500], &training);
    let packed = net.pack().unpack(2, 1).unwrap();
    let right = |e: &&Example| e.right[largest(&packed.probabilities(&e.candidates))];
    let score = examples[500..].iter().filter(right).count();
    assert!(score > 90, "{score} of 100");
    assert!(net.pack().unpack(3, 1).is_err() && net.pack().unpack(2, 2).is_err());
    let again = Net::train(&examples[..500], &training);
    assert_eq!(net.logits(&[0.3, 0.7]), again.logits(&[0.3, 0.7]));
}
