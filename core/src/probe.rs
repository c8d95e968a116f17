//! Looking at intermediate tensors without changing the code that makes them.

use candle_core::{Result, Tensor};

/// Sees named intermediate tensors in the order they are computed.
pub trait Probe {
    /// Whether anybody looks; where not, callers may skip work done only for the probe.
    fn wants(&self, name: &str) -> bool;
    /// One tensor. Names follow the parity cases (`decoder.layer_3`).
    ///
    /// # Errors
    /// The observer may stop the computation.
    fn see(&mut self, name: &str, value: &Tensor) -> Result<()>;
}

/// Nobody looks.
impl Probe for () {
    fn wants(&self, _: &str) -> bool {
        false
    }

    fn see(&mut self, _: &str, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// Collects everything, in computed order.
impl Probe for Vec<(String, Tensor)> {
    fn wants(&self, _: &str) -> bool {
        true
    }

    fn see(&mut self, name: &str, value: &Tensor) -> Result<()> {
        self.push((name.to_owned(), value.clone()));
        Ok(())
    }
}
