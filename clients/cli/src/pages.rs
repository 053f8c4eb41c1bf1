//! Listings come in pages: all of them, or as many items as are wanted.

use crate::failure::Failure;

/// What `page` brings, which answers a page token with items and the next token; at most `limit` items.
pub(crate) async fn pages<T>(
    limit: Option<usize>,
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let limit = limit.unwrap_or(usize::MAX);
    let (mut items, mut token) = (Vec::new(), String::new());
    loop {
        let (more, next) = page(token).await?;
        items.extend(more);
        if next.is_empty() || items.len() >= limit {
            break;
        }
        token = next;
    }
    items.truncate(limit);
    Ok(items)
}
