//! Features -> LLM space and back.
