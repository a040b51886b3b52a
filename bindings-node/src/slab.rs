//! Numbers for things that JavaScript refers to.

/// Values by small numbers that are used again once released, each time with a new generation.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Returns the value's number and generation.
    pub(crate) fn insert(&mut self, value: T) -> (u32, u32) {
        if let Some(at) = self.free.pop() {
            let entry = &mut self.entries[at as usize];
            entry.value = Some(value);
            return (at, entry.generation);
        }
        let at = self.entries.len() as u32;
        self.entries.push(Entry { generation: 0, value: Some(value) });
        (at, 0)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        self.entries.get(at as usize)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        self.entries.get_mut(at as usize)?.value.as_mut()
    }

    /// The value, when it is still the one that was given this generation.
    pub(crate) fn checked(&self, at: u32, generation: u32) -> Option<&T> {
        self.entries.get(at as usize).filter(|entry| entry.generation == generation)?.value.as_ref()
    }

    pub(crate) fn remove(&mut self, at: u32) -> Option<T> {
        let entry = self.entries.get_mut(at as usize)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(at);
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let numbered = self.entries.iter().enumerate();
        numbered.filter_map(|(at, entry)| Some((at as u32, entry.value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_used_again_has_a_new_generation() {
        let mut slab = Slab::default();
        let (first, generation) = slab.insert("a");
        assert_eq!(slab.checked(first, generation), Some(&"a"));
        assert_eq!(slab.remove(first), Some("a"));
        assert_eq!(slab.remove(first), None);
        let (second, again) = slab.insert("b");
        assert_eq!(first, second);
        assert_eq!(slab.checked(first, generation), None);
        assert_eq!(slab.checked(second, again), Some(&"b"));
    }
}
