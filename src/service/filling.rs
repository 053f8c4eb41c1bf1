//! A page of a listing whose rows may fall away: how many to read next, and when it is done.

/// The most rows that one page looks at: a filter that few match gives a short page, never a long
/// wait.
const ROWS_MAX: usize = 2_000;

/// A page that is being filled.
#[derive(Debug)]
pub(super) struct Filling<T> {
    found: Vec<T>,
    page_size: usize,
    chunk: usize,
    most: usize,
    looked_at: usize,
}

impl<T> Filling<T> {
    /// A page of `page_size`, read at most `most` rows at once. Where rows are `often` left out, so
    /// many from the beginning.
    pub(super) fn new(page_size: usize, often: bool, most: usize) -> Self {
        let chunk = if often { most } else { page_size.clamp(1, most) };
        Self { found: Vec::new(), page_size, chunk, most, looked_at: 0 }
    }

    /// Whether the page is full, or as short as it must be.
    pub(super) fn is_done(&self) -> bool {
        self.found.len() >= self.page_size || self.looked_at >= ROWS_MAX
    }

    /// How many rows to read next. If rows fall away, what is left of a small page would be read by
    /// ever fewer of them: so ever more.
    pub(super) fn next_chunk(&mut self) -> usize {
        let chunk = self.chunk;
        self.chunk = chunk.saturating_mul(2).min(self.most);
        chunk
    }

    /// Takes what was found in `looked_at` rows, each with its place. When there are more than fit,
    /// the place of the last that does: the next page begins behind it.
    pub(super) fn take(&mut self, looked_at: usize, found: Vec<(String, T)>) -> Option<String> {
        self.looked_at = self.looked_at.saturating_add(looked_at);
        let left = self.page_size.saturating_sub(self.found.len());
        let cut = found.get(left).and_then(|_| found.get(left.checked_sub(1)?)).map(|(place, _)| place.clone());
        self.found.extend(found.into_iter().take(left).map(|(_, item)| item));
        cut
    }

    /// The page.
    pub(super) fn into_page(self) -> Vec<T> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(numbers: std::ops::Range<u32>) -> Vec<(String, u32)> {
        numbers.map(|n| (format!("at {n}"), n)).collect()
    }

    #[test]
    fn a_small_page_that_finds_nothing_looks_at_ever_more_rows_at_once() {
        let mut page = Filling::new(1, false, 32);
        let mut chunks = Vec::new();
        while !page.is_done() {
            let chunk = page.next_chunk();
            chunks.push(chunk);
            assert_eq!(page.take(chunk, rows(0..0)), None);
        }
        assert_eq!(chunks[..7], [1, 2, 4, 8, 16, 32, 32]);
        assert_eq!(chunks.len(), 67, "2,000 rows, not 2,000 reads");
        assert_eq!(Filling::<u32>::new(1, true, 32).next_chunk(), 32);
        assert_eq!(Filling::<u32>::new(1_000, false, 32).next_chunk(), 32);
    }

    #[test]
    fn a_page_ends_behind_the_last_that_fits() {
        let mut page = Filling::new(3, false, 32);
        assert_eq!(page.take(2, rows(0..2)), None);
        assert!(!page.is_done());
        assert_eq!(page.take(8, rows(2..9)), Some("at 2".to_owned()));
        assert!(page.is_done());
        assert_eq!(page.into_page(), [0, 1, 2]);
        let mut page = Filling::new(3, false, 32);
        assert_eq!(page.take(3, rows(0..3)), None, "exactly full: the listing itself says where it goes on");
        assert!(page.is_done());
    }
}
