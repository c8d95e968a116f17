//! From logits to a token: guidance, temperature, top-k, top-p, draw.

use musaic_core::{Error, Result, role::Sampling};

/// `uncond + scale * (cond - uncond)`, into `cond`.
pub fn guide(cond: &mut [f32], uncond: &[f32], scale: f64) {
    let scale = scale as f32;
    for (cond, &uncond) in cond.iter_mut().zip(uncond) {
        *cond = uncond + scale * (*cond - uncond);
    }
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

/// Turns rows of logits into tokens; holds the memory this takes.
#[derive(Debug, Default)]
pub struct Sampler {
    /// Index and weight of the tokens still in play.
    kept: Vec<(u32, f32)>,
}

impl Sampler {
    /// The most likely token, or for `Draw` the one that `uniform` in `[0, 1)` falls on.
    pub fn pick(&mut self, logits: &[f32], sampling: &Sampling, uniform: f64) -> u32 {
        let Sampling::Draw { temperature, top_k, top_p } = *sampling else { return argmax(logits) };
        self.warp(logits, temperature, top_k, top_p);
        let total: f64 = self.kept.iter().map(|&(_, weight)| f64::from(weight)).sum();
        let mut left = uniform * total;
        for &(token, weight) in &self.kept {
            left -= f64::from(weight);
            if left < 0.0 {
                return token;
            }
        }
        // Rounding may leave a rest after the last token.
        self.kept.last().map_or(0, |&(token, _)| token)
    }

    /// Probability of every token.
    pub fn probabilities(&mut self, logits: &[f32], sampling: &Sampling) -> Vec<f32> {
        let mut all = vec![0.0; logits.len()];
        match *sampling {
            Sampling::Greedy => all[argmax(logits) as usize] = 1.0,
            Sampling::Draw { temperature, top_k, top_p } => {
                self.warp(logits, temperature, top_k, top_p);
                let total: f32 = self.kept.iter().map(|&(_, weight)| weight).sum();
                for &(token, weight) in &self.kept {
                    all[token as usize] = weight / total;
                }
            }
        }
        all
    }

    /// Leaves in `kept` the tokens that survive, by rising id, with weights proportional to their probability.
    fn warp(&mut self, logits: &[f32], temperature: f64, top_k: usize, top_p: f64) {
        let scale = 1.0 / temperature as f32;
        self.kept.clear();
        self.kept.extend(logits.iter().enumerate().map(|(token, &logit)| (token as u32, logit * scale)));
        if top_k > 0 && top_k < self.kept.len() {
            // Every logit that equals the k-th largest stays.
            let (_, &mut (_, threshold), _) = self.kept.select_nth_unstable_by(top_k - 1, |a, b| b.1.total_cmp(&a.1));
            self.kept.retain(|&(_, logit)| logit >= threshold);
        }
        let max = self.kept.iter().map(|&(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        for (_, value) in &mut self.kept {
            *value = (*value - max).exp();
        }
        if top_p < 1.0 {
            self.cut_tail(top_p);
        }
        // One order whatever the selection did, so that a draw is a function of the logits alone.
        self.kept.sort_unstable_by_key(|&(token, _)| token);
    }

    /// Drops the least likely tokens whose probabilities sum to at most `1 - top_p`; at least one stays.
    fn cut_tail(&mut self, top_p: f64) {
        self.kept.sort_unstable_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        let total: f64 = self.kept.iter().map(|&(_, weight)| f64::from(weight)).sum();
        let mut sum = 0.0;
        let tail = self.kept.iter().take_while(|&&(_, weight)| {
            sum += f64::from(weight);
            sum / total <= 1.0 - top_p
        });
        let tail = tail.count().min(self.kept.len().saturating_sub(1));
        self.kept.drain(..tail);
    }
}

/// First of the largest.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn draw(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
        Sampling::Draw { temperature, top_k, top_p }
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampler::default().pick(&LOGITS, &Sampling::Greedy, 0.9), 1);
    }

    #[test]
    fn top_k_keeps_ties_and_top_p_keeps_one() {
        let probabilities = Sampler::default().probabilities(&LOGITS, &draw(1.0, 1, 1.0));
        assert_eq!(probabilities, [0.0, 0.5, 0.0, 0.5, 0.0]);
        let probabilities = Sampler::default().probabilities(&LOGITS, &draw(1.0, 0, 1e-9));
        assert_eq!(probabilities.iter().filter(|&&p| p > 0.0).count(), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let (mut sampler, sampling) = (Sampler::default(), draw(1.0, 3, 1.0));
        let want = sampler.probabilities(&LOGITS, &sampling);
        let mut counts = [0usize; 5];
        let n = 10_000;
        for i in 0..n {
            counts[sampler.pick(&LOGITS, &sampling, (i as f64 + 0.5) / f64::from(n)) as usize] += 1;
        }
        for (count, want) in counts.iter().zip(want) {
            assert!((*count as f32 / n as f32 - want).abs() < 1e-3);
        }
    }

    #[test]
    fn logits_that_are_not_numbers_give_a_token_all_the_same() {
        let token = Sampler::default().pick(&[f32::NAN; 4], &draw(1.0, 2, 0.5), 0.3);
        assert!(token < 4);
    }

    #[test]
    fn bad_choices_are_refused() {
        for sampling in [draw(0.0, 0, 1.0), draw(f64::NAN, 0, 1.0), draw(1.0, 0, 0.0), draw(1.0, 0, 1.5)] {
            assert!(validate(&sampling).is_err());
        }
        assert!(validate(&Sampling::default()).is_ok());
    }
}
