//! Training corpus of Musaic's small embedded model: composed, rendered and described pieces, all from seeds.
//!
//! A piece is an [`Attributes`](attributes::Attributes) record drawn from a seed. [`compose`](compose::compose) turns it
//! into a [`Score`](score::Score) as a pure function, [`Renderer`](render::Renderer) into sound through a sound font, and
//! [`captions`](caption::captions) into descriptions that say what they state. Each part of a piece has its own random
//! stream, so an edited record (no drums, another lead, another key) gives the same piece with that one change.
//!
//! ```
//! use musaic_corpus::attributes::{Attributes, Split};
//! use musaic_corpus::{caption, compose::compose, score::Part};
//!
//! let attributes = Attributes::draw(Split::Train.seed(0));
//! let score = compose(&attributes);
//! let edited = compose(&Attributes { drums: !attributes.drums, ..attributes.clone() });
//! assert_eq!(score.track(Part::Melody), edited.track(Part::Melody));
//! for caption in caption::captions(&attributes, attributes.seed, 3) {
//!     println!("{} {:?}", caption.text, caption.stated);
//! }
//! ```

pub mod attributes;
pub mod caption;
pub mod compose;
pub mod dataset;
pub mod error;
pub mod genre;
pub mod instruments;
pub mod prompts;
pub mod render;
pub mod rng;
pub mod score;

pub use error::{Error, Result};
