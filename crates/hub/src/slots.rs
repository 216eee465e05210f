//! Numbered slots that are used again, with a generation each, so that an old number is never mistaken for a new holder.
//!
//! Kept in chunks: growing moves nothing, and a million connections cost no copy of half a million.

const CHUNK: usize = 1024;

/// Values by slot number.
#[derive(Debug)]
pub struct Slots<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: Option<u32>,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Used(T),
    Free { next: Option<u32> },
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { chunks: Vec::new(), free: None, len: 0 }
    }
}

impl<T> Slots<T> {
    /// Puts the value into a free slot; returns its number and the slot's generation.
    pub fn insert(&mut self, value: T) -> (u32, u32) {
        self.len += 1;
        let Some(number) = self.free else { return (self.append(value), 0) };
        let slot = self.slot_mut(number).expect("a free slot exists");
        let Content::Free { next } = slot.content else { unreachable!("the free list holds free slots") };
        slot.content = Content::Used(value);
        let generation = slot.generation;
        self.free = next;
        (number, generation)
    }

    fn append(&mut self, value: T) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let number = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("a chunk was pushed when there was none");
        chunk.push(Slot { generation: 0, content: Content::Used(value) });
        u32::try_from(number + chunk.len() - 1).expect("fewer than 2^32 slots fit in memory")
    }

    /// Empties the slot; its next holder has another generation.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(number)?;
        if matches!(slot.content, Content::Free { .. }) {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        let content = std::mem::replace(&mut slot.content, Content::Free { next: free });
        self.free = Some(number);
        self.len -= 1;
        match content {
            Content::Used(value) => Some(value),
            Content::Free { .. } => None,
        }
    }

    /// The value in a slot, whoever holds it now.
    pub fn get(&self, number: u32) -> Option<&T> {
        match &self.chunks.get(number as usize / CHUNK)?.get(number as usize % CHUNK)?.content {
            Content::Used(value) => Some(value),
            Content::Free { .. } => None,
        }
    }

    /// As [`Slots::get`], to change.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        match &mut self.slot_mut(number)?.content {
            Content::Used(value) => Some(value),
            Content::Free { .. } => None,
        }
    }

    /// The generation of a slot's present or next holder.
    pub fn generation(&self, number: u32) -> Option<u32> {
        Some(self.chunks.get(number as usize / CHUNK)?.get(number as usize % CHUNK)?.generation)
    }

    /// The number that the next [`Slots::insert`] will return.
    pub fn next(&self) -> u32 {
        self.free.unwrap_or_else(|| self.end())
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more than the highest number ever used.
    pub fn end(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        u32::try_from(full + self.chunks.last().map_or(0, Vec::len)).expect("fewer than 2^32 slots fit in memory")
    }

    fn slot_mut(&mut self, number: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(number as usize / CHUNK)?.get_mut(number as usize % CHUNK)
    }
}
