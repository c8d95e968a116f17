//! Reading parity cases ("goldens"): `case.json` beside `io.safetensors`.
