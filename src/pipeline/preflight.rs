//! What a run will need, said before anything is loaded.

use std::fs;

use musaic_core::WeightFormat;

use crate::failure::BadInput;

/// Room beside the weights: the program itself, activations, audio.
const OVERHEAD_BYTES: f64 = 150e6;

/// Share of the available memory that a run may take.
const MEMORY_SHARE: f64 = 0.92;

/// What a run needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    /// Parameters that are held in the chosen format.
    pub matrix_parameters: u64,
    /// Parameters that are always held in f32 (codec, norms).
    pub plain_parameters: u64,
    /// Bytes of the key/value caches.
    pub cache_bytes: u64,
}

impl Need {
    /// Bytes in memory with weights held in `format`.
    pub fn bytes(&self, format: WeightFormat) -> f64 {
        let plain_bits = 32.0;
        self.matrix_parameters as f64 * format.bits() / 8.0
            + self.plain_parameters as f64 * plain_bits / 8.0
            + self.cache_bytes as f64
            + OVERHEAD_BYTES
    }
}

/// Chooses the format: the one asked for, or the largest that fits, never smaller than need be.
///
/// # Errors
/// The format asked for does not fit, or none does; the hint says what would.
pub fn choose(
    need: &Need,
    asked: Option<WeightFormat>,
    preferred: WeightFormat,
    available: Option<u64>,
) -> Result<WeightFormat, BadInput> {
    let Some(available) = available else { return Ok(asked.unwrap_or(preferred)) };
    let fits = |format: WeightFormat| need.bytes(format) <= available as f64 * MEMORY_SHARE;
    let smaller = WeightFormat::ALL.into_iter().filter(|f| f.bits() <= preferred.bits());
    match asked {
        Some(format) if fits(format) => Ok(format),
        Some(format) => {
            let error = BadInput::new(format!(
                "memory: {} needed with weights in {format}, {} available",
                gigabytes(need.bytes(format)),
                gigabytes(available as f64)
            ));
            let better: Vec<_> = WeightFormat::ALL.into_iter().filter(|f| fits(*f)).map(WeightFormat::name).collect();
            Err(match better.as_slice() {
                [] => error.hint("no format of this model fits; use a smaller model"),
                names => error.hint(format!("these would fit: {}", names.join(", "))),
            })
        }
        None => smaller.clone().find(|f| fits(*f)).ok_or_else(|| {
            BadInput::new(format!(
                "memory: {} needed even with weights in q4_k, {} available",
                gigabytes(need.bytes(WeightFormat::Q4K)),
                gigabytes(available as f64)
            ))
            .hint("use a smaller model, or close other programs")
        }),
    }
}

/// One of several parts that are held side by side.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// What it needs.
    pub need: Need,
    /// The format asked for.
    pub asked: Option<WeightFormat>,
    /// The largest that is worth its room.
    pub preferred: WeightFormat,
}

impl Part {
    /// How it is held where no part takes more than `most`.
    fn format(&self, most: WeightFormat) -> WeightFormat {
        self.asked.unwrap_or(if most.bits() < self.preferred.bits() { most } else { self.preferred })
    }
}

/// As [`choose`], for parts that are all kept: one need, and no part smaller than the sum makes it.
///
/// # Errors
/// The sum does not fit in any format.
pub fn choose_all(parts: &[Part], available: Option<u64>) -> Result<Vec<WeightFormat>, BadInput> {
    let formats = |most| parts.iter().map(|part| part.format(most)).collect::<Vec<_>>();
    let sum = |most| -> f64 {
        let shared = OVERHEAD_BYTES * parts.len().saturating_sub(1) as f64;
        parts.iter().map(|part| part.need.bytes(part.format(most))).sum::<f64>() - shared
    };
    let Some(available) = available else { return Ok(formats(WeightFormat::F32)) };
    let fits = |most: &WeightFormat| sum(*most) <= available as f64 * MEMORY_SHARE;
    match WeightFormat::ALL.into_iter().find(fits) {
        Some(most) => Ok(formats(most)),
        None => {
            let message = format!(
                "memory: {} needed for all that is kept, even as small as it may be, {} available",
                gigabytes(sum(WeightFormat::Q4K)),
                gigabytes(available as f64)
            );
            Err(BadInput::new(message)
                .hint("use a smaller decoder (--model nano), or `generate`, which keeps one part at a time"))
        }
    }
}

/// Bytes as a person reads them.
pub fn gigabytes(bytes: f64) -> String {
    if bytes < 1e9 { format!("{:.0} MB", bytes / 1e6) } else { format!("{:.1} GB", bytes / 1e9) }
}

/// Memory this process may still take: the system's estimate, or the control group's limit where that is lower.
/// `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    let system = kib * 1024;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(max, current)| max.saturating_sub(current));
    Some(group.map_or(system, |group| group.min(system)))
}

/// High-water mark of this process's memory in bytes, mapped pages counted. `None` where the system does not tell.
pub fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Need = Need { matrix_parameters: 530_000_000, plain_parameters: 59_000_000, cache_bytes: 300_000_000 };

    #[test]
    fn plenty_of_memory_keeps_full_precision() {
        assert_eq!(choose(&SMALL, None, WeightFormat::F32, Some(16_000_000_000)).unwrap(), WeightFormat::F32);
        assert_eq!(choose(&SMALL, None, WeightFormat::F32, None).unwrap(), WeightFormat::F32);
    }

    #[test]
    fn short_memory_takes_the_largest_that_fits() {
        assert_eq!(choose(&SMALL, None, WeightFormat::F32, Some(2_200_000_000)).unwrap(), WeightFormat::Bf16);
        assert_eq!(choose(&SMALL, None, WeightFormat::F32, Some(1_450_000_000)).unwrap(), WeightFormat::Q8_0);
    }

    #[test]
    fn what_is_kept_side_by_side_is_one_sum() {
        let part = |asked, preferred| Part { need: SMALL, asked, preferred };
        let both = [part(None, WeightFormat::Bf16), part(None, WeightFormat::F32)];
        let chosen = |available| choose_all(&both, Some(available));
        assert_eq!(chosen(16_000_000_000).unwrap(), [WeightFormat::Bf16, WeightFormat::F32]);
        assert_eq!(choose_all(&both, None).unwrap(), [WeightFormat::Bf16, WeightFormat::F32]);
        // Either would fit alone in a larger format.
        assert!(choose(&SMALL, Some(WeightFormat::Bf16), WeightFormat::F32, Some(2_600_000_000)).is_ok());
        assert_eq!(chosen(2_600_000_000).unwrap(), [WeightFormat::Q8_0, WeightFormat::Q8_0]);
        assert!(chosen(1_000_000_000).unwrap_err().to_string().contains("all that is kept"));
        let asked = [part(Some(WeightFormat::F32), WeightFormat::Bf16), part(None, WeightFormat::F32)];
        assert!(choose_all(&asked, Some(2_600_000_000)).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would() {
        let error = choose(&SMALL, Some(WeightFormat::F32), WeightFormat::F32, Some(2_200_000_000)).unwrap_err();
        assert!(error.to_string().contains("GB needed with weights in f32"), "{error}");
        assert!(choose(&SMALL, None, WeightFormat::F32, Some(300_000_000)).is_err());
    }
}
