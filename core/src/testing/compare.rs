//! One computed tensor against one stored tensor.

use super::{Tolerance, Values, values::Data};

/// The element that uses most of its tolerance.
#[derive(Debug, Clone, PartialEq)]
pub struct Worst {
    /// Where it is.
    pub index: Vec<usize>,
    /// Computed value.
    pub got: f64,
    /// Stored value.
    pub want: f64,
    /// `|got - want|`.
    pub error: f64,
    /// What it was allowed to be: `atol + rtol * |want|`, 0 for integers.
    pub bound: f64,
}

impl Worst {
    /// Share of the tolerance that is used; above 1 is a failure.
    pub fn share(&self) -> f64 {
        if self.error == 0.0 {
            0.0
        } else if self.bound == 0.0 || self.error.is_nan() {
            f64::INFINITY
        } else {
            self.error / self.bound
        }
    }
}

/// What came of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Every element agrees.
    Agrees,
    /// At least one element does not, or is not a number.
    Departs {
        /// How many.
        elements: usize,
    },
    /// The shapes differ; nothing else was looked at.
    Shape {
        /// Computed.
        got: Vec<usize>,
        /// Stored.
        want: Vec<usize>,
    },
    /// Integers were stored and floats computed.
    NotIntegers,
}

/// One tensor compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Its name in the case.
    pub name: String,
    /// The outcome.
    pub verdict: Verdict,
    /// The worst element; none where the tensor is empty or could not be compared element by element.
    pub worst: Option<Worst>,
    /// Number of elements.
    pub elements: usize,
}

impl Comparison {
    /// Whether the pair passes.
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Agrees
    }
}

/// Compares by the rule of the cases: `|got - want| <= atol + rtol * |want|` for every element, shapes agree, NaN never
/// passes, integers are exact whatever the tolerance says.
pub fn compare(name: &str, got: &Values, want: &Values, tolerance: Tolerance) -> Comparison {
    compare_within(name, got, want, |_, want| tolerance.atol + tolerance.rtol * want.abs())
}

/// As [`compare`], with a bound a float element: `bound(position, want)`.
pub fn compare_within(name: &str, got: &Values, want: &Values, bound: impl Fn(usize, f64) -> f64) -> Comparison {
    let outcome = |verdict, worst| Comparison { name: name.to_owned(), verdict, worst, elements: want.len() };
    if got.shape != want.shape || got.len() != want.len() {
        return outcome(Verdict::Shape { got: got.shape.clone(), want: want.shape.clone() }, None);
    }
    if want.is_integer() && !got.is_integer() {
        return outcome(Verdict::NotIntegers, None);
    }
    let mut worst: Option<(usize, f64, Worst)> = None;
    let mut departing = 0;
    for at in 0..want.len() {
        let (got_at, want_at) = (got.float(at), want.float(at));
        let (agrees, error, bound) = match (&got.data, &want.data) {
            (Data::Integers(got), Data::Integers(want)) => {
                (got[at] == want[at], got[at].abs_diff(want[at]) as f64, 0.0)
            }
            _ => {
                let bound = bound(at, want_at);
                // Equal infinities differ by NaN, and are equal.
                let error = if got_at == want_at { 0.0 } else { (got_at - want_at).abs() };
                ((error <= bound && error.is_finite()) && !want_at.is_nan(), error, bound)
            }
        };
        departing += usize::from(!agrees);
        let candidate = Worst { index: Vec::new(), got: got_at, want: want_at, error, bound };
        let share = if agrees { candidate.share() } else { candidate.share().max(1.0) };
        if worst.as_ref().is_none_or(|(_, most, _)| share > *most) {
            worst = Some((at, share, candidate));
        }
    }
    let worst = worst.map(|(at, _, worst)| Worst { index: unravel(at, &want.shape), ..worst });
    let verdict = if departing == 0 { Verdict::Agrees } else { Verdict::Departs { elements: departing } };
    outcome(verdict, worst)
}

fn unravel(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<_> = shape
        .iter()
        .rev()
        .map(|&size| {
            let here = at % size;
            at /= size;
            here
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIGHT: Tolerance = Tolerance { rtol: 1e-2, atol: 1e-3 };

    fn floats(shape: &[usize], data: &[f64]) -> Values {
        Values { shape: shape.to_vec(), data: Data::Floats(data.to_vec()) }
    }

    fn integers(data: &[i64]) -> Values {
        Values { shape: vec![data.len()], data: Data::Integers(data.to_vec()) }
    }

    #[test]
    fn the_rule_is_atol_plus_rtol_times_want() {
        let want = floats(&[2, 2], &[1.0, -2.0, 0.0, 100.0]);
        let good = floats(&[2, 2], &[1.0109, -2.02, 0.0009, 101.0]);
        let outcome = compare("x", &good, &want, TIGHT);
        assert!(outcome.passed(), "{outcome:?}");
        let bad = floats(&[2, 2], &[1.0, -2.0, 0.0011, 100.0]);
        let outcome = compare("x", &bad, &want, TIGHT);
        assert_eq!(outcome.verdict, Verdict::Departs { elements: 1 });
        let worst = outcome.worst.unwrap();
        assert_eq!((worst.index, worst.got, worst.want), (vec![1, 0], 0.0011, 0.0));
    }

    #[test]
    fn nan_never_passes_and_equal_infinities_do() {
        let inf = f64::INFINITY;
        assert!(compare("x", &floats(&[2], &[inf, -inf]), &floats(&[2], &[inf, -inf]), TIGHT).passed());
        assert!(!compare("x", &floats(&[1], &[inf]), &floats(&[1], &[-inf]), TIGHT).passed());
        for (got, want) in [(f64::NAN, 0.0), (0.0, f64::NAN), (f64::NAN, f64::NAN)] {
            let outcome = compare("x", &floats(&[3], &[0.0, got, 0.0]), &floats(&[3], &[0.0, want, 0.0]), TIGHT);
            assert!(!outcome.passed());
            assert_eq!(outcome.worst.unwrap().index, vec![1]);
        }
        assert!(!compare("x", &floats(&[1], &[0.0]), &floats(&[1], &[inf]), TIGHT).passed(), "an infinite bound");
    }

    #[test]
    fn integers_are_exact_and_shapes_agree() {
        let loose = Tolerance { rtol: 1.0, atol: 10.0 };
        assert!(compare("x", &integers(&[1, 2, 3]), &integers(&[1, 2, 3]), loose).passed());
        let outcome = compare("x", &integers(&[1, 3, 3]), &integers(&[1, 2, 3]), loose);
        assert_eq!(outcome.verdict, Verdict::Departs { elements: 1 });
        let big = (1_i64 << 60) + 1;
        assert!(!compare("x", &integers(&[big]), &integers(&[big - 1]), loose).passed(), "beyond the digits of f64");
        assert_eq!(compare("x", &floats(&[1], &[1.0]), &integers(&[1]), loose).verdict, Verdict::NotIntegers);
        let outcome = compare("x", &floats(&[1, 2], &[1.0, 2.0]), &floats(&[2], &[1.0, 2.0]), loose);
        assert!(matches!(outcome.verdict, Verdict::Shape { .. }));
        assert!(compare("x", &floats(&[0, 4], &[]), &floats(&[0, 4], &[]), loose).passed());
    }
}
