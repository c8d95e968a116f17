//! A picture in memory.

/// A picture of 8 bits a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row: `[height, width, 3]`.
    pub rgb: Vec<u8>,
}
