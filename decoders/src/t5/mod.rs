//! T5 encoder: text to states.
