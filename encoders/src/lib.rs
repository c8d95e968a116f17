//! Frozen feature extractors: media -> features `[batch, positions, dim]`.
