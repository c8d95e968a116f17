//! The one place where a device and a number format are chosen.
//!
//! On the CPU every product is computed in f32; 16-bit and quantised formats are ways to *store* weights, read directly by
//! the kernels of [`crate::nn`]. On CUDA the 16-bit formats are also the formats of the arithmetic.

use std::{fmt, str::FromStr};

use candle_core::{DType, Device};

use crate::{Error, Result};

/// Device as a user writes it: `cpu`, `cuda` or `cuda:1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// Main processor.
    #[default]
    Cpu,
    /// NVIDIA GPU by its index.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// The build has no CUDA, or the device is not there.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Device::new_cuda(index).map_err(|e| {
                Error::argument("device", format!("cuda:{index} ({e})"), "a GPU that is present; see `musaic doctor`")
            }),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(Error::MissingFeature { feature: "cuda", what: format!("device `{self}`") }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::argument("device", format!("`{text}`"), "`cpu`, `cuda` or `cuda:INDEX`");
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => index.parse().map(Self::Cuda).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

/// How weight matrices are held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum WeightFormat {
    /// 32-bit float.
    #[default]
    F32,
    /// 16-bit float with the exponent of f32.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Blocks of 32 signed bytes with one f16 scale (ggml's `q8_0`): 8.5 bits a weight.
    Q8_0,
    /// Super-blocks of 256 four-bit values with six-bit scales and minima (ggml's `q4_K`): 4.5 bits a weight.
    Q4K,
}

impl WeightFormat {
    /// All formats, in falling size.
    pub const ALL: [Self; 5] = [Self::F32, Self::Bf16, Self::F16, Self::Q8_0, Self::Q4K];

    /// Name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }

    /// Format of the arithmetic on `device`.
    pub fn compute_dtype(self, device: &Device) -> DType {
        match (device, self) {
            (Device::Cpu, _) | (_, Self::F32) => DType::F32,
            (_, Self::F16) => DType::F16,
            // Quantised weights are expanded to bf16 on a GPU.
            _ => DType::BF16,
        }
    }

    /// This format, or `bound` where this one is coarser.
    #[must_use]
    pub fn no_coarser_than(self, bound: Self) -> Self {
        if self.bits() < bound.bits() { bound } else { self }
    }

    /// Mean bits a weight takes.
    pub fn bits(self) -> f64 {
        match self {
            Self::F32 => 32.0,
            Self::Bf16 | Self::F16 => 16.0,
            Self::Q8_0 => 8.5,
            Self::Q4K => 4.5,
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|f| f.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|f| f.name()).collect();
            Error::argument("format", format!("`{text}`"), format!("one of {}", names.join(", ")))
        })
    }
}
