//! Bad input, as the product finds it; the parts below have [`musaic_core::Error`].

use std::fmt;

/// Bad input that the program itself finds, before any library is asked.
#[derive(Debug)]
pub struct BadInput {
    message: String,
    hint: Option<String>,
}

impl BadInput {
    /// A message that says what, where, what was seen and what was expected.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// What the user can do about it, if that is known.
    pub fn next(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BadInput {}
