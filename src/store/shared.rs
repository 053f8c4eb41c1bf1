//! An item as it was read, which an adapter's memory and several readers may share. What one reader
//! found out about it, that its MAC holds and what its record says, need not be found out again:
//! it is kept as long as the item, and the item never changes.

use std::{
    any::Any,
    fmt,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use super::Item;

/// A read item; cloning it copies nothing.
#[derive(Clone)]
pub struct SharedItem(Arc<Kept>);

struct Kept {
    item: Item,
    made: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl SharedItem {
    /// The item by itself: a copy, where others share it.
    #[must_use]
    pub fn into_item(self) -> Item {
        Arc::try_unwrap(self.0).map_or_else(|shared| shared.item.clone(), |kept| kept.item)
    }

    /// What `make` makes of it; once made it is kept. One item is only ever asked for one `T`: for
    /// another one `make` runs each time.
    ///
    /// # Errors
    /// Those of `make`; nothing is kept of them.
    pub fn made<T: Send + Sync + 'static, E>(&self, make: impl FnOnce(&Item) -> Result<T, E>) -> Result<Arc<T>, E> {
        if let Some(made) = self.0.made.get().and_then(|made| Arc::clone(made).downcast().ok()) {
            return Ok(made);
        }
        let made = Arc::new(make(&self.0.item)?);
        // Who was first is as right.
        let _ = self.0.made.set(Arc::<T>::clone(&made));
        Ok(made)
    }
}

impl From<Item> for SharedItem {
    fn from(item: Item) -> Self {
        Self(Arc::new(Kept { item, made: OnceLock::new() }))
    }
}

impl Deref for SharedItem {
    type Target = Item;
    fn deref(&self) -> &Item {
        &self.0.item
    }
}

impl fmt::Debug for SharedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.item.fmt(f)
    }
}

impl PartialEq for SharedItem {
    fn eq(&self, other: &Self) -> bool {
        self.0.item == other.0.item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attributes, ItemKey, Value};

    #[test]
    fn what_was_made_is_kept_for_every_reader_and_failures_are_not() {
        let attributes = Attributes::from([("n".to_owned(), Value::Int(7))]);
        let item = Item { attributes, ..Item::unreadable(ItemKey::new("p", "s")) };
        let (one, other) = {
            let one = SharedItem::from(item.clone());
            (one.clone(), one)
        };
        assert_eq!(one.made(|_| Err::<i64, _>("no")), Err("no"));
        assert_eq!(*one.made(|item| Ok::<_, ()>(item.attributes.len())).unwrap(), 1);
        assert_eq!(*other.made(|_| Err::<usize, _>("made already")).unwrap(), 1);
        assert_eq!(*other.made(|_| Ok::<_, ()>("another type")).unwrap(), "another type");
        assert_eq!(one.into_item(), item, "a copy");
        assert_eq!(other.into_item(), item, "the item itself");
    }
}
