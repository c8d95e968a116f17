//! From logits to a token: temperature, nucleus, draw.

use musaic_core::{Error, Result, role::Sampling};

/// Probabilities of one row and which of them are in play.
#[derive(Debug, Clone, PartialEq)]
pub struct Nucleus {
    /// Softmax of the logits over the temperature.
    pub probabilities: Vec<f32>,
    /// Tokens in play, the most likely first.
    pub kept: Vec<u32>,
}

impl Nucleus {
    /// Keeps the most likely tokens; one is cut when those before it already have more than `top_p` together, so the token
    /// that crosses it stays, and at least one does. `top_k` of 0 keeps any number.
    pub fn new(logits: &[f32], temperature: f64, top_k: usize, top_p: f64) -> Self {
        let scale = temperature as f32;
        let scaled: Vec<_> = logits.iter().map(|logit| logit / scale).collect();
        let largest = scaled.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut probabilities: Vec<_> = scaled.iter().map(|x| (x - largest).exp()).collect();
        let total = probabilities.iter().map(|&p| f64::from(p)).sum::<f64>() as f32;
        probabilities.iter_mut().for_each(|p| *p /= total);
        let mut kept: Vec<_> = (0..logits.len() as u32).collect();
        kept.sort_by(|&a, &b| probabilities[b as usize].total_cmp(&probabilities[a as usize]));
        let mut sum = 0f64;
        let before_crossing = |&&token: &&u32| {
            let own = probabilities[token as usize];
            sum += f64::from(own);
            // As the reference computes it: the sum rounded to f32, less its own part.
            sum as f32 - own <= top_p as f32
        };
        let count = kept.iter().take_while(before_crossing).count().max(1);
        kept.truncate(if top_k > 0 { count.min(top_k) } else { count });
        Self { probabilities, kept }
    }

    /// The token that `uniform` in `[0, 1)` falls on.
    pub fn pick(&self, uniform: f64) -> u32 {
        let weight = |&token: &u32| f64::from(self.probabilities[token as usize]);
        let mut left = uniform * self.kept.iter().map(weight).sum::<f64>();
        for token in &self.kept {
            left -= weight(token);
            if left < 0.0 {
                return *token;
            }
        }
        // Rounding may leave a rest after the last token.
        self.kept.last().copied().unwrap_or(0)
    }

    /// Probability of every token once the others are cut.
    pub fn renormalised(&self) -> Vec<f32> {
        let total = self.kept.iter().map(|&token| f64::from(self.probabilities[token as usize])).sum::<f64>() as f32;
        let mut all = vec![0.0; self.probabilities.len()];
        for &token in &self.kept {
            all[token as usize] = self.probabilities[token as usize] / total;
        }
        all
    }
}

/// The token that `sampling` takes: the most likely, or the one that `uniform` in `[0, 1)` falls on.
pub fn pick(logits: &[f32], sampling: &Sampling, uniform: f64) -> u32 {
    match *sampling {
        Sampling::Draw { temperature, top_k, top_p } if temperature > 0.0 => {
            Nucleus::new(logits, temperature, top_k, top_p).pick(uniform)
        }
        _ => argmax(logits),
    }
}

/// First of the largest.
fn argmax(logits: &[f32]) -> u32 {
    let larger = |best: (u32, f32), (token, &logit): (u32, &f32)| if logit > best.1 { (token, logit) } else { best };
    (0..).zip(logits).fold((0, f32::NEG_INFINITY), larger).0
}

/// Checks that a choice of sampling makes sense.
///
/// # Errors
/// A temperature that is not above 0, a `top_p` outside (0, 1].
pub fn validate(sampling: &Sampling) -> Result<()> {
    if let Sampling::Draw { temperature, top_p, .. } = *sampling {
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(Error::argument("temperature", temperature.to_string(), "a number above 0"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::argument("top-p", top_p.to_string(), "a number above 0 and at most 1"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::f32::consts::LN_2;

    use super::*;

    /// Probabilities 1/2, 1/4, 1/8, 1/8.
    const LOGITS: [f32; 4] = [0.0, 2.0 * LN_2, LN_2, 0.0];

    #[test]
    fn the_token_that_crosses_stays() {
        let kept = |top_p| Nucleus::new(&LOGITS, 1.0, 0, top_p).kept;
        assert_eq!(kept(1.0), [1, 2, 0, 3]);
        assert_eq!(kept(0.6), [1, 2]);
        assert_eq!(kept(0.4), [1]);
        assert_eq!(kept(1e-9), [1]);
        assert_eq!(Nucleus::new(&LOGITS, 1.0, 3, 1.0).kept, [1, 2, 0]);
        let renormalised = Nucleus::new(&LOGITS, 1.0, 0, 0.6).renormalised();
        assert!((renormalised[1] - 2.0 / 3.0).abs() < 1e-6 && renormalised[0] == 0.0);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampling = Sampling::Draw { temperature: 1.0, top_k: 0, top_p: 0.6 };
        let draws = 3000;
        let ones =
            (0..draws).filter(|i| pick(&LOGITS, &sampling, (f64::from(*i) + 0.5) / f64::from(draws)) == 1).count();
        assert!((ones as f64 / f64::from(draws) - 2.0 / 3.0).abs() < 1e-3);
        assert_eq!(pick(&LOGITS, &Sampling::Greedy, 0.9), 1);
        assert!(pick(&[f32::NAN; 3], &sampling, 0.5) < 3);
    }

    #[test]
    fn bad_choices_are_refused() {
        for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, 1.5)] {
            assert!(validate(&Sampling::Draw { temperature, top_k: 0, top_p }).is_err());
        }
        assert!(validate(&Sampling::Greedy).is_ok());
    }
}
