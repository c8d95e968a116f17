//! Reading parity cases ("goldens"): `case.json` beside `io.safetensors`, and comparing with what they hold.
//!
//! A case is a folder: a tiny model in a published layout, inputs, intermediates and outputs of the reference code, and
//! notes on its conventions. Cases come from anywhere, so everything here is bounded and every path is checked; nothing
//! in a case can make the reader look outside the folder that holds the cases.

mod case;
mod compare;
mod find;
mod frame;
mod values;

pub use self::{
    case::{Case, Tolerance},
    compare::{Comparison, Verdict, Worst, compare, compare_within},
    find::{find_cases, golden_roots},
    frame::frame_number,
    values::{Data, Values},
};
