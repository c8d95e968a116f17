//! One request, from words to a finished file: finding the model, checking that it fits, making the music, writing it.

pub mod batch;
pub mod compose;
pub mod edit;
pub mod features;
pub mod generate;
pub mod machine;
pub mod media;
pub mod models;
pub mod openings;
pub mod output;
pub mod preflight;
pub mod request;
pub mod sink;
pub mod speed;
pub mod store;
pub mod studio;
pub mod system;
