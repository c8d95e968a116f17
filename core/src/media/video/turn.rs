//! How a frame is to be turned to be shown upright.

use crate::media::Picture;

/// One of the eight ways to lay a picture down: where its columns and rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::media) struct Turn {
    /// Signs of `x' = a x + c y` and `y' = b x + d y`, each -1, 0 or 1.
    signs: [i8; 4],
}

impl Turn {
    /// As it lies.
    pub(in crate::media) const NONE: Self = Self { signs: [1, 0, 0, 1] };

    /// Of a display matrix, nine native integers row by row: `x' = a x + c y`, `y' = b x + d y` with `a` at 0, `b` at 1, `c` at
    /// 3 and `d` at 4. Nothing for one that is no turn by right angles.
    pub(in crate::media) fn of_matrix(matrix: &[u8]) -> Option<Self> {
        let numbers: Vec<i32> = matrix.as_chunks().0.iter().map(|&bytes| i32::from_ne_bytes(bytes)).collect();
        let [a, b, _, c, d, ..] = numbers[..] else { return None };
        let largest = [a, b, c, d].iter().map(|x| x.unsigned_abs()).max()?;
        // A part that is small beside the largest is an error of rounding.
        let sign = |x: i32| if x.unsigned_abs() < largest / 8 { 0 } else { x.signum() as i8 };
        let signs = [a, b, c, d].map(sign);
        let right = match signs {
            [a, 0, 0, d] => a != 0 && d != 0,
            [0, b, c, 0] => b != 0 && c != 0,
            _ => false,
        };
        right.then_some(Self { signs })
    }

    /// Columns and rows of a turned picture.
    pub(super) fn size(self, width: usize, height: usize) -> (usize, usize) {
        if self.signs[0] == 0 { (height, width) } else { (width, height) }
    }

    /// The turned picture.
    pub(super) fn apply(self, picture: Picture) -> Picture {
        if self == Self::NONE {
            return picture;
        }
        let [a, b, c, d] = self.signs.map(isize::from);
        let (width, height) = self.size(picture.width, picture.height);
        // What is mirrored begins at the far end.
        let x0 = if a + c < 0 { width as isize - 1 } else { 0 };
        let y0 = if b + d < 0 { height as isize - 1 } else { 0 };
        let mut rgb = vec![0; picture.rgb.len()];
        for (i, pixel) in picture.rgb.chunks_exact(3).enumerate() {
            let (x, y) = ((i % picture.width) as isize, (i / picture.width) as isize);
            let to = ((y0 + b * x + d * y) * width as isize + x0 + a * x + c * y) as usize * 3;
            rgb[to..to + 3].copy_from_slice(pixel);
        }
        Picture { width, height, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three columns and two rows, red numbered row by row.
    fn picture() -> Picture {
        Picture { width: 3, height: 2, rgb: (0..6).flat_map(|i| [i, 100, 200]).collect() }
    }

    fn turned(a: i32, b: i32, c: i32, d: i32) -> (usize, Vec<u8>) {
        let numbers = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30];
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let turned = Turn::of_matrix(&bytes).unwrap().apply(picture());
        assert!(turned.rgb.chunks(3).all(|pixel| pixel[1..] == [100, 200]));
        (turned.width, turned.rgb.iter().step_by(3).copied().collect())
    }

    #[test]
    fn eight_ways() {
        assert_eq!(turned(1, 0, 0, 1), (3, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(turned(-1, 0, 0, 1), (3, vec![2, 1, 0, 5, 4, 3]), "mirrored");
        assert_eq!(turned(-1, 0, 0, -1), (3, vec![5, 4, 3, 2, 1, 0]), "by half a turn");
        assert_eq!(turned(1, 0, 0, -1), (3, vec![3, 4, 5, 0, 1, 2]), "upside down");
        assert_eq!(turned(0, 1, -1, 0), (2, vec![3, 0, 4, 1, 5, 2]), "to the right");
        assert_eq!(turned(0, -1, 1, 0), (2, vec![2, 5, 1, 4, 0, 3]), "to the left");
        assert_eq!(turned(0, 1, 1, 0), (2, vec![0, 3, 1, 4, 2, 5]), "transposed");
        assert_eq!(turned(0, -1, -1, 0), (2, vec![5, 2, 4, 1, 3, 0]), "over the other diagonal");
    }

    #[test]
    fn other_matrices_are_none() {
        for numbers in [&[0i32; 9][..], &[1, 1, 0, 1, 1, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 0, 0, 0, 0], &[1, 2], &[]] {
            let bytes: Vec<u8> = numbers.iter().flat_map(|x| (x << 16).to_ne_bytes()).collect();
            assert_eq!(Turn::of_matrix(&bytes), None);
        }
    }
}
