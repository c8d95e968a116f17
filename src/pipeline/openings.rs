//! The choice among openings: a few beginnings of a take are made together, and the one that suits the words best is played.

use std::thread;

use musaic_core::{
    Result,
    role::{Cancel, Conditioning, DecodeOptions, Decoder},
};

use crate::listen::{Ranker, hear};

/// Seconds of each opening that are made and heard before one is chosen.
pub(super) const OPENING_S: f64 = 4.0;

/// Number of the opening among `count` that suits the words best; 0 where there is nothing to choose by.
///
/// # Errors
/// The options do not fit the decoder, or the arithmetic fails.
pub fn choose(
    decoder: &mut dyn Decoder,
    ranker: &Ranker,
    conditioning: &Conditioning,
    options: &DecodeOptions,
    count: u32,
    cancel: &Cancel,
) -> Result<u32> {
    if count < 2 {
        return Ok(0);
    }
    let rate = decoder.spec().sample_rate_hz;
    let Some(words) = decoder.words(conditioning)? else { return Ok(0) };
    let wishes = ranker.wishes(&words)?;
    if wishes.is_empty() {
        return Ok(0);
    }
    let Some(openings) = decoder.openings(conditioning, options, count as usize, OPENING_S, cancel)? else {
        return Ok(0);
    };
    let score = |samples: Vec<f32>| -> Result<f32> { Ok(ranker.score(&wishes, &hear(samples, rate)?)) };
    let scores: Vec<Result<f32>> = thread::scope(|scope| {
        let threads: Vec<_> = openings.into_iter().map(|samples| scope.spawn(|| score(samples))).collect();
        // A thread that panicked scores nothing; the others still do.
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(f32::MIN))).collect()
    });
    let mut best = (0, f32::NEG_INFINITY);
    for (opening, score) in (0..).zip(scores) {
        let score = score?;
        tracing::debug!(opening, score, "opening");
        if score > best.1 {
            best = (opening, score);
        }
    }
    Ok(best.0)
}

#[cfg(test)]
mod tests {
    use musaic_core::role::{AudioSink, DecodeSummary, DecoderSpec};

    use super::*;
    use crate::pipeline::{models, store::Store};

    #[derive(Default)]
    struct Tape(Vec<f32>);

    impl AudioSink for Tape {
        fn block(&mut self, channels: &[&[f32]]) -> Result<()> {
            self.0.extend_from_slice(channels[0]);
            Ok(())
        }
    }

    /// Says what the words are, and makes nothing.
    struct WordsOnly(Box<dyn Decoder>);

    impl Decoder for WordsOnly {
        fn spec(&self) -> &DecoderSpec {
            self.0.spec()
        }

        fn decode(
            &mut self,
            _: &Conditioning,
            _: &DecodeOptions,
            _: &Cancel,
            _: &mut dyn AudioSink,
        ) -> Result<DecodeSummary> {
            panic!("nothing is played while openings are chosen")
        }

        fn words(&self, conditioning: &Conditioning) -> Result<Option<Vec<f32>>> {
            self.0.words(conditioning)
        }

        fn openings(
            &mut self,
            conditioning: &Conditioning,
            _: &DecodeOptions,
            _: usize,
            _: f64,
            _: &Cancel,
        ) -> Result<Option<Vec<Vec<f32>>>> {
            panic!("openings were made for {conditioning:?}")
        }
    }

    fn nano() -> (Box<dyn Decoder>, Ranker) {
        let store = Store::open(&models::find("nano").unwrap()).unwrap();
        let device = candle_core::Device::Cpu;
        let decoder = store.load(&device, store.preferred_format(&device)).unwrap();
        (decoder, store.ranker().unwrap().unwrap())
    }

    #[test]
    fn what_is_chosen_is_what_is_played() {
        let (mut decoder, ranker) = nano();
        let words = Conditioning::Text("a bright piece with drums".into());
        let options = DecodeOptions { seed: 11, duration_s: 1.5, ..DecodeOptions::default() };
        let stop = Cancel::default();

        let openings = decoder.openings(&words, &options, 3, 1.5, &stop).unwrap().unwrap();
        assert_eq!(openings.len(), 3);
        assert_ne!(openings[0], openings[1]);
        for opening in [0u32, 2] {
            let mut tape = Tape::default();
            let options = DecodeOptions { opening, ..options.clone() };
            decoder.decode(&words, &options, &stop, &mut tape).unwrap();
            let made = &openings[opening as usize];
            assert_eq!(tape.0.len(), made.len());
            let difference = tape.0.iter().zip(made).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-5, "opening {opening}: {difference}");
        }

        let wishes = ranker.wishes(&decoder.words(&words).unwrap().unwrap()).unwrap();
        assert!(!wishes.is_empty(), "drums and brightness are asked for");
        let chosen = choose(&mut *decoder, &ranker, &words, &options, 3, &stop).unwrap();
        assert_eq!(chosen, choose(&mut *decoder, &ranker, &words, &options, 3, &stop).unwrap());
        assert!(chosen < 3);
    }

    #[test]
    fn nothing_asked_for_and_no_choice_is_the_first() {
        let (mut decoder, ranker) = nano();
        let options = DecodeOptions { seed: 1, duration_s: 0.5, ..DecodeOptions::default() };
        let stop = Cancel::default();
        let mut of = |text: &str, count| {
            choose(&mut *decoder, &ranker, &Conditioning::Text(text.into()), &options, count, &stop).unwrap()
        };
        assert_eq!(of("a bright piece with drums", 1), 0);
        assert_eq!(of("", 4), 0);
        stop.cancel();
        assert_eq!(of("a bright piece with drums", 4), 0);
    }

    #[test]
    fn words_that_ask_for_nothing_cost_nothing() {
        let (decoder, ranker) = nano();
        let words = Conditioning::Text("a piece of music".into());
        assert!(decoder.words(&words).unwrap().is_some());
        let mut decoder = WordsOnly(decoder);
        let options = DecodeOptions::default();
        assert_eq!(choose(&mut decoder, &ranker, &words, &options, 4, &Cancel::default()).unwrap(), 0);
    }
}
