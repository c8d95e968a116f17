//! Random numbers without a state: each draw is a function of where it is used.
//!
//! Philox4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). A piece therefore does
//! not change with the number of takes, threads or the order in which they run.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The 128 bits that belong to `counter` under `key`.
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let ([mut k0, mut k1], mut c) = (key, counter);
    for _ in 0..ROUNDS {
        let low = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let high = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [(high >> 32) as u32 ^ c[1] ^ k0, high as u32, (low >> 32) as u32 ^ c[3] ^ k1, low as u32];
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    c
}

/// Which piece of a seed: number of the take, and of its opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The take.
    pub take: u32,
    /// The opening.
    pub opening: u32,
}

/// Uniform in `[0, 1)`, 53 bits, for one draw of a piece.
pub fn uniform(seed: u64, piece: Piece, step: u32, codebook: u32) -> f64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let [a, b, ..] = philox(key, [step, codebook, piece.take, piece.opening]);
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(take: u32) -> Piece {
        Piece { take, opening: 0 }
    }

    /// The known answers published with the algorithm.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 2], [!0; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn draws_are_uniform_and_depend_on_every_part_of_the_key() {
        let draws: Vec<_> = (0..4000).map(|step| uniform(7, of(0), step, 0)).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!(draws.iter().all(|u| (0.0..1.0).contains(u)));
        let base = uniform(1, of(2), 3, 4);
        for other in [
            uniform(2, of(2), 3, 4),
            uniform(1, of(3), 3, 4),
            uniform(1, of(2), 4, 4),
            uniform(1, of(2), 3, 5),
            uniform(1, Piece { take: 2, opening: 1 }, 3, 4),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(uniform(1 << 32, of(0), 0, 0), uniform(0, of(0), 0, 0));
    }
}
