//! Features -> LLM space and back.

pub mod knn;
